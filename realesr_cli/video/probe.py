"""What a film file holds, before any work.

Traps: a cover picture is a video stream too; containers say how many frames they hold as an estimate or not at all;
rotation, mastering metadata and interlacing are only sure once a frame has been decoded. PyAV logs nothing unless it
is told to, and must not be told while decoders run (`explained`).
"""

import logging
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any, cast

import av
import av.logging
from av.sidedata.sidedata import Type
from av.stream import Disposition

from realesr_cli.errors import InputError, UnreadableInput, UnsupportedInput
from realesr_cli.video.colour import Colour
from realesr_cli.video.tags import colour_of, stated_chroma_location

# Frames that are decoded to learn what only frames tell.
_PROBED_FRAMES = 4
_FIELD_ORDER_PROGRESSIVE = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamInfo:
    """One stream of the file."""

    index: int
    kind: str
    """video, audio, subtitle, attachment, data or cover."""
    codec: str
    """FFmpeg's name of the format, e.g. aac, opus, ass, subrip, mov_text; tmcd for a time code, text for the chapters'
    own track in MP4 and MOV; empty where it has none."""
    language: str | None

    def __str__(self) -> str:
        return f"{self.kind} stream {self.index} ({', '.join(filter(None, (self.codec or 'unknown', self.language)))})"


@dataclass(frozen=True, kw_only=True, slots=True)
class Mastering:
    """HDR10 metadata: chromaticities and luminances as FFmpeg gives them, and content light levels in nits."""

    display: tuple[Fraction, ...] | None
    """Red x, y, green x, y, blue x, y, white x, y; then lowest and highest luminance in nits."""
    light: tuple[int, int] | None
    """MaxCLL and MaxFALL."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoInfo:
    """The film's picture stream, and what stands beside it. Times are seconds unless they are called ticks."""

    path: Path
    container: str
    stream_index: int
    codec: str
    width: int
    height: int
    pixel_format: str
    """FFmpeg's name, of the first decoded frame."""
    time_base: Fraction
    """Seconds of a tick of frames' time stamps."""
    start: Fraction
    """Where the container says that the file begins."""
    duration: Fraction | None
    frame_rate: Fraction
    """Average of the container, or its guess: frames keep their own times."""
    frame_count: int | None
    """An estimate."""
    sample_aspect: Fraction | None
    """Width of a pixel over its height; None = square."""
    display_matrix: tuple[int, ...] | None
    """Nine values that players turn or mirror the picture by."""
    is_interlaced: bool
    colour: Colour
    colour_notes: tuple[str, ...]
    """What had to be guessed of it, in words."""
    mastering: Mastering
    streams: tuple[StreamInfo, ...]
    """All but the picture stream."""
    chapters: int
    metadata: dict[str, str]

    @property
    def ends_at(self) -> Fraction | None:
        return None if self.duration is None else self.start + self.duration

    @property
    def is_hdr(self) -> bool:
        return self.colour.transfer in (16, 18)  # PQ and HLG


@contextmanager
def explained() -> Iterator[None]:
    """Within this block FFmpeg's errors carry the line that it logs about them.

    Only where no decoder runs in threads of its own: these would wait for the interpreter in order to log, while it
    waits for them.
    """
    level = av.logging.get_level()
    av.logging.set_level(av.logging.ERROR)
    python_log = logging.getLogger("libav")
    was, python_log.disabled = python_log.disabled, True
    try:
        yield
    finally:
        python_log.disabled = was
        av.logging.set_level(level)


@contextmanager
def opened(path: Path, **options: Any) -> Iterator[av.container.InputContainer]:
    """The container, for reading. Raises: UnreadableInput, UnsupportedInput (a list of other files)."""
    try:
        container = av.open(address(path), metadata_errors="replace", options={"protocol_whitelist": "file"}, **options)
    except (av.FFmpegError, OSError, ValueError) as error:
        raise unreadable(path, error) from error
    with container:
        if container.format.name in _LISTS:
            raise UnsupportedInput(f"{path} is a list of other files, not a film", hint="name the films", path=path)
        yield container


def address(path: Path) -> str:
    """What FFmpeg takes for this very file, whatever its name: others mean addresses, pipes and lists."""
    return f"file:{path}"


def unreadable(path: Path, error: Exception) -> InputError:
    """The `UnreadableInput` that says in one line why a film could not be read."""
    if not path.exists():
        return UnreadableInput(f"{path} does not exist", path=path)
    if path.is_dir():
        return UnreadableInput(f"{path} is a folder", hint="name the films in it", path=path)
    if path.stat().st_size == 0:
        return UnreadableInput(f"cannot read {path}: the file is empty", path=path)
    reason = str(error.strerror if isinstance(error, OSError) and error.strerror else error)
    if isinstance(error, av.InvalidDataError):
        reason = "it is no film, or its index is missing because it was cut off"
    return UnreadableInput(f"cannot read {path}: {reason}", path=path)


