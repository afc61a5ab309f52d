"""SRVGGNetCompact: the fast networks of Real-ESRGAN (animevideov3, general-x4v3).

A plain stack of 3x3 convolutions at the input's size; the enlargement is one pixel shuffle at the end, added to the
input repeated pixel by pixel. Source: Real-ESRGAN (arXiv:2107.10833) and its repository; key names are the published
ones: convolutions at even indices of `body`, PReLU slopes at odd ones.
"""

import math
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from realesr_cli.models.mixed import low
from realesr_cli.models.windows import plan_windows, taken

# Of larger maps torch computes PReLU as fast or faster in its own way (docs/performance.md).
_LARGEST_IN_ROWS_PX = 10**5
# Slopes of whole rows that are kept: for a few widths of maps, 32 KiB each.
_MOST_ROW_SLOPES = 128

# Where the width of maps matters (windows.py), layers go over windows of about so many pixels, which mostly stay in the
# caches (smaller ones keep two threads waiting for each other), and so many of them between two exchanges of borders.
WINDOW_PX = 2**16
_REACH, _MOST_REACH = 2, 4

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
        self._row_slopes: dict[tuple[int, nn.PReLU], Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(self.subpixels(self.residual(x), x), self.scale)

    def residual(self, x: Tensor) -> Tensor:
        """What the convolutions make of x: (N, C*scale*scale, H, W) in the dtype of the last one."""
        dtype = cast(nn.Conv2d, self.body[-1]).weight.dtype
        windows = plan_windows(x, dtype, reach=_REACH, most_reach=_MOST_REACH, px=math.inf, fast_px=WINDOW_PX)
        if len(windows) == 1:
            return self._run(x, slice(None))  # which keeps no map that it is done with
        parts, step = list(windows.cut(x)), 2 * windows.reach  # every second layer is an activation
        last = (len(self.body) - 1) // step * step
        for start in range(0, last, step):
            for index, part in enumerate(parts):
                parts[index] = self._run(part, slice(start, start + step))
            del part  # whose memory the next layers take
            windows.refresh(parts)
        return windows.joined(taken(parts), lambda part: self._run(part, slice(last, None)))

    def _run(self, x: Tensor, layers: slice) -> Tensor:
        """Some of the layers, in their order."""
        for layer in self.body[layers]:
            if isinstance(layer, nn.Conv2d) and layer is not self.body[0]:
                x = low(x, layer)  # a fast copy has a float32 entrance
            x = self._prelu(x, layer) if isinstance(layer, nn.PReLU) else layer(x)
        return x

    def subpixels(self, residual: Tensor, x: Tensor) -> Tensor:
        """The result before its pixel shuffle, in the dtype of x; channel c*scale*scale + dy*scale + dx.

        Both may be the same part of their maps.
        """
        # the base is the input's own precision: rounding it to bfloat16 would cost 6 dB
        planes = residual.permute(0, 2, 3, 1).unflatten(3, (x.shape[1], -1))  # type: ignore[no-untyped-call]
        return (planes + x.permute(0, 2, 3, 1)[..., None]).flatten(3).permute(0, 3, 1, 2)

    def freeze(self) -> None:
        """Promises that weights stay as they are, so that what follows from them may be kept."""
        self._row_slopes = {}

    def _prelu(self, x: Tensor, layer: nn.PReLU) -> Tensor:
        """`layer(x)` in the dtype of x, computed on rows of W*C values: on channels_last maps torch works in runs of C
        otherwise, and autocast would compute in float32, two more copies of the maps."""
        count, channels, height, width = x.shape
        in_rows = layer.weight.numel() > 1 and x.is_contiguous(memory_format=torch.channels_last)
        if not in_rows or (height * width > _LARGEST_IN_ROWS_PX and not torch.is_grad_enabled()):
            return layer(x)
        rows = x.permute(0, 2, 3, 1).reshape(count * height, width * channels)
        with torch.autocast(x.device.type, enabled=False):
            rows = F.prelu(rows, self._slopes(layer, width, x.dtype))
        return rows.view(count, height, width, channels).permute(0, 3, 1, 2)

    def _slopes(self, layer: nn.PReLU, width: int, dtype: torch.dtype) -> Tensor:
        """The slopes of one row, kept once `freeze` has promised that they stay."""
        kept = self._row_slopes
        if kept is None or torch.is_grad_enabled():
            return layer.weight.to(dtype).repeat(width)
        slopes = kept.get((width, layer))  # other threads may run this network
        if slopes is None:
            if len(kept) >= _MOST_ROW_SLOPES:
                kept.clear()
            slopes = kept[width, layer] = layer.weight.repeat(width)
        return slopes


def _activation(kind: Activation, width: int) -> nn.Module:
    match kind:
        case "prelu":
            return nn.PReLU(width)
        case "relu":
            return nn.ReLU(inplace=True)
        case "leakyrelu":
            return nn.LeakyReLU(0.1, inplace=True)
