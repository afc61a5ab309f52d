"""RRDBNet: the network of ESRGAN, RealSR, BSRGAN and Real-ESRGAN.

Wang et al. 2018, "ESRGAN: Enhanced Super-Resolution Generative Adversarial Networks" (arXiv:1809.00219); the
pixel-unshuffle variants are those of Real-ESRGAN (arXiv:2107.10833). Key names are BasicSR's.
"""

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from realesr_cli.models.mixed import centred, low
from realesr_cli.models.widths import WIDEST_FAST_PX, widths_matter

# In inference the last layers, which work on 4 to 16 times as many pixels as the trunk, go over strips of rows with
# about so many pixels of the trunk's output, so that the peak memory is the trunk's.
STRIP_PX = 32768
# So do the dense blocks, whose maps take most of the trunk's memory. They reach 5 pixels, which are computed twice; a
# GPU has more memory, and needs larger pieces to be busy.
_BLOCK_STRIP_PX = {"cpu": 2**17}
_BLOCK_STRIP_PX_ELSEWHERE = 2**20
_BLOCK_REACH = 5
# Where the width of maps matters (widths.py) windows are so wide, their context counted; elsewhere as wide as the maps.
_BLOCK_COLUMNS = 126
# At full size the last three convolutions reach 3 rows, which are less than 2 at half size; that one's own row makes
# them less than 3 there, and so on down to less than 2 rows of the trunk.
_TAIL_REACH = 2


