"""Distance of a picture to its reference: PSNR and SSIM, on 8-bit arrays or on batches of tensors.

Traps: the published numbers of super-resolution cut a border of `scale` pixels and look at luma only (`border`,
`luma`). Luma is that of video (16..235) and is not rounded. An equal pair gives infinity as arrays and 80 dB as
tensors, where a mean over a batch must stay finite.
"""

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_WINDOW = 11


def psnr(a: npt.NDArray[np.uint8], b: npt.NDArray[np.uint8], *, border: int = 0, luma: bool = False) -> float:
    """Peak signal-to-noise ratio in dB, infinite for equal pictures. `a` and `b`: (H, W, C) uint8, RGB if `luma`.

    Raises: ValueError naming the argument.
    Source: training specification, section 18.
    """
    first, second = _from_arrays(a, b, border, luma)
    error = (first - second).square().mean().item()
    return 10 * math.log10(255**2 / error) if error else math.inf


def ssim(a: npt.NDArray[np.uint8], b: npt.NDArray[np.uint8], *, border: int = 0, luma: bool = False) -> float:
    """Structural similarity, 1 for equal pictures. `a` and `b`: (H, W, C) uint8, RGB if `luma`, at least 11x11 within
    the border.

    Raises: ValueError naming the argument.
    Source: Wang et al., "Image quality assessment", IEEE TIP 13 (2004); training specification, section 18.
    """
    return _structure(*_from_arrays(a, b, border, luma)).item()


def psnr_batch(a: Tensor, b: Tensor, *, border: int = 0, luma: bool = False) -> Tensor:
    """`psnr` of every pair of (N, C, H, W) float tensors in [0, 1]: (N,) float64 on their device, at most 80 dB.

    Raises: ValueError naming the argument.
    Source: training specification, section 18 (1e-8 is added to the mean squared error).
    """
    first, second = _from_tensors(a, b, border, luma)
    error = (first - second).div(255).square().mean((1, 2, 3))
    return -10 * torch.log10(error + 1e-8)


def ssim_batch(a: Tensor, b: Tensor, *, border: int = 0, luma: bool = False) -> Tensor:
    """`ssim` of every pair of (N, C, H, W) float tensors in [0, 1]: (N,) float64 on their device.

    Raises: ValueError naming the argument.
    """
    return _structure(*_from_tensors(a, b, border, luma))


def to_luma(pixels: Tensor) -> Tensor:
    """Luma of video, 16..235 and not rounded, (N, 1, H, W), from RGB (N, 3, H, W) in 0..255.

    Source: ITU-R BT.601 with the coefficients of MATLAB's rgb2ycbcr; training specification, section 18.
    """
    red, green, blue = pixels.unbind(1)
    return (16 + (65.481 * red + 128.553 * green + 24.966 * blue) / 255).unsqueeze(1)


def smoothed(planes: Tensor, weights: list[float]) -> Tensor:
    """The weighted mean of the neighbours along both axes, where all of them are inside: (N, C, H - n + 1, W - n + 1).

    By shifted sums, because `conv2d` in float64 first copies a picture once per weight.
    """
    for _axis in range(2):
        length = planes.shape[3] - len(weights) + 1
        total = planes[..., :length] * weights[0]
        for k, weight in enumerate(weights[1:], 1):
            total.add_(planes[..., k : k + length], alpha=weight)
        planes = total.mT
    return planes


def _from_arrays(a: npt.NDArray[np.uint8], b: npt.NDArray[np.uint8], border: int, luma: bool) -> tuple[Tensor, Tensor]:
    """Both as (1, C, H, W) float64 in 0..255, border cut off."""
    for pixels in (a, b):
        if pixels.dtype != np.uint8 or pixels.ndim != 3:
            raise ValueError(f"a, b: {pixels.dtype} {pixels.shape}; give two uint8 arrays (H, W, C)")
    first, second = (torch.from_numpy(pixels.transpose(2, 0, 1)[None].astype(np.float64)) for pixels in (a, b))
    return _cut(first, second, border, luma)


def _from_tensors(a: Tensor, b: Tensor, border: int, luma: bool) -> tuple[Tensor, Tensor]:
    """Both as (N, C, H, W) in 0..255, border cut off, in float64 where the device has it."""
    for pixels in (a, b):
        if not pixels.is_floating_point() or pixels.ndim != 4:
            raise ValueError(f"a, b: {pixels.dtype} {tuple(pixels.shape)}; give two float tensors (N, C, H, W)")
    exact = torch.float32 if a.device.type == "mps" else torch.float64
    return _cut(a.to(exact) * 255, b.to(exact) * 255, border, luma)


def _cut(a: Tensor, b: Tensor, border: int, luma: bool) -> tuple[Tensor, Tensor]:
    if a.shape != b.shape:
        raise ValueError(f"a, b: {tuple(a.shape)} and {tuple(b.shape)}; the two must have one size")
    height, width = a.shape[2:]
    if border < 0 or 2 * border >= min(height, width):
        raise ValueError(f"border: {border} of {height}x{width}; cut 0 or more pixels, and leave some")
    if luma and a.shape[1] != 3:
        raise ValueError(f"luma: {a.shape[1]} channels; only RGB has a luma to compute")
    a, b = (pixels[:, :, border : height - border, border : width - border] for pixels in (a, b))
    return (to_luma(a), to_luma(b)) if luma else (a, b)


def _structure(a: Tensor, b: Tensor) -> Tensor:
    """Mean over pixels and channels of the similarity of (N, C, H, W) in 0..255: (N,)."""
    if min(a.shape[2:]) < _WINDOW:
        raise ValueError(f"a, b: {a.shape[2]}x{a.shape[3]} within the border; SSIM needs at least {_WINDOW}x{_WINDOW}")
    weights = [math.exp(-((k - _WINDOW // 2) ** 2) / (2 * 1.5**2)) for k in range(_WINDOW)]
    weights = [weight / sum(weights) for weight in weights]
    mean_a, mean_b, square_a, square_b, product = (
        smoothed(moment, weights).flatten(1) for moment in (a, b, a * a, b * b, a * b)
    )
    product_of_means, squares_of_means = mean_a * mean_b, mean_a.square() + mean_b.square()
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    brightness = (2 * product_of_means + c1) / (squares_of_means + c1)
    contrast = (2 * (product - product_of_means) + c2) / (square_a + square_b - squares_of_means + c2)
    similarity: Tensor = brightness * contrast
    return similarity.mean(1)
