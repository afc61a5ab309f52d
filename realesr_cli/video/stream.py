"""Frames from the decoder through the network to whoever takes them, in bounded queues."""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Protocol

import av
import numpy as np
from numpy.typing import NDArray

from realesr_cli.errors import RealesrError, UnsupportedInput
from realesr_cli.faces.enhance import RestoredFace
from realesr_cli.faces.frames import FrameFaces
from realesr_cli.pipeline import run_pipeline
from realesr_cli.upscaler import Upscaler
from realesr_cli.video.convert import to_pixels
from realesr_cli.video.film import Film
from realesr_cli.video.frames import pixel_format, planes_of
from realesr_cli.video.paths import Path, choose_path, given
from realesr_cli.video.reader import Frame
from realesr_cli.video.reuse import Change, FrameChanges, FrameResults, Planes

Pixels = NDArray[Any]


@dataclass(frozen=True, slots=True)
class _Loaded:
    """A frame, what of it is new, and that as the network's side takes it."""

    frame: Frame
    change: Change
    parts: Sequence[Any]


@dataclass(frozen=True, slots=True)
class _Enlarged:
    """What gives a frame's result, and the memory of faces after it."""

    result: Callable[[], Planes]
    faces: list[Any]


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
    path = choose_path(film, upscaler, needs_rgb=faces is not None)
    changes, results = FrameChanges(path.margin_px), FrameResults(path.scale)
    restore = None if faces is None else _Restorer(film, faces)
    finish = _Finisher(path)
    ended = False

    def tickets() -> Iterator[None]:
        while not ended:
            yield None

    def load(ticket: None) -> list[_Loaded]:
        nonlocal ended
        group: list[_Loaded] = []
        while len(group) < path.frames_at_once:
            frame = next(frames, None)
            if frame is None:
                ended = True
                break
            _check(frame, film)
            change = changes(planes_of(frame.image))
            group.append(_Loaded(frame, change, [path.load(part) for part in change.parts()]))
        return group

    def work(ticket: None, group: list[_Loaded]) -> Generator[list[_Enlarged], None, None]:
        parts = iter(path.enlarge([part for loaded in group for part in loaded.parts]))
        enlarged = []
        for loaded in group:
            composed = _composing(results, loaded.change, [next(parts) for _ in loaded.parts])
            if restore is None or faces is None:
                enlarged.append(_Enlarged(composed, []))
            else:
                restored = restore(composed()[0], loaded.change.source)
                enlarged.append(_Enlarged(given((restored,)), faces.memory))
        yield enlarged

    def save(ticket: None, group: list[_Loaded], parts: Iterator[list[_Enlarged]]) -> list[_Loaded]:
        for part in parts:
            for loaded, enlarged in zip(group, part, strict=True):
                sink.write(finish(enlarged.result()), loaded.frame, enlarged.faces)
        return group

    def on_done(ticket: None, group: list[_Loaded]) -> None:
        for loaded in group:
            on_frame(loaded.change.spared_px)

    def on_error(ticket: None, error: RealesrError) -> None:
        raise error

    with closing(frames):
        # a piece that is interrupted is dropped, so nothing needs to be encoded for it any more
        run_pipeline(tickets(), load=load, work=work, save=save, on_done=on_done, on_error=on_error, keep=False)


def _check(frame: Frame, film: Film) -> None:
    name = frame.image.format.name
    if pixel_format(name) != pixel_format(film.pixel_format):
        at_s = float(frame.pts * film.encoding.time_base - film.info.start)
        raise UnsupportedInput(
            f"{film.info.path} changes its pixel format from {film.pixel_format} to {name} after {at_s:.3f} s",
            hint=f"upscale the parts one by one: --end {at_s:.3f}, then --start {at_s:.3f}",
            path=film.info.path,
        )


def _composing(results: FrameResults, change: Change, parts: list[Callable[[], Planes]]) -> Callable[[], Planes]:
    return lambda: results(change, [part() for part in parts])


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
    """The encoder's frames; the same again for a result that is the same."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._last: tuple[Pixels, av.VideoFrame] | None = None

    def __call__(self, result: Planes) -> av.VideoFrame:
        if self._last is None or self._last[0] is not result[0]:
            self._last = result[0], self._path.finish(result)
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
