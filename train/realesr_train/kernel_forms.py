"""Blur kernels of a reduction as tables, which are correlated, not turned round: what they are, what is made of them.

A reduction by 2 that keeps rows 0, 2, 4, ... leaves both pictures aligned where the kernel's centre of mass is half a
pixel beyond its middle place; `_wanted_centre` is that place.

Source: family specification, section 5.1, post-processing.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

KERNEL_PX = 13
"""Of KernelGAN's kernels."""


def _wanted_centre(side: int) -> float:
    return side // 2 + 0.5 * (2 - side % 2)


def gaussian(covariance: Tensor, side: int) -> Tensor:
    """(side, side) float32 of sum 1, centred as scale 2 needs it; `covariance` (2, 2) in the order x, y."""
    place = torch.arange(side, dtype=torch.float64) - _wanted_centre(side)
    points = torch.stack(torch.meshgrid(place, place, indexing="xy"), -1)
    inverse = torch.linalg.inv(covariance.double())
    weights = torch.exp(-0.5 * torch.einsum("yxi,ij,yxj->yx", points, inverse, points))
    return (weights / weights.sum()).float()


def clean(kernel: Tensor, *, keep: int = 40) -> Tensor:
    """(k, k): about the `keep` largest values, lowered, with the sum 1."""
    threshold = kernel.flatten().sort(descending=True).values[keep]
    lowered = (kernel - 0.75 * threshold).clamp(min=0)
    return lowered / lowered.sum()


def centre_of_mass(kernel: Tensor) -> tuple[float, float]:
    """Row and column."""
    place = torch.arange(len(kernel), dtype=kernel.dtype)
    total = kernel.sum()
    return float((kernel.sum(1) * place).sum() / total), float((kernel.sum(0) * place).sum() / total)


def centred(kernel: Tensor) -> Tensor:
    """The kernel moved by cubic splines so that its centre of mass is where scale 2 needs it, on a larger square."""
    side = len(kernel)
    wanted = _wanted_centre(side)
    shifts = [wanted - place for place in centre_of_mass(kernel)]
    margin = math.ceil(max(abs(shift) for shift in shifts)) + 1
    padded = F.pad(kernel.double(), (margin,) * 4)
    rows, columns = (_shift_matrix(len(padded), shift) for shift in shifts)
    return (rows @ padded @ columns.T).to(kernel.dtype)


def _shift_matrix(length: int, shift: float) -> Tensor:
    """(length, length) float64: values of the cubic spline through samples, `shift` samples further on; 0 outside.

    Source: Unser 1999, "Splines: A Perfect Fit for Signal and Image Processing", with mirrored ends.
    """

    def mirrored(index: Tensor) -> Tensor:
        phase = index.remainder(2 * length - 2)
        return torch.minimum(phase, 2 * length - 2 - phase)

    place = torch.arange(length, dtype=torch.float64)
    basis = torch.zeros(length, length, dtype=torch.float64)
    for offset, weight in ((-1, 1 / 6), (0, 4 / 6), (1, 1 / 6)):
        basis[torch.arange(length), mirrored(torch.arange(length) + offset)] += weight
    asked = place - shift
    low = asked.floor().long()
    values = torch.zeros(length, length, dtype=torch.float64)
    for offset in range(-1, 3):
        distance = (asked - (low + offset)).abs()
        near, far = 2 / 3 - distance**2 + distance**3 / 2, (2 - distance) ** 3 / 6
        values[torch.arange(length), mirrored(low + offset)] += torch.where(
            distance < 1, near, torch.where(distance < 2, far, 0.0)
        )
    values[(asked < 0) | (asked > length - 1)] = 0
    matrix: Tensor = values @ torch.linalg.inv(basis)
    return matrix


def twice(kernel: Tensor) -> Tensor:
    """The kernel of scale 4, (2k - 1, 2k - 1) for odd k, made of that of scale 2 (k, k): halving, and halving again."""
    side = len(kernel)
    spread = torch.zeros(2 * side - 1, 2 * side - 1, dtype=kernel.dtype)
    spread[::2, ::2] = kernel
    full = F.conv_transpose2d(spread[None, None], kernel[None, None])[0, 0]
    cut = side // 2
    inner = full[cut : len(full) - cut, cut : len(full) - cut]
    return inner / inner.sum()


def covariance(kernel: Tensor) -> Tensor:
    """(2, 2) float64 in the order x, y (right, down), pixels squared."""
    weights = kernel.double() / kernel.double().sum()
    row, column = centre_of_mass(weights)
    y, x = (
        torch.arange(side, dtype=torch.float64) - place
        for side, place in zip(weights.shape, (row, column), strict=True)
    )
    points = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)
    return torch.einsum("yx,yxi,yxj->ij", weights, points, points)


def widened(kernel: Tensor, factor: float, side: int) -> Tensor:
    """(side, side): the kernel stretched about its centre of mass, its covariance `factor` times as large, sum 1."""
    row, column = centre_of_mass(kernel.double())
    place = (torch.arange(side, dtype=torch.float64) - _wanted_centre(side)) / factor**0.5
    rows, columns = place + row, place + column
    ends = len(kernel) - 1
    grid = torch.stack(torch.meshgrid(2 * columns / ends - 1, 2 * rows / ends - 1, indexing="xy"), -1)
    stretched = F.grid_sample(
        kernel.double()[None, None], grid[None], mode="bicubic", padding_mode="zeros", align_corners=True
    )[0, 0].clamp(min=0)
    return (stretched / stretched.sum()).float()
