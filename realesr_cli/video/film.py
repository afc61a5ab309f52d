"""Everything about a film that is decided, and refused, before the work begins."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from realesr_cli.errors import OutputError, OutputExists, UsageError
from realesr_cli.options import SizeOptions, VideoOptions
from realesr_cli.reporting import NULL, Reporter
from realesr_cli.upscaler import Upscaler
from realesr_cli.video.colour import Colour
from realesr_cli.video.encoding import Encoding, plan_encoding
from realesr_cli.video.frames import has_alpha, pixel_format
from realesr_cli.video.mux import Part
from realesr_cli.video.probe import VideoInfo, probe
from realesr_cli.video.reader import FrameReader
from realesr_cli.video.streams import StreamPlan, check_picture, plan_streams


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
    if has_alpha(info.pixel_format):
        reporter.emit("warning", code="alpha", message=f"{source}: transparency of films is left out", hint=None)
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
    return Part(
        begin_s=reader.start_s, end_s=reader.end_s, shift_s=info.start if arbitrary else Fraction(0), whole=True
    )


def _frame_estimate(info: VideoInfo, reader: FrameReader, options: VideoOptions) -> int | None:
    if info.duration is None:
        return None
    begin, end = max(reader.start_s, info.start), min(reader.end_s, info.start + info.duration)
    whole = begin == info.start and end == info.start + info.duration
    if options.fps is None and whole and info.frame_count is not None:
        return info.frame_count
    return max(1, round((end - begin) * (options.fps or info.frame_rate)))
