"""Blur with one kernel per image, and sharpening by an unsharp mask (USM).

Borders are reflected without repeating the edge pixel, at each image's own border, as often as the margin needs: an
image of one pixel is legal. Trap: `blur` is a convolution, which cuDNN computes in TF32 (ten bits) on CUDA unless
`torch.backends.cudnn.allow_tf32` is off; the caller sets that. `sharpen` uses matrix products, which are full float32
unless `torch.backends.cuda.matmul.allow_tf32` was switched on. Sizes change with every batch: leave cuDNN's benchmark
off (defect D25 of the specification).
"""

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from realesr_train.degradation.canvas import checked_sizes, pad

_BLOCK = 64  # output samples per matrix product; 32 to 128 measured within 20 % of each other


def blur(pixels: Tensor, kernels: Tensor, sizes: Tensor | None = None) -> Tensor:
    """The correlation (no flip) of every image with its own kernel, the same for its channels; not clamped.

    `pixels` (N, C, H, W); `kernels` (N, k, k) or (1, k, k), k odd. Differentiable.

    Raises:
        ValueError: `kernels` of another shape or of even width; see `checked_sizes`.

    Source: training specification, section 4.1.
    """
    sizes = checked_sizes(pixels, sizes)
    count, channels, height, width = pixels.shape
    if kernels.ndim != 3 or kernels.shape[1] != kernels.shape[2] or kernels.shape[0] not in (1, count):
        raise ValueError(f"kernels: shape is {tuple(kernels.shape)}; give ({count}, k, k) or (1, k, k)")
    if kernels.shape[1] % 2 == 0:
        raise ValueError(f"kernels: width is {kernels.shape[1]}; it must be odd")
    padded = pad(pixels, sizes, kernels.shape[1] // 2)
    weights = kernels.to(pixels.device, pixels.dtype, non_blocking=True).expand(count, -1, -1)
    has_onednn = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if pixels.device.type != "cpu" or pixels.dtype != torch.float32 or not has_onednn:
        return _correlate(padded, weights)
    # oneDNN works on 16 planes at a time: strips of rows fill them up, where there are few planes (four times as fast
    # for one image, the same numbers)
    strips = 16 // math.gcd(count * channels, 16)
    rows, margin = -(-height // strips), kernels.shape[1] - 1
    padded = F.pad(padded, (0, 0, 0, rows * strips - height))
    windows = padded.unfold(2, rows + margin, rows).transpose(3, 4)
    out = _correlate(windows.reshape(count, channels * strips, rows + margin, -1), weights)
    return out.view(count, channels, strips * rows, width)[:, :, :height].contiguous()


def _correlate(padded: Tensor, weights: Tensor) -> Tensor:
    """(N, C, H, W) of (N, C, H + k - 1, W + k - 1), with one kernel for all planes of an image, (N, k, k).

    One group per plane: a 21x21 kernel in 36 planes costs the same as by FFT on a CPU (measured), and a plane's result
    does not depend on the number of planes.
    """
    count, channels, height, width = padded.shape
    planes, margin = count * channels, weights.shape[1] - 1
    weights = weights.repeat_interleave(channels, 0)[:, None]
    out = F.conv2d(padded.reshape(1, planes, height, width), weights, groups=planes)
    return out.view(count, channels, height - margin, width - margin)


def sharpen(
    pixels: Tensor,
    sizes: Tensor | None = None,
    *,
    amount: float = 0.5,
    radius: int = 50,
    threshold: float = 10.0,
) -> Tensor:
    """Every image sharpened where it differs from its blur by more than `threshold`, in [0, 1] there.

    With B the Gaussian blur: d = x - B, mask |d| 255 > threshold per channel, S = the mask blurred;
    out = x + S (clamp(x + amount d, 0, 1) - x). The Gaussian has `radius` taps (one more if even) and the sigma that
    OpenCV derives from them. `pixels` (N, C, H, W). Differentiable where the mask is constant.

    Raises:
        ValueError: `radius` below 1; see `checked_sizes`.

    Source: training specification, section 4.6.
    """
    sizes = checked_sizes(pixels, sizes)
    if radius < 1:
        raise ValueError(f"radius: {radius} taps; give at least 1")
    taps = radius if radius % 2 == 1 else radius + 1
    difference = pixels - _gaussian_blur(pixels, sizes, taps)
    with torch.no_grad():
        mask = (difference.abs() * 255 > threshold).to(pixels.dtype)
        soft = _gaussian_blur(mask, sizes, taps)
    sharp = torch.add(pixels, difference, alpha=amount).clamp(0, 1)
    return torch.addcmul(pixels, soft, sharp - pixels)


def _gaussian_blur(pixels: Tensor, sizes: Tensor, taps: int) -> Tensor:
    """Separable Gaussian blur with reflected borders, by matrix products of `_BLOCK` output rows or columns.

    A block of outputs is a constant banded matrix times a window of taps - 1 more inputs. Against one dense matrix per
    axis (0.105 s) this takes 0.066 s for the two blurs of 12x3x400x400 on one core, and the matrix does not depend on
    the image's size.
    """
    count, channels, height, width = pixels.shape
    margin = taps // 2
    padded = pad(pixels, sizes, margin).view(count * channels, height + 2 * margin, width + 2 * margin)
    band = _band_matrix(taps, pixels.device, pixels.dtype)
    rows = [
        torch.matmul(band[: end - top, : end - top + 2 * margin], padded[:, top : end + 2 * margin])
        for top, end in _blocks(height)
    ]
    tall = torch.cat(rows, 1)
    columns = [
        torch.matmul(tall[:, :, left : end + 2 * margin], band[: end - left, : end - left + 2 * margin].t())
        for left, end in _blocks(width)
    ]
    return torch.cat(columns, 2).view(count, channels, height, width)


def _blocks(length: int) -> list[tuple[int, int]]:
    return [(start, min(start + _BLOCK, length)) for start in range(0, length, _BLOCK)]


@functools.lru_cache(maxsize=16)
def _band_matrix(taps: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """(_BLOCK, _BLOCK + taps - 1): row i holds the normalised Gaussian at columns i .. i + taps - 1."""
    sigma = 0.3 * ((taps - 1) / 2 - 1) + 0.8
    offset = torch.arange(taps, dtype=torch.float64) - taps // 2
    weights = torch.exp(-(offset**2) / (2 * sigma**2))
    band = torch.zeros(_BLOCK, _BLOCK + taps - 1, dtype=torch.float64)
    index = torch.arange(_BLOCK)[:, None] + torch.arange(taps)
    return band.scatter_(1, index, (weights / weights.sum()).expand(_BLOCK, taps)).to(device, dtype)
