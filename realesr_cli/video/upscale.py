"""A film, enlarged: the one module that knows all the others of this package.

Frames stream from the decoder through the network to the encoder in bounded queues; finished pieces stay on the disk
until the film is complete (resume.py), so a killed run goes on where it was.
"""

import dataclasses
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import av
import numpy as np
from numpy.typing import NDArray

from realesr_cli.atomic import replacing
from realesr_cli.errors import OutputError, OutputExists, RealesrError, UnreadableInput, UsageError
from realesr_cli.options import SizeOptions, VideoOptions
from realesr_cli.pipeline import run_pipeline
from realesr_cli.reporting import NULL, Reporter, progress
from realesr_cli.resize import reduce
from realesr_cli.upscaler import Upscaler, join
from realesr_cli.video import resume
from realesr_cli.video.check import differences
from realesr_cli.video.colour import Colour
from realesr_cli.video.convert import to_frame, to_pixels
from realesr_cli.video.encoding import Encoding, plan_encoding
from realesr_cli.video.frames import pixel_format, planes_of
from realesr_cli.video.mux import Part, mux
from realesr_cli.video.probe import VideoInfo, probe
from realesr_cli.video.reader import Frame, FrameReader
from realesr_cli.video.reuse import FrameReuse
from realesr_cli.video.streams import StreamPlan, check_picture, plan_streams
from realesr_cli.video.writer import SegmentWriter, segment_suffix

