"""Which container holds what: the film's other streams are copied, converted, left out or refused, before any work.

FFmpeg only tells when the header is written, and the names that PyAV lists are decoders', so the table is our own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from realesr_cli.errors import UnsupportedInput, UsageError
from realesr_cli.options import VideoOptions
from realesr_cli.reporting import Reporter
from realesr_cli.video.encoding import Encoding
from realesr_cli.video.probe import StreamInfo, VideoInfo

_TEXT_SUBTITLES = ("ass", "ssa", "subrip", "srt", "webvtt", "mov_text", "text")


@dataclass(frozen=True, kw_only=True, slots=True)
class Container:
    """What one kind of file can hold. Codecs are FFmpeg's names; a name that ends in * stands for all that begin so."""

    format: str
    video: tuple[str, ...]
    """The preferred one first."""
    audio: tuple[str, ...]
    subtitles: tuple[str, ...]
    data: tuple[str, ...] = ()
    covers: bool = True
    attachments: bool = False
    chapters: bool = True
    rotation: bool = True
    new_audio: str = "aac"
    """What audio is converted to on request, and text subtitles."""
    new_subtitle: str | None = None
    aspect: tuple[str, ...] | None = None
    """Video codecs whose pixels may be other than square; None = all."""


_MP4_AUDIO = ("aac", "ac3", "eac3", "mp3", "mp2", "opus", "flac", "alac", "dts")
_MP4 = Container(
    format="mp4",
    video=("h264", "hevc", "av1", "vp9", "ffv1"),
    audio=_MP4_AUDIO,
    subtitles=("mov_text",),
    data=("text",),
    new_subtitle="mov_text",
)
_MOV = Container(
    format="mov",
    video=("h264", "hevc", "prores"),
    audio=("aac", "ac3", "eac3", "mp3", "alac", "pcm_*"),
    subtitles=("mov_text",),
    data=("text",),
    new_subtitle="mov_text",
)
_MKV = Container(
    format="matroska",
    video=("h264", "hevc", "av1", "ffv1", "vp9", "vp8", "prores"),
    audio=(*_MP4_AUDIO, "vorbis", "truehd", "mlp", "wavpack", "tta", "pcm_s16le", "pcm_s24le", "pcm_s32le",
           "pcm_f32le", "pcm_f64le", "pcm_u8", "pcm_s16be", "pcm_s24be", "pcm_s32be", "mp1"),
    subtitles=("ass", "ssa", "subrip", "srt", "webvtt", "hdmv_pgs_subtitle", "dvd_subtitle", "dvb_subtitle"),
    data=("tmcd", "text"),
    attachments=True,
    new_subtitle="subrip",
)  # fmt: skip
_WEBM = Container(
    format="webm",
    video=("av1", "vp9", "vp8"),
    audio=("opus", "vorbis"),
    subtitles=("webvtt",),
    data=("tmcd", "text"),
    covers=False,
    new_audio="libopus",
    new_subtitle="webvtt",
    aspect=(),
)
_TS = Container(
    format="mpegts",
    video=("h264", "hevc"),
    audio=("aac", "ac3", "eac3", "mp3", "mp2", "opus", "dts"),
    subtitles=("dvb_subtitle", "dvb_teletext"),
    data=("klv", "timed_id3", "scte_35", "text"),
    covers=False,
    chapters=False,
    rotation=False,
)
_CONTAINERS = {
    ".mp4": _MP4, ".m4v": _MP4, ".mov": _MOV, ".mkv": _MKV, ".webm": _WEBM, ".ts": _TS, ".m2ts": _TS, ".mts": _TS,
}  # fmt: skip
VIDEO_SUFFIXES = tuple(_CONTAINERS)


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamPlan:
    """What becomes of the streams beside the pictures."""

    container: Container
    copied: tuple[StreamInfo, ...] = ()
    converted: tuple[tuple[StreamInfo, str], ...] = ()
    """(stream, encoder)."""
    dropped: tuple[StreamInfo, ...] = ()
    chapters: bool = True


def container_of(path: Path) -> Container:
    """The container that the file's name asks for. Raises: UsageError."""
    try:
        return _CONTAINERS[path.suffix.lower()]
    except KeyError:
        raise UsageError(
            f"realesr does not write films called {path.name}", hint=f"end it in one of {', '.join(_CONTAINERS)}"
        ) from None