_LISTS = ("concat", "concatf", "dash", "hls", "imf", "rtsp", "sdp", "smil")
"""Formats whose files name others, which FFmpeg would read too."""


def video_stream(container: av.container.InputContainer, path: Path) -> av.VideoStream:
    """The picture stream: the best one that is no cover. Raises: UnsupportedInput."""
    candidates = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not candidates:
        raise UnsupportedInput(f"{path} has no video stream", hint="`realesr image` takes pictures", path=path)
    return max(candidates, key=lambda s: (bool(s.disposition & Disposition.default), s.width * s.height))


def probe(path: Path) -> VideoInfo:
    """What the file holds; the first frames are decoded. Raises: UnreadableInput, UnsupportedInput."""
    with opened(path) as container:
        stream = video_stream(container, path)
        index = stream.index
        frames = _first_frames(container, stream, path)
        first = frames[0]
        context = stream.codec_context
        duration = None if container.duration is None else Fraction(container.duration, 1_000_000)
        # of a raw stream the average is a default of the demuxer's
        rates = (stream.average_rate, stream.guessed_rate)
        rate = next(filter(None, rates if duration is not None else rates[::-1]), Fraction(25))
        sample_aspect = stream.sample_aspect_ratio
        number = [s.index for s in container.streams.video].index(index)
        colour, notes = colour_of(cast(Any, first), first.height, chroma_location=stated_chroma_location(path, number))
        return VideoInfo(
            path=path,
            container=container.format.name,
            stream_index=index,
            codec=context.codec.canonical_name,
            width=first.width,
            height=first.height,
            pixel_format=first.format.name,
            time_base=stream.time_base or 1 / rate,
            start=Fraction(container.start_time or 0, 1_000_000),
            duration=duration,
            frame_rate=rate,
            frame_count=stream.frames or (None if duration is None else round(duration * rate)),
            sample_aspect=None if sample_aspect in (None, 0, 1) else sample_aspect,
            display_matrix=_display_matrix(first),
            is_interlaced=any(f.interlaced_frame for f in frames) or context.field_order > _FIELD_ORDER_PROGRESSIVE,
            colour=colour,
            colour_notes=tuple(notes),
            mastering=_mastering(frames),
            streams=tuple(_stream_info(s, container) for s in container.streams if s.index != index),
            chapters=len(container.chapters()),
            metadata=dict(container.metadata),
        )


def _first_frames(container: av.container.InputContainer, stream: av.VideoStream, path: Path) -> list[av.VideoFrame]:
    def decoded() -> Iterator[av.VideoFrame]:
        for packet in container.demux(stream):
            try:
                yield from packet.decode()
            except av.FFmpegError:
                continue

    try:
        frames = list(islice(decoded(), _PROBED_FRAMES))
    except (av.FFmpegError, OSError) as error:
        raise unreadable(path, error) from error
    if not frames:
        raise UnreadableInput(f"cannot read {path}: not one frame of its video stream can be decoded", path=path)
    return frames


def _stream_info(stream: av.stream.Stream, container: av.container.InputContainer) -> StreamInfo:
    codec = ""
    if stream.codec_context is not None:
        codec = stream.codec_context.codec.canonical_name
    elif stream.type == "data" and "timecode" in stream.metadata:
        codec = "tmcd"
    elif stream.type == "data" and "mov" in container.format.name and stream.frames == len(container.chapters()) > 0:
        codec = "text"
    is_cover = stream.type == "video" and bool(stream.disposition & Disposition.attached_pic)
    return StreamInfo(
        index=stream.index, kind="cover" if is_cover else stream.type, codec=codec, language=stream.language
    )


def _display_matrix(frame: av.VideoFrame) -> tuple[int, ...] | None:
    data = cast(Any, frame.side_data).get(Type.DISPLAYMATRIX)
    matrix = struct.unpack("=9i", bytes(data)[:36]) if data is not None else None
    return None if matrix == (1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30) else matrix


def _mastering(frames: list[av.VideoFrame]) -> Mastering:
    display = light = None
    for frame in frames:
        data = cast(Any, frame.side_data).get(Type.MASTERING_DISPLAY_METADATA)
        if data is not None:
            # AVMasteringDisplayMetadata: ten rationals, then whether the first eight and the last two are given
            *ratios, has_primaries, has_luminance = struct.unpack("=22i", bytes(data)[:88])
            if has_primaries and has_luminance and all(ratios[1::2]):
                display = tuple(Fraction(n, d) for n, d in zip(ratios[::2], ratios[1::2], strict=True))
        data = cast(Any, frame.side_data).get(Type.CONTENT_LIGHT_LEVEL)
        if data is not None:
            light = struct.unpack("=2I", bytes(data)[:8])
    return Mastering(display=display, light=light)
