"""Chroma planes doubled and halved along an axis, with each sample where the stream says it stands.

Trap: a sample of a halved plane stands at pixel 2i, 2i + 1/2 or 2i + 1. Filters that take no notice of it move colours
by up to half a pixel against the picture, and an upscaler enlarges that.
"""

import torch
from torch import Tensor

# Samples beyond both ends of an axis that `doubled` and `halved` need.
CONTEXT = 1


def doubled(plane: Tensor, axis: int, place: float) -> Tensor:
    """(..., n + 2, ...) -> (..., 2n, ...): linear interpolation; float.

    Sample i, the first and last being `CONTEXT`, stands at 2i + `place`, 0 <= place <= 1, of the result.
    """
    axis, n = axis % plane.ndim, plane.shape[axis] - 2
    before, at, after = (plane.narrow(axis, start, n) for start in range(3))
    if axis == plane.ndim - 1:
        even = at if place == 0 else _between(before, at, 1 - place / 2)
        odd = at if place == 1 else _between(at, after, (1 - place) / 2)
        return torch.view_as_real(torch.complex(even, odd)).flatten(-2)  # faster than strided stores
    out = plane.new_empty((*plane.shape[:axis], n, 2, *plane.shape[axis + 1 :]))
    _between(before, at, 1 - place / 2, out=out.select(axis + 1, 0))
    _between(at, after, (1 - place) / 2, out=out.select(axis + 1, 1))
    return out.flatten(axis, axis + 1)


def halved(plane: Tensor, axis: int, place: float) -> Tensor:
    """(..., 2n + 2, ...) -> (..., n, ...): antialiased by a triangle of two pixels to each side; float.

    Sample i stands at pixel 2i + `place`, 0 <= place <= 1, not counting `CONTEXT` at both ends.
    """
    n = plane.shape[axis] // 2 - 1
    total: Tensor | None = None
    for tap in range(-1, 3):
        weight = max(0.0, 2 - abs(tap - place)) / 4
        if weight == 0:
            continue
        index = [slice(None)] * plane.ndim
        index[axis] = slice(1 + tap, 2 * n + tap + 1, 2)
        values = plane[tuple(index)]
        total = values * weight if total is None else total.add_(values, alpha=weight)
    assert total is not None
    return total


def _between(first: Tensor, second: Tensor, share: float, out: Tensor | None = None) -> Tensor:
    """The mean, `second` counting as `share`. On a CPU torch.lerp takes twice as long."""
    return torch.mul(first, 1 - share, out=out).add_(second, alpha=share)


def part(plane: Tensor, axis: int, start: int, stop: int) -> Tensor:
    """Samples start..stop of an axis; beyond its ends the last ones are repeated."""
    length = plane.shape[axis]
    if start >= 0 and stop <= length:
        return plane.narrow(axis, start, stop - start)
    inside = plane.narrow(axis, max(0, start), min(length, stop) - max(0, start))
    before, after = max(0, -start), max(0, stop - length)
    pieces = [plane.narrow(axis, 0, 1)] * before + [inside] + [plane.narrow(axis, length - 1, 1)] * after
    return torch.cat(pieces, axis)
