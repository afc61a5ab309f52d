"""What several processes share, with the other process played by the test."""

from typing import Any

import pytest
import torch
from torch import nn

from realesr_cli.models.srresnet import SRResNet
from realesr_train import distributed
from realesr_train.distributed import World, wrap
from realesr_train.ema import Ema


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> World:
    """A world of two, in which the other process has three times what this one has."""

    def bare(network: nn.Module, **options: Any) -> nn.Module:
        return network

    def all_reduce(values: torch.Tensor) -> None:
        values.mul_(4)

    monkeypatch.setattr(distributed, "DistributedDataParallel", bare)
    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    return World(rank=0, size=2, device=torch.device("cpu"))


def _after_a_step(network: nn.Module) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    network(torch.rand(2, 3, 8, 8, generator=generator)).square().mean().backward()
    return {key: value.clone() for key, value in network.state_dict().items() if "running" in key}


def test_running_statistics_become_the_mean_of_all_processes_and_so_does_what_the_average_copies(two: World) -> None:
    torch.manual_seed(0)
    network = SRResNet(width=4, blocks=1, up_steps=1)
    alone = SRResNet(width=4, blocks=1, up_steps=1)
    alone.load_state_dict(network.state_dict())
    ema = Ema(network, 0.9)
    wrapped = wrap(network.train(), two, always_alike=True)
    own, shared = _after_a_step(alone.train()), _after_a_step(wrapped)
    assert len(shared) == 6
    for key, value in shared.items():
        assert torch.allclose(value, 2 * own[key], rtol=1e-5), key  # the mean of one and three
    ema.update(network)
    assert all(torch.equal(ema.state_dict()[key], value) for key, value in shared.items())
    wrapped.eval()
    assert all(torch.equal(value, shared[key]) for key, value in _after_a_step(wrapped).items())


def test_a_network_without_statistics_is_left_alone(two: World) -> None:
    network = nn.Sequential(nn.Conv2d(3, 3, 3))
    assert not wrap(network, two, always_alike=True)._forward_hooks
