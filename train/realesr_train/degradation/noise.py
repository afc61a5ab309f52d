"""Gaussian and Poisson noise; fields and counts are arguments, so that recorded ones can be replayed.

A grey image gets the same noise in its three channels: its field is channel 0 of the field given. So one field serves
both kinds, images never share one (defect D3), and the original's shared grey field is a field whose channel 0 is
repeated over the batch. Poisson noise is three steps: `poisson_rates` (levels and their number), `poisson_counts` (or
recorded counts), `add_poisson`.
"""

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from realesr_train.degradation.canvas import checked_per_image, checked_sizes, inside

_LEVELS = 256
_CPU_BLOCK = 1 << 15  # counts per pass on a CPU: the temporaries stay in the second-level cache
_DEVICE_BLOCK = 1 << 24


def add_gaussian(pixels: Tensor, sigma: Tensor, grey: Tensor, z: Tensor, sizes: Tensor | None = None) -> Tensor:
    """clamp(x + sigma z / 255, 0, 1), with channel 0 of z for all channels of a grey image; not rounded.

    `pixels` and `z` (N, C, H, W), z standard normal; `sigma` (N,) in 8-bit levels and `grey` (N,) bool, on the host or
    the device. Differentiable with respect to the pixels where they are not clamped.

    Raises:
        ValueError: another shape; `grey` not bool; see `checked_sizes`.

    Source: training specification, section 4.3.
    """
    _check(pixels, sizes, grey, {"sigma": sigma}, {"z": z})
    strength = _per_image(sigma.to(pixels.dtype) / 255, pixels.device)
    # in one new tensor: on a CPU fresh memory costs as much as the arithmetic
    return _shared(z, grey).to(pixels.dtype).mul_(strength).add_(pixels).clamp_(0, 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class PoissonRates:
    """What Poisson noise counts: photons of mean `levels / 255 * peaks` per pixel.

    `levels` (N, C, H, W) uint8, the 8-bit pixels, equal in all channels of a grey image; `peaks` (N,) float32, the
    photons of a white pixel: a power of two from 1 to 256. Outside an image's size the levels are don't-care.
    """

    levels: Tensor
    peaks: Tensor


def poisson_rates(
    pixels: Tensor, grey: Tensor, sizes: Tensor | None = None, *, fixed_levels: int | None = None
) -> PoissonRates:
    """Levels of every image, and as its peak the number of different ones, rounded up to a power of two.

    The levels of a grey image are those of 0.2989 R + 0.587 G + 0.114 B (three channels needed). `fixed_levels`, a
    power of two up to 256, replaces the count, so that noise does not depend on the content (defect D5).
    `pixels` (N, C, H, W), `grey` (N,) bool on the host or the device. No gradient.

    Raises:
        ValueError: `fixed_levels` no such power; another shape; `grey` not bool; see `checked_sizes`.

    Source: training specification, section 4.4.
    """
    sizes = _check(pixels, sizes, grey, {}, {})
    if fixed_levels is not None and fixed_levels not in (1, 2, 4, 8, 16, 32, 64, 128, 256):
        raise ValueError(f"fixed_levels: {fixed_levels} is not a power of two from 1 to 256")
    count, channels, height, width = pixels.shape
    with torch.no_grad():
        source = pixels
        if channels == 3:
            # one product and one sum at a time: an 8-bit tie must round as in the original
            luma = 0.2989 * pixels[:, 0:1] + 0.587 * pixels[:, 1:2]
            luma += 0.114 * pixels[:, 2:3]
            source = torch.where(_per_image(grey, pixels.device), luma, pixels)
        levels = (source * 255).round_().clamp_(0, 255).to(torch.uint8)
        if fixed_levels is not None:
            return PoissonRates(levels=levels, peaks=torch.full((count,), float(fixed_levels), device=pixels.device))
        # which levels occur: every pixel marks its level, a don't-care pixel a bin that is not counted
        marks = levels.int()
        if not bool((sizes == torch.tensor((height, width))).all()):
            marks = torch.where(inside(sizes, height, width, pixels.device), marks, _LEVELS)
        bins = _LEVELS + 1
        marks = (marks + torch.arange(count, device=pixels.device)[:, None, None, None].int() * bins).flatten()
        if marks.device.type == "cpu":
            occurs = torch.bincount(marks, minlength=count * bins) > 0  # three times as fast as the other way
        else:  # where bincount would wait for the device
            occurs = torch.zeros(count * bins, dtype=torch.bool, device=marks.device)
            occurs.index_fill_(0, marks.long(), True)
        used = occurs.view(count, bins)[:, :_LEVELS].sum(1, keepdim=True)
        powers = 2 ** torch.arange(8, device=pixels.device)
        exponent = (used > powers).sum(1)
        return PoissonRates(levels=levels, peaks=(2**exponent).float())


def poisson_counts(rates: PoissonRates, uniform: Tensor, grey: Tensor) -> Tensor:
    """(N, C, H, W) float32 Poisson numbers of mean levels / 255 * peaks: the exact inverse distribution of `uniform`.

    `uniform` (N, C, H, W) float32 multiples of 2^-24 in [0, 1), standing for the middle of their interval; a grey
    image (`grey` (N,) bool) uses channel 0 for all. Integer work only: the same on every device.

    Raises:
        ValueError: `uniform` or `grey` of another shape or dtype.
    """
    shape = rates.levels.shape
    if uniform.shape != shape or uniform.dtype != torch.float32:
        raise ValueError(f"uniform: {uniform.dtype} {tuple(uniform.shape)}; give float32 {tuple(shape)}")
    _check_grey(grey, shape[0])
    table = _quantile_table(uniform.device)
    # peaks are powers of two: their float32 exponent is the table's page
    page = (rates.peaks.view(torch.int32) >> 23) - 127
    out = torch.empty(shape[0], shape[1:].numel(), device=uniform.device)
    levels, u = rates.levels.reshape(shape[0], -1), _shared(uniform, grey).reshape(shape[0], -1)
    step = max(1, (_CPU_BLOCK if uniform.device.type == "cpu" else _DEVICE_BLOCK) // shape[0])
    for start in range(0, out.shape[1], step):
        block = slice(start, start + step)
        signed = (u[:, block] * _UNIT).int()
        signed -= (signed >> 23) << 24
        name = torch.nn.functional.leaky_relu(signed.float() + 0.5, 2.0**-_UPPER_SHIFT)
        cell = name.abs_().view(torch.int32) >> _CELL_SHIFT
        cell += levels[:, block].int().add_(page[:, None] * _LEVELS).mul_(_CELLS).sub_(_FIRST_CELL)
        packed = table.index_select(0, cell.view(-1)).view(cell.shape)
        packed += signed
        out[:, block] = (packed >> 23).bitwise_and_(511)
    return out.view(shape)


def add_poisson(
    pixels: Tensor, scale: Tensor, rates: PoissonRates, counts: Tensor, sizes: Tensor | None = None
) -> Tensor:
    """clamp(x + scale (counts / peaks - levels / 255), 0, 1): the noise is taken around the 8-bit pixels; not rounded.

    `pixels` and `counts` (N, C, H, W), `scale` (N,) a ratio, on the host or the device. Differentiable with respect to
    the pixels where they are not clamped.

    Raises:
        ValueError: another shape; see `checked_sizes`.

    Source: training specification, section 4.4.
    """
    _check(pixels, sizes, None, {"scale": scale}, {"counts": counts, "rates.levels": rates.levels})
    noise = (counts / rates.peaks[:, None, None, None]).to(pixels.dtype).sub_(rates.levels.to(pixels.dtype).div_(255))
    return noise.mul_(_per_image(scale.to(pixels.dtype), pixels.device)).add_(pixels).clamp_(0, 1)


def _check(
    pixels: Tensor, sizes: Tensor | None, grey: Tensor | None, per_image: dict[str, Tensor], fields: dict[str, Tensor]
) -> Tensor:
    sizes = checked_sizes(pixels, sizes)
    if grey is not None:
        _check_grey(grey, pixels.shape[0])
    for name, value in per_image.items():
        checked_per_image(name, value, pixels.shape[0])
    for name, field in fields.items():
        if field.shape != pixels.shape:
            raise ValueError(f"{name}: shape is {tuple(field.shape)}; give that of pixels, {tuple(pixels.shape)}")
    return sizes


def _check_grey(grey: Tensor, count: int) -> None:
    checked_per_image("grey", grey, count)
    if grey.dtype != torch.bool:
        raise ValueError(f"grey: dtype is {grey.dtype}; give bool")


def _shared(field: Tensor, grey: Tensor) -> Tensor:
    """The field with channel 0 in all channels of the grey images."""
    return torch.where(_per_image(grey, field.device), field[:, :1], field)


def _per_image(value: Tensor, device: torch.device) -> Tensor:
    """(N, 1, 1, 1) on the device, from (N,) on the host or there."""
    return value.to(device, non_blocking=True)[:, None, None, None]


# The quantile table. A uniform number j / 2^24 is written as s = j below one half and s = j - 2^24 above, so that both
# tails have small s. The exponent and the first four mantissa bits of the float s + 1/2 name a cell, so cells narrow
# towards the tails as the probabilities do. In a cell the count rises at most once (the construction checks it for all
# distributions), so that a cell is a count and the s where it rises, packed into 32 bits: one look-up and one sum.
_UNIT = 1 << 24
_CELL_SHIFT = 23 - 4
_UPPER_SHIFT = 32  # negative s are scaled by 2^-32, to cells of their own
_FIRST_CELL = (127 - 1 - _UPPER_SHIFT) << 4  # of |s + 1/2| = 1/2
_CELLS = ((127 + 23) << 4) - _FIRST_CELL
_LARGEST_COUNT = 383  # of mean 256 only counts up to 351 have a chance of 2^-25


@functools.lru_cache(maxsize=4)
def _quantile_table(device: torch.device) -> Tensor:
    """(9 * 256 * _CELLS,) int32, for peak 2^e, level k and cell c: (count << 23) - s if the count is reached at s."""
    mean = torch.arange(_LEVELS, dtype=torch.float64) / 255 * 2.0 ** torch.arange(9, dtype=torch.float64)[:, None]
    mean = mean.view(-1, 1)
    number = torch.arange(_LARGEST_COUNT + 1, dtype=torch.float64)
    chance = torch.exp(torch.xlogy(number, mean) - mean - torch.lgamma(number + 1))
    # rise[x]: the first j whose middle (j + 1/2) / 2^24 exceeds P(count <= x), that is, the first with count > x
    rise = torch.ceil(chance.cumsum(1) * _UNIT - 0.5).long().clamp(max=_UNIT)
    assert bool((rise[:, -1] == _UNIT).all())

    edge = torch.arange(_FIRST_CELL, _FIRST_CELL + _CELLS + 1, dtype=torch.int32).bitwise_left_shift(_CELL_SHIFT)
    edge = edge.view(torch.float32).double()  # the smallest |s + 1/2| of a cell
    is_upper = edge < 0.5
    edge = torch.where(is_upper, edge * 2.0**_UPPER_SHIFT, edge)
    low, high, is_upper = edge[:-1], edge[1:], is_upper[:-1]
    # the first and the last s of a cell; a cell near 0 may hold none, one beyond one half is never named
    half = _UNIT // 2
    first = torch.where(is_upper, torch.floor(-high - 0.5) + 1, torch.ceil(low - 0.5)).long().clamp(-half, half - 1)
    last = torch.where(is_upper, torch.floor(-low - 0.5), torch.ceil(high - 0.5) - 1).long().clamp(-half, half - 1)
    last = last.maximum(first)

    shift = torch.where(is_upper, _UNIT, 0)
    rows = mean.shape[0]
    count = torch.searchsorted(rise, (first + shift).expand(rows, -1).contiguous(), right=True)
    count_last = torch.searchsorted(rise, (last + shift).expand(rows, -1).contiguous(), right=True)
    rises = count_last > count
    assert bool((count_last - count <= 1).all())
    where = torch.where(rises, rise.gather(1, count.clamp(max=_LARGEST_COUNT)) - shift, first)
    packed = (count_last << 23) - where
    return packed.to(torch.int32).flatten().to(device)
