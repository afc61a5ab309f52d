"""Learning rates in closed form, and optimizers."""

import pytest
import torch
from torch import nn

from realesr_train.optim import learning_rate, make_optimizer, set_learning_rate


def test_the_rate_halves_one_step_after_a_milestone_and_one_named_twice_quarters_it() -> None:
    def rate(step: int) -> float:
        return learning_rate(step, base=1.0, schedule="multistep", milestones=[10, 20, 20])

    assert [rate(step) for step in (1, 10, 11, 20, 21, 1000)] == [1, 1, 0.5, 0.5, 0.125, 0.125]


def test_a_milestone_at_the_last_step_never_acts() -> None:
    rates = {learning_rate(step, base=2e-4, schedule="multistep", milestones=[50]) for step in range(1, 51)}
    assert rates == {2e-4}


def test_after_the_warmup_the_rate_is_the_base() -> None:
    rates = [learning_rate(step, base=1.0, warmup=4) for step in range(1, 7)]
    assert rates == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    cosine = [learning_rate(t, base=1.0, schedule="cosine", periods=[100], warmup=4) for t in range(1, 7)]
    assert cosine[:3] == [0.25, 0.5, 0.75]
    assert cosine[3] > cosine[4] > cosine[5] > 0.99


def test_the_cosine_ends_at_the_minimum_and_stays_there() -> None:
    def rate(step: int) -> float:
        return learning_rate(
            step, base=1.0, schedule="cosine", periods=[10, 20], restart_weights=[1, 0.5], minimum=0.01
        )

    assert rate(1) == 1.0
    assert rate(6) == pytest.approx(0.505)
    assert rate(11) == pytest.approx(0.01)
    assert rate(12) == pytest.approx(0.5, rel=0.02)
    assert rate(31) == rate(32) == rate(10**6) == pytest.approx(0.01)


def test_wrong_schedules_are_refused() -> None:
    with pytest.raises(ValueError, match="steps count from 1"):
        learning_rate(0, base=1.0)
    with pytest.raises(ValueError, match="periods"):
        learning_rate(1, base=1.0, schedule="cosine")
    with pytest.raises(ValueError, match="restart_weights has 0 entries for 1"):
        learning_rate(1, base=1.0, schedule="multistep", restarts=[5])


def test_frozen_weights_are_left_out() -> None:
    net = nn.Linear(3, 2)
    net.bias.requires_grad_(False)
    optimizer = make_optimizer(net.parameters(), learning_rate=0.1)
    assert [p for group in optimizer.param_groups for p in group["params"]] == [net.weight]


def test_an_adam_step_is_the_formula_at_the_rate_that_was_set() -> None:
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(4, dtype=torch.float64))
    start, first, second = weight.detach().clone(), torch.zeros(4), torch.zeros(4)
    optimizer = make_optimizer([weight], learning_rate=1.0, betas=(0.9, 0.99))
    for step in range(1, 4):
        set_learning_rate(optimizer, 0.01 * step)
        gradient = torch.randn(4, dtype=torch.float64)
        weight.grad = gradient
        optimizer.step()
        first, second = 0.9 * first + 0.1 * gradient, 0.99 * second + 0.01 * gradient**2
        start -= 0.01 * step * (first / (1 - 0.9**step)) / ((second / (1 - 0.99**step)).sqrt() + 1e-8)
        torch.testing.assert_close(weight.detach(), start)


def test_adamw_decays_weights_apart_from_the_gradient() -> None:
    weight = nn.Parameter(torch.ones(3))
    weight.grad = torch.zeros(3)
    make_optimizer([weight], learning_rate=0.1, name="adamw", weight_decay=0.5).step()
    torch.testing.assert_close(weight.detach(), torch.full((3,), 0.95))


def test_a_restored_optimizer_continues_exactly() -> None:
    def run(steps: range, weight: nn.Parameter, optimizer: torch.optim.Optimizer) -> None:
        for step in steps:
            weight.grad = torch.randn(5, generator=torch.Generator().manual_seed(step))
            optimizer.step()

    whole, half = nn.Parameter(torch.zeros(5)), nn.Parameter(torch.zeros(5))
    run(range(6), whole, make_optimizer([whole], learning_rate=0.1))
    optimizer = make_optimizer([half], learning_rate=0.1)
    run(range(3), half, optimizer)
    resumed = nn.Parameter(half.detach().clone())
    restored = make_optimizer([resumed], learning_rate=0.5)
    restored.load_state_dict(optimizer.state_dict())
    run(range(3, 6), resumed, restored)
    assert torch.equal(resumed, whole)


def test_channels_last_weights_are_updated_like_contiguous_ones() -> None:
    plain = nn.Parameter(torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(0)))
    last = nn.Parameter(plain.detach().clone(memory_format=torch.channels_last))
    assert last.stride() != plain.stride()
    for weight in (plain, last):
        optimizer = make_optimizer([weight], learning_rate=0.1)
        for step in range(2):
            optimizer.zero_grad()
            (weight * torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(step))).sum().backward()
            optimizer.step()
    assert torch.equal(plain, last)
