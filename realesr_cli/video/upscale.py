"""A film, enlarged: the one module that knows all the others of this package.

Frames stream from the decoder through the network to the encoder in bounded queues; finished pieces stay on the disk
until the film is complete (resume.py), so a killed run goes on where it was.
"""

import dataclasses
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av

from realesr_cli.atomic import replacing
from realesr_cli.errors import UnreadableInput
from realesr_cli.faces.enhance import FaceEnhancer
from realesr_cli.faces.frames import FrameFaces
from realesr_cli.kept_faces import check_faces, save_faces
from realesr_cli.options import SizeOptions, VideoOptions
from realesr_cli.reporting import NULL, Reporter, progress
from realesr_cli.upscaler import Upscaler
from realesr_cli.video import resume
from realesr_cli.video.check import differences
from realesr_cli.video.encoding import Encoding
from realesr_cli.video.film import Film, plan_film
from realesr_cli.video.mux import mux
from realesr_cli.video.reader import Frame, FrameReader
from realesr_cli.video.stream import stream_frames
from realesr_cli.video.writer import SegmentWriter, segment_suffix


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
    faces: FaceEnhancer | None = None,
) -> VideoResult:
    """Writes `source` enlarged to `target`, whose suffix names the container, with all other streams and times kept.

    A run that was killed goes on with the same call. `id` numbers the events of several films. `faces` restores those
    in each frame.
    Raises: UsageError, UnreadableInput, UnsupportedInput, OutputExists, EncodeFailed, DiskFull, OutputError, and what
    the upscaler raises.
    """
    options = options or VideoOptions()
    started = time.monotonic()
    film = plan_film(
        Path(source), Path(target), upscaler, size=size or SizeOptions(), options=options, reporter=reporter
    )
    check_kept_faces(film.target, faces, options)
    reporter.emit(
        "begin",
        id=id,
        input=str(source),
        width=film.info.width,
        height=film.info.height,
        frames=film.frames,
        duration_s=None if film.info.duration is None else float(film.info.duration),
    )
    fingerprint = _fingerprint(film, upscaler, options, faces)
    opened_work = (
        resume.resumed(film.target, fingerprint, restart=options.overwrite, reporter=reporter)
        if options.resume
        else resume.unresumed(film.target, fingerprint)
    )
    with opened_work as work:
        reader = FrameReader(film.info, options, reporter)
        found = None if faces is None else FrameFaces(faces, work.segments[-1].faces if work.segments else ())
        spared = _make_segments(film, work, reader, upscaler, options, reporter, id, found)
        if not work.segments:
            raise UnreadableInput(f"{source} has no frames in the part that was asked for", path=film.info.path)
        with replacing(film.target, overwrite=options.overwrite) as temporary:
            mux(work.segments, film.info, film.encoding, film.streams, film.part, temporary)
            differing = differences(film.info, temporary, work.segments, film.encoding, film.streams, film.part)
            if found is not None:
                keep_faces(film.target, found, options)
        frames = work.frames
        if options.resume:
            resume.remove(work)
    if found is not None and found.frames:
        reporter.emit("frame_faces", id=id, input=str(source), **found.frame_facts())
    differing += _damage(reader, reporter, film)
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
        verified=not differing,
        differences=differing,
    )
    return VideoResult(
        frames=frames,
        width=film.encoding.width,
        height=film.encoding.height,
        seconds=seconds,
        spared=spared,
        differences=tuple(differing),
    )


def check_kept_faces(target: Path, faces: FaceEnhancer | None, options: VideoOptions) -> None:
    """Raises OutputExists where those that `--save-faces` asks for are there already."""
    if faces is not None and faces.options.save_folder is not None:
        check_faces(faces.options.save_folder, Path(target.name), overwrite=options.overwrite)


def keep_faces(target: Path, faces: FrameFaces, options: VideoOptions) -> None:
    """Writes those that `--save-faces` asks for. Raises: OutputError, OutputExists."""
    folder = faces.options.save_folder
    if folder is not None:
        save_faces(faces.pairs, folder, Path(target.name), overwrite=options.overwrite)


def _fingerprint(film: Film, upscaler: Upscaler, options: VideoOptions, faces: FaceEnhancer | None) -> dict[str, Any]:
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
        "treatment of faces": None if faces is None else {**faces.settings(), "precision": faces.choice.precision},
    }


# --- the run ----------------------------------------------------------------------------------------------------------


class _Segments:
    """Encodes frames into pieces of equal length, each of which is recorded when it is complete."""

    def __init__(self, film: Film, work: resume.Work, reader: FrameReader, options: VideoOptions) -> None:
        self._film = film
        self._work = work
        self._reader = reader
        self._length = options.segment_frames if options.resume else None
        self._open: _Open | None = None
        self._faces: list[Any] = []
        self.written_bytes = sum(segment.path.stat().st_size for segment in work.segments)

    def write(self, image: av.VideoFrame, frame: Frame, faces: list[Any]) -> None:
        if self._open is None:
            self._open = _Open(self._work.next_path(segment_suffix(self._film.encoding)), self._film.encoding)
        self._open.writer.write(image, frame.pts, frame.duration)
        self._faces = faces
        if self._open.writer.frames == self._length:
            self.finish()

    def finish(self) -> None:
        """Completes the piece that is open."""
        piece, self._open = self._open, None
        if piece is not None:
            self._work.can_seek = self._work.can_seek and self._reader.is_regular
            path = piece.finish()
            self.written_bytes += path.stat().st_size
            self._work.record(dataclasses.replace(piece.writer.segment(path), faces=tuple(self._faces)))

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
    faces: FrameFaces | None,
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
            already=work.frames,
            facts=lambda: {"written_bytes": sink.written_bytes},
        ) as advance:

            def on_frame(pixels: int) -> None:
                spared.append(pixels)
                advance(1)

            stream_frames(film, frames, upscaler, sink, on_frame=on_frame, faces=faces)
            sink.finish()
    finally:
        sink.drop()
    return sum(spared) / max(1, len(spared) * film.info.height * film.info.width)


def _damage(reader: FrameReader, reporter: Reporter, film: Film) -> list[str]:
    """What could not be read of the source, as differences of the result."""
    found = []
    if reader.damaged:
        found.append(
            f"{reader.damaged} packets of the source are damaged; {reader.repeated} frames are shown twice for them"
        )
    if reader.missing_s and film.part.whole:
        found.append(f"the source is cut off: its last {float(reader.missing_s):.2f} s are missing")
    return found
