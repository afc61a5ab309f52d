"""The moving average of weights."""

import pytest
import torch
from torch import nn

from realesr_train.ema import Ema


def _move(network: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator))


@pytest.mark.parametrize("flag", [None, torch.tensor(0.0)])
def test_the_average_is_the_formula_from_the_first_weights_on(flag: torch.Tensor | None) -> None:
    torch.manual_seed(0)
    network = nn.Linear(3, 2)
    ema = Ema(network, 0.9)
    expected = network.weight.detach().double()
    for step in range(5):
        _move(network, step)
        ema.update(network, skipped=flag)
        expected = 0.9 * expected + 0.1 * network.weight.detach().double()
    average = ema.state_dict()["weight"]
    torch.testing.assert_close(average.double(), expected, rtol=1e-6, atol=1e-7)


def test_a_skipped_step_moves_neither_weights_nor_buffers() -> None:
    network = nn.BatchNorm2d(3)
    ema = Ema(network, 0.5)
    before = {key: value.clone() for key, value in ema.state_dict().items()}
    _move(network, 1)
    network(torch.randn(2, 3, 4, 4) + 5)
    ema.update(network, skipped=torch.tensor(1.0))
    assert all(torch.equal(value, before[key]) for key, value in ema.state_dict().items())
    ema.update(network, skipped=torch.tensor(0.0))
    assert not any(torch.equal(value, before[key]) for key, value in ema.state_dict().items())


def test_buffers_are_copied_not_averaged() -> None:
    network = nn.BatchNorm2d(3)
    ema = Ema(network, 0.999)
    for _ in range(3):
        network(torch.randn(2, 3, 4, 4) + 5)
    ema.update(network)
    for key in ("running_mean", "running_var", "num_batches_tracked"):
        assert torch.equal(ema.state_dict()[key], network.state_dict()[key])
    assert not ema.network.training


def test_the_average_of_a_low_precision_network_is_float32() -> None:
    network = nn.Linear(64, 64).bfloat16()
    ema = Ema(network, 0.999)
    start = ema.state_dict()["weight"].clone()
    with torch.no_grad():
        network.weight.add_(1)
    for _ in range(10):
        ema.update(network)
    moved = ema.state_dict()["weight"] - start
    assert moved.dtype == torch.float32
    # in bfloat16 the last steps would be rounded away
    torch.testing.assert_close(moved, torch.full_like(moved, 1 - 0.999**10), rtol=0.02, atol=0)


def test_the_average_is_a_network_of_its_own() -> None:
    network = nn.Linear(3, 2)
    ema = Ema(network, 0.9)
    x = torch.randn(4, 3)
    before = ema.network(x)
    _move(network, 0)
    assert torch.equal(ema.network(x), before)
    assert not any(parameter.requires_grad for parameter in ema.network.parameters())


def test_the_state_survives_saving_and_loading() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    ema = Ema(network, 0.9)
    _move(network, 2)
    ema.update(network)
    other = Ema(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), 0.9)
    other.load_state_dict({key: value.clone() for key, value in ema.state_dict().items()})
    _move(network, 3)
    ema.update(network)
    other.update(network)
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in ema.state_dict().items())
    with pytest.raises(RuntimeError, match="Missing key"):
        other.load_state_dict({})


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_decay_outside_the_range_is_refused(decay: float) -> None:
    with pytest.raises(ValueError, match="decay"):
        Ema(nn.Linear(1, 1), decay)