class DenseBlock(nn.Module):
    """Five convolutions, each seeing all results before it; (N, width, H, W) -> the same."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, growth, 3, padding=1)
        self.conv2 = nn.Conv2d(width + growth, growth, 3, padding=1)
        self.conv3 = nn.Conv2d(width + 2 * growth, growth, 3, padding=1)
        self.conv4 = nn.Conv2d(width + 3 * growth, growth, 3, padding=1)
        self.conv5 = nn.Conv2d(width + 4 * growth, width, 3, padding=1)
        if self.conv1.weight.is_meta:  # weights come later; for this random number torch would load its compiler
            return
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4, self.conv5):
            nn.init.kaiming_normal_(conv.weight)
            conv.weight.data *= 0.1
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        columns = x.shape[3]
        if columns > WIDEST_FAST_PX and widths_matter(x.dtype, x.device):
            columns = _BLOCK_COLUMNS
        rows = _BLOCK_STRIP_PX.get(x.device.type, _BLOCK_STRIP_PX_ELSEWHERE) // columns
        if torch.is_grad_enabled() or (x.shape[2] <= 1.5 * rows and columns == x.shape[3]):
            return self._whole(x)
        return in_windows(self._whole, x, torch.empty_like(x), rows, columns, _BLOCK_REACH)

    def _whole(self, x: Tensor) -> Tensor:
        known = x
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            known = torch.cat((known, leaky(conv(known))), 1)
        return torch.add(x, self.conv5(known), alpha=0.2)


class RRDB(nn.Module):
    """Three dense blocks with a residual around each and around all; (N, width, H, W) -> the same.

    In inference the result takes the place of the input.

    The outer sum stays in the input's precision. What the inner ones round away counts a fifth in it; to keep them in
    float32 as well costs a fifth of the time.
    """

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.rdb1 = DenseBlock(width, growth)
        self.rdb2 = DenseBlock(width, growth)
        self.rdb3 = DenseBlock(width, growth)

    def forward(self, x: Tensor) -> Tensor:
        change = self.rdb3(self.rdb2(self.rdb1(low(x, self.rdb1.conv1))))
        return torch.add(x, change, alpha=0.2) if torch.is_grad_enabled() else x.add_(change, alpha=0.2)


class RRDBNet(nn.Module):
    """(N, channels_in, H, W) RGB in [0, 1] -> (N, channels_out, scale*H, scale*W), not clamped.

    Scale 4 works on the picture as it is. Scale 2 and 1 fold 2x2 and 4x4 pixels into channels first (`unshuffle`),
    so H and W must be multiples of 2 and 4. `up_steps` counts the doublings at the end: 2, or 1 for BSRGAN x2, which
    has no unshuffle; KAIR's plain RRDB has log2(scale) of them.
    """

    full_precision = ("conv_first", "conv_last.bias")

    def __init__(
        self,
        *,
        channels_in: int = 3,
        channels_out: int = 3,
        width: int = 64,
        blocks: int = 23,
        growth: int = 32,
        unshuffle: int = 1,
        up_steps: int = 2,
    ) -> None:
        super().__init__()
        self.unshuffle = unshuffle
        self.conv_first = nn.Conv2d(channels_in * unshuffle**2, width, 3, padding=1)
        self.body = nn.Sequential(*(RRDB(width, growth) for _ in range(blocks)))
        self.conv_body = nn.Conv2d(width, width, 3, padding=1)
        self.up_names = [f"conv_up{step}" for step in range(1, up_steps + 1)]
        for name in self.up_names:
            self.add_module(name, nn.Conv2d(width, width, 3, padding=1))
        self.conv_hr = nn.Conv2d(width, width, 3, padding=1)
        self.conv_last = nn.Conv2d(width, channels_out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        if self.unshuffle > 1:
            x = F.pixel_unshuffle(x, self.unshuffle)
        features = self.conv_first(x).to(x.dtype)  # autocast would give, and then sum, low precision
        # in inference its result is made again at the end rather than kept all the while: a map less in memory
        first = features if torch.is_grad_enabled() else None
        for block in self.body:
            features = block(features)
        features = self.conv_body(low(features, self.conv_body))
        features = self.conv_first(x).add_(features) if first is None else first + features
        height, width = features.shape[2:]
        rows = max(16, STRIP_PX // width)
        if torch.is_grad_enabled() or height <= 1.5 * rows:
            return self._enlarge(features, x.dtype)
        growth = 2 ** len(self.up_names)
        shape = (features.shape[0], self.conv_last.out_channels, height * growth, width * growth)
        out = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
        return in_windows(partial(self._enlarge, dtype=out.dtype), features, out, rows, width, _TAIL_REACH)

    def _enlarge(self, features: Tensor, dtype: torch.dtype) -> Tensor:
        features = low(features, self.conv_hr)
        for name in self.up_names:
            conv = cast(nn.Conv2d, getattr(self, name))
            # without a name for what is doubled: it would stay in memory beside what is made of it
            features = leaky(conv(F.interpolate(features, scale_factor=2, mode="nearest")))
        features = leaky(self.conv_hr(features))
        return centred(self.conv_last, features, dtype)


def leaky(x: Tensor) -> Tensor:
    """Leaky ReLU, slope 0.2. In place it saves memory in training, but is up to a tenth slower on a CPU."""
    return F.leaky_relu(x, 0.2, inplace=torch.is_grad_enabled())


def in_windows(part: Callable[[Tensor], Tensor], x: Tensor, out: Tensor, rows: int, columns: int, reach: int) -> Tensor:
    """Fills `out` with `part(x)`, computed over windows of x.

    x is (N, C, H, W), out (N, C', H*growth, W*growth), each pixel of which comes from at most `reach` pixels of x
    around it. This context comes on top of windows of `rows` rows; it is part of their `columns`.
    """
    (height, width), growth = x.shape[2:], out.shape[2] // x.shape[2]
    down = [*range(0, max(1, height - rows // 2), rows), height]  # a rest of less than half a window joins the last one
    across = [0]
    while max(0, across[-1] - reach) + columns < width:
        across.append(max(0, across[-1] - reach) + columns - reach)
    for top, bottom in pairwise(down):
        for left, right in pairwise([*across, width]):
            above, before = max(0, top - reach), max(0, left - reach)
            window = x[:, :, above : min(height, bottom + reach), before : min(width, right + reach)]
            result = part(window.contiguous(memory_format=torch.channels_last))
            y, z = (top - above) * growth, (left - before) * growth
            place = out[:, :, top * growth : bottom * growth, left * growth : right * growth]
            place[...] = result[:, :, y : y + place.shape[2], z : z + place.shape[3]]
    return out
