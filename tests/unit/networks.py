"""Small networks for tests, ready as `LoadedModel`s."""

from typing import Any

import torch
from torch import Tensor, nn

from realesr_cli.models.architectures import LoadedModel
from realesr_cli.models.compact import SRVGGNetCompact
from realesr_cli.models.rrdb import RRDBNet


def loaded(network: nn.Module, **fields: Any) -> LoadedModel:
    defaults: dict[str, Any] = {"name": "test", "architecture": "test", "scale": 4, "channels_in": 3, "channels_out": 3}
    return LoadedModel(network=network.eval().requires_grad_(False), **(defaults | fields))


def compact(*, scale: int = 4, depth: int = 3, channels: int = 3, seed: int = 0) -> LoadedModel:
    """Random, but with a picture-like result: the base picture plus small details."""
    torch.manual_seed(seed)
    network = SRVGGNetCompact(channels=channels, width=8, depth=depth, scale=scale)
    return loaded(
        network, scale=scale, channels_in=channels, channels_out=channels, radius_px=depth + 2, pad_px=depth + 2,
        supports_low_precision=True, values_per_px=200,
    )  # fmt: skip


def rrdb(*, unshuffle: int = 1, blocks: int = 1, seed: int = 0) -> LoadedModel:
    torch.manual_seed(seed)
    network = RRDBNet(width=8, blocks=blocks, growth=4, unshuffle=unshuffle)
    for name, parameter in network.named_parameters():
        if "rdb" in name and name.endswith("weight"):
            parameter.data *= 5  # the initialisation is so small that the dense blocks would not matter
    network.conv_last.weight.data *= 10  # so that results fill the range from black to white
    network.conv_last.bias.data.fill_(0.5)
    radius = unshuffle * (15 * blocks + 4)
    return loaded(
        network, scale=4 // unshuffle, multiple_of=unshuffle, radius_px=radius, pad_px=radius,
        supports_low_precision=True, values_per_px=500,
    )  # fmt: skip


class Nearest(nn.Module):
    """Repeats pixels: the result is known. Calls are counted; a hook may spoil them."""

    def __init__(self, scale: int = 2) -> None:
        super().__init__()
        self.scale = scale
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return x.repeat_interleave(self.scale, 2).repeat_interleave(self.scale, 3)


def nearest(scale: int = 2, **fields: Any) -> LoadedModel:
    return loaded(Nearest(scale), scale=scale, pad_px=2, radius_px=0, values_per_px=10, **fields)
