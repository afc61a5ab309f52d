"""A film in pieces of equal length: one after the other in one go, or each by itself, in any order and anywhere.

Trap: a piece that is made by itself must hold the very frames that it would hold in one go. So it is told their times,
and where reading from the middle of the film gives others, the film is read from its beginning.
"""

import dataclasses
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import av

from realesr_cli.atomic import replacing
from realesr_cli.errors import UnreadableInput
from realesr_cli.options import VideoOptions
from realesr_cli.reporting import NULL
from realesr_cli.upscaler import Upscaler
from realesr_cli.video.encoding import Encoding
from realesr_cli.video.film import Film
from realesr_cli.video.reader import Frame, FrameReader
from realesr_cli.video.stream import stream_frames
from realesr_cli.video.writer import Segment, SegmentWriter, segment_suffix


class PieceWriter:
    """Encodes frames into pieces of `length` frames (None = one), of each of which `complete` is told.

    `place` is asked where the next one shall lie, without a suffix.
    """

    def __init__(
        self, film: Film, length: int | None, *, place: Callable[[], Path], complete: Callable[[Segment], None]
    ) -> None:
        self._film = film
        self._length = length
        self._place = place
        self._complete = complete
        self._open: _Open | None = None
        self._faces: list[Any] = []

    def write(self, image: av.VideoFrame, frame: Frame, faces: list[Any]) -> None:
        """Adds a frame; `faces` is the memory of faces after it."""
        if self._open is None:
            suffix = segment_suffix(self._film.encoding)
            self._open = _Open(self._place().with_suffix(suffix), self._film.encoding)
        self._open.writer.write(image, frame.pts, frame.duration)
        self._faces = faces
        if self._open.writer.frames == self._length:
            self.finish()

    def finish(self) -> None:
        """Completes the piece that is open."""
        piece, self._open = self._open, None
        if piece is not None:
            path = piece.finish()
            self._complete(dataclasses.replace(piece.writer.segment(path), faces=tuple(self._faces)))

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


# --- pieces by themselves ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """One that is to be made by itself."""

    number: int
    path: Path
    """Where it shall lie."""
    after: int | None
    """The time of the last frame before it, in ticks of the reader's time base; None = it is the first."""
    times: tuple[int, ...]
    """When its frames are shown, in the same ticks."""
    can_seek: bool
    """Whether frames were found to have the same times when reading begins in the middle."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MadePiece:
    """A piece that is complete."""

    segment: Segment
    spared_px: int
    """Pixels of the source that the network was spared."""


def find_pieces(
    reader: FrameReader, length: int, *, first: int, after: int | None, can_seek: bool, place: Callable[[int], Path]
) -> Generator[Piece]:
    """The pieces of `length` frames from number `first` on, whose frames come later than `after`; nothing is computed.

    The film is decoded for it, once, for only so is it known which frames there are. Raises: as `FrameReader.frames`.
    """
    with closing(reader.frames(after=after, seek=can_seek)) as frames:
        number = first
        while times := tuple(frame.pts for frame in islice(frames, length)):
            regular = can_seek and reader.is_regular
            yield Piece(number=number, path=place(number), after=after, times=times, can_seek=regular)
            number, after = number + 1, times[-1]


def make_piece(film: Film, piece: Piece, upscaler: Upscaler, options: VideoOptions) -> MadePiece:
    """Makes one piece by itself.

    Raises: UnreadableInput (its frames are not those that were found), EncodeFailed, DiskFull, OutputError, and what
    the upscaler raises.
    """
    for seek in (True, False) if piece.can_seek else (False,):
        reader = FrameReader(film.info, options, NULL)
        made: list[Segment] = []
        spared: list[int] = []
        with _dropping(PieceWriter(film, None, place=lambda: piece.path, complete=made.append)) as sink:
            try:
                stream_frames(film, _exactly(reader, piece, seek=seek), upscaler, sink, on_frame=spared.append)
            except _OtherFrames:
                continue
            sink.finish()
        return MadePiece(segment=made[0], spared_px=sum(spared))
    path = film.info.path
    raise UnreadableInput(f"{path} gives other frames each time it is read", hint="enlarge it without --cluster")


@contextmanager
def _dropping(sink: PieceWriter) -> Iterator[PieceWriter]:
    try:
        yield sink
    finally:
        sink.drop()


def _exactly(reader: FrameReader, piece: Piece, *, seek: bool) -> Generator[Frame]:
    """The frames of the piece. Raises: _OtherFrames."""
    times = iter(piece.times)
    with closing(reader.frames(after=piece.after, seek=seek)) as frames:
        for frame in islice(frames, len(piece.times)):
            if frame.pts != next(times) or (seek and not reader.is_regular):
                raise _OtherFrames
            yield frame
    if next(times, None) is not None:
        raise _OtherFrames


class _OtherFrames(Exception):
    """Reading has not given the frames of the piece."""
