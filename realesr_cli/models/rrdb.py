"""RRDBNet: the network of ESRGAN, RealSR, BSRGAN and Real-ESRGAN.

Wang et al. 2018, "ESRGAN: Enhanced Super-Resolution Generative Adversarial Networks" (arXiv:1809.00219); the
pixel-unshuffle variants are those of Real-ESRGAN (arXiv:2107.10833). Key names are BasicSR's.
"""

from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from realesr_cli.models.mixed import centred, low

# In inference the last layers, which work on 4 to 16 times as many pixels as the trunk, go over strips of rows with
# about so many pixels of the trunk's output, so that the peak memory is the trunk's.
STRIP_PX = 32768


class DenseBlock(nn.Module):
    """Five convolutions, each seeing all results before it; (N, width, H, W) -> the same."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, growth, 3, padding=1)
        self.conv2 = nn.Conv2d(width + growth, growth, 3, padding=1)
        self.conv3 = nn.Conv2d(width + 2 * growth, growth, 3, padding=1)
        self.conv4 = nn.Conv2d(width + 3 * growth, growth, 3, padding=1)
        self.conv5 = nn.Conv2d(width + 4 * growth, width, 3, padding=1)
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4, self.conv5):
            nn.init.kaiming_normal_(conv.weight)
            conv.weight.data *= 0.1
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        known = x
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            known = torch.cat((known, F.leaky_relu(conv(known), 0.2, inplace=True)), 1)
        return torch.add(x, self.conv5(known), alpha=0.2)


class RRDB(nn.Module):
    """Three dense blocks with a residual around each and around all; (N, width, H, W) -> the same.

    The outer sum stays in the input's precision. What the inner ones round away counts a fifth in it; to keep them in
    float32 as well costs a fifth of the time.
    """

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.rdb1 = DenseBlock(width, growth)
        self.rdb2 = DenseBlock(width, growth)
        self.rdb3 = DenseBlock(width, growth)

    def forward(self, x: Tensor) -> Tensor:
        return torch.add(x, self.rdb3(self.rdb2(self.rdb1(low(x, self.rdb1.conv1)))), alpha=0.2)


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
        first = self.conv_first(x)
        features = first + self.conv_body(low(self.body(first), self.conv_body))
        if torch.is_grad_enabled():
            return self._enlarge(features, first.dtype)
        return self._enlarge_in_strips(features, first.dtype)

    def _enlarge(self, features: Tensor, dtype: torch.dtype) -> Tensor:
        features = low(features, self.conv_hr)
        for name in self.up_names:
            doubled = F.interpolate(features, scale_factor=2, mode="nearest")
            features = F.leaky_relu(cast(nn.Conv2d, getattr(self, name))(doubled), 0.2, inplace=True)
        features = F.leaky_relu(self.conv_hr(features), 0.2, inplace=True)
        return centred(self.conv_last, features, dtype)

    def _enlarge_in_strips(self, features: Tensor, dtype: torch.dtype) -> Tensor:
        """The same values as `_enlarge`: a strip sees as many rows more on each side as the layers reach."""
        rows = features.shape[2]
        growth: int = 2 ** len(self.up_names)
        # each doubling's convolution reaches one row at its own size, the last two one row each at full size
        context = len(self.up_names) + 2
        cuts = [*range(0, rows, max(16, STRIP_PX // features.shape[3])), rows]
        out: Tensor | None = None
        for top, bottom in pairwise(cuts):
            start, stop = max(0, top - context), min(rows, bottom + context)
            strip = self._enlarge(features[:, :, start:stop], dtype)
            kept = strip[:, :, (top - start) * growth : (bottom - start) * growth]
            if out is None:
                if bottom == rows:
                    return kept
                shape = (kept.shape[0], kept.shape[1], rows * growth, kept.shape[3])
                out = torch.empty(shape, dtype=dtype, device=kept.device, memory_format=torch.channels_last)
            out[:, :, top * growth : bottom * growth] = kept
        assert out is not None
        return out
