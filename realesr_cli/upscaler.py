"""Pictures through a network: tiles, precision, recovery, grey, alpha and final size behind one call.

upscaler = Upscaler("realesrgan-x4plus")
large = upscaler(pixels, scale=2.5)
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from realesr_cli import alpha as transparency
from realesr_cli.device import DeviceChoice, choose_device, free_memory_bytes
from realesr_cli.engine import Advance, Engine
from realesr_cli.errors import OutOfMemory, UnsupportedInput, UsageError
from realesr_cli.models.architectures import LoadedModel, load_model
from realesr_cli.options import AlphaMode, DeviceOptions, SizeOptions, TileOptions
from realesr_cli.reporting import NULL, Reporter, progress
from realesr_cli.resize import reduce

Pixels = NDArray[Any]

# Sides of the pictures that are timed for `--dry-run`.
_SPEED_PROBES_PX = (64, 192, 192)


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
        self._engine = Engine(self.model, self.choice, tile or TileOptions(), reporter)
        self._reporter = reporter
        self._speeds: dict[bool, float] = {}

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
        passes = self._passes(height, width, size)
        self._check_host_memory(height, width, size, passes, pixels.dtype.itemsize)
        plain = pixels.reshape(height, width, -1)
        colour, opacity = plain[..., :3], plain[..., 3:]
        shaped = _has_shape(opacity)
        by_network = shaped and alpha_mode == "model"
        work = sum(height * width * self.model.scale ** (2 * step) for step in range(passes))
        with progress(self._reporter, work * (2 if by_network else 1), "pixels", label=label) as advance:
            if opacity.size == 0:
                return self._enlarge(colour, size, passes, advance).reshape(*size, *pixels.shape[2:])
            colour = self._enlarge(transparency.bleed(colour, opacity), size, passes, advance)
            if shaped:
                if by_network:
                    opacity = self._enlarge(opacity, size, passes, advance, limit=transparency.limit)
                else:
                    opacity = transparency.resize(opacity, *size)
            else:
                opacity = np.full((*size, 1), opacity.flat[0], opacity.dtype)
        return np.concatenate((colour, opacity), axis=2)

    def plan(self, pixels: Pixels, size: tuple[int, int], *, alpha_mode: AlphaMode = "model") -> Plan:
        """What `__call__` does for this picture, without doing it."""
        height, width = pixels.shape[:2]
        passes, precise = self._passes(height, width, size), self._precise(pixels.dtype)
        host = self._host_bytes(height, width, size, passes, pixels.dtype.itemsize)
        computed, tiles, area = 0, 0, 0
        for _ in range(passes):
            cut = self._engine.plan(*self._padded_size(height, width), precise=precise)
            tiles += len(cut)
            computed += sum(tile.source.area for tile in cut)
            area += height * width
            height, width = height * self.model.scale, width * self.model.scale
        # transparency is a second picture for the network
        runs = 2 if alpha_mode == "model" and _has_shape(pixels[..., 3:]) else 1
        window = cut[0].source
        return Plan(
            height=size[0],
            width=size[1],
            passes=passes,
            tiles=runs * tiles,
            tile_height=window.height,
            tile_width=window.width,
            overhead=computed / area,
            seconds=runs * computed / self._pixels_per_second(precise),
            memory_bytes=host + self._engine.window_bytes(window.area, precise=precise),
        )

    def _pixels_per_second(self, precise: bool) -> float:
        """Input pixels that the network computes in a second on this device, timed once on a small tile."""
        if precise not in self._speeds:
            best = 0.0
            for side in _SPEED_PROBES_PX:  # the first run compiles kernels
                height, width = self._padded_size(side, side)
                picture = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
                started = time.perf_counter()
                self._pass(picture, np.dtype(np.uint8), precise, lambda amount: None)
                best = max(best, height * width / (time.perf_counter() - started))
            self._speeds[precise] = best
        return self._speeds[precise]

    def _passes(self, height: int, width: int, size: tuple[int, int]) -> int:
        """How often the network must run so that its result is at least as large as `size`."""
        factor, passes = self.model.scale, 1
        while size[0] > height * factor**passes or size[1] > width * factor**passes:
            if factor == 1:
                raise UsageError(
                    f"{self.model.name} restores pictures at their size and cannot enlarge them",
                    hint="choose -s 1 or less, or another model with -m",
                )
            passes += 1
        return passes

    def _enlarge(
        self,
        pixels: Pixels,
        size: tuple[int, int],
        passes: int,
        advance: Advance,
        limit: Callable[[Pixels, Pixels], Pixels] | None = None,
    ) -> Pixels:
        """(H, W, 1 or 3) -> (*size, the same), same dtype; 16 bits between the steps, so that rounding happens once.

        `limit(result, source)` corrects the network's result before it is reduced.
        """
        if pixels.shape[2] == 3 and _is_grey(pixels):
            return np.repeat(self._enlarge(pixels[..., :1], size, passes, advance), 3, axis=2)
        source, dtype = pixels, pixels.dtype
        for step in range(passes, 0, -1):
            height, width = (side * self.model.scale for side in pixels.shape[:2])
            exact = step == 1 and (height, width) == size
            pixels = self._pass(pixels, dtype if exact else np.dtype(np.uint16), self._precise(dtype), advance)
        if limit is not None:
            pixels = limit(pixels, source)
        return pixels if exact else reduce(pixels, *size, dtype)

    def _precise(self, dtype: np.dtype[Any]) -> bool:
        """Whether a picture needs float32: bf16 has 8 significant bits and fp16 has 11, too few for one of 16 bits."""
        return dtype == np.uint16 and not self.choice.explicit_precision

    def _pass(self, pixels: Pixels, dtype: np.dtype[Any], precise: bool, advance: Advance) -> Pixels:
        """One run of the network over the whole picture: (H, W, C) -> (scale*H, scale*W, C) of `dtype`."""
        height, width, channels = pixels.shape
        padded = _pad(pixels, *self._padded_size(height, width))
        scale = self.model.scale
        out = np.empty((padded.shape[0] * scale, padded.shape[1] * scale, channels), dtype)
        self._engine.run(padded, out, precise=precise, advance=advance)
        return out[: height * scale, : width * scale]

    def _padded_size(self, height: int, width: int) -> tuple[int, int]:
        align = self.model.multiple_of
        return -(-height // align) * align, -(-width // align) * align

    def _host_bytes(self, height: int, width: int, size: tuple[int, int], passes: int, bytes_per_value: int) -> int:
        """Memory of the picture, of the network's result and, where that is reduced, of the final one."""
        native: int = height * width * self.model.scale ** (2 * passes)
        final = size[0] * size[1]
        exact = native == final
        values = height * width * bytes_per_value + native * (bytes_per_value if exact else 2)
        return 3 * (values if exact else values + final * (bytes_per_value + 2))

    def _check_host_memory(self, height: int, width: int, size: tuple[int, int], passes: int, depth: int) -> None:
        needed = self._host_bytes(height, width, size, passes, depth)
        free = free_memory_bytes(torch.device("cpu"))
        if needed > free:
            raise OutOfMemory(
                f"a result of {size[1]}x{size[0]} needs {needed / 2**30:.1f} GiB of memory; {free / 2**30:.1f} free",
                hint="choose a smaller size with -s, --width or --fit, or close other programs",
            )


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
