"""Blur of a photo from its spectrum: the Gaussian that makes the photo's half-size copy look as blurred as the photo.

Photos look alike at all scales, so the sharp scene behind one has the same spectrum at half the size. If K is the blur
that the photo was reduced with, and S the scene, the photo's spectrum is K S; reduced by a kernel G it is to be K S
again, which asks for G(f) = K(f) / K(f / 2). For Gaussians the covariance of G is 3/4 of that of K.

What a reduction by G makes of the spectrum is computed from the photo's own spectrum at twice the resolution, alias for
alias; nothing is filtered, and a fit takes a tenth of a second. Traps: a soft or noisy scene passes for blur; one grey
level of noise has the weight `_FLOOR`.

Source: family specification, section 6; the reference measured there fits the same by filtering.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from realesr_cli.errors import UnsupportedInput

_TILES_PX = (64, 32, 16)
"""Side of the tiles of the half-size spectrum, the first that fits twice."""
_LOWEST = 0.06
"""Cycles per pixel; below, the mean of a tile has been taken away."""


def fit_blur(
    grey: Tensor, *, floor: float = 0.3, highest: float = 0.47, gain_weight: float = 0.1, prior_weight: float = 0.01
) -> tuple[Tensor, float]:
    """(2, 2) float64 covariance of G in pixels squared, in the order x, y (right, down), and the misfit.

    `grey` (H, W) in 0..255, both sides at least 32. `floor` is added to the power spectrum before its logarithm, of
    which frequencies up to `highest` cycles per pixel are compared. A difference that is the same at all frequencies
    counts `gain_weight`; `prior_weight` pulls to an ordinary blur what the photo leaves open.

    Raises: UnsupportedInput (too small, or without any detail).
    """
    with _one_thread():
        return _fit(grey.double().cpu(), floor, highest, gain_weight, prior_weight)


def _fit(grey: Tensor, floor: float, highest: float, gain_weight: float, prior_weight: float) -> tuple[Tensor, float]:
    tile = next((side for side in _TILES_PX if min(grey.shape) >= 2 * side), None)
    if tile is None:
        raise UnsupportedInput(f"{grey.shape[1]}x{grey.shape[0]} pixels are too few to find their blur", hint=_LEAST)
    if float(grey.std()) < 0.5:
        raise UnsupportedInput("a picture of one colour tells nothing of its blur", hint="take one with detail")
    present, double = _power(grey, tile), _power(grey, 2 * tile)
    frequency = torch.fft.fftfreq(tile, dtype=torch.float64)
    radius = torch.hypot(frequency[:, None], frequency)
    compared = (radius > _LOWEST) & (radius < highest)
    smooth = _smoothing(tile)
    target = (smooth @ present @ smooth + floor).log()[compared]
    fine = torch.fft.fftfreq(2 * tile, dtype=torch.float64)
    squares = torch.stack((fine.square().expand(2 * tile, -1), fine[:, None] * fine, fine.square()[:, None] + 0 * fine))

    def misfit(factor: Tensor) -> Tensor:
        xx, xy, yy = _covariance(factor)
        blur = torch.exp(-((2 * math.pi) ** 2) * (xx * squares[0] + 2 * xy * squares[1] + yy * squares[2]))
        folded = (double * blur).view(2, tile, 2, tile).sum((0, 2)) / 4
        difference = (smooth @ folded @ smooth + floor).log()[compared] - target
        ordinary = ((xx * yy - xy * xy).log() - 0.5).square()
        return difference.var(correction=0) + gain_weight * difference.mean().square() + prior_weight * ordinary

    fits = [_minimised(misfit, torch.tensor([0.25, start, 0.25], dtype=torch.float64)) for start in (0.5, -0.5)]
    factor, value = min(fits, key=lambda fit: fit[1])
    xx, xy, yy = _covariance(factor)
    return torch.stack((torch.stack((xx, xy)), torch.stack((xy, yy)))), value


_LEAST = "sides of at least 32 pixels are needed, 128 are better"


@contextmanager
def _one_thread() -> Iterator[None]:
    """The arrays are so small that threads would wait for each other, ten times as long as one needs."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _covariance(factor: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """xx, xy and yy of the Cholesky factor whose diagonal is given by its logarithms."""
    a, b, d = factor[0].exp(), factor[1], factor[2].exp()
    return a * a, a * b, b * b + d * d


def _minimised(misfit: Callable[[Tensor], Tensor], start: Tensor) -> tuple[Tensor, float]:
    factor = start.clone().requires_grad_(True)
    optimizer = torch.optim.LBFGS([factor], max_iter=60, line_search_fn="strong_wolfe", tolerance_grad=1e-9)

    def evaluate() -> Tensor:
        optimizer.zero_grad()
        value = misfit(factor)
        value.backward()  # type: ignore[no-untyped-call]
        return value

    with torch.enable_grad():
        optimizer.step(evaluate)  # type: ignore[no-untyped-call]
    return factor.detach(), float(misfit(factor.detach()))


def _power(grey: Tensor, side: int) -> Tensor:
    """(side, side) mean power of half-overlapping tiles under a Hann window. Source: Welch 1967."""
    window = torch.hann_window(side, periodic=True, dtype=torch.float64)
    window = torch.outer(window, window)
    tiles = grey.unfold(0, side, side // 2).unfold(1, side, side // 2)
    total = torch.zeros(side, side, dtype=torch.float64)
    for row in tiles:  # (columns, side, side) at a time: all of them would be four copies of the picture
        total += torch.fft.fft2((row - row.mean((1, 2), keepdim=True)) * window).abs().square().sum(0)
    return total / (tiles.shape[0] * tiles.shape[1] * window.square().sum())


def _smoothing(side: int) -> Tensor:
    """(side, side): a Gaussian of one bin along an axis, around its ends."""
    distance = torch.arange(side, dtype=torch.float64)
    distance = torch.minimum(distance, side - distance)
    row = torch.exp(-distance.square() / 2) * (distance <= 3)
    return torch.stack([(row / row.sum()).roll(shift) for shift in range(side)])
