"""A network as a list of nodes with the numbers in them: the common ground of the ONNX and the ncnn writer.

Written down by hand for each architecture, not traced: the modules cast, permute and cut into windows for speed, and
none of that belongs in a file for other programs. Batch normalisation, colour conversion and value range are folded
into convolutions.
"""

import dataclasses
from dataclasses import dataclass
from typing import Literal, Protocol, cast

import torch
from torch import Tensor, nn

from realesr_cli.errors import UnknownArchitecture
from realesr_cli.models.compact import SRVGGNetCompact
from realesr_cli.models.rrdb import RRDB, DenseBlock, RRDBNet
from realesr_cli.models.srcnn import SRCNN, TO_YCC
from realesr_cli.models.srresnet import BNBlock, MSRResNet, ResidualBlock, SRResNet, UpStep

INPUT = "input"
"""The blob that holds the picture: (N, C, H, W) RGB in [0, 1]."""
OUTPUT = "output"
"""The blob of the last node: (N, C, scale*H, scale*W), not clamped."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Convolution:
    """Stride 1, zeros around so that the size stays, then leaky relu of `slope`: 0 = relu, None = none."""

    weight: Tensor
    """(out, in, k, k) float32, k odd."""
    bias: Tensor
    slope: float | None = None


@dataclass(frozen=True, slots=True)
class PReLU:
    slopes: Tensor
    """One for each channel, or a single one."""


@dataclass(frozen=True, slots=True)
class Concat:
    """Joins channels."""


@dataclass(frozen=True, slots=True)
class Add:
    """gain * first + second."""

    gain: float = 1.0


@dataclass(frozen=True, slots=True)
class PixelShuffle:
    """Channel c*factor*factor + dy*factor + dx becomes pixel (dy, dx) of channel c."""

    factor: int


@dataclass(frozen=True, slots=True)
class PixelUnshuffle:
    """The reverse of `PixelShuffle`, of a blob with so many channels."""

    factor: int
    channels: int


@dataclass(frozen=True, slots=True)
class Resize:
    """Enlarges `factor` times, pixel centres at half; bicubic with a = -0.75."""

    mode: Literal["nearest", "bilinear", "bicubic"]
    factor: int


Operation = Convolution | PReLU | Concat | Add | PixelShuffle | PixelUnshuffle | Resize


@dataclass(frozen=True, slots=True)
class Node:
    """One operation on named blobs."""

    operation: Operation
    inputs: tuple[str, ...]
    output: str


class _Append(Protocol):
    def __call__(self, operation: Operation, *inputs: str) -> str:
        """Adds a node; gives the name of its result."""


def graph_of(network: nn.Module) -> list[Node]:
    """The nodes in the order of computation: every blob is made before it is used; the last makes `OUTPUT`.

    Convolutions and slopes come in the order of the network's `state_dict`.

    Raises: UnknownArchitecture for a network that is not one of our own.
    """
    nodes: list[Node] = []

    def append(operation: Operation, *inputs: str) -> str:
        nodes.append(Node(operation, inputs, f"blob{len(nodes) + 1}"))
        return nodes[-1].output

    match network:
        case RRDBNet():
            _rrdb(network, append)
        case SRVGGNetCompact():
            _compact(network, append)
        case MSRResNet():
            _msrresnet(network, append)
        case SRResNet():
            _srresnet(network, append)
        case SRCNN():
            _srcnn(network, append)
        case _:
            raise UnknownArchitecture(
                f"a network of class {type(network).__name__} cannot be exported",
                hint="RRDBNet, SRVGGNetCompact, MSRResNet, SRResNet and SRCNN can",
            )
    nodes[-1] = dataclasses.replace(nodes[-1], output=OUTPUT)
    return nodes


def _rrdb(network: RRDBNet, append: _Append) -> None:
    x = INPUT
    if network.unshuffle > 1:
        channels = network.conv_first.in_channels // network.unshuffle**2
        x = append(PixelUnshuffle(network.unshuffle, channels), x)
    x = first = append(_convolution(network.conv_first), x)
    for block in network.body:
        entrance = x
        for dense in cast(RRDB, block).children():
            x = _dense(cast(DenseBlock, dense), x, append)
        x = append(Add(0.2), x, entrance)
    x = append(Add(), append(_convolution(network.conv_body), x), first)
    for name in network.up_names:
        x = append(_convolution(getattr(network, name), 0.2), append(Resize("nearest", 2), x))
    x = append(_convolution(network.conv_hr, 0.2), x)
    append(_convolution(network.conv_last), x)


def _dense(block: DenseBlock, x: str, append: _Append) -> str:
    known = [x]
    for conv in (block.conv1, block.conv2, block.conv3, block.conv4):
        seen = append(Concat(), *known) if len(known) > 1 else x
        known.append(append(_convolution(conv, 0.2), seen))
    return append(Add(0.2), append(_convolution(block.conv5), append(Concat(), *known)), x)


def _compact(network: SRVGGNetCompact, append: _Append) -> None:
    x = INPUT
    for conv, activation in zip(network.body[:-1:2], network.body[1::2], strict=True):
        match activation:
            case nn.PReLU():
                x = append(PReLU(activation.weight), append(_convolution(conv), x))
            case nn.LeakyReLU():
                x = append(_convolution(conv, activation.negative_slope), x)
            case _:
                x = append(_convolution(conv, 0.0), x)
    x = append(PixelShuffle(network.scale), append(_convolution(network.body[-1]), x))
    append(Add(), x, _enlarged("nearest", network.scale, append))


def _msrresnet(network: MSRResNet, append: _Append) -> None:
    x = append(_convolution(network.conv_first, 0.1), INPUT)
    for child in network.body:
        block = cast(ResidualBlock, child)
        branch = append(_convolution(block.conv1, 0.0), x)
        x = append(Add(), append(_convolution(block.conv2), branch), x)
    for up in (network.upconv1, network.upconv2):
        if up is not None:  # an activation of each value alone: before or after the shuffle is the same
            x = append(PixelShuffle(network.step), append(_convolution(up, 0.1), x))
    x = append(_convolution(network.conv_last), append(_convolution(network.conv_hr, 0.1), x))
    append(Add(), x, _enlarged("bilinear", network.scale, append))


def _srresnet(network: SRResNet, append: _Append) -> None:
    x = first = append(PReLU(network.prelu_first.weight), append(_convolution(network.conv_first), INPUT))
    for child in network.body:
        block = cast(BNBlock, child)
        branch = append(PReLU(block.prelu.weight), append(_normalised(block.conv1, block.bn1), x))
        x = append(Add(), append(_normalised(block.conv2, block.bn2), branch), x)
    x = append(Add(), append(_normalised(network.conv_body, network.bn_body), x), first)
    for child in network.up:
        step = cast(UpStep, child)
        x = append(PReLU(step.prelu.weight), append(PixelShuffle(2), append(_convolution(step.conv), x)))
    last = _convolution(network.conv_last)
    if network.signed_output:
        last = Convolution(weight=last.weight / 2, bias=(last.bias + 1) / 2)
    append(last, x)


def _srcnn(network: SRCNN, append: _Append) -> None:
    """A network for luma: RGB to luma and back is in the outer weights, the colours pass through a 1x1 layer."""
    enlarged = _enlarged("bicubic", network.scale, append)
    first, middle, last = (_convolution(conv) for conv in (network.conv1, network.conv2, network.conv3))
    is_for_luma = network.channels == 1
    to_ycc = torch.tensor(TO_YCC, dtype=torch.float64)
    to_rgb = torch.linalg.inv(to_ycc)
    if is_for_luma:
        first = dataclasses.replace(first, weight=first.weight * to_ycc[0].float().view(1, 3, 1, 1))
        luma = to_rgb[:, 0].float()
        last = Convolution(weight=luma.view(3, 1, 1, 1) * last.weight, bias=luma * last.bias)
    x = append(dataclasses.replace(first, slope=0.0), enlarged)
    x = append(last, append(dataclasses.replace(middle, slope=0.0), x))
    if is_for_luma:
        colours = (to_rgb[:, 1:] @ to_ycc[1:]).float().view(3, 3, 1, 1)
        append(Add(), x, append(Convolution(weight=colours, bias=torch.zeros(3)), enlarged))


def _enlarged(mode: Literal["nearest", "bilinear", "bicubic"], factor: int, append: _Append) -> str:
    return INPUT if factor == 1 else append(Resize(mode, factor), INPUT)


def _convolution(layer: nn.Module, slope: float | None = None) -> Convolution:
    conv = cast(nn.Conv2d, layer)
    bias = torch.zeros(conv.out_channels) if conv.bias is None else conv.bias
    return Convolution(weight=conv.weight.detach().float(), bias=bias.detach().float(), slope=slope)


def _normalised(layer: nn.Conv2d, norm: nn.BatchNorm2d) -> Convolution:
    """The convolution and the batch normalisation (in evaluation mode) after it, as one convolution."""
    conv = _convolution(layer)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    gain = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    weight = conv.weight.double() * gain.view(-1, 1, 1, 1)
    bias = (conv.bias.double() - norm.running_mean.double()) * gain + norm.bias.double()
    return Convolution(weight=weight.float(), bias=bias.float())
