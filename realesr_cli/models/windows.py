"""Maps in overlapping windows, of sizes that convolutions are fast with.

Layers run over one window after the other. A convolution makes the outermost row or column of a window wrong where the
picture goes on; after a few of them these are taken anew from the neighbours, who know them (`Windows.refresh`). So
every window needs a few rows and columns more than its share, however deep the network is, and the values are those of
the whole maps.

In bfloat16 on a CPU with AMX, oneDNN's speed depends on the width of maps (docs/performance.md): somewhat below 128 and
256 it is faster than anywhere else, and above 256 one width in six takes two to five times as long.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

_FAST_PX = (range(112, 127), range(224, 255))
_FAST_COST, _WIDE_COST = 0.8, 2
# Of each window beside its pixels, in columns: calls, and the exchange of borders.
_COST_PX = 5


@dataclass(frozen=True)
class Axis:
    """`count` windows of `size` on a line of `length`, as evenly as whole numbers allow."""

    length: int
    count: int
    size: int

    @property
    def starts(self) -> list[int]:
        return [(self.length - self.size) * index // max(1, self.count - 1) for index in range(self.count)]

    @property
    def overlaps(self) -> list[int]:
        """Of each window with the next one."""
        return [first + self.size - second for first, second in pairwise(self.starts)]

    def slices(self) -> list[slice]:
        return [slice(start, start + self.size) for start in self.starts]

    def shares(self) -> list[slice]:
        """What each window alone stands for: up to the middle of its overlaps."""
        middles = [start + overlap // 2 for start, overlap in zip(self.starts[1:], self.overlaps, strict=True)]
        return [slice(first, last) for first, last in pairwise([0, *middles, self.length])]


class Windows:
    """A grid of windows on maps (N, C, H, W), all of one size; lists of them go row by row.

    A window's values may depend on those within `reach` pixels around them before they are refreshed or joined.
    """

    def __init__(self, rows: Axis, columns: Axis, reach: int) -> None:
        self._rows, self._columns, self.reach = rows, columns, reach

    def __len__(self) -> int:
        return self._rows.count * self._columns.count

    def cut(self, maps: Tensor) -> Iterator[Tensor]:
        """The windows of `maps`, each its own memory unless it is all of them."""
        if len(self) == 1:
            yield maps
            return
        for rows in self._rows.slices():
            for columns in self._columns.slices():
                yield maps[..., rows, columns].contiguous(memory_format=torch.channels_last)

    def joined(self, parts: Iterable[Tensor], layers: Callable[[Tensor], Tensor]) -> Tensor:
        """What `layers` make of the whole maps that `parts` are the windows of; they may enlarge them."""
        out = None
        for index, part in enumerate(parts):
            result = layers(part)
            if len(self) == 1:
                return result
            if out is None:
                growth = result.shape[3] // self._columns.size
                shape = (*result.shape[:2], self._rows.length * growth, self._columns.length * growth)
                out = torch.empty(shape, dtype=result.dtype, device=part.device, memory_format=torch.channels_last)
            self._put(result, index, out)
        assert out is not None
        return out

    def refresh(self, windows: Sequence[Tensor]) -> None:
        """Gives each window's outermost `reach` rows and columns the values that its neighbours have, in place."""
        reach, wide = self.reach, self._columns.count
        lines = [windows[start : start + wide] for start in range(0, len(windows), wide)]
        for line in lines:
            for (left, right), overlap in zip(pairwise(line), self._columns.overlaps, strict=True):
                left[..., -reach:] = right[..., overlap - reach : overlap]
                end = left.shape[3] - overlap
                right[..., :reach] = left[..., end : end + reach]
        for (upper, lower), overlap in zip(pairwise(lines), self._rows.overlaps, strict=True):
            for above, below in zip(upper, lower, strict=True):
                above[:, :, -reach:] = below[:, :, overlap - reach : overlap]
                end = above.shape[2] - overlap
                below[:, :, :reach] = above[:, :, end : end + reach]

    def _put(self, window: Tensor, index: int, out: Tensor) -> None:
        """Writes what the window at `index` stands for into the whole maps, both enlarged alike."""
        row, column = divmod(index, self._columns.count)
        growth = out.shape[3] // self._columns.length
        rows, columns = self._rows.shares()[row], self._columns.shares()[column]
        top, left = self._rows.starts[row], self._columns.starts[column]
        out[..., _times(rows, growth), _times(columns, growth)] = window[
            ..., _times(rows, growth, less=top), _times(columns, growth, less=left)
        ]


def taken(parts: list[Tensor]) -> Iterator[Tensor]:
    """From the first to the last, each of which leaves the list, and so memory."""
    while parts:
        yield parts.pop(0)


def plan_windows(
    maps: Tensor,
    dtype: torch.dtype,
    *,
    reach: int,
    most_reach: int = 0,
    px: float,
    fast_px: int,
    growth: int = 1,
    widest: int = 254,
) -> Windows:
    """The windows for layers that compute in `dtype` and enlarge maps like these `growth` times.

    Between two refreshes they may reach `reach` pixels, and up to `most_reach` where that costs nothing. Windows have
    about `px` pixels, or where widths matter `fast_px`, and there no more than `widest` columns when enlarged. While
    gradients are recorded there is but one.
    """
    height, width = maps.shape[2:]
    if torch.is_grad_enabled():
        return Windows(Axis(height, 1, height), Axis(width, 1, width), reach)
    fast: tuple[range, ...] = ()
    if widths_matter(dtype, maps.device):
        enlarged = [widths for widths in _FAST_PX if widths[-1] <= widest]
        fast = tuple(range(-(-widths.start // growth), widths[-1] // growth + 1) for widths in enlarged)
    columns = min(_divisions(width, 2 * reach, fast), key=lambda axis: _cost(axis, fast))
    reach = min([max(reach, most_reach), *(overlap // 2 for overlap in columns.overlaps)])
    count = max(1, min(round(height * columns.size / (fast_px if fast else px)), height // (4 * reach)))
    return Windows(Axis(height, count, _size(height, count, 2 * reach)), columns, reach)


def widths_matter(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether convolutions in this number format on this device are known to be so."""
    return dtype == torch.bfloat16 and device.type == "cpu"


def _divisions(width: int, overlap: int, fast: Sequence[range]) -> Iterator[Axis]:
    """Into columns that may be fast; the first is a single one."""
    yield Axis(width, 1, width)
    for count in range(2, 2 + width // (fast[0].start - overlap) if fast else 0):
        least = _size(width, count, overlap)
        for size in (least, *(widths.start for widths in fast if widths.start > least)):
            # by half of their overlap they must lie apart: one takes its border from what the next one knows
            if size <= width - (count - 1) * (overlap // 2 + 1):
                yield Axis(width, count, size)


def _size(length: int, count: int, overlap: int) -> int:
    """Of windows that cover the length and overlap at least so much."""
    return -(-(length + (count - 1) * overlap) // count)


def _cost(columns: Axis, fast: Sequence[range]) -> float:
    if not fast:
        factor = 1.0
    elif columns.size > fast[-1][-1]:
        factor = _WIDE_COST
    else:
        factor = _FAST_COST if any(columns.size in widths for widths in fast) else 1.0
    return columns.count * (columns.size * factor + _COST_PX)


def _times(part: slice, factor: int, *, less: int = 0) -> slice:
    return slice((part.start - less) * factor, (part.stop - less) * factor)
