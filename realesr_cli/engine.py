"""Tiles through a network on a device: batches, precision, and recovery from full memory and overflow.

upscaler.py deals in pictures; here a picture is a host array that is read and filled tile by tile.
"""

import math
from collections import deque
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from realesr_cli.device import DeviceChoice, free_memory_bytes
from realesr_cli.errors import NonFiniteOutput, OutOfMemory
from realesr_cli.models.architectures import LoadedModel
from realesr_cli.models.mixed import fast_copy
from realesr_cli.options import TileOptions
from realesr_cli.reporting import Reporter
from realesr_cli.tiling import Tile, plan_tiles, split_tile

Pixels = NDArray[Any]
Advance = Callable[[float], None]

# Share of the free memory that activations may take; the rest is for the picture, the weights and everybody else.
_MEMORY_SHARE = 0.4
# A tile whose kept part would be smaller than this is all context: the device is simply too small.
_SMALLEST_TILE_PX = 32
# Beyond this a larger tile saves next to nothing, and other programs want memory too.
_LARGEST_TILE_PX = 2048
# Launching a GPU's kernels costs the same for one tile as for several; a CPU has no such cost.
_LARGEST_BATCH = 8
_LUMA = (0.299, 0.587, 0.114)


class Engine:
    """Runs one model on one device. It remembers what did not fit, so the next picture starts smaller."""

    def __init__(self, model: LoadedModel, choice: DeviceChoice, options: TileOptions, reporter: Reporter) -> None:
        self._model = model
        self._choice = choice
        self._options = options
        self._reporter = reporter
        self._networks: dict[torch.dtype, nn.Module] = {}
        self._largest_batch = 1 if choice.device.type == "cpu" else _LARGEST_BATCH
        self._largest_window_px: int | None = None
        self._overflow_told = False
        self._step: Callable[[], None] = lambda: None

    def close(self) -> None:
        """Frees the device's memory."""
        self._networks.clear()
        if self._choice.device.type == "cuda":
            torch.cuda.empty_cache()

    def plan(self, height: int, width: int) -> tuple[Tile, ...]:
        """The tiles for a picture, as large as `--tile` or the memory that is free now allows."""
        align, pad = self._model.multiple_of, self._pad_px
        if self._options.size is not None:
            return plan_tiles(height, width, size=self._options.size, pad=pad, align=align)
        budget = free_memory_bytes(self._choice.device) * _MEMORY_SHARE
        window_px = int(budget) // self.window_bytes(1)
        if self._largest_window_px is not None:
            window_px = min(window_px, self._largest_window_px)
        if height * width <= min(window_px, _LARGEST_TILE_PX**2):
            return plan_tiles(height, width, size=max(height, width), pad=0, align=align)
        side = min(math.isqrt(window_px) - 2 * pad, _LARGEST_TILE_PX)
        return plan_tiles(height, width, size=max(side, _SMALLEST_TILE_PX), pad=pad, align=align)

    def window_bytes(self, window_px: int) -> int:
        """Peak of device memory for a tile of so many input pixels: activations, and both ends in float32."""
        scale, channels = self._model.scale, self._model.channels_out
        activations = self._model.values_per_px * torch.finfo(self._choice.dtype).bits // 8
        return window_px * (activations + 4 * channels * (1 + 2 * scale**2))

    def run(self, picture: Pixels, out: Pixels, *, precise: bool, advance: Advance) -> None:
        """Fills `out` (scale*H, scale*W, C) with the network's result for `picture` (H, W, C), C = 1 or 3.

        Both hold integers over the whole range of their dtype. `precise` runs in float32 whatever was chosen.
        `advance` is told the input pixels done. Raises: OutOfMemory, NonFiniteOutput.
        """
        height, width = picture.shape[:2]
        pending = deque(self.plan(height, width))
        while pending:
            tiles = self._next_batch(pending, height, width)
            counted = 0.0
            share = sum(tile.kept.area for tile in tiles) / self._steps(precise)

            def step(share: float = share) -> None:
                nonlocal counted
                counted += share
                advance(share)

            self._step = step
            try:
                parts = self._compute(picture, tiles, np.iinfo(out.dtype).max, precise)
            except (RuntimeError, MemoryError) as error:
                if not _is_out_of_memory(error):
                    raise
                parts = None  # leaving this block first frees what the failed run still holds
            if parts is None:
                advance(-counted)
                self._make_smaller(tiles)
                pending.extendleft(reversed(tiles))
                continue
            for tile, part in zip(tiles, parts, strict=True):
                place = tile.kept.times(self._model.scale)
                out[place.top : place.bottom, place.left : place.right] = part
            advance(sum(tile.kept.area for tile in tiles) - counted)

    # --- one batch ----------------------------------------------------------------------------------------------------

    def _next_batch(self, pending: deque[Tile], height: int, width: int) -> list[Tile]:
        """Takes tiles of one shape off `pending`; tiles that are known not to fit are halved first."""
        limit = self._largest_window_px
        while limit is not None and pending[0].source.area > limit and _can_split(pending[0]):
            tile = pending.popleft()
            pending.extendleft(
                reversed(split_tile(tile, height, width, pad=self._pad_px, align=self._model.multiple_of))
            )
        batch = [pending.popleft()]
        shape = (batch[0].source.height, batch[0].source.width)
        while pending and len(batch) < self._largest_batch:
            following = pending[0].source
            if (following.height, following.width) != shape:
                break
            batch.append(pending.popleft())
        return batch

    def _make_smaller(self, tiles: list[Tile]) -> None:
        if self._choice.device.type == "cuda":
            torch.cuda.empty_cache()
        if len(tiles) > 1:
            self._largest_batch = len(tiles) // 2
            return
        if not _can_split(tiles[0]):
            raise OutOfMemory(
                f"not enough memory on {self._choice.device} for a tile of "
                f"{tiles[0].source.width}x{tiles[0].source.height} pixels",
                hint="close other programs, or use --device cpu or a smaller model such as realesr-general-x4v3",
            )
        self._largest_window_px = tiles[0].source.area * 2 // 3
        self._reporter.emit("note", message="not enough memory: going on with smaller tiles")

    def _compute(self, picture: Pixels, tiles: list[Tile], levels: int, precise: bool) -> list[Pixels]:
        """The kept parts of the tiles' results, (h, w, C) integers in 0..levels, as host arrays."""
        dtype = torch.float32 if precise else self._choice.dtype
        boxes = [tile.source for tile in tiles]
        stack = np.stack([picture[box.top : box.bottom, box.left : box.right] for box in boxes])
        if stack.dtype == np.uint16:  # torch has the type, but few of its operations on every device
            stack = stack.astype(np.int32)
        with torch.inference_mode():
            x = torch.from_numpy(stack).to(self._choice.device).permute(0, 3, 1, 2).float()
            x /= np.iinfo(picture.dtype).max
            y = self._forward(x, dtype)
            if not _is_finite(y):
                y = self._forward_again(x, dtype)
            scale = self._model.scale
            parts = []
            for tile, values in zip(tiles, y, strict=True):
                kept = tile.kept.within(tile.source).times(scale)
                part = values[:, kept.top : kept.bottom, kept.left : kept.right]
                part = part.mul(levels).round_().clamp_(0, levels).permute(1, 2, 0)
                whole = part.to(torch.uint8 if levels == 255 else torch.int32).cpu().numpy()
                parts.append(whole.astype(np.uint8 if levels == 255 else np.uint16, copy=False))
        return parts

    def _forward(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """(N, 1 or 3, H, W) in [0, 1] -> (N, the same, scale*H, scale*W) float32, whatever channels the model has."""
        count, channels = x.shape[:2]
        if channels == self._model.channels_in:
            return self._ensemble(x, dtype)
        if channels == 3:  # a model for single channels
            y = self._ensemble(x.reshape(count * 3, 1, *x.shape[2:]), dtype)
            return y.reshape(count, 3, *y.shape[2:])
        y = self._ensemble(x.expand(-1, 3, -1, -1), dtype).clamp(0, 1)
        red, green, blue = _LUMA
        return red * y[:, :1] + green * y[:, 1:2] + blue * y[:, 2:]

    def _ensemble(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        network = self._network(dtype)
        if not self._options.self_ensemble:
            return cast(Tensor, network(x)).float()
        total = torch.zeros((), device=x.device)
        for turns in range(4):
            for mirrored in (False, True):
                view = torch.rot90(x.flip(3) if mirrored else x, turns, (2, 3))
                result = torch.rot90(network(view.contiguous()).float(), -turns, (2, 3))
                total = total + (result.flip(3) if mirrored else result)
        return total / 8

    def _forward_again(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """Repeats a tile that overflowed in float32."""
        name = self._model.name
        if dtype != torch.float32:
            if not self._overflow_told:
                self._overflow_told = True
                self._reporter.emit(
                    "warning",
                    code="overflow",
                    message=f"{name} overflows in {self._choice.precision}; such tiles are computed again in fp32",
                    hint="--precision fp32 avoids the double work",
                )
            y = self._forward(x, torch.float32)
            if _is_finite(y):
                return y
        raise NonFiniteOutput(
            f"{name} gives values that are not numbers, even in fp32",
            hint="the weights file is probably damaged: `realesr models verify`, or choose another model with -m",
        )

    def _network(self, dtype: torch.dtype) -> nn.Module:
        if dtype not in self._networks:
            network = fast_copy(
                self._model.network, dtype, self._choice.device, channels_last=self._choice.channels_last
            )
            for block in _blocks(network):
                block.register_forward_hook(lambda *_: self._step())
            self._networks[dtype] = network
        return self._networks[dtype]

    def _steps(self, precise: bool) -> int:
        """How often `_step` is called while one batch is computed."""
        blocks = len(_blocks(self._network(torch.float32 if precise else self._choice.dtype)))
        return max(1, blocks) * (8 if self._options.self_ensemble else 1)

    @property
    def _pad_px(self) -> int:
        return self._model.pad_px if self._options.pad_px is None else self._options.pad_px


def _blocks(network: nn.Module) -> list[nn.Module]:
    """The parts of a network after which progress is shown."""
    body = getattr(network, "body", None)
    return list(body.children()) if isinstance(body, nn.Module) else []


def _is_finite(y: Tensor) -> bool:
    # one number a batch crosses from the device; NaN and infinity survive a sum
    return math.isfinite(float(y.sum()))


def _can_split(tile: Tile) -> bool:
    return max(tile.kept.height, tile.kept.width) >= 2 * _SMALLEST_TILE_PX


def _is_out_of_memory(error: RuntimeError | MemoryError) -> bool:
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error).lower()
    return "out of memory" in text or "not enough memory" in text or "can't allocate memory" in text
