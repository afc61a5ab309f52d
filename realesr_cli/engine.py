"""A picture through a network tile by tile: how large the tiles are, and what to do when memory runs out.

upscaler.py deals in pictures, inference.py in batches of tiles; here a picture is a host array.
"""

import math
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Generic

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from realesr_cli.device import DeviceChoice
from realesr_cli.errors import OutOfMemory
from realesr_cli.inference import Inference, Picture
from realesr_cli.memory import (
    bound_freed_memory,
    free_memory_bytes,
    is_out_of_memory,
    keep_freed_memory,
    release_freed_memory,
)
from realesr_cli.models.architectures import LoadedModel
from realesr_cli.models.colours import REACH_PX
from realesr_cli.models.windows import widths_matter
from realesr_cli.options import TileOptions
from realesr_cli.reporting import Reporter
from realesr_cli.tiling import Box, Tile, plan_tiles, split_tile

Pixels = NDArray[Any]
Advance = Callable[[float], None]

# A tile's memory on a CPU, where larger tiles gain nothing, and where memory belongs to everybody.
_HOST_BYTES = 27 * 2**30 // 20
# Share of the free memory that activations may take; the rest is for the picture, the weights and everybody else.
_MEMORY_SHARE = 0.4
# A tile whose kept part would be smaller than this is all context: the device is simply too small.
_SMALLEST_TILE_PX = 32
# A tile's side, its context counted: at 25 times the context only 18 % of the work is done twice. Larger ones take
# memory that others want. A picture that is no larger than the least of the range is one tile, without any of that.
_LARGEST_SIDE_PAD = 25
_SIDE_RANGE_PX = (640, 2048)
# Launching a GPU's kernels costs the same for one tile as for several; a CPU has no such cost.
_LARGEST_BATCH = 8
# Whole pictures gain by it on a CPU as well while they are so small that threads wait for each other more than they
# compute (docs/performance.md): twice the speed at 32x32 pixels, a sixth more at 96x96, nothing at 128x128.
_SMALL_PX = {True: 96**2, False: 256**2}


