"""SRVGGNetCompact: the fast networks of Real-ESRGAN (animevideov3, general-x4v3).

A plain stack of 3x3 convolutions at the input's size; the enlargement is one pixel shuffle at the end, added to the
input repeated pixel by pixel. Source: Real-ESRGAN (arXiv:2107.10833) and its repository; key names are the published
ones: convolutions at even indices of `body`, PReLU slopes at odd ones.
"""

from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Activation = Literal["prelu", "relu", "leakyrelu"]


class SRVGGNetCompact(nn.Module):
    """(N, C, H, W) RGB in [0, 1] -> (N, C, scale*H, scale*W), not clamped. Any size and any scale >= 1."""

    full_precision = ("body.0", "body.1")

    def __init__(
        self,
        *,
        channels: int = 3,
        width: int = 64,
        depth: int = 16,
        scale: int = 4,
        activation: Activation = "prelu",
    ) -> None:
        """`depth` counts the convolutions between the first and the last one."""
        super().__init__()
        self.scale = scale
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1), _activation(activation, width)]
        for _ in range(depth):
            layers += [nn.Conv2d(width, width, 3, padding=1), _activation(activation, width)]
        layers.append(nn.Conv2d(width, channels * scale**2, 3, padding=1))
        self.body = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(self.subpixels(x), self.scale)

    def subpixels(self, x: Tensor) -> Tensor:
        """The result before its pixel shuffle: (N, C*scale*scale, H, W), channel c*scale*scale + dy*scale + dx."""
        dtype = cast(nn.Conv2d, self.body[-1]).weight.dtype
        features = x
        for index, layer in enumerate(self.body):
            features = features if index < 2 else features.to(dtype)
            if isinstance(layer, nn.PReLU) and not torch.is_grad_enabled():
                features = _flat_prelu(features, layer)
            else:
                features = layer(features)
        # the base is the input's own precision: rounding it to bfloat16 would cost 6 dB
        planes = features.permute(0, 2, 3, 1).unflatten(3, (x.shape[1], -1))  # type: ignore[no-untyped-call]
        return (planes.to(x.dtype) + x.permute(0, 2, 3, 1)[..., None]).flatten(3).permute(0, 3, 1, 2)


def _flat_prelu(x: Tensor, layer: nn.PReLU) -> Tensor:
    """`layer(x)`, computed on rows of W*C values: on channels_last maps torch works in short runs of C otherwise."""
    if layer.weight.numel() == 1 or not x.is_contiguous(memory_format=torch.channels_last):
        return layer(x)
    count, channels, height, width = x.shape
    rows = x.permute(0, 2, 3, 1).reshape(count * height, width * channels)
    return F.prelu(rows, layer.weight.repeat(width)).view(count, height, width, channels).permute(0, 3, 1, 2)


def _activation(kind: Activation, width: int) -> nn.Module:
    match kind:
        case "prelu":
            return nn.PReLU(width)
        case "relu":
            return nn.ReLU(inplace=True)
        case "leakyrelu":
            return nn.LeakyReLU(0.1, inplace=True)
