"""Pictures through a network: tiles, precision, recovery, grey, alpha and final size behind one call.

upscaler = Upscaler("realesrgan-x4plus")
large = upscaler(pixels, scale=2.5)
"""

import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from realesr_cli import alpha as transparency
from realesr_cli.device import DeviceChoice, choose_device
from realesr_cli.engine import Advance, Engine
from realesr_cli.errors import OutOfMemory, UnsupportedInput, UsageError
from realesr_cli.memory import free_memory_bytes, release_freed_memory
from realesr_cli.models.architectures import LoadedModel, load_model
from realesr_cli.options import AlphaMode, DeviceOptions, SizeOptions, TileOptions
from realesr_cli.reporting import NULL, Reporter, progress
from realesr_cli.resize import reduce
from realesr_cli.tiling import Box, Tile

Pixels = NDArray[Any]

# Sides of the pictures that are timed for `--dry-run`.
_SPEED_PROBES_PX = (64, 192, 192)
_LONGEST_PROBE_S = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What upscaling one picture takes; `--dry-run` prints it."""

    height: int
    width: int
    passes: int
    tiles: int
    tile_height: int
    tile_width: int
    overhead: float
    """Pixels that the network computes over pixels of the picture: 1.0 = no context is computed twice."""
    seconds: float
    """Of the network alone, from its speed on a small tile."""
    memory_bytes: int
    """Peak of activations on the device and of the picture's copies in host memory."""


@dataclass(frozen=True, slots=True)
class _Pass:
    """One run of the network over a picture of this size, without what is padded."""

    height: int
    width: int
    tiles: tuple[Tile, ...]


Plans = dict[tuple[int, int, int, bool], tuple[Tile, ...]]
"""Tiles by (height, width, channels, whether in float32)."""


