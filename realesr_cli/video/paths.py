"""The two ways of a frame's planes through the network: as they are, converted on the device, or as RGB on the host.

Planes are half of what RGB is, so on a GPU they cross, and everything between is done there. On a CPU nothing crosses,
and libswscale converts faster (docs/performance.md). Both ways agree within one code (tests/unit/test_video_paths.py).
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import av
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from realesr_cli.errors import OutOfMemory
from realesr_cli.memory import is_out_of_memory
from realesr_cli.resize import reduce
from realesr_cli.transfers import transfers
from realesr_cli.upscaler import Upscaler, join
from realesr_cli.video.colour import from_rgb, to_rgb
from realesr_cli.video.convert import FrameMaker, to_pixels
from realesr_cli.video.film import Film
from realesr_cli.video.frames import frame_of, pixel_format
from realesr_cli.video.reuse import Planes

Pixels = NDArray[Any]

# Where planes are converted. Others would do it as well, but nobody has seen it there.
_DEVICES = ("cuda",)


class Path(Protocol):
    """Three steps, each for a thread of its own. Parts of frames are treated as the whole is."""

    margin_px: int
    """From how far away a result depends on its source, apart from chroma."""
    scale: int
    """How many times as large as the source results are before `finish`."""
    frames_at_once: int
    """How many frames of the film `enlarge` should be given together."""

    def load(self, planes: Planes) -> Any:
        """The planes of a frame, or of a part of one, as `enlarge` takes them."""

    def enlarge(self, loaded: Sequence[Any]) -> list[Callable[[], Planes]]:
        """For each what gives the result, as planes or as one array of RGB; on a GPU that waits for it.

        Raises: OutOfMemory, NonFiniteOutput.
        """

    def finish(self, result: Planes) -> av.VideoFrame:
        """The encoder's frame for the result of a whole frame."""


def choose_path(film: Film, upscaler: Upscaler, *, needs_rgb: bool) -> Path:
    """The way for this film; `needs_rgb`: results are to be worked on before `finish`."""
    on_device = upscaler.choice.device.type in _DEVICES
    if on_device and not needs_rgb and can_stay_planes(film, upscaler):
        return PlanePath(film, upscaler)
    return RgbPath(film, upscaler)


def can_stay_planes(film: Film, upscaler: Upscaler) -> bool:
    """Whether `PlanePath` serves: its results have a whole multiple of the source's size that divides the network's."""
    info, encoding, network = film.info, film.encoding, upscaler.model.scale
    scale = film.size[0] // info.height
    is_multiple = film.size == (info.height * scale, info.width * scale) and scale > 0 and network % scale == 0
    return is_multiple and (encoding.height, encoding.width) == film.size


def given(result: Planes) -> Callable[[], Planes]:
    """What gives a result that is there already."""
    return lambda: result


class RgbPath:
    """RGB in the host's memory, by libswscale where that is exact."""

    frames_at_once = 1

    def __init__(self, film: Film, upscaler: Upscaler) -> None:
        info, encoding = film.info, film.encoding
        self._film = film
        self._upscaler = upscaler
        self._make = FrameMaker(encoding.pixel_format, encoding.height, encoding.width, film.result_colour)
        self.scale = upscaler.model.scale
        self._native = (info.height * self.scale, info.width * self.scale)
        self._several_passes = film.size[0] > self._native[0] or film.size[1] > self._native[1]
        # what a second pass sees reaches further than anyone has measured: then a frame is known whole or not at all
        self.margin_px = max(info.height, info.width) if self._several_passes else upscaler.pad_px

    def load(self, planes: Planes) -> Planes:
        return planes

    def enlarge(self, loaded: Sequence[Planes]) -> list[Callable[[], Planes]]:
        return [given(self._enlarged(planes)) for planes in loaded]

    def _enlarged(self, planes: Planes) -> Planes:
        film = self._film
        pixels = to_pixels(planes, film.pixel_format, film.colour)
        if self._several_passes:
            return (self._upscaler.frame(pixels, size=film.size),)
        return (self._upscaler.frame(pixels, deep=film.size != self._native),)

    def finish(self, result: Planes) -> av.VideoFrame:
        film, encoding = self._film, self._film.encoding
        (pixels,) = result
        if pixels.shape[:2] != film.size:
            dtype = np.dtype(np.uint16 if film.is_deep else np.uint8)
            pixels = join(reduce([pixels], pixels.shape[:2], film.size, dtype), film.size[0])
        return self._make(np.ascontiguousarray(pixels[: encoding.height, : encoding.width]))


class PlanePath:
    """Planes cross to the device, are converted there, enlarged, converted back, and cross again."""

    def __init__(self, film: Film, upscaler: Upscaler) -> None:
        info = film.info
        self._film = film
        self._upscaler = upscaler
        self._transfers = transfers(upscaler.choice.device)
        self.margin_px = upscaler.pad_px
        self.scale = film.size[0] // info.height
        self._divisor = upscaler.model.scale // self.scale
        self.frames_at_once = upscaler.frames_at_once(info.height, info.width, deep=film.is_deep)

    def load(self, planes: Planes) -> list[Tensor]:
        # torch has uint16, but few of its operations on every device
        arrays = [plane.view(np.int16) if plane.dtype == np.uint16 else plane for plane in planes]
        return [self._transfers.upload(np.ascontiguousarray(array)) for array in arrays]

    def enlarge(self, loaded: Sequence[list[Tensor]]) -> list[Callable[[], Planes]]:
        if not loaded:
            return []
        film = self._film
        try:
            with torch.inference_mode():
                pictures = [
                    to_rgb([_unsigned(plane) for plane in planes], pixel_format(film.pixel_format), film.colour)
                    for planes in loaded
                ]
                return [self._sent(large) for large in self._upscaler.tensors(pictures, deep=film.is_deep)]
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        raise OutOfMemory(
            f"not enough memory on {self._upscaler.choice.device} for frames of {film.size[1]}x{film.size[0]} pixels",
            hint="close other programs, choose a smaller size with -s, or use --device cpu",
        )

    def _sent(self, large: Tensor) -> Callable[[], Planes]:
        """Starts the way back of a result (3, H, W) of the network."""
        film = self._film
        if self._divisor > 1:
            large = F.avg_pool2d(large[None], self._divisor)[0]  # the means of areas, as `reduce` takes them
        planes = from_rgb(large, pixel_format(film.encoding.pixel_format), film.result_colour)
        waiting = [self._transfers.download(plane) for plane in planes]
        return lambda: tuple(wait() for wait in waiting)

    def finish(self, result: Planes) -> av.VideoFrame:
        return frame_of(result, self._film.encoding.pixel_format, self._film.result_colour)


def _unsigned(plane: Tensor) -> Tensor:
    """16 bits that crossed as signed ones are none."""
    return plane.to(torch.int32).bitwise_and_(0xFFFF) if plane.dtype == torch.int16 else plane
