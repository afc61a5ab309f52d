"""Frames of a film of which only what has changed goes through the network.

The result at a pixel depends on the source no further away than the network's radius. So where the source, this margin
included, is what it was in one of the last frames, the result is too: bit by bit, if the network's result for a window
does not depend on the window's size and place, which holds for compact networks on a CPU (docs/performance.md).

What is to be computed is found in the sources alone (`FrameChanges`), before anything is; results are put together
from what was computed (`FrameResults`). The two may be in different threads, as long as both see the frames in order.

Trap: a part of a frame must be computed as the whole is. `Upscaler.__call__` does not quite: it runs a picture whose
channels are equal as one channel, which gives other values than the same pixels within a coloured frame.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from realesr_cli.tiling import Box

Planes = tuple[NDArray[Any], ...]
"""Arrays (h, w) or (h, w, channels), the first at the frame's full size, others perhaps at half its height or width."""
Blocks = NDArray[np.bool_]
"""Something about each square of a frame, (rows, columns); the last ones may reach beyond it."""

# Changes are looked for in squares of this side; larger ones save less (docs/performance.md).
_BLOCK_PX = 8
# Windows begin at multiples of this, for chroma of halved planes and for networks that fold pixels into channels.
_ALIGN_PX = 4
# Pixels beyond the network's radius that matter where chroma is interpolated before it and averaged after it.
_CHROMA_PX = 4
# What a call of the network costs beside the pixels that it computes.
_CALL_PX = 64 * 64
# A frame of which less than this share would be saved is computed whole.
_LEAST_SAVED = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """What of a frame is to be computed, and where the rest is known from. Boxes count source pixels."""

    source: Planes
    """The frame, in memory of its own."""
    windows: tuple[Box, ...]
    """What is to be computed."""
    boxes: tuple[Box, ...] = ()
    """The part of each window that is taken of its result, unless it is the whole frame."""
    older: tuple[Box, ...] = ()
    """What is taken from the older of the two known results; everything else comes from the newer."""
    same_as: int | None = None
    """The known frame that this one equals: 0 or 1."""

    @property
    def is_whole(self) -> bool:
        """Whether the whole frame is computed at once."""
        return bool(self.windows) and not self.boxes

    @property
    def spared_px(self) -> int:
        """Source pixels that the network need not compute."""
        return max(0, _whole(self.source).area - sum(window.area for window in self.windows))

    def parts(self) -> list[Planes]:
        """The windows' planes, as views."""
        frame = _whole(self.source)
        return [tuple(plane[_slices(window, frame, plane)] for plane in self.source) for window in self.windows]


