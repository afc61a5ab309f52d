"""RRDBNet: the network of ESRGAN, RealSR, BSRGAN and Real-ESRGAN.

Wang et al. 2018, "ESRGAN: Enhanced Super-Resolution Generative Adversarial Networks" (arXiv:1809.00219); the
pixel-unshuffle variants are those of Real-ESRGAN (arXiv:2107.10833). Key names are BasicSR's.
"""

from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from realesr_cli.models.mixed import centred, low
from realesr_cli.models.windows import Windows, plan_windows, taken

# In inference the layers go over windows (windows.py) of about so many pixels of the trunk. The dense blocks' maps take
# most of its memory; a GPU has more of it, and needs larger pieces to be busy. The last layers work on 4 to 16 times as
# many pixels. Where the width of maps matters both are as small as the caches like them.
_BLOCK_PX = {"cpu": 2**17}
_BLOCK_PX_ELSEWHERE = 2**20
_FAST_BLOCK_PX = 2**15
TAIL_PX = 2**15
FAST_TAIL_PX = 2**16  # as the last layers count them
# With up to 192 channels wider maps are not fast.
_WIDEST_FAST_PX = 126
# Of a dense block's five convolutions.
_BLOCK_REACH = 5
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
        known = x
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            known = torch.cat((known, leaky(conv(known))), 1)
        return torch.add(x, self.conv5(known), alpha=0.2)


class RRDB(nn.Module):
    """Three dense blocks with a residual around each and around all.

    The outer sum stays in the input's precision. What the inner ones round away counts a fifth in it; to keep them in
    float32 as well costs a fifth of the time.
    """

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.rdb1 = DenseBlock(width, growth)
        self.rdb2 = DenseBlock(width, growth)
        self.rdb3 = DenseBlock(width, growth)

    def forward(self, parts: list[Tensor], windows: Windows) -> list[Tensor]:
        """Windows (N, width, h, w) of the maps -> the same; in inference the result takes the place of the input."""
        changes = [low(part, self.rdb1.conv1) for part in parts]
        for block in (self.rdb1, self.rdb2, self.rdb3):
            for index, change in enumerate(changes):
                changes[index] = block(change)
            del change  # whose memory the next block takes
            windows.refresh(changes)
        if torch.is_grad_enabled():
            return [torch.add(part, change, alpha=0.2) for part, change in zip(parts, changes, strict=True)]
        for part, change in zip(parts, changes, strict=True):
            part.add_(change, alpha=0.2)
        return parts


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
        dtype = self.conv_body.weight.dtype
        windows = plan_windows(
            x,
            dtype,
            reach=_BLOCK_REACH,
            px=_BLOCK_PX.get(x.device.type, _BLOCK_PX_ELSEWHERE),
            fast_px=_FAST_BLOCK_PX,
            widest=_WIDEST_FAST_PX,
        )
        features = self.conv_first(x).to(x.dtype)  # autocast would give, and then sum, low precision
        # in inference its result is made again at the end rather than kept all the while: a map less in memory
        first = features if torch.is_grad_enabled() else None
        parts = list(windows.cut(features))
        del features
        for block in self.body:
            parts = block(parts, windows)
        features = windows.joined(taken(parts), lambda part: self.conv_body(low(part, self.conv_body)))
        features = self.conv_first(x).add_(features) if first is None else first + features
        growth = 2 ** len(self.up_names)
        windows = plan_windows(
            features, dtype, reach=_TAIL_REACH, px=TAIL_PX, fast_px=FAST_TAIL_PX // growth**2, growth=growth
        )
        return windows.joined(windows.cut(features), partial(self._enlarge, dtype=x.dtype))

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
