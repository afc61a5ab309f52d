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
from realesr_cli.upscaler import Upscaler
from realesr_cli.video import resume
from realesr_cli.video.check import differences
from realesr_cli.video.convert import to_frame, to_pixels
from realesr_cli.video.encoding import Encoding, plan_encoding
from realesr_cli.video.mux import Part, mux
from realesr_cli.video.probe import VideoInfo, probe
from realesr_cli.video.reader import Frame, FrameReader
from realesr_cli.video.streams import StreamPlan, check_picture, plan_streams
from realesr_cli.video.writer import SegmentWriter, segment_suffix

Pixels = NDArray[Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Film:
    """Everything that is decided before the work begins."""

    info: VideoInfo
    target: Path
    size: tuple[int, int]
    """(height, width) of the network's result; the encoding's may lack its last row or column."""
    encoding: Encoding
    streams: StreamPlan
    part: Part
    frames: int | None
    """An estimate."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoResult:
    """What became of a film."""

    frames: int
    width: int
    height: int
    seconds: float
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
        _make_segments(film, work, reader, upscaler, options, reporter, id)
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
        verified=not found,
        differences=found,
    )
    return VideoResult(
        frames=frames,
        width=film.encoding.width,
        height=film.encoding.height,
        seconds=seconds,
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
    encoding = plan_encoding(
        info,
        (height, width),
        options,
        codecs=streams.container.video,
        colour=_colour(info, reporter),
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


def _colour(info: VideoInfo, reporter: Reporter) -> tuple[int, int, int, int]:
    """(matrix, range, primaries, transfer); guessed where the film does not say."""
    matrix, full = info.colorspace, info.color_range
    if matrix in (2, 3):
        matrix = 1 if info.height >= 720 or info.width >= 1280 else 6
        reporter.emit("note", message=f"{info.path} does not name its colours")
    return matrix, full or (2 if info.pixel_format.startswith("yuvj") else 1), info.color_primaries, info.color_trc


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
) -> None:
    """Makes the pieces that are not there yet."""
    sink = _Segments(film, work, reader, options)
    frames = reader.frames(after=work.last_pts, seek=work.can_seek)
    label = film.info.path.name
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
            stream_frames(film, frames, upscaler, sink, on_frame=lambda: advance(1))
        sink.finish()
    finally:
        sink.drop()


def stream_frames(
    film: Film, frames: Iterator[Frame], upscaler: Upscaler, sink: Sink, *, on_frame: Callable[[], None]
) -> None:
    """Takes frames through conversion, network and `sink`; decoding and encoding overlap with the network."""
    encoding = film.encoding
    ended = False

    def tickets() -> Iterator[None]:
        while not ended:
            yield None

    def load(ticket: None) -> tuple[Frame, Pixels] | None:
        nonlocal ended
        frame = next(frames, None)
        if frame is None:
            ended = True
            return None
        return frame, to_pixels(frame.image, encoding.colorspace, encoding.color_range)

    def work(ticket: None, loaded: tuple[Frame, Pixels] | None) -> Generator[Pixels, None, None]:
        if loaded is not None:
            yield upscaler.frame(loaded[1], size=film.size)

    def save(ticket: None, loaded: tuple[Frame, Pixels] | None, parts: Iterator[Pixels]) -> bool:
        for pixels in parts:
            assert loaded is not None
            cut = np.ascontiguousarray(pixels[: encoding.height, : encoding.width])
            image = to_frame(cut, encoding.pixel_format, encoding.colorspace, encoding.color_range)
            sink.write(image, loaded[0])
        return loaded is not None

    def on_done(ticket: None, saved: bool) -> None:
        if saved:
            on_frame()

    def on_error(ticket: None, error: RealesrError) -> None:
        raise error

    with closing(frames):
        run_pipeline(tickets(), load=load, work=work, save=save, on_done=on_done, on_error=on_error)


def _damage(reader: FrameReader, reporter: Reporter, film: Film) -> list[str]:
    """What could not be read of the source, as differences of the result."""
    found = []
    if reader.damaged:
        found.append(f"{reader.damaged} packets of the source are damaged; {reader.repeated} frames are shown twice for them")
    if reader.missing_s and film.part.whole:
        found.append(f"the source is cut off: its last {float(reader.missing_s):.2f} s are missing")
    return found
