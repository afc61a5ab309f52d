"""A film, enlarged: the one module that knows all the others of this package.

Frames stream from the decoder through the network to the encoder in bounded queues; finished pieces stay on the disk
until the film is complete (resume.py), so a killed run goes on where it was.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator
from contextlib import closing
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
from realesr_cli.video.film import Film, plan_film
from realesr_cli.video.mux import mux
from realesr_cli.video.pieces import MadePiece, Piece, PieceWriter, find_pieces
from realesr_cli.video.reader import FrameReader
from realesr_cli.video.stream import stream_frames
from realesr_cli.video.writer import Segment, segment_suffix


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


Farm = Callable[[Film, Iterator[Piece], Callable[[Piece, MadePiece], None]], None]
"""Makes pieces of a film, in any order, and tells of each when it is complete."""


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
    farm: Farm | None = None,
) -> VideoResult:
    """Writes `source` enlarged to `target`, whose suffix names the container, with all other streams and times kept.

    A run that was killed goes on with the same call. `id` numbers the events of several films. `faces` restores those
    in each frame. `farm` makes the pieces elsewhere: `upscaler` then computes nothing, and there are no faces.
    Raises: UsageError, UnreadableInput, UnsupportedInput, OutputExists, EncodeFailed, DiskFull, OutputError, and what
    the upscaler raises.
    """
    options = options or VideoOptions()
    assert farm is None or (faces is None and options.resume), "pieces with faces depend on each other"
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
        before = work.frames
        with progress(
            reporter,
            film.frames,
            "frames",
            id=id,
            label=film.info.path.name,
            already=before,
            facts=lambda: {"written_bytes": work.written_bytes},
        ) as advance:
            if farm is None:
                spared_px = _make_segments(film, work, reader, upscaler, options, advance, found)
            else:
                spared_px = _farm_segments(film, work, reader, farm, options, advance)
        spared = spared_px / max(1, (work.frames - before) * film.info.height * film.info.width)
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


def _make_segments(
    film: Film,
    work: resume.Work,
    reader: FrameReader,
    upscaler: Upscaler,
    options: VideoOptions,
    advance: Callable[[float], None],
    faces: FrameFaces | None,
) -> int:
    """Makes the pieces that are not there yet, one after the other; the pixels that the network was spared in them."""

    def complete(segment: Segment) -> None:
        work.can_seek = work.can_seek and reader.is_regular
        work.record(segment)

    sink = PieceWriter(
        film, options.segment_frames if options.resume else None, place=work.next_path, complete=complete
    )
    spared: list[int] = []

    def on_frame(pixels: int) -> None:
        spared.append(pixels)
        advance(1)

    try:
        frames = reader.frames(after=work.last_pts, seek=work.can_seek)
        stream_frames(film, frames, upscaler, sink, on_frame=on_frame, faces=faces)
        sink.finish()
    finally:
        sink.drop()
    return sum(spared)


def _farm_segments(
    film: Film,
    work: resume.Work,
    reader: FrameReader,
    farm: Farm,
    options: VideoOptions,
    advance: Callable[[float], None],
) -> int:
    """The same, made elsewhere in any order; they are recorded in their own."""
    waiting: dict[int, tuple[Piece, MadePiece]] = {}
    spared: list[int] = []

    def done(piece: Piece, made: MadePiece) -> None:
        waiting[piece.number] = piece, made
        spared.append(made.spared_px)
        advance(len(piece.times))
        while len(work.segments) in waiting:
            following, finished = waiting.pop(len(work.segments))
            work.can_seek = work.can_seek and following.can_seek
            work.record(finished.segment)

    pieces = find_pieces(
        reader,
        options.segment_frames,
        first=len(work.segments),
        after=work.last_pts,
        can_seek=work.can_seek,
        place=lambda number: work.path(number).with_suffix(segment_suffix(film.encoding)),
    )
    with closing(pieces):
        farm(film, pieces, done)
    return sum(spared)


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
