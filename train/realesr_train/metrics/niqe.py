"""Naturalness of a picture without a reference (NIQE): lower is more natural.

Traps: only whole blocks of 96x96 pixels count, from the upper left. With few blocks the number says little, with one
nothing at all. Invented detail lowers it, so that it must be read beside a distance to the reference.
"""

import math
import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from realesr_train.metrics.psnr_ssim import smoothed, to_luma

PRISTINE = Path(__file__).with_name("data") / "niqe_pris_params.npz"
"""Statistics of natural pictures. Source: XPixelGroup/BasicSR, basicsr/metrics (Apache-2.0), unchanged."""

_BLOCK_PX = 96


def niqe(pixels: npt.NDArray[np.uint8], statistics: Path = PRISTINE, *, border: int = 0) -> float:
    """Distance of the picture's statistics to those of natural ones; NaN, with a warning, below two usable blocks.

    `pixels` is (H, W, 3) uint8 RGB, of which the luma counts, or (H, W, 1) grey; `border` pixels are cut off first.
    `statistics` is a file like that of the published model (mean, covariance, 7x7 window).

    Raises: ValueError naming the argument.
    Source: Mittal, Soundararajan, Bovik, "Making a completely blind image quality analyzer", IEEE SPL 20 (2013);
    training specification, section 18, and D29 in section 15.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in (1, 3):
        raise ValueError(f"pixels: {pixels.dtype} {pixels.shape}; give uint8 (H, W, 3) or (H, W, 1)")
    if border < 0:
        raise ValueError(f"border: {border}; give 0 or more pixels")
    with np.load(statistics) as stored:
        natural_mean, natural_covariance, window = (
            torch.from_numpy(stored[name]) for name in ("mu_pris_param", "cov_pris_param", "gaussian_window")
        )
    rows, columns = (max(length - 2 * border, 0) // _BLOCK_PX for length in pixels.shape[:2])
    if rows * columns < 2:
        return _unknown(f"{rows * columns} blocks of {_BLOCK_PX}x{_BLOCK_PX} pixels in {pixels.shape[:2]}")
    inside = pixels[border : border + rows * _BLOCK_PX, border : border + columns * _BLOCK_PX]
    levels = torch.from_numpy(inside.transpose(2, 0, 1)[None].astype(np.float64))
    luma = to_luma(levels).round() if pixels.shape[2] == 3 else levels
    features = torch.cat((_features(luma, window, _BLOCK_PX), _features(_half(luma), window, _BLOCK_PX // 2)), 1)
    complete = features[~features.isnan().any(1)]
    if len(complete) < 2:
        return _unknown(f"{len(complete)} blocks that are not flat in {pixels.shape[:2]}")
    difference = natural_mean.flatten() - features.nanmean(0)
    inverse = torch.linalg.pinv((natural_covariance + torch.cov(complete.T)) / 2)
    return math.sqrt((difference @ inverse @ difference).item())


def _unknown(found: str) -> float:
    warnings.warn(f"NIQE is not defined: {found}; give a larger picture", RuntimeWarning, stacklevel=3)
    return math.nan


def _features(luma: Tensor, window: Tensor, block_px: int) -> Tensor:
    """18 features of every block of a (1, 1, H, W) picture: (blocks, 18)."""
    padded = F.pad(luma, (3, 3, 3, 3), mode="replicate")
    weights: list[float] = window.sum(0).tolist()  # the window is a product of two such rows
    mean, square = smoothed(padded, weights), smoothed(padded.square(), weights)
    normal = (luma - mean) / ((square - mean.square()).abs().sqrt() + 1)
    rows, columns = (length // block_px for length in normal.shape[2:])
    blocks = normal.view(rows, block_px, columns, block_px).transpose(1, 2).reshape(-1, block_px, block_px)
    shape, left, right = _asymmetric_gaussian(blocks)
    features = [shape, (left + right) / 2]
    for shift in ((0, 1), (1, 0), (1, 1), (1, -1)):
        shape, left, right = _asymmetric_gaussian(blocks * blocks.roll(shift, (1, 2)))
        skew = (right - left) * torch.exp(torch.lgamma(2 / shape) - torch.lgamma(1 / shape))
        features += [shape, skew, left, right]
    return torch.stack(features, 1)


def _asymmetric_gaussian(blocks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Shape and the two scales of the generalised Gaussian that has the moments of each block; (blocks,) each.

    A block without a value on one side has a scale NaN there, and then the lowest shape, as the published program.

    Source: Lasmar, Stitou, Berthoumieu, "Multiscale skewed heavy tailed model for texture analysis", ICIP 2009.
    """
    values = blocks.flatten(1)
    left, right = (((values.square() * side).sum(1) / side.sum(1)).sqrt() for side in (values < 0, values > 0))
    ratio = left / right
    moment = values.abs().mean(1).square() / values.square().mean(1)
    moment = moment * (ratio**3 + 1) * (ratio + 1) / (ratio**2 + 1).square()
    shapes = torch.arange(200, 10001, dtype=torch.float64) / 1000
    of_shapes = torch.exp(2 * torch.lgamma(2 / shapes) - torch.lgamma(1 / shapes) - torch.lgamma(3 / shapes))
    above = torch.searchsorted(of_shapes, moment.nan_to_num(0.0)).clamp(1, len(shapes) - 1)
    is_nearer = of_shapes[above] - moment <= moment - of_shapes[above - 1]  # false for NaN, which leads to the lowest
    shape = shapes[above - 1 + is_nearer.long()]
    spread = torch.exp((torch.lgamma(1 / shape) - torch.lgamma(3 / shape)) / 2)
    return shape, left * spread, right * spread


def _half(luma: Tensor) -> Tensor:
    """A (1, 1, H, W) picture of even size at half of it, by the antialiased bicubic filter of MATLAB's imresize.

    Source: Keys, "Cubic convolution interpolation", IEEE TASSP 29 (1981), a = -1/2, stretched to twice its width:
    every output lies midway between two inputs, so that its eight weights are always the same.
    """
    distances = [abs(k - 3.5) / 2 for k in range(8)]
    weights = [(1.5 * d**3 - 2.5 * d**2 + 1 if d < 1 else -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2) / 2 for d in distances]
    for _axis in range(2):
        length = luma.shape[3]
        extended = torch.cat((luma[..., :3].flip(3), luma, luma[..., -3:].flip(3)), 3)
        half = extended[..., 0:length:2] * weights[0]
        for k, weight in enumerate(weights[1:], 1):
            half.add_(extended[..., k : k + length : 2], alpha=weight)
        luma = half.mT
    return luma
