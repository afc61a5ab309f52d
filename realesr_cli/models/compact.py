"""SRVGGNetCompact: the fast networks of Real-ESRGAN (animevideov3, general-x4v3).

A plain stack of 3x3 convolutions at the input's size; the enlargement is one pixel shuffle at the end, added to the
input repeated pixel by pixel. Source: Real-ESRGAN (arXiv:2107.10833) and its repository; key names are the published
ones: convolutions at even indices of `body`, PReLU slopes at odd ones.
"""

from typing import Literal, cast

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
        dtype = cast(nn.Conv2d, self.body[-1]).weight.dtype
        features = x
        for index, layer in enumerate(self.body):
            features = layer(features if index < 2 else features.to(dtype))
        # the base is the input's own precision: rounding it to bfloat16 would cost 6 dB
        return F.pixel_shuffle(features.to(x.dtype), self.scale) + F.interpolate(
            x, scale_factor=self.scale, mode="nearest"
        )


def _activation(kind: Activation, width: int) -> nn.Module:
    match kind:
        case "prelu":
            return nn.PReLU(width)
        case "relu":
            return nn.ReLU(inplace=True)
        case "leakyrelu":
            return nn.LeakyReLU(0.1, inplace=True)