def result_suffix(info: VideoInfo, options: VideoOptions) -> str:
    """The input's own suffix if that container is written and holds everything, else .mkv."""
    suffix = info.path.suffix.lower()
    if suffix in _CONTAINERS:
        container = _CONTAINERS[suffix]
        fits = options.codec is None or options.codec in container.video
        if fits and not _unfit(info, container):
            return suffix
    return ".mkv"


def plan_streams(info: VideoInfo, target: Path, options: VideoOptions, reporter: Reporter) -> StreamPlan:
    """Where every stream goes; whatever is not simply copied is said. Raises: UsageError, UnsupportedInput."""
    container = container_of(target)
    unfit = _unfit(info, container)
    loses_chapters = bool(info.chapters) and not container.chapters
    if (unfit or loses_chapters) and options.on_unsupported == "error":
        names = [*map(str, unfit), *(["the chapters"] if loses_chapters else [])]
        raise UnsupportedInput(
            f"{target.name} cannot hold {_listed(names)} of {info.path}",
            hint="-o FILM.mkv keeps everything; or --on-unsupported transcode or drop",
            path=info.path,
        )
    converted: list[tuple[StreamInfo, str]] = []
    dropped: list[StreamInfo] = []
    for stream in unfit:
        encoder = _replacement(stream, container) if options.on_unsupported == "transcode" else None
        if encoder is None:
            dropped.append(stream)
        else:
            converted.append((stream, encoder))
    changes = [f"{stream} becomes {encoder}" for stream, encoder in converted]
    changes += [f"{stream} is left out" for stream in dropped]
    changes += [f"{s} is copied as it is" for s in info.streams if s.kind == "video" and s not in unfit]
    changes += ["the chapters are left out"] if loses_chapters else []
    if changes:
        reporter.emit(
            "warning",
            code="streams",
            message=f"{target.name}: {'; '.join(changes)}",
            hint="-o FILM.mkv keeps everything",
        )
    moved = {stream.index for stream in unfit}
    return StreamPlan(
        container=container,
        # a time code is a tag of the pictures in Matroska; the chapters' own track is written anew by the muxer
        copied=tuple(s for s in info.streams if s.index not in moved and s.codec not in ("tmcd", "text")),
        converted=tuple(converted),
        dropped=tuple(dropped),
        chapters=container.chapters,
    )


def check_picture(encoding: Encoding, container: Container, target: Path) -> None:
    """Refuses turned pictures and pixels that are not square where nothing could say so. Raises: UnsupportedInput."""
    if encoding.display_matrix is not None and not container.rotation:
        raise UnsupportedInput(
            f"{target.name} cannot say that the picture is turned", hint="choose -o FILM.mp4 or .mkv"
        )
    square = encoding.sample_aspect is None or container.aspect is None or encoding.codec in container.aspect
    if not square:
        raise UnsupportedInput(
            f"{target.name} cannot say that pixels are {encoding.sample_aspect}, not square, with {encoding.codec}",
            hint="choose -o FILM.mp4, or --codec hevc",
        )


def _unfit(info: VideoInfo, container: Container) -> list[StreamInfo]:
    return [stream for stream in info.streams if not _fits(stream, container)]


def _fits(stream: StreamInfo, container: Container) -> bool:
    match stream.kind:
        case "audio":
            return _matches(stream.codec, container.audio)
        case "subtitle":
            return _matches(stream.codec, container.subtitles)
        case "attachment":
            return container.attachments
        case "cover":
            return container.covers and stream.codec in ("mjpeg", "png", "bmp")
        case "data":
            return _matches(stream.codec, container.data)
    return stream.codec in container.video  # a second picture stream, which is copied as it is


def _matches(codec: str, patterns: Sequence[str]) -> bool:
    return any(codec == p or (p.endswith("*") and codec.startswith(p[:-1])) for p in patterns)


def _replacement(stream: StreamInfo, container: Container) -> str | None:
    if stream.kind == "audio":
        return container.new_audio
    if stream.kind == "subtitle" and stream.codec in _TEXT_SUBTITLES:
        return container.new_subtitle
    return None


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
