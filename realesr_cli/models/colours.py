"""The low frequencies of a picture, and how an enlargement gets those of its input back.

Networks trained against a discriminator drift in local colour: the official ones by 1 to 7 levels of 255, over areas of
dozens of pixels. What has changed is what a small, smoothed version of the result shows against the input; added to the
result, it is gone, and no detail with it.
"""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

REACH_PX = 4
"""How far, in low-resolution pixels, a pixel's correction depends on the pixels around it."""

_SIGMA_PX = 1.0  # of the smoothing, in low-resolution pixels; 3 was measured to give back less (+0.3 dB, not +0.8)


def keep_colours(picture: Tensor, wanted: Tensor, scale: int) -> Tensor:
    """`picture` (N, C, scale*h, scale*w) with the low frequencies of `wanted` (N, C, h, w), not clamped.

    Both float32 in [0, 1].
    """
    return picture + F.pixel_shuffle(correction(wanted - low(picture, scale), scale), scale)


def low(picture: Tensor, scale: int) -> Tensor:
    """The mean of each square of scale x scale pixels: (N, C, scale*h, scale*w) -> (N, C, h, w)."""
    return F.avg_pool2d(picture, scale)


def correction(lost: Tensor, scale: int) -> Tensor:
    """What is to be added to an enlargement that has lost `lost` (N, C, h, w): its smoothed, bilinear enlargement.

    (N, C*scale*scale, h, w), before the pixel shuffle: channel c*scale*scale + dy*scale + dx.
    """
    channels = lost.shape[1]
    kernel = _kernel(scale).to(lost.device)
    padded = F.pad(lost, (REACH_PX,) * 4, mode="replicate")
    return F.conv2d(padded, kernel.repeat(channels, 1, 1, 1), groups=channels)


@lru_cache
def _kernel(scale: int) -> Tensor:
    """Gaussian and bilinear enlargement in one: (scale*scale, 1, 2*REACH_PX + 1, the same), each of sum 1."""
    offset = torch.arange(-REACH_PX, REACH_PX + 1, dtype=torch.float64)
    gauss = torch.exp(-0.5 * (offset[1:-1] / _SIGMA_PX) ** 2)
    # the centre of a fine pixel, from that of its coarse one
    centre = (torch.arange(scale, dtype=torch.float64) + 0.5) / scale - 0.5
    bilinear = (1 - (torch.tensor([-1.0, 0.0, 1.0]) - centre[:, None]).abs()).clamp_min(0)
    line = F.conv1d(F.pad(gauss / gauss.sum(), (2, 2))[None, None], bilinear.flip(1)[:, None])[0]
    return (line[:, None, :, None] * line[None, :, None, :]).reshape(scale**2, 1, *(2 * REACH_PX + 1,) * 2).float()