class Upscaler:
    """A network on a device, ready for pictures. Use it in a `with` block to free device memory at its end."""

    def __init__(
        self,
        model: LoadedModel | str | Path,
        *,
        device: DeviceOptions | None = None,
        tile: TileOptions | None = None,
        reporter: Reporter = NULL,
    ) -> None:
        """Loads the model if it is a name or a file.

        Raises: ModelError and its kinds, DeviceUnavailable, UnsupportedInput (a network that is not for pictures).
        """
        self.model = model if isinstance(model, LoadedModel) else load_model(model, reporter=reporter)
        if (self.model.channels_in, self.model.channels_out) not in ((3, 3), (1, 1)):
            raise UnsupportedInput(
                f"{self.model.name} turns {self.model.channels_in} channels into {self.model.channels_out}",
                hint="realesr runs networks for RGB pictures or for single channels",
            )
        self.choice: DeviceChoice = choose_device(device or DeviceOptions(), self.model)
        self.tile_options = tile or TileOptions()
        self._engine = Engine(self.model, self.choice, self.tile_options, reporter)
        self._reporter = reporter
        self._speeds: dict[tuple[bool, int, int], float] = {}
        self._frame_plans: Plans = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._engine.close()

    def __call__(
        self,
        pixels: Pixels,
        *,
        scale: float | None = None,
        size: tuple[int, int] | None = None,
        alpha_mode: AlphaMode = "model",
        label: str = "upscaling",
    ) -> Pixels:
        """The picture enlarged by `scale` (default: the network's own), or to `size` = (height, width).

        `pixels` is (H, W) or (H, W, C), C = 1 grey, 3 RGB or 4 RGBA, uint8 or uint16 over their full range, sRGB as
        in files; the result has the same dtype and number of channels. Enlargements beyond the network's own take
        several passes; what is then too large is reduced with an antialiasing filter. `alpha_mode` says whether alpha
        goes through the network too or is resized. `label` names progress events.

        Raises: UnsupportedInput, UsageError, OutOfMemory, NonFiniteOutput.
        """
        _check(pixels)
        height, width = pixels.shape[:2]
        if size is None:
            size = SizeOptions(scale=scale).target(height, width, self.model.scale)
        elif scale is not None or len(size) != 2 or not all(isinstance(side, int) and side > 0 for side in size):
            raise UsageError(f"size={size} must be (height, width) in whole pixels, without a scale beside it")
        self._check_host_memory(self._work(pixels, size), size, pixels.dtype, whole=True)
        result = join(self.bands(pixels, size=size, alpha_mode=alpha_mode, label=label), size[0])
        return result.reshape(*size, *pixels.shape[2:])

    def announce(self, reason: str = "") -> None:
        """Emits the `model` event: what runs, where and in which number format; `reason` says why this model."""
        self._reporter.emit(
            "model",
            name=self.model.name,
            architecture=self.model.architecture,
            scale=self.model.scale,
            sha256=self.model.sha256,
            device=str(self.choice.device),
            precision=self.choice.precision,
            reason="; ".join(filter(None, (reason, self.choice.reason))),
        )

    def bands(
        self, pixels: Pixels, *, size: tuple[int, int], alpha_mode: AlphaMode = "model", label: str = "upscaling"
    ) -> Generator[Pixels, None, None]:
        """The result of a call in bands of rows (h, width, C), from top to bottom, each as soon as it is finished.

        So a result can be written that would not fit into memory. Parameters and errors as in a call.
        """
        _check(pixels)
        height, width = pixels.shape[:2]
        work = self._work(pixels, size)
        self._check_host_memory(work, size, pixels.dtype, whole=False)
        plain = pixels.reshape(height, width, -1)
        colour, opacity = plain[..., :3], plain[..., 3:]
        shaped = _has_shape(opacity)
        by_network = shaped and alpha_mode == "model"
        total = sum(step.height * step.width for step in work) * (2 if by_network else 1)
        with progress(self._reporter, total, "pixels", label=label) as advance:
            if opacity.size == 0:
                yield from self._enlarge(colour, size, len(work), advance)
                return
            if by_network:
                limits = transparency.Limits(opacity)
                alphas = _Rows(self._enlarge(opacity, size, len(work), advance, limits))
            elif shaped:
                alphas = _Rows(iter([transparency.resize(opacity, *size)]))
            else:
                alphas = _Rows(iter([np.broadcast_to(opacity[:1, :1], (*size, 1))]))
            for band in self._enlarge(transparency.bleed(colour, opacity), size, len(work), advance):
                yield np.concatenate((band, alphas.take(band.shape[0])), axis=2)

    def batch(
        self, pictures: Sequence[Pixels], *, size: tuple[int, int], alpha_mode: AlphaMode = "model"
    ) -> list[Pixels]:
        """The results of calls for pictures of one shape and dtype, run together where that is faster.

        The numbers are those of single calls, but for the rounding of sums that kernels order by the batch's size: in
        rare places one level. Parameters and errors as in a call, with no progress events.
        """
        for pixels in pictures:
            _check(pixels)
        shape = pictures[0].shape
        height, width = shape[:2]
        plain = [pixels.reshape(height, width, -1) for pixels in pictures]
        work = self._work(plain[0], size)
        single = len(pictures) == 1 or len(work) > 1 or len(work[0].tiles) > 1 or height * width > self.small_px
        if single:
            return [
                join(self.bands(pixels, size=size, alpha_mode=alpha_mode), size[0]).reshape(*size, *shape[2:])
                for pixels in pictures
            ]
        colours = [transparency.bleed(p[..., :3], p[..., 3:]) if p.shape[2] == 4 else p for p in plain]
        results = self._enlarge_together(colours, size)
        if plain[0].shape[2] == 4:
            alphas = self._enlarge_alphas([pixels[..., 3:] for pixels in plain], size, alpha_mode)
            results = [np.concatenate(pair, axis=2) for pair in zip(results, alphas, strict=True)]
        return [result.reshape(*size, *shape[2:]) for result in results]

    @property
    def small_px(self) -> int:
        """Pictures of at most so many pixels gain by `batch`."""
        return self._engine.small_px

    def frame(self, pixels: Pixels, *, size: tuple[int, int] | None = None, deep: bool = False) -> Pixels:
        """One frame of a film (H, W, 3), or a part of one: at the network's own scale, or at `size`.

        The result is uint16 if it is to be `deep`, else of the same dtype. Other than in a call, what the values are
        decides nothing, so a part of a frame gives what it gives within the whole; frames of one size are cut into
        the same tiles whatever memory is free meanwhile; and no progress is reported. Errors as in a call.
        """
        _check(pixels)
        dtype = np.dtype(np.uint16) if deep else pixels.dtype
        if size is None:
            bands = self._pass(pixels, dtype, self._precise(pixels.dtype), lambda amount: None, self._frame_plans)
            return join(bands, pixels.shape[0] * self.model.scale)
        passes = len(self._work(pixels, size))
        return join(self._enlarge(pixels, size, passes, lambda amount: None, plans=self._frame_plans), size[0])

    def tensors(self, pictures: Sequence[Tensor], *, deep: bool) -> list[Tensor]:
        """What `frame` does at the network's own scale, for frames (3, H, W) or parts that are on the device.

        Values are float32 in [0, 1]. Those of one shape run in batches; `deep` says that they had more than 8 bits.
        Raises: OutOfMemory, NonFiniteOutput.
        """
        precise, scale = self._precise(np.dtype(np.uint16 if deep else np.uint8)), self.model.scale
        sizes = [(picture.shape[1], picture.shape[2]) for picture in pictures]
        padded_sizes = [self._padded_size(*size) for size in sizes]
        padded = [
            _pad_tensor(picture, *size).permute(1, 2, 0) for picture, size in zip(pictures, padded_sizes, strict=True)
        ]
        tiles = [self._tiles(size, 3, precise, self._frame_plans) for size in padded_sizes]
        results = self._engine.on_device(padded, tiles, precise=precise)
        return [
            result[: height * scale, : width * scale].permute(2, 0, 1)
            for result, (height, width) in zip(results, sizes, strict=True)
        ]

    def frames_at_once(self, height: int, width: int, *, deep: bool) -> int:
        """How many frames of this size `tensors` runs as one batch, where memory allows it."""
        precise = self._precise(np.dtype(np.uint16 if deep else np.uint8))
        tiles = self._tiles(self._padded_size(height, width), 3, precise, self._frame_plans)
        return max(1, self._engine.largest_batch // len(tiles))

    @property
    def pad_px(self) -> int:
        """Distance from which the network's result depends on its source, as far as can be seen."""
        return self._engine.pad_px

    def check_memory(self, height: int, width: int, size: tuple[int, int]) -> None:
        """Raises OutOfMemory if frames of this size, enlarged to `size`, would not fit into the host's memory."""
        frame = np.broadcast_to(np.uint8(0), (height, width, 3))
        self._check_host_memory(self._work(frame, size), size, frame.dtype, whole=True)

    def plan(
        self,
        pixels: Pixels,
        size: tuple[int, int],
        *,
        alpha_mode: AlphaMode = "model",
        whole: bool = True,
        queued: bool = False,
    ) -> Plan:
        """What `__call__` does for this picture, without doing it; or `bands` where they go to another thread
        (`queued`), which may gather the `whole` result."""
        precise = self._precise(pixels.dtype)
        work = self._work(pixels, size)
        computed = sum(tile.source.area for step in work for tile in step.tiles)
        # transparency is a second picture for the network
        runs = 2 if alpha_mode == "model" and _has_shape(pixels[..., 3:]) else 1
        window = work[-1].tiles[0].source
        return Plan(
            height=size[0],
            width=size[1],
            passes=len(work),
            tiles=runs * sum(len(step.tiles) for step in work),
            tile_height=window.height,
            tile_width=window.width,
            overhead=computed / sum(step.height * step.width for step in work),
            seconds=runs * computed / self._pixels_per_second(precise, window),
            memory_bytes=self._host_bytes(work, size, pixels.dtype, whole=whole, queued=queued)
            + self._engine.window_bytes(window.area, precise=precise),
        )

    def _work(self, pixels: Pixels, size: tuple[int, int]) -> list[_Pass]:
        """The runs of the network that make a result at least as large as `size`."""
        (height, width), scale = pixels.shape[:2], self.model.scale
        work: list[_Pass] = []
        while not work or height < size[0] or width < size[1]:
            if work and scale == 1:
                raise UsageError(
                    f"{self.model.name} restores pictures at their size and cannot enlarge them",
                    hint="choose -s 1 or less, or another model with -m",
                )
            tiles = self._engine.plan(*self._padded_size(height, width), precise=self._precise(pixels.dtype))
            work.append(_Pass(height, width, tiles))
            height, width = height * scale, width * scale
        return work

    def _pixels_per_second(self, precise: bool, window: Box) -> float:
        """Input pixels that the network computes in a second on this device, timed once.

        Large maps leave the caches, so what counts is a tile of the size at hand, or as much of it as a moment allows.
        """
        key = (precise, window.height, window.width)
        if key not in self._speeds:
            speed = 0.0
            for side in _SPEED_PROBES_PX:  # the first run compiles kernels
                speed = max(speed, self._timed(side, side, precise))
            share = min(1.0, (_LONGEST_PROBE_S * speed / window.area) ** 0.5)
            height, width = round(window.height * share), round(window.width * share)
            # twice, for the first run also takes memory from the system
            self._speeds[key] = max(self._timed(height, width, precise) for _ in range(2))
        return self._speeds[key]

    def _timed(self, height: int, width: int, precise: bool) -> float:
        height, width = self._padded_size(max(1, height), max(1, width))
        picture = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
        started = time.perf_counter()
        join(self._pass(picture, np.dtype(np.uint8), precise, lambda amount: None), height * self.model.scale)
        return height * width / (time.perf_counter() - started)

    def _enlarge(
        self,
        pixels: Pixels,
        size: tuple[int, int],
        passes: int,
        advance: Advance,
        limits: transparency.Limits | None = None,
        plans: Plans | None = None,
    ) -> Iterator[Pixels]:
        """(H, W, 1 or 3) -> bands (h, width, the same), same dtype; 16 bits between the steps, to round once.

        `limits` corrects the network's result before it is reduced. `plans` remembers how pictures are cut.
        """
        if pixels.shape[2] == 3 and _is_grey(pixels):
            for band in self._enlarge(pixels[..., :1], size, passes, advance, plans=plans):
                yield np.repeat(band, 3, axis=2)
            return
        dtype, precise, scale = pixels.dtype, self._precise(pixels.dtype), self.model.scale
        for _ in range(passes - 1):
            pixels = join(self._pass(pixels, np.dtype(np.uint16), precise, advance, plans), pixels.shape[0] * scale)
        native = (pixels.shape[0] * scale, pixels.shape[1] * scale)
        bands = self._pass(pixels, dtype if native == size else np.dtype(np.uint16), precise, advance, plans)
        if limits is not None:
            bands = _held(bands, limits, native)
        yield from bands if native == size else reduce(bands, native, size, dtype)

    def _enlarge_together(
        self, pictures: Sequence[Pixels], size: tuple[int, int], limits: Sequence[transparency.Limits] = ()
    ) -> list[Pixels]:
        """What `_enlarge` makes of small pictures (H, W, 1 or 3) in one pass; those that are grey as one channel."""
        results: dict[int, Pixels] = {}
        grey = [pixels.shape[2] == 3 and _is_grey(pixels) for pixels in pictures]
        for channels in (1, 3):
            chosen = [i for i, p in enumerate(pictures) if (1 if grey[i] else p.shape[2]) == channels]
            if not chosen:
                continue
            dtype, scale = pictures[0].dtype, self.model.scale
            height, width = pictures[0].shape[:2]
            native = (height * scale, width * scale)
            made = dtype if native == size else np.dtype(np.uint16)
            padded_size = self._padded_size(height, width)
            stack = np.stack([_pad(pictures[i][..., :channels], *padded_size) for i in chosen])
            together = self._engine.batch(stack, made, precise=self._precise(dtype))
            for place, i in enumerate(chosen):
                if together is None:
                    lone = self._enlarge(pictures[i], size, 1, lambda amount: None, limits[i] if limits else None)
                    results[i] = join(lone, size[0])
                    continue
                bands: Iterator[Pixels] = iter([together[place][: native[0], : native[1]]])
                if limits:
                    bands = _held(bands, limits[i], native)
                result = join(bands if native == size else reduce(bands, native, size, dtype), size[0])
                results[i] = np.repeat(result, 3, axis=2) if grey[i] else result
        return [results[i] for i in range(len(pictures))]

    def _enlarge_alphas(
        self, opacities: Sequence[Pixels], size: tuple[int, int], alpha_mode: AlphaMode
    ) -> list[Pixels]:
        """Alpha channels (H, W, 1) enlarged as `bands` does it."""
        results = [np.broadcast_to(opacity[:1, :1], (*size, 1)) for opacity in opacities]
        shaped = [i for i, opacity in enumerate(opacities) if _has_shape(opacity)]
        if alpha_mode == "resize":
            made = [transparency.resize(opacities[i], *size) for i in shaped]
        else:
            chosen = [opacities[i] for i in shaped]
            made = self._enlarge_together(chosen, size, [transparency.Limits(opacity) for opacity in chosen])
        for i, result in zip(shaped, made, strict=True):
            results[i] = result
        return results

    def _precise(self, dtype: np.dtype[Any]) -> bool:
        """Whether a picture needs float32: bf16 has 8 significant bits and fp16 has 11, too few for one of 16 bits."""
        return dtype == np.uint16 and not self.choice.explicit_precision

    def _pass(
        self, pixels: Pixels, dtype: np.dtype[Any], precise: bool, advance: Advance, plans: Plans | None = None
    ) -> Iterator[Pixels]:
        """One run of the network over the picture: (H, W, C) -> bands of (scale*H, scale*W, C) of `dtype`."""
        height, width = (side * self.model.scale for side in pixels.shape[:2])
        padded_size = self._padded_size(*pixels.shape[:2])
        padded = _pad(pixels, *padded_size)
        tiles = self._tiles(padded_size, pixels.shape[2], precise, plans)
        top = 0
        for band in self._engine.bands(padded, tiles, dtype, precise=precise, advance=advance):
            yield band[: height - top, :width]
            top += band.shape[0]
            del band  # before the next one is made

    def _tiles(self, size: tuple[int, int], channels: int, precise: bool, plans: Plans | None) -> tuple[Tile, ...]:
        """How a picture is cut; `plans` remembers it."""
        key = (*size, channels, precise)
        tiles = None if plans is None else plans.get(key)
        if tiles is None:
            tiles = self._engine.plan(*size, channels=channels, precise=precise)
            if plans is not None:
                plans[key] = tiles
        return tiles

    def _padded_size(self, height: int, width: int) -> tuple[int, int]:
        align = self.model.multiple_of
        return -(-height // align) * align, -(-width // align) * align

    def _host_bytes(
        self, work: list[_Pass], size: tuple[int, int], dtype: np.dtype[Any], *, whole: bool, queued: bool = False
    ) -> int:
        """Memory of the picture, of results between passes, of bands and, if it is kept `whole`, of the result."""
        last, scale = work[-1], self.model.scale
        exact = (last.height * scale, last.width * scale) == size
        rows = self._engine.band_rows(last.tiles) * scale
        band = rows * last.width * scale * (dtype.itemsize if exact else 2)
        # one is made, one waits, one is being written
        bands = min(3, -(-last.height * scale // rows)) if queued else 1
        values = work[0].height * work[0].width * dtype.itemsize + 2 * sum(
            step.height * step.width for step in work[1:]
        )
        if whole and (queued or rows < last.height * scale):
            values += size[0] * size[1] * dtype.itemsize
        return 3 * (values + bands * band)

    def _check_host_memory(
        self, work: list[_Pass], size: tuple[int, int], dtype: np.dtype[Any], *, whole: bool
    ) -> None:
        needed = self._host_bytes(work, size, dtype, whole=whole)
        free = free_memory_bytes(torch.device("cpu"))
        if needed > free:
            release_freed_memory()  # what this process keeps for its next tiles is free, too
            free = free_memory_bytes(torch.device("cpu"))
        if needed > free:
            raise OutOfMemory(
                f"a result of {size[1]}x{size[0]} needs {needed / 2**30:.1f} GiB of memory; {free / 2**30:.1f} free",
                hint="choose a smaller size with -s, --width or --fit, or close other programs",
            )


def join(bands: Iterable[Pixels], height: int) -> Pixels:
    """Bands (h, W, C) as one picture (height, W, C)."""
    whole: Pixels | None = None
    top = 0
    for band in bands:
        if band.shape[0] == height:
            return band
        if whole is None:
            whole = np.empty((height, *band.shape[1:]), band.dtype)
        whole[top : top + band.shape[0]] = band
        top += band.shape[0]
        del band  # before the next one is made
    assert whole is not None and top == height, "the bands do not fill the picture"
    return whole


class _Rows:
    """Bands, given out again in heights of the caller's choice."""

    def __init__(self, bands: Iterator[Pixels]) -> None:
        self._bands = bands
        self._rest: list[Pixels] = []

    def take(self, count: int) -> Pixels:
        while sum(map(len, self._rest)) < count:
            self._rest.append(next(self._bands))
        rows = np.concatenate(self._rest) if len(self._rest) > 1 else self._rest[0]
        self._rest = [rows[count:]]
        return rows[:count]


def _held(bands: Iterable[Pixels], limits: transparency.Limits, size: tuple[int, int]) -> Iterator[Pixels]:
    top = 0
    for band in bands:
        yield limits.hold(band, top, size)
        top += band.shape[0]


def _check(pixels: Pixels) -> None:
    if not isinstance(pixels, np.ndarray):
        raise UnsupportedInput(f"{type(pixels).__name__} is not an array", hint="read_image(path).pixels gives one")
    if pixels.dtype not in (np.uint8, np.uint16):
        raise UnsupportedInput(
            f"pixels are {pixels.dtype}, not uint8 or uint16", hint="scale floats to 0..255 or 0..65535 first"
        )
    if pixels.ndim not in (2, 3) or pixels.size == 0 or (pixels.ndim == 3 and pixels.shape[2] not in (1, 3, 4)):
        raise UnsupportedInput(f"pixels of shape {pixels.shape} are not (H, W) or (H, W, 1, 3 or 4)")


def _is_grey(pixels: Pixels) -> bool:
    """Whether the three channels are equal: then one goes through the network, and they stay exactly equal."""
    middle = pixels[len(pixels) // 2, :, :1]
    if not np.array_equal(pixels[len(pixels) // 2], middle.repeat(3, 1)):
        return False  # most pictures, at the cost of a row
    return all(np.array_equal(pixels[..., 0], pixels[..., other]) for other in (1, 2))


def _has_shape(opacity: Pixels) -> bool:
    """Whether an alpha channel (H, W, 0 or 1) says more than one number."""
    return opacity.size > 0 and bool(opacity.min() != opacity.max())


def _pad(pixels: Pixels, height: int, width: int) -> Pixels:
    """Adds rows at the bottom and columns at the right by reflection; of pictures too small for that, the last one."""
    below, beside = height - pixels.shape[0], width - pixels.shape[1]
    if not below and not beside:
        return pixels
    can_reflect = below < pixels.shape[0] and beside < pixels.shape[1]
    border = cv2.BORDER_REFLECT_101 if can_reflect else cv2.BORDER_REPLICATE
    padded: Pixels = cv2.copyMakeBorder(np.ascontiguousarray(pixels), 0, below, 0, beside, border)
    return padded.reshape(height, width, pixels.shape[2])


def _pad_tensor(picture: Tensor, height: int, width: int) -> Tensor:
    """`_pad` for (3, H, W)."""
    below, beside = height - picture.shape[1], width - picture.shape[2]
    if not below and not beside:
        return picture
    can_reflect = below < picture.shape[1] and beside < picture.shape[2]
    return F.pad(picture[None], (0, beside, 0, below), mode="reflect" if can_reflect else "replicate")[0]
