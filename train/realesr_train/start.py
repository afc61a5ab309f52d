"""Where a network starts: from the weights of a file, or as an interpolation filter.

Traps: in place, so that optimizers that hold the parameters go on to hold them; give the bare network, not a wrapper.
"""

import math
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from realesr_cli import weights
from realesr_cli.errors import UsageError
from realesr_cli.models.architectures import ARCHITECTURES
from realesr_cli.models.compact import SRVGGNetCompact
from realesr_cli.models.reading import read_weights
from realesr_cli.reporting import NULL, Reporter

Match = Literal["all", "shape"]


def load_start(
    network: nn.Module,
    name_or_path: str | Path,
    *,
    match: Match = "all",
    offline: bool = False,
    reporter: Reporter = NULL,
) -> tuple[str, ...]:
    """Gives `network`, a generator or discriminator, the weights of a catalogue name or of any file that realesr reads.

    "all": every tensor must fit. "shape": tensors of another shape, or missing in the file, stay as they are (x2 from
    x4: the first convolution); they are given back, and reported as a `note`.

    Raises: UsageError (another architecture or other shapes), ModelNotFound, DownloadFailed, ChecksumMismatch,
        CorruptWeights.
    Source: training specification, sections 9 and 10.
    """
    raw = read_weights(weights.resolve(name_or_path, offline=offline, reporter=reporter))
    own: dict[str, Tensor] = network.state_dict()
    kind, found = _spelled_as(type(network).__name__, raw.tensors)
    fits = [key for key in own if key in found and found[key].shape == own[key].shape]
    rest = tuple(key for key in own if key not in fits)
    extra = [key for key in found if key not in own]
    other = kind != type(network).__name__ and (rest or extra)
    if other or not fits or (match == "all" and (rest or extra)):
        first = _difference(own, found, rest[0] if rest else extra[0])
        hint = "choose weights of the same network, or change [model] to theirs"
        if match == "all" and fits and not other:
            hint += '; match = "shape" takes the tensors that fit'
        raise UsageError(
            f"{name_or_path} does not fit: it holds {kind}, the network is {type(network).__name__}; {first}", hint=hint
        )
    network.load_state_dict({key: found[key] for key in fits}, strict=False)
    if rest or extra:
        message = (
            f"{name_or_path}: {len(fits)} of {len(own)} tensors taken; left as they were: {', '.join(rest) or '-'}"
        )
        if extra:
            message += f"; not used: {', '.join(extra[:5])}{', ...' if len(extra) > 5 else ''}"
        reporter.emit("note", message=message)
    return rest


def _spelled_as(wanted: str, tensors: dict[str, Tensor]) -> tuple[str, dict[str, Tensor]]:
    """The architecture that the keys tell, and the tensors under our own names for it."""
    for architecture in ARCHITECTURES:
        renamed = architecture.rename(tensors)
        if architecture.matches(renamed):
            return architecture.name, renamed
    if "conv0.weight" in tensors and "conv1.weight_orig" in tensors and "conv9.weight" in tensors:
        return "UNetDiscriminator", tensors
    return "a network of no known kind", tensors


def _difference(own: dict[str, Tensor], found: dict[str, Tensor], key: str) -> str:
    if key not in found:
        return f"{key} is missing in the file"
    if key not in own:
        return f"{key} is only in the file"
    return f"{key} is {list(found[key].shape)} in the file and {list(own[key].shape)} in the network"


@torch.no_grad()
def bilinear_start(network: SRVGGNetCompact, *, generator: torch.Generator | None = None) -> None:
    """New weights with which `network` enlarges bilinearly: exactly for pictures in [0, 1], but for the border.

    The first channels carry the picture through the stack, and the last convolution turns it into bilinear minus
    nearest interpolation; nearest is what the network adds. The other channels pass on random features, of which the
    last convolution makes nothing yet: it learns to first, and they from the next step on. With torch's initialisation
    a plain stack stays at a residual of zero for hundreds of steps.

    Within half an input pixel of the border the result is darker, because convolutions see black outside.

    Raises: UsageError (fewer features than channels of the picture).
    """
    first, *body, last = (layer for layer in network.body if isinstance(layer, nn.Conv2d))
    channels, width = first.in_channels, first.out_channels
    if width < channels:
        raise UsageError(f"a network of width {width} cannot carry {channels} channels through", hint="widen [model]")
    for layer in network.body:
        for parameter in layer.parameters():
            parameter.fill_(0.25 if isinstance(layer, nn.PReLU) else 0.0)
    carried = torch.arange(channels)
    _fill_normal(first.weight[channels:], 1.0, generator)
    first.weight[carried, carried, 1, 1] = 1
    every = torch.arange(width)
    for convolution in body:
        _fill_normal(convolution.weight[channels:], 0.2, generator)
        convolution.weight[every, every, 1, 1] += 1
    # zero elsewhere: with 0.2 of He's weights there, the loss after 400 steps (width 32, depth 8, x4, two seeds) was
    # 0.92 of that of nearest interpolation instead of 0.83; bilinear has 0.94
    phases = _bilinear_minus_nearest(network.scale).to(last.weight)
    for channel in range(channels):
        last.weight[channel * len(phases) : (channel + 1) * len(phases), channel] = phases


@torch.no_grad()
def gaussian_start(network: nn.Module, *, deviation: float = 0.001) -> None:
    """New weights from a normal distribution, no biases. Source: Dong et al. 2014 (arXiv:1501.00092), section 3.4."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            layer.weight.normal_(0, deviation)
            if layer.bias is not None:
                layer.bias.zero_()


def _fill_normal(weight: Tensor, gain: float, generator: torch.Generator | None) -> None:
    """Normal numbers of the standard deviation gain * sqrt(2 / inputs), drawn on the CPU. Source: He et al. (2015)."""
    drawn = torch.randn(weight.shape, generator=generator)
    weight.copy_(drawn * gain * math.sqrt(2 / weight.shape[1:].numel()))


def _bilinear_minus_nearest(scale: int) -> Tensor:
    """(scale * scale, 3, 3): for each place within an input pixel the weights of the 3x3 pixels around."""
    axis = torch.zeros(scale, 3)
    for place in range(scale):
        offset = (place + 0.5) / scale - 0.5  # from the centre of the input pixel, -1/2 to 1/2
        axis[place, 1] = 1 - abs(offset)
        axis[place, 0 if offset < 0 else 2] += abs(offset)
    phases = torch.einsum("ij,kl->ikjl", axis, axis).reshape(scale * scale, 3, 3)
    phases[:, 1, 1] -= 1
    return phases