Pixels = NDArray[Any]
Planes = tuple[NDArray[Any], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Film:
    """Everything that is decided before the work begins."""

    info: VideoInfo
    target: Path
    size: tuple[int, int]
    """(height, width) of the network's result; the encoding's may lack its last row or column."""
    pixel_format: str
    """Of the frames that are read, as FFmpeg calls it."""
    colour: Colour
    """Theirs."""
    result_colour: Colour
    encoding: Encoding
    streams: StreamPlan
    part: Part
    frames: int | None
    """An estimate."""

    @property
    def is_deep(self) -> bool:
        """Whether frames have more than 8 bits."""
        return pixel_format(self.pixel_format).bit_depth > 8


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoResult:
    """What became of a film."""

    frames: int
    width: int
    height: int
    seconds: float
    spared: float
    """Share of the source's pixels that the network was spared, because they had not changed."""
    differences: tuple[str, ...]
    """What of the result is not as the source was; empty = verified."""


def upscale_video(
    source: Path | str,
    target: Path | str,
    upscaler: Upscaler,
    *,
    size: SizeOptions | None = None,
    options: VideoOptions | None = None,
    reporter: Reporter = NULL,
    id: int = 0,
) -> VideoResult:
    """Writes `source` enlarged to `target`, whose suffix names the container, with all other streams and times kept.

    A run that was killed goes on with the same call. `id` numbers the events of several films.
    Raises: UsageError, UnreadableInput, UnsupportedInput, OutputExists, EncodeFailed, DiskFull, OutputError, and what
    the upscaler raises.
    """
    options = options or VideoOptions()
    started = time.monotonic()
    film = plan_film(
        Path(source), Path(target), upscaler, size=size or SizeOptions(), options=options, reporter=reporter
    )
    reporter.emit(
        "begin",
        id=id,
        input=str(source),
        width=film.info.width,
        height=film.info.height,
        frames=film.frames,
        duration_s=None if film.info.duration is None else float(film.info.duration),
    )
    fingerprint = _fingerprint(film, upscaler, options)
    opened_work = (
        resume.resumed(film.target, fingerprint, restart=options.overwrite, reporter=reporter)
        if options.resume
        else resume.unresumed(film.target, fingerprint)
    )
    with opened_work as work:
        reader = FrameReader(film.info, options, reporter)
        spared = _make_segments(film, work, reader, upscaler, options, reporter, id)
        if not work.segments:
            raise UnreadableInput(f"{source} has no frames in the part that was asked for", path=film.info.path)
        with replacing(film.target, overwrite=options.overwrite) as temporary:
            mux(work.segments, film.info, film.encoding, film.streams, film.part, temporary)
            found = differences(film.info, temporary, work.segments, film.encoding, film.streams, film.part)
        frames = work.frames
        if options.resume:
            resume.remove(work)
    found += _damage(reader, reporter, film)
    seconds = time.monotonic() - started
    reporter.emit(
        "done",
        id=id,
        input=str(source),
        output=str(target),
        width=film.encoding.width,
        height=film.encoding.height,
        frames=frames,
        seconds=round(seconds, 3),
        spared=round(spared, 4),
        verified=not found,
        differences=found,
    )
    return VideoResult(
        frames=frames,
        width=film.encoding.width,
        height=film.encoding.height,
        seconds=seconds,
        spared=spared,
        differences=tuple(found),
    )


def plan_film(
    source: Path, target: Path, upscaler: Upscaler, *, size: SizeOptions, options: VideoOptions, reporter: Reporter
) -> Film:
    """Reads what the source is and decides everything; what cannot be done is refused here, before any work.

    Raises: as `upscale_video`.
    """
    _check_target(source, target, options)
    info = probe(source)
    streams = plan_streams(info, target, options, reporter)
    reader = FrameReader(info, options, NULL)
    height, width = _target_size(info, size, upscaler.model.scale)
    upscaler.check_memory(info.height, info.width, (height, width))
    for note in info.colour_notes:
        reporter.emit("warning", code="colours", message=f"{source}: {note}", hint=None)
    encoding = plan_encoding(
        info,
        (height, width),
        options,
        codecs=streams.container.video,
        time_base=reader.time_base,
        reporter=reporter,
    )
    check_picture(encoding, streams.container, target)
    if (encoding.height, encoding.width) != (height, width):
        reporter.emit(
            "warning",
            code="odd_size",
            message=f"{encoding.pixel_format} wants even sides: {width}x{height} is cut to "
            f"{encoding.width}x{encoding.height}",
            hint="--pix-fmt yuv444p keeps the last row and column",
        )
    if info.is_interlaced and options.deinterlace == "auto":
        reporter.emit(
            "warning",
            code="interlaced",
            message=f"{source} is interlaced: whole frames are made of its fields with bwdif",
            hint="--deinterlace off keeps the fields, --deinterlace FILTER takes another filter",
        )
    part = _part(info, reader, streams)
    return Film(
        info=info,
        target=target,
        size=(height, width),
        pixel_format=info.pixel_format,
        colour=info.colour,
        result_colour=encoding.colour,
        encoding=encoding,
        streams=streams,
        part=part,
        frames=_frame_estimate(info, reader, options),
    )


def _check_target(source: Path, target: Path, options: VideoOptions) -> None:
    if target.is_dir():
        raise OutputError(f"{target} is a folder", hint="name a file with -o", path=target)
    if not target.exists():
        return
    if source.exists() and source.samefile(target):
        raise UsageError(f"the result would replace the input {source}", hint="choose another name with -o")
    if not options.overwrite:
        raise OutputExists(
            f"{target} is already there",
            hint="--overwrite replaces it, --skip-existing leaves it, -o names another place",
            path=target,
        )


def _target_size(info: VideoInfo, size: SizeOptions, scale: int) -> tuple[int, int]:
    """(height, width) as stored: --width and --height speak of the picture as it is shown."""
    matrix = info.display_matrix
    is_turned = matrix is not None and abs(matrix[1]) > abs(matrix[0])
    if is_turned:
        width, height = size.target(info.width, info.height, scale)
        return height, width
    return size.target(info.height, info.width, scale)


def _part(info: VideoInfo, reader: FrameReader, streams: StreamPlan) -> Part:
    whole = reader.start_s < info.start and (info.ends_at is None or reader.end_s > info.ends_at)
    if not whole:
        begin = max(reader.start_s, info.start)
        return Part(begin_s=begin, end_s=reader.end_s, shift_s=begin, whole=False)
    # a transport stream's clock begins anywhere; other containers begin where their film does
    arbitrary = info.container == "mpegts" and streams.container.format != "mpegts"
    return Part(begin_s=reader.start_s, end_s=reader.end_s, shift_s=info.start if arbitrary else Fraction(0), whole=True)


def _frame_estimate(info: VideoInfo, reader: FrameReader, options: VideoOptions) -> int | None:
    if info.duration is None:
        return None
    begin, end = max(reader.start_s, info.start), min(reader.end_s, info.start + info.duration)
    whole = begin == info.start and end == info.start + info.duration
    if options.fps is None and whole and info.frame_count is not None:
        return info.frame_count
    return max(1, round((end - begin) * (options.fps or info.frame_rate)))


def _fingerprint(film: Film, upscaler: Upscaler, options: VideoOptions) -> dict[str, Any]:
    encoding = dataclasses.asdict(film.encoding)
    return {
        "source": resume.source_identity(film.info.path),
        "model": upscaler.model.sha256,
        "size": list(film.size),
        "precision": upscaler.choice.precision,
        "tiles and self-ensemble": str(upscaler.tile_options),
        "encoder": {key: str(value) for key, value in encoding.items()},
        "part of the film": [str(film.part.begin_s), str(film.part.end_s)],
        "frame rate": str(options.fps),
        "deinterlacing": options.deinterlace,
        "segment length": options.segment_frames,
        "version of FFmpeg": av.__version__,
    }


# --- the run ----------------------------------------------------------------------------------------------------------


class Sink(Protocol):
    """Where enlarged frames go, in order."""

    written_bytes: int

    def write(self, image: av.VideoFrame, frame: Frame) -> None: ...


class _Segments:
    """Encodes frames into pieces of equal length, each of which is recorded when it is complete."""

    def __init__(self, film: Film, work: resume.Work, reader: FrameReader, options: VideoOptions) -> None:
        self._film = film
        self._work = work
        self._reader = reader
        self._length = options.segment_frames if options.resume else None
        self._open: _Open | None = None
        self.written_bytes = sum(segment.path.stat().st_size for segment in work.segments)

    def write(self, image: av.VideoFrame, frame: Frame) -> None:
        if self._open is None:
            self._open = _Open(self._work.next_path(segment_suffix(self._film.encoding)), self._film.encoding)
        self._open.writer.write(image, frame.pts, frame.duration)
        if self._open.writer.frames == self._length:
            self.finish()

    def finish(self) -> None:
        """Completes the piece that is open."""
        piece, self._open = self._open, None
        if piece is not None:
            self._work.can_seek = self._work.can_seek and self._reader.is_regular
            path = piece.finish()
            self.written_bytes += path.stat().st_size
            self._work.record(piece.writer.segment(path))

    def drop(self) -> None:
        """Removes the piece that is open: the next run makes it again, whole."""
        if self._open is not None:
            self._open.drop()
            self._open = None


class _Open:
    """A piece that is being written, under a temporary name."""

    def __init__(self, path: Path, encoding: Encoding) -> None:
        self._path = path
        with ExitStack() as stack:
            temporary = stack.enter_context(replacing(path))
            self.writer = stack.enter_context(SegmentWriter(temporary, encoding))
            self._stack = stack.pop_all()

    def finish(self) -> Path:
        with self._stack:
            self.writer.close()
        return self._path

    def drop(self) -> None:
        error = _Dropped()
        self._stack.__exit__(_Dropped, error, None)


class _Dropped(Exception):
    """Tells the context managers of a piece that it will not be used."""


def _make_segments(
    film: Film,
    work: resume.Work,
    reader: FrameReader,
    upscaler: Upscaler,
    options: VideoOptions,
    reporter: Reporter,
    id: int,
) -> float:
    """Makes the pieces that are not there yet; the share of pixels that the network was spared in them."""
    sink = _Segments(film, work, reader, options)
    frames = reader.frames(after=work.last_pts, seek=work.can_seek)
    label = film.info.path.name
    spared: list[int] = []
    try:
        with progress(
            reporter,
            film.frames,
            "frames",
            id=id,
            label=label,
            facts=lambda: {"written_bytes": sink.written_bytes},
        ) as advance:
            advance(work.frames)

            def on_frame(pixels: int) -> None:
                spared.append(pixels)
                advance(1)

            stream_frames(film, frames, upscaler, sink, on_frame=on_frame)
        sink.finish()
    finally:
        sink.drop()
    return sum(spared) / max(1, len(spared) * film.info.height * film.info.width)


def stream_frames(
    film: Film, frames: Iterator[Frame], upscaler: Upscaler, sink: Sink, *, on_frame: Callable[[int], None]
) -> None:
    """Takes frames through conversion, network and `sink`; decoding and encoding overlap with the network.

    `on_frame` is told for each how many pixels of its source the network was spared.
    """
    enlarge = _enlarger(film, upscaler)
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
        return frame, planes_of(frame.image)

    def work(ticket: None, loaded: tuple[Frame, Planes] | None) -> Generator[tuple[Pixels, int], None, None]:
        if loaded is not None:
            (pixels,), spared = enlarge(loaded[1])
            yield pixels, spared

    def save(ticket: None, loaded: tuple[Frame, Planes] | None, parts: Iterator[tuple[Pixels, int]]) -> int | None:
        spared = None
        for pixels, spared in parts:
            assert loaded is not None
            sink.write(finish(pixels), loaded[0])
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


class _Finisher:
    """The encoder's frame for what the network gave: the last step to the size, and the planes."""

    def __init__(self, film: Film) -> None:
        self._film = film
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
        self._last = (pixels, to_frame(final, encoding.pixel_format, film.result_colour))
        return self._last[1]


def _damage(reader: FrameReader, reporter: Reporter, film: Film) -> list[str]:
    """What could not be read of the source, as differences of the result."""
    found = []
    if reader.damaged:
        found.append(f"{reader.damaged} packets of the source are damaged; {reader.repeated} frames are shown twice for them")
    if reader.missing_s and film.part.whole:
        found.append(f"the source is cut off: its last {float(reader.missing_s):.2f} s are missing")
    return found


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