class Engine:
    """Runs one model on one device. It remembers what did not fit, so the next picture starts smaller."""

    def __init__(self, model: LoadedModel, choice: DeviceChoice, options: TileOptions, reporter: Reporter) -> None:
        self._model = model
        self._choice = choice
        self._options = options
        self._reporter = reporter
        self._inference = Inference(
            model, choice, reporter, self_ensemble=options.self_ensemble, keep_colours=options.keep_colours
        )
        self._largest_batch = 1 if choice.device.type == "cpu" else _LARGEST_BATCH
        # a GPU computes one batch while the host unpacks the one before
        self._ahead = 1 if choice.device.type == "cuda" else 0
        self._largest_window_px: int | None = None
        if choice.device.type == "cpu":
            keep_freed_memory()

    def close(self) -> None:
        """Frees the device's memory."""
        self._inference.close()
        self._release()

    def _release(self) -> None:
        """Gives back what is kept for the next tiles."""
        if self._choice.device.type == "cpu":
            release_freed_memory()
        if self._choice.device.type == "cuda":
            torch.cuda.empty_cache()

    def plan(self, height: int, width: int, *, channels: int = 3, precise: bool = False) -> tuple[Tile, ...]:
        """The tiles for a picture: as large as `--tile` says, or the memory that is free now, or as is worth while."""
        align, pad = self._model.multiple_of, self.pad_px
        if self._options.size is not None:
            return plan_tiles(height, width, size=self._options.size, pad=pad, align=align)
        budget = max(0, int(free_memory_bytes(self._choice.device) * _MEMORY_SHARE))
        if self._choice.device.type == "cpu":
            budget = min(budget, _HOST_BYTES)
        window_px = bisect_right(
            range(self._largest_side_px**2 + 1),
            budget,
            lo=1,
            key=lambda px: self.window_bytes(px, channels=channels, precise=precise),
        )
        if self._largest_window_px is not None:
            window_px = min(window_px, self._largest_window_px)
        window = (height, width) if height * width <= window_px else _square(height, width, window_px)
        return plan_tiles(height, width, size=_sides(window, pad), pad=pad, align=align)

    def window_bytes(self, window_px: int, *, channels: int = 3, precise: bool = False) -> int:
        """Peak of device memory for a tile of so many input pixels: activations, the picture in float32, the result."""
        model, on_cpu, ensemble = self._model, self._choice.device.type == "cpu", self._options.self_ensemble
        dtype = torch.float32 if precise else self._choice.dtype
        values_per_px = model.values_per_px
        if on_cpu and dtype == torch.float32 and model.float32_values_per_px is not None:
            values_per_px = model.float32_values_per_px
        tail_px = model.fast_tail_px if widths_matter(dtype, self._choice.device) else model.tail_px
        values = window_px * values_per_px + min(window_px, tail_px) * model.tail_values_per_px
        runs = math.ceil(channels / model.channels_in)  # a model for one channel takes three as a batch
        holds_result = model.holds_result or ensemble or not on_cpu
        result = (4 if precise else 1) + (4 if holds_result else 0)  # integers, and what they are rounded from
        ends = max(channels, model.channels_out) * (4 + result * model.scale**2) * (2 if ensemble else 1)
        if self._options.keep_colours:  # the result and its correction, in float32
            ends += 8 * model.channels_out * model.scale**2
        return runs * values * torch.finfo(dtype).bits // 8 + window_px * ends

    def bands(
        self, picture: Pixels, tiles: Sequence[Tile], dtype: np.dtype[Any], *, precise: bool, advance: Advance
    ) -> Iterator[Pixels]:
        """The network's result for `picture` (H, W, C), C = 1 or 3, from the top: bands (h, scale*W, C) of `dtype`.

        `tiles` is what `plan` gave. Picture and result hold integers over the whole range of their dtype. `precise`
        runs in float32 whatever was chosen. `advance` is told the input pixels done.
        Raises: OutOfMemory, NonFiniteOutput.
        """
        scale, levels = self._model.scale, int(np.iinfo(dtype).max)
        for row in self._rows(tiles):
            top, bottom = row[0].kept.top, row[-1].kept.bottom
            out = np.empty(((bottom - top) * scale, picture.shape[1] * scale, picture.shape[2]), dtype)
            origin = Box(top, 0, bottom, picture.shape[1])
            pieces = [_Piece(tile, picture, _cut(out, tile.kept.within(origin).times(scale))) for tile in row]
            self._fill(pieces, levels, precise=precise, advance=advance)
            yield out
            del out, pieces  # the caller alone decides how long it lives

    def on_device(self, pictures: Sequence[Tensor], tiles: Sequence[Sequence[Tile]], *, precise: bool) -> list[Tensor]:
        """The network's results for pictures (H, W, C) that are on the device, float32 in [0, 1], as they are.

        `tiles` is what `plan` gave for each; those of one shape go together. Raises: OutOfMemory, NonFiniteOutput.
        """
        scale = self._model.scale
        results = [
            picture.new_empty((picture.shape[0] * scale, picture.shape[1] * scale, picture.shape[2]))
            for picture in pictures
        ]
        pieces = [
            _Piece(tile, picture, _cut(result, tile.kept.times(scale)))
            for picture, result, own in zip(pictures, results, tiles, strict=True)
            for tile in own
        ]
        self._fill(pieces, None, precise=precise, advance=lambda amount: None)
        return results

    @property
    def largest_batch(self) -> int:
        """How many tiles run together."""
        return self._largest_batch

    def batch(self, pictures: Pixels, dtype: np.dtype[Any], *, precise: bool) -> list[Pixels] | None:
        """The network's results for small pictures (N, H, W, C), each of them one tile: N arrays of `dtype`.

        None where they do not fit into memory together. Raises: NonFiniteOutput.
        """
        count, height, width, channels = pictures.shape
        together = count * self.window_bytes(height * width, channels=channels, precise=precise)
        self._bound_kept(together)
        if together > free_memory_bytes(self._choice.device) * _MEMORY_SHARE:
            return None
        kept, levels = [Box(0, 0, height, width)] * count, int(np.iinfo(dtype).max)
        try:
            return self._inference.start(pictures, kept, levels, precise=precise, on_step=lambda share: None)()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        return None

    @property
    def small_px(self) -> int:
        """Pictures of at most so many pixels gain by running as one batch; 0 = none does."""
        return 0 if self._options.size is not None else _SMALL_PX[self._choice.device.type == "cpu"]

    def band_rows(self, tiles: Sequence[Tile]) -> int:
        """Input rows of the highest band that `bands` makes of these tiles."""
        return max(row[-1].kept.bottom - row[0].kept.top for row in self._rows(tiles))

    def _rows(self, tiles: Sequence[Tile]) -> Iterator[list[Tile]]:
        """The tiles in groups that span the picture's width, on a GPU of enough of them for a batch."""
        group: list[Tile] = []
        for _, row in groupby(tiles, key=lambda tile: tile.kept.top):
            group.extend(row)
            if len(group) >= self._largest_batch:
                yield group
                group = []
        if group:
            yield group

    def _fill(
        self, pieces: Iterable["_Piece[Picture]"], levels: int | None, *, precise: bool, advance: Advance
    ) -> None:
        """Fills the targets of all pieces, in their order."""
        pending = deque(pieces)
        running: deque[_Running[Picture]] = deque()
        channels = pending[0].picture.shape[2]
        self._bound_kept(self.window_bytes(pending[0].tile.source.area, channels=channels, precise=precise))
        budget = free_memory_bytes(self._choice.device) * _MEMORY_SHARE
        while pending or running:
            full = False
            try:
                if pending and len(running) <= self._ahead:
                    tile_bytes = self.window_bytes(pending[0].tile.source.area, channels=channels, precise=precise)
                    batch = self._next_batch(pending, min(max(1, int(budget / tile_bytes)), self._largest_batch))
                    running.append(_Running(batch, advance))
                    running[-1].start(self._inference, levels, precise=precise)
                else:
                    parts = running[0].result()
                    for piece, part in zip(running[0].pieces, parts, strict=True):
                        piece.target[...] = part
                    del parts, part  # before the next batch takes as much
                    running.popleft().finished()
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                full = True  # leaving this block first frees what the failed run still holds
            if full:
                failed = list(running)
                running.clear()
                for run in failed:
                    run.dropped()
                pending.extendleft(reversed([piece for run in failed for piece in run.pieces]))
                if len(failed) > 1:
                    self._ahead = 0  # one batch took the other's memory: from now on each runs alone
                else:
                    self._make_smaller([piece.tile for piece in failed[0].pieces])

    # --- one batch ----------------------------------------------------------------------------------------------------

    def _next_batch(self, pending: deque["_Piece[Picture]"], largest: int) -> list["_Piece[Picture]"]:
        """Takes at most `largest` tiles of one shape off `pending`; those known not to fit are halved first."""
        limit = self._largest_window_px
        while limit is not None and pending[0].tile.source.area > limit and self._can_split(pending[0].tile):
            pending.extendleft(reversed(self._halves(pending.popleft())))
        batch = [pending.popleft()]
        while pending and len(batch) < largest and pending[0].shape == batch[0].shape:
            batch.append(pending.popleft())
        return batch

    def _halves(self, piece: "_Piece[Picture]") -> list["_Piece[Picture]"]:
        tile, (height, width) = piece.tile, piece.picture.shape[:2]
        return [
            _Piece(
                half,
                piece.picture,
                _cut(piece.target, half.kept.within(tile.kept).times(self._model.scale)),
            )
            for half in split_tile(tile, height, width, pad=self.pad_px, align=self._model.multiple_of)
        ]

    def _bound_kept(self, tile_bytes: int) -> None:
        if self._choice.device.type == "cpu":
            bound_freed_memory(tile_bytes)

    def _make_smaller(self, tiles: list[Tile]) -> None:
        self._release()
        if len(tiles) > 1:
            self._largest_batch = len(tiles) // 2
            return
        if not self._can_split(tiles[0]):
            raise OutOfMemory(
                f"not enough memory on {self._choice.device} for a tile of "
                f"{tiles[0].source.width}x{tiles[0].source.height} pixels",
                hint="close other programs, or use --device cpu or a smaller model such as realesr-general-x4v3",
            )
        self._largest_window_px = tiles[0].source.area * 2 // 3
        self._reporter.emit("note", message="not enough memory: going on with smaller tiles")

    def _can_split(self, tile: Tile) -> bool:
        return max(tile.kept.height, tile.kept.width) >= 2 * max(_SMALLEST_TILE_PX, self._model.multiple_of)

    @property
    def _largest_side_px(self) -> int:
        smallest, largest = _SIDE_RANGE_PX
        return max(smallest, min(_LARGEST_SIDE_PAD * self.pad_px, largest))

    @property
    def pad_px(self) -> int:
        if self._options.pad_px is not None:
            return self._options.pad_px
        align = self._model.multiple_of
        reach = -(-REACH_PX // align) * align if self._options.keep_colours else 0
        return self._model.pad_px + reach


@dataclass(frozen=True, slots=True)
class _Piece(Generic[Picture]):
    """A tile of a picture (H, W, C), and the place that the result of its kept part shall fill."""

    tile: Tile
    picture: Picture
    target: Picture

    @property
    def shape(self) -> tuple[int, int]:
        return self.tile.source.height, self.tile.source.width


class _Running(Generic[Picture]):
    """A batch of tiles on its way through the network, and the progress that was reported for it."""

    def __init__(self, pieces: list[_Piece[Picture]], advance: Advance) -> None:
        self.pieces: list[_Piece[Picture]] = pieces
        self.result: Callable[[], list[Picture]] = list
        self._advance = advance
        self._area = sum(piece.tile.kept.area for piece in pieces)
        self._reported = 0.0

    def start(self, inference: Inference, levels: int | None, *, precise: bool) -> None:
        stack = _stacked([_cut(piece.picture, piece.tile.source) for piece in self.pieces])
        kept = [piece.tile.kept.within(piece.tile.source) for piece in self.pieces]
        self.result = inference.start(stack, kept, levels, precise=precise, on_step=self._step)

    def finished(self) -> None:
        self._advance(self._area - self._reported)

    def dropped(self) -> None:
        self._advance(-self._reported)

    def _step(self, share: float) -> None:
        amount = min(share * self._area, self._area - self._reported)
        self._reported += amount
        self._advance(amount)


def _square(height: int, width: int, px: int) -> tuple[int, int]:
    """A window of at most `px` pixels: a square, unless the picture is too thin for one."""
    high = min(height, math.isqrt(px))
    wide = min(width, px // max(1, high))
    return min(height, px // max(1, wide)), wide


def _sides(window: tuple[int, int], pad: int) -> tuple[int, int]:
    """Of what is kept of a window's result, where it has context all around."""
    return max(window[0] - 2 * pad, _SMALLEST_TILE_PX), max(window[1] - 2 * pad, _SMALLEST_TILE_PX)


def _cut(picture: Picture, box: Box) -> Picture:
    return picture[box.top : box.bottom, box.left : box.right]


def _stacked(parts: list[Picture]) -> Picture:
    first = parts[0]
    return torch.stack(parts) if isinstance(first, Tensor) else np.stack(parts)