class FrameChanges:
    """Called for each frame of a film in turn: what of it is new."""

    def __init__(self, margin_px: int) -> None:
        """`margin_px` is the distance from which the network's result depends on its source: `LoadedModel.pad_px`.

        For frames of several planes, what the conversion of their chroma needs is added.
        """
        self._margin_px = margin_px
        # the last frame first, then the one before, for pictures that take turns: a blinking cursor
        self._known: list[Planes] = []

    def __call__(self, planes: Planes) -> Change:
        if self._known and _form(self._known[0]) != _form(planes):
            self._known.clear()
        stale: list[Blocks] = []
        reach = _reach(self._margin_px, planes)
        for index, known in enumerate(self._known):
            changed = _changed(planes, known)
            if changed is None:
                self._known.insert(0, self._known.pop(index))
                return Change(source=known, windows=(), same_as=index)
            stale.append(_grown(changed, -(-reach // _BLOCK_PX)))
        # copies: a decoder may use its memory again
        source = tuple(plane.copy() for plane in planes)
        self._known = [source, *self._known[:1]]
        return _change(source, stale, reach)


def _change(source: Planes, stale: list[Blocks], reach: int) -> Change:
    """`stale` says for each known frame where its result does not serve."""
    frame = _whole(source)
    if not stale:
        return Change(source=source, windows=(frame,))
    boxes = tuple(_cut_off(box, frame) for box in _cover(np.logical_and.reduce(stale), reach))
    windows = tuple(_cut_off(_widened(box, reach), frame) for box in boxes)
    if sum(window.area for window in windows) > (1 - _LEAST_SAVED) * frame.area:
        return Change(source=source, windows=(frame,))
    older = tuple(_cut_off(run, frame) for run in _runs(stale[0] & ~stale[1])) if len(stale) == 2 else ()
    return Change(source=source, windows=windows, boxes=boxes, older=older)


class FrameResults:
    """Called for each change in turn: the result for the whole frame."""

    def __init__(self, scale: int) -> None:
        """`scale`: how many times as large as their sources results are."""
        self._scale = scale
        self._known: list[Planes] = []

    def __call__(self, change: Change, parts: Sequence[Planes]) -> Planes:
        """`parts` are the results for the change's windows, of as many planes as the film's results have.

        Leave what comes back as it is: it may be the next frame's, too.
        """
        if change.same_as is not None:
            self._known.insert(0, self._known.pop(change.same_as))
            return self._known[0]
        result = self._composed(change, parts) if not change.is_whole else parts[0]
        self._known = [result, *self._known[:1]]
        return result

    def _composed(self, change: Change, parts: Sequence[Planes]) -> Planes:
        frame = _whole(change.source)
        result = tuple(plane.copy() for plane in self._known[0])
        for box in change.older:
            self._paste(result, self._known[1], box, frame, frame)
        for part, box, window in zip(parts, change.boxes, change.windows, strict=True):
            self._paste(result, part, box, frame, window)
        return result

    def _paste(self, target: Planes, source: Planes, box: Box, frame: Box, window: Box) -> None:
        """Copies `box` from the result for `window` into the result for `frame`; all in source pixels."""
        scale = self._scale
        for to, plane in zip(target, source, strict=True):
            there = _slices(box.times(scale), frame.times(scale), to)
            to[there] = plane[_slices(box.within(window).times(scale), window.times(scale), plane)]


def _whole(planes: Planes) -> Box:
    return Box(0, 0, *planes[0].shape[:2])


def _form(planes: Planes) -> list[tuple[Any, ...]]:
    return [(plane.shape, plane.dtype) for plane in planes]


def _reach(margin_px: int, planes: Planes) -> int:
    """From how far away a result depends on its source, a multiple of _ALIGN_PX."""
    reach = margin_px + (_CHROMA_PX if len(planes) > 1 else 0)
    return -(-reach // _ALIGN_PX) * _ALIGN_PX


def _slices(box: Box, whole: Box, plane: NDArray[Any]) -> tuple[slice, slice]:
    """Where `box` is in a plane of the picture `whole`, both counted from the same corner."""
    down = 1 if plane.shape[0] == whole.height else 2
    across = 1 if plane.shape[1] == whole.width else 2
    return slice(box.top // down, -(-box.bottom // down)), slice(box.left // across, -(-box.right // across))


def _widened(box: Box, by: int) -> Box:
    return Box(box.top - by, box.left - by, box.bottom + by, box.right + by)


def _cut_off(box: Box, frame: Box) -> Box:
    return Box(max(0, box.top), max(0, box.left), min(frame.bottom, box.bottom), min(frame.right, box.right))


# --- which blocks -----------------------------------------------------------------------------------------------------


def _changed(planes: Planes, before: Planes) -> Blocks | None:
    """The blocks that hold a sample that differs, or None if there are none."""
    height, width = planes[0].shape[:2]
    changed: Blocks | None = None
    for plane, other in zip(planes, before, strict=True):
        differs = plane != other
        rows = differs.reshape(len(differs), -1).any(axis=1)
        if not rows.any():
            continue
        if changed is None:
            changed = np.zeros((-(-height // _BLOCK_PX), -(-width // _BLOCK_PX)), np.bool_)
        high = _BLOCK_PX if plane.shape[0] == height else _BLOCK_PX // 2
        wide = _BLOCK_PX if plane.shape[1] == width else _BLOCK_PX // 2
        # row by row of blocks: most of them are still, and reducing two axes at once takes ten times as long
        for row in np.flatnonzero(np.logical_or.reduceat(rows, np.arange(0, len(rows), high))):
            columns = differs[row * high : (row + 1) * high].any(axis=0)
            columns = columns if columns.ndim == 1 else columns.any(axis=1)
            changed[row] |= np.logical_or.reduceat(columns, np.arange(0, len(columns), wide))
    return changed


def _grown(blocks: Blocks, by: int) -> Blocks:
    """All blocks at most `by` blocks away."""
    square = np.ones((2 * by + 1, 2 * by + 1), np.uint8)
    return cv2.dilate(blocks.astype(np.uint8), square).astype(np.bool_)


def _runs(blocks: Blocks) -> Iterator[Box]:
    """The blocks in boxes one block high, in pixels."""
    for row in np.flatnonzero(blocks.any(axis=1)).tolist():
        edges = np.flatnonzero(np.diff(blocks[row].astype(np.int8), prepend=0, append=0)).tolist()
        for left, right in zip(edges[::2], edges[1::2], strict=True):
            yield Box(row, left, row + 1, right).times(_BLOCK_PX)


def _cover(blocks: Blocks, reach: int, top: int = 0, left: int = 0) -> Iterator[Box]:
    """Boxes in pixels that cover the blocks, chosen so that few pixels are computed when each is widened by `reach`.

    The box around all blocks is cut in two where that saves most, if it saves anything, and so is each part.
    `top` and `left` count blocks and are added.
    """
    rows, columns = np.flatnonzero(blocks.any(axis=1)), np.flatnonzero(blocks.any(axis=0))
    if not rows.size:
        return
    box = Box(int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1)
    inner = blocks[box.top : box.bottom, box.left : box.right]
    top, left = top + box.top, left + box.left
    across, beside = _best_cut(inner, reach), _best_cut(inner.T, reach)
    if min(across, beside)[0] >= _cost(box.height, box.width, reach):
        yield Box(top, left, top + box.height, left + box.width).times(_BLOCK_PX)
    elif across <= beside:
        yield from _cover(inner[: across[1]], reach, top, left)
        yield from _cover(inner[across[1] :], reach, top + across[1], left)
    else:
        yield from _cover(inner[:, : beside[1]], reach, top, left)
        yield from _cover(inner[:, beside[1] :], reach, top, left + beside[1])


def _best_cut(blocks: Blocks, reach: int) -> tuple[float, int]:
    """(cost, row) of the best cut between two rows of blocks, of which the first and the last are not empty."""
    height, width = blocks.shape
    if height == 1:
        return float("inf"), 0
    filled, number = blocks.any(axis=1), np.arange(height)
    first = np.where(filled, blocks.argmax(axis=1), width)
    end = np.where(filled, width - blocks[:, ::-1].argmax(axis=1), 0)
    # of the boxes around rows 0..k, and around rows k..height
    above_wide = np.maximum.accumulate(end) - np.minimum.accumulate(first)
    below_wide = (np.maximum.accumulate(end[::-1]) - np.minimum.accumulate(first[::-1]))[::-1]
    above_high = np.maximum.accumulate(np.where(filled, number + 1, 0))
    below_high = height - np.minimum.accumulate(np.where(filled, number, height)[::-1])[::-1]
    costs = _cost(above_high[:-1], above_wide[:-1], reach) + _cost(below_high[1:], below_wide[1:], reach)
    best = int(costs.argmin())
    return float(costs[best]), best + 1


def _cost(height: Any, width: Any, reach: int) -> Any:
    """Of a box of so many blocks, or of arrays of them: pixels that the network computes, or does not in that time."""
    return (height * _BLOCK_PX + 2 * reach) * (width * _BLOCK_PX + 2 * reach) + _CALL_PX
