"""Encoded pieces of the film: MP4 files (MOV for ProRes) that join without loss.

Encoders are told a constant rate, so that what they write about it into the stream is the film's average; the times
at which frames are shown stand beside the pieces and come back when these are joined.

Measured with x264, x265, SVT-AV1, VP9, FFV1 and ProRes: of MP4, MOV, Matroska and NUT only the first two bring back
every time stamp, colour tag and display matrix; Matroska rounds to milliseconds, NUT drops tags.
Trap: x265 gives a film of one or two frames decoding times that muxers refuse at random.
"""

import contextlib
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import av

from realesr_cli.atomic import output_error
from realesr_cli.errors import EncodeFailed, RealesrError
from realesr_cli.video.encoding import Encoding, configure, tag
from realesr_cli.video.probe import address

# Frames that a decoder waits for at most before it shows one, and some more.
_LONGEST_DELAY = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    """A piece that is complete: where it lies, and when its frames are shown, in ticks of the encoding's time base."""

    path: Path
    times: tuple[int, ...]
    last_duration: int
    faces: tuple[Any, ...] = ()
    """The memory of faces after its last frame: the next piece is made with it."""


def segment_suffix(encoding: Encoding) -> str:
    return ".mov" if encoding.codec == "prores" else ".mp4"


class SegmentWriter:
    """Encodes frames into one file, which is readable once the writer is closed."""

    def __init__(self, path: Path, encoding: Encoding) -> None:
        self._path = path
        self._encoding = encoding
        self._times: list[int] = []
        self._last_duration = 0
        self._last_dts: int | None = None
        try:
            self._container = av.open(address(path), "w", format=segment_suffix(encoding).removeprefix("."))
            stream: Any = self._container.add_stream(encoding.encoder, rate=encoding.frame_rate)
            self._stream = stream
            configure(self._stream.codec_context, encoding)
            self._stream.options = dict(encoding.options)
            if encoding.display_matrix is not None:
                self._stream.set_display_matrix(encoding.display_matrix)
        except (av.FFmpegError, OSError, ValueError) as error:
            raise encode_error(error, path) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            # nothing of it will be used; closing writes an index, which a full disk refuses again
            with contextlib.suppress(av.FFmpegError, OSError):
                self._container.close()

    @property
    def frames(self) -> int:
        return len(self._times)

    def write(self, image: av.VideoFrame, pts: int, duration: int) -> None:
        """Encodes a picture of the encoding's size and pixel format. Raises: EncodeFailed, OutputError, DiskFull."""
        image.pts, image.time_base, image.duration = len(self._times), 1 / self._encoding.frame_rate, 1
        tag(image, self._encoding.colour)
        self._mux(image)
        self._times.append(pts)
        self._last_duration = duration

    def close(self) -> None:
        """Writes what the encoder still holds, and the index. Raises: EncodeFailed, OutputError, DiskFull."""
        self._mux(None)
        try:
            self._container.close()
        except (av.FFmpegError, OSError) as error:
            raise encode_error(error, self._path) from error

    def segment(self, path: Path) -> Segment:
        """What was written, when it lies at `path`."""
        return Segment(path=path, times=tuple(self._times), last_duration=self._last_duration)

    def _mux(self, image: av.VideoFrame | None) -> None:
        try:
            for packet in self._stream.encode(image):
                self._repair(packet)
                self._container.mux(packet)
        except (av.FFmpegError, OSError, ValueError) as error:
            raise encode_error(error, self._path) from error

    def _repair(self, packet: Any) -> None:
        """Decoding times that cannot be: they are made anew when the pieces are joined."""
        last = self._last_dts
        possible = packet.dts is not None and packet.pts - _LONGEST_DELAY < packet.dts <= packet.pts
        if not possible or (last is not None and packet.dts <= last):
            packet.dts = packet.pts if last is None or packet.pts > last else last + 1
        self._last_dts = packet.dts


def encode_error(error: Exception, path: Path) -> RealesrError:
    """A failure of FFmpeg while writing, as one line."""
    if isinstance(error, OSError) and error.errno is not None and 0 < error.errno < 1000 and error.errno != 22:
        return output_error(error, path)
    log = getattr(error, "log", None)
    return EncodeFailed(f"cannot write {path}: {log[2].strip() if log else error}", path=path)
