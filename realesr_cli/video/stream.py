"""Frames from the decoder through the network to whoever takes them, in bounded queues."""

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from typing import Any, Protocol

import av
import numpy as np
from numpy.typing import NDArray

from realesr_cli.errors import RealesrError, UnsupportedInput
from realesr_cli.faces.enhance import RestoredFace
from realesr_cli.faces.frames import FrameFaces
from realesr_cli.pipeline import run_pipeline
from realesr_cli.resize import reduce
from realesr_cli.upscaler import Upscaler, join
from realesr_cli.video.convert import FrameMaker, to_pixels
from realesr_cli.video.film import Film
from realesr_cli.video.frames import pixel_format, planes_of
from realesr_cli.video.reader import Frame
from realesr_cli.video.reuse import FrameReuse

Pixels = NDArray[Any]
Planes = tuple[NDArray[Any], ...]
_Enlarged = tuple[Pixels, int, list[Any]]
"""A frame, the pixels that the network was spared in it, and the memory of faces after it."""


class Sink(Protocol):
    """Where enlarged frames go, in order."""

    def write(self, image: av.VideoFrame, frame: Frame, faces: list[Any]) -> None:
        """`faces` is the memory of faces after this frame."""


def stream_frames(
    film: Film,
    frames: Generator[Frame],
    upscaler: Upscaler,
    sink: Sink,
    *,
    on_frame: Callable[[int], None],
    faces: FrameFaces | None = None,
) -> None:
    """Takes frames through conversion, network and `sink`; decoding and encoding overlap with the network.

    `faces` restores those in each frame.

    `on_frame` is told for each how many pixels of its source the network was spared.
    """
    encoding = film.encoding
    enlarge = _enlarger(film, upscaler)
    restore = None if faces is None else _Restorer(film, faces)
    finish = _Finisher(film)
    ended = False

    def tickets() -> Iterator[None]:
        while not ended:
            yield None

    def load(ticket: None) -> tuple[Frame, Planes] | None:
        nonlocal ended
        frame = next(frames, None)
        if frame is None:
            ended = True
            return None
        name = frame.image.format.name
        if pixel_format(name) != pixel_format(film.pixel_format):
            at_s = float(frame.pts * encoding.time_base - film.info.start)
            raise UnsupportedInput(
                f"{film.info.path} changes its pixel format from {film.pixel_format} to {name} after {at_s:.3f} s",
                hint=f"upscale the parts one by one: --end {at_s:.3f}, then --start {at_s:.3f}",
                path=film.info.path,
            )
        return frame, planes_of(frame.image)

    def work(ticket: None, loaded: tuple[Frame, Planes] | None) -> Generator[_Enlarged, None, None]:
        if loaded is not None:
            (pixels,), spared = enlarge(loaded[1])
            if restore is None or faces is None:
                yield pixels, spared, []
            else:
                yield restore(pixels, loaded[1]), spared, faces.memory

    def save(ticket: None, loaded: tuple[Frame, Planes] | None, parts: Iterator[_Enlarged]) -> int | None:
        spared = None
        for pixels, spared, memory in parts:  # noqa: B007
            assert loaded is not None
            sink.write(finish(pixels), loaded[0], memory)
        return spared

    def on_done(ticket: None, spared: int | None) -> None:
        if spared is not None:
            on_frame(spared)

    def on_error(ticket: None, error: RealesrError) -> None:
        raise error

    with closing(frames):
        run_pipeline(tickets(), load=load, work=work, save=save, on_done=on_done, on_error=on_error)


def _enlarger(film: Film, upscaler: Upscaler) -> FrameReuse:
    """Planes of a frame -> (RGB at the network's scale or at the film's size,), and the pixels that were spared."""
    info, scale = film.info, upscaler.model.scale
    native = (info.height * scale, info.width * scale)
    several_passes = film.size[0] > native[0] or film.size[1] > native[1]

    def upscale(planes: Planes) -> Planes:
        pixels = to_pixels(planes, film.pixel_format, film.colour)
        if several_passes:
            return (upscaler.frame(pixels, size=film.size),)
        return (upscaler.frame(pixels, deep=film.size != native),)

    # what a second pass sees reaches further than anyone has measured: then a frame is known whole or not at all
    margin_px = max(info.height, info.width) if several_passes else upscaler.pad_px
    return FrameReuse(upscale, margin_px=margin_px, scale=scale)


class _Restorer:
    """The network's result with the faces of its frame. What was known of it before stays as it is."""

    def __init__(self, film: Film, faces: FrameFaces) -> None:
        self._film = film
        self._faces = faces
        self._last: tuple[Pixels, list[RestoredFace], Pixels] | None = None

    def __call__(self, pixels: Pixels, planes: Planes) -> Pixels:
        source = to_pixels(planes, self._film.pixel_format, self._film.colour)
        restored = self._faces.restore(source)
        # the same again for a frame that is the same, by which the next steps know it
        if self._last is None or self._last[0] is not pixels or self._last[1] is not restored:
            (result,) = self._faces([pixels], source, (pixels.shape[0], pixels.shape[1]))
            self._last = pixels, restored, result
        return self._last[2]


class _Finisher:
    """The encoder's frame for what the network gave: the last step to the size, and the planes."""

    def __init__(self, film: Film) -> None:
        encoding = film.encoding
        self._film = film
        self._make = FrameMaker(encoding.pixel_format, encoding.height, encoding.width, film.result_colour)
        self._last: tuple[Pixels, av.VideoFrame] | None = None

    def __call__(self, pixels: Pixels) -> av.VideoFrame:
        if self._last is not None and self._last[0] is pixels:
            return self._last[1]
        film, encoding = self._film, self._film.encoding
        final = pixels
        if pixels.shape[:2] != film.size:
            dtype = np.dtype(np.uint16 if film.is_deep else np.uint8)
            final = join(reduce([pixels], pixels.shape[:2], film.size, dtype), film.size[0])
        final = np.ascontiguousarray(final[: encoding.height, : encoding.width])
        self._last = (pixels, self._make(final))
        return self._last[1]


def upright(pixels: Pixels, matrix: tuple[int, ...] | None) -> Pixels:
    """The picture (H, W, C) as players show it, turned and mirrored by a display matrix."""
    if matrix is None:
        return pixels
    a, b, _, c, d = matrix[:5]
    if abs(b) > abs(a):
        pixels, mirrored, upside_down = pixels.swapaxes(0, 1), c < 0, b < 0
    else:
        mirrored, upside_down = a < 0, d < 0
    pixels = pixels[:, ::-1] if mirrored else pixels
    return np.ascontiguousarray(pixels[::-1] if upside_down else pixels)
