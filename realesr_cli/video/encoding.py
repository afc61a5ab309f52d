"""How the enlarged film is encoded: encoder, pixel format and options, tried out before any work.

Traps: PyAV leaves options that an encoder does not know in `options`, silently; encoders compiled in may lack their
driver; x265 and SVT-AV1 print to stderr by themselves; HDR10 metadata reach the file only as options of the encoder.
"""

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av

from realesr_cli.errors import UnsupportedInput, UsageError
from realesr_cli.native_output import codec_messages
from realesr_cli.options import VideoOptions
from realesr_cli.reporting import Reporter
from realesr_cli.video.colour import Colour
from realesr_cli.video.probe import Mastering, VideoInfo, explained

os.environ.setdefault("SVT_LOG", "1")  # errors only

_REFUSALS = (av.FFmpegError, OSError, ValueError, RuntimeError)
_SOFTWARE = {"h264": "libx264", "hevc": "libx265", "av1": "libsvtav1", "prores": "prores_ks", "ffv1": "ffv1"}
# A little better than what is usually called transparent: nobody upscales to save space.
_CRF = {"libx264": 17, "libx265": 19, "libsvtav1": 24, "libvpx-vp9": 24}
_PRESET = {"libx264": "medium", "libx265": "medium", "libsvtav1": "8"}
_WORST_CRF = {"libx264": 51, "libx265": 51}
_LOSSLESS_OR_FIXED = ("prores", "prores_ks", "ffv1")
# What hardware encoders call constant quality.
_QUALITY_OPTION = {"nvenc": "cq", "qsv": "global_quality", "vaapi": "qp", "amf": "qp_i"}
_HARDWARE = (*_QUALITY_OPTION, "videotoolbox", "v4l2m2m", "mf", "vulkan")
_OWN_OPTIONS = {
    "prores_ks": {"profile": "auto"},
    "ffv1": {"level": "3", "slices": "16", "slicecrc": "1"},
}
# Sides in pixels beyond which encoders fail late or never come back; others say so when they are opened.
_LARGEST = {"libx264": 16384, "libx265": 16384, "libsvtav1": 16384, "h264_nvenc": 4096, "hevc_nvenc": 8192}
_SMALLEST = {"libsvtav1": 64, "libx265": 16}
# chroma_sample_loc_type of H.264 and HEVC
_CHROMA_LOCATIONS = {"left": 0, "center": 1, "topleft": 2, "top": 3, "bottomleft": 4, "bottom": 5}
_RATE_DENOMINATOR = 10010  # averages of films without a constant rate have absurd ones
# Beyond H.264 level 5.2 (macroblocks of 16x16) most players give up; HEVC goes on.
_H264_BLOCKS = 36864


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoding:
    """Everything that an encoder is told. Two equal records give streams that can be joined."""

    encoder: str
    codec: str
    options: tuple[tuple[str, str], ...]
    pixel_format: str
    width: int
    height: int
    time_base: Fraction
    """Of the times at which frames are shown."""
    frame_rate: Fraction
    """What the encoder is told: the average."""
    sample_aspect: Fraction | None
    display_matrix: tuple[int, ...] | None
    colour: Colour

    @property
    def bit_depth(self) -> int:
        return av.VideoFormat(self.pixel_format).components[0].bits


def plan_encoding(
    info: VideoInfo,
    size: tuple[int, int],
    options: VideoOptions,
    *,
    codecs: Sequence[str],
    time_base: Fraction,
    reporter: Reporter,
) -> Encoding:
    """The encoder's settings for frames of `size` = (height, width), which it has accepted.

    `codecs` are those of the container, the preferred one first.
    Raises: UsageError (an option or a codec that cannot be), UnsupportedInput (a size that cannot be).
    """
    depth = av.VideoFormat(info.pixel_format).components[0].bits
    blocks = -(-size[0] // 16) * -(-size[1] // 16)
    codec: str | None = options.codec
    if codec is None and options.encoder is None:
        wants_more = depth > 8 or blocks > _H264_BLOCKS
        codec = "hevc" if wants_more and "hevc" in codecs and codecs[0] == "h264" else codecs[0]
    encoder = _encoder(codec, options.encoder, codecs, reporter)
    pixel_format = options.pixel_format or best_format(encoder, info.pixel_format)
    try:
        chosen = av.VideoFormat(pixel_format)
    except ValueError:
        raise UsageError(f"--pix-fmt {pixel_format} is no pixel format of FFmpeg", hint="e.g. yuv420p10le") from None
    if pixel_format not in (form.name for form in encoder.video_formats or (chosen,)):
        taken = ", ".join(form.name for form in encoder.video_formats or () if _is_plain(form))
        raise UsageError(f"{encoder.name} does not take --pix-fmt {pixel_format}", hint=f"it takes {taken}")
    if chosen.components[0].bits < depth and options.pixel_format is None:
        reporter.emit(
            "warning",
            code="depth",
            message=f"{encoder.name} takes no more than {chosen.components[0].bits} bits; {info.path} has {depth}",
            hint="--codec hevc or ffv1 keep them",
        )
    height, width = fitting_size(size, pixel_format)
    encoding = Encoding(
        encoder=encoder.name,
        codec=encoder.canonical_name,
        options=tuple(sorted(_encoder_options(encoder, info, options).items())),
        pixel_format=pixel_format,
        width=width,
        height=height,
        time_base=time_base,
        frame_rate=(options.fps or info.frame_rate).limit_denominator(_RATE_DENOMINATOR),
        sample_aspect=info.sample_aspect,
        display_matrix=info.display_matrix,
        colour=_result_colour(info.colour, encoder.name, pixel_format),
    )
    _check_size(encoding)
    _try_out(encoding, options)
    return encoding


def configure(context: Any, encoding: Encoding) -> None:
    """Tells an encoder, not yet open, what the record says."""
    context.width, context.height, context.pix_fmt = encoding.width, encoding.height, encoding.pixel_format
    context.time_base, context.framerate = 1 / encoding.frame_rate, encoding.frame_rate
    tag(context, encoding.colour)
    if encoding.sample_aspect is not None:
        context.sample_aspect_ratio = encoding.sample_aspect
    context.thread_count = 0
    context.options = dict(encoding.options)


def tag(target: Any, colour: Colour) -> None:
    """Writes the colours' codes on a frame or a codec context."""
    target.colorspace, target.color_range = colour.matrix_code, colour.range_code
    target.color_primaries, target.color_trc = colour.primaries, colour.transfer


def fitting_size(size: tuple[int, int], pixel_format: str) -> tuple[int, int]:
    """(height, width) without the last row or column, where the chroma of the format wants even numbers."""
    form = av.VideoFormat(pixel_format)
    down, across = 2 // form.chroma_height(2), 2 // form.chroma_width(2)
    return max(down, size[0] // down * down), max(across, size[1] // across * across)


def best_format(encoder: av.Codec, source: str) -> str:
    """The encoder's pixel format that loses least of `source`, and adds least."""
    wanted = av.VideoFormat(source)

    def cost(name: str) -> tuple[int, ...]:
        form = av.VideoFormat(name)
        depth = form.components[0].bits - wanted.components[0].bits
        # 2 for a plane of half the size, 4 for a full one
        chroma = _chroma(form) - _chroma(wanted)
        return max(0, -depth), max(0, -chroma), max(0, depth), max(0, chroma), not form.is_planar, form.is_rgb

    formats = [form.name for form in encoder.video_formats or () if _is_plain(form)]
    return min(formats, key=cost) if formats else "yuv420p"


def _chroma(form: av.VideoFormat) -> int:
    return 4 if form.is_rgb else (2 // form.chroma_width(2) == 1) * 2 + (2 // form.chroma_height(2) == 1) * 2


def _is_plain(form: av.VideoFormat) -> bool:
    """Colour, no alpha, in memory, little-endian, and not one of the old names for full range."""
    names = ("yuvj", "yuva", "gbrap", "bayer", "gray", "rgba", "bgra", "argb", "abgr")
    return (
        len(form.components) == 3
        and not form.name.startswith(names)
        and not form.is_big_endian
        and not form.has_palette
        and not form.is_bit_stream
        and form.components[0].bits >= 8
    )


def _encoder(codec: str | None, name: str | None, codecs: Sequence[str], reporter: Reporter) -> av.Codec:
    """The encoder of that name, or of the codec; a hardware one without its device gives way to software."""
    if name is None:
        assert codec is not None
        _check_codec(codec, codecs)
        return av.Codec(_SOFTWARE.get(codec, codec), "w")
    family, _, maker = name.rpartition("_")
    is_hardware = maker in _HARDWARE
    try:
        encoder: av.Codec | None = av.Codec(name, "w")
    except (av.codec.codec.UnknownCodecError, ValueError):
        encoder = None
    if encoder is None and not (is_hardware and family in _SOFTWARE):
        raise UsageError(f"--encoder {name} is not in this build of FFmpeg", hint="leave it out, or --codec hevc")
    if encoder is not None and encoder.type != "video":
        raise UsageError(f"--encoder {name} does not encode video", hint="e.g. libx265 or hevc_nvenc")
    canonical = encoder.canonical_name if encoder is not None else family
    if codec is not None and codec != canonical:
        raise UsageError(f"--encoder {name} makes {canonical}, not {codec}", hint="leave out --codec")
    _check_codec(canonical, codecs)
    if encoder is not None and not (is_hardware and not _opens(encoder)):
        return encoder
    if canonical not in _SOFTWARE:
        raise UsageError(f"--encoder {name} does not work here: its device or driver is missing")
    reporter.emit(
        "warning",
        code="encoder",
        message=f"{name} does not work here, its device or driver is missing: {_SOFTWARE[canonical]} encodes instead",
        hint=None,
    )
    return av.Codec(_SOFTWARE[canonical], "w")


def _check_codec(codec: str, codecs: Sequence[str]) -> None:
    if codec not in codecs:
        raise UsageError(
            f"the container cannot hold {codec} video, only {', '.join(codecs)}", hint="choose -o FILM.mkv, or --codec"
        )


def _opens(encoder: av.Codec) -> bool:
    """Whether a small picture can be encoded: hardware encoders are only found out when they begin."""
    try:
        context: Any = av.CodecContext.create(encoder.name, "w")
        context.width, context.height, context.time_base = 640, 480, Fraction(1, 25)
        context.pix_fmt = best_format(encoder, "yuv420p")
        context.open()
    except _REFUSALS:
        return False
    return True


def _encoder_options(encoder: av.Codec, info: VideoInfo, options: VideoOptions) -> dict[str, str]:
    name, given = encoder.name, dict(options.encoder_options)
    chosen = dict(_OWN_OPTIONS.get(name, {}))
    quality = options.crf if options.crf is not None else _CRF.get(name)
    if name in _LOSSLESS_OR_FIXED and (options.crf is not None or options.preset is not None):
        raise UsageError(f"--crf and --preset mean nothing to {encoder.canonical_name}", hint="leave them out")
    if options.crf is not None and options.crf > _WORST_CRF.get(name, 63):
        raise UsageError(f"--crf of {name} goes from 0 to {_WORST_CRF[name]}, not {options.crf:g}")
    if quality is not None and name not in _LOSSLESS_OR_FIXED:
        chosen[_QUALITY_OPTION.get(name.rpartition("_")[2], "crf")] = f"{quality:g}"
    if preset := options.preset or _PRESET.get(name):
        chosen["preset"] = preset
    if name == "libvpx-vp9":
        chosen["b"] = "0"
    library = {"libx265": "x265-params", "libx264": "x264-params", "libsvtav1": "svtav1-params"}.get(name)
    if library is not None:
        quiet = ["log-level=error"] if name == "libx265" else []
        place = _CHROMA_LOCATIONS.get(info.colour.chroma_location, 0) if name != "libsvtav1" else 0
        placed = [f"chromaloc={place}"] if place else []
        parts = [*quiet, *placed, *_mastering(name, info.mastering), *filter(None, [given.pop(library, "")])]
        if parts:
            chosen[library] = ":".join(parts)
    return chosen | given


def _mastering(encoder: str, mastering: Mastering) -> list[str]:
    """HDR10 metadata in the encoder's own words: units of 0.00002 and of 0.0001 nits, or plain numbers."""
    parts = []
    if mastering.display is not None:
        red, green, blue, white = (mastering.display[i : i + 2] for i in (0, 2, 4, 6))
        low, high = mastering.display[8:]
        if encoder == "libsvtav1":
            points = "".join(
                f"{name}({float(x):.6g},{float(y):.6g})"
                for name, (x, y) in (("G", green), ("B", blue), ("R", red), ("WP", white))
            )
            parts.append(f"mastering-display={points}L({float(high):.10g},{float(low):.10g})")
        else:
            points = "".join(
                f"{name}({round(x * 50000)},{round(y * 50000)})"
                for name, (x, y) in (("G", green), ("B", blue), ("R", red), ("WP", white))
            )
            key = "mastering-display" if encoder == "libx264" else "hdr10=1:master-display"
            parts.append(f"{key}={points}L({round(high * 10000)},{round(low * 10000)})")
    if mastering.light is not None:
        most, mean = mastering.light
        key = {"libx264": "cll", "libx265": "max-cll", "libsvtav1": "content-light"}[encoder]
        parts.append(f"{key}={most},{mean}")
    return parts


def _result_colour(colour: Colour, encoder: str, pixel_format: str) -> Colour:
    """The source's, but for RGB formats, and with chroma where decoders will take it to be: only two can say it."""
    if av.VideoFormat(pixel_format).is_rgb:
        return dataclasses.replace(colour, matrix="identity", matrix_code=0, full_range=True)
    if colour.matrix == "identity":  # RGB that becomes YUV
        return dataclasses.replace(colour, matrix="bt709", matrix_code=1, full_range=False, chroma_location="left")
    tells = encoder in ("libx264", "libx265") and colour.chroma_location in _CHROMA_LOCATIONS
    return colour if tells else dataclasses.replace(colour, chroma_location="left")


def _check_size(encoding: Encoding) -> None:
    largest, smallest = _LARGEST.get(encoding.encoder), _SMALLEST.get(encoding.encoder, 1)
    if largest is not None and max(encoding.width, encoding.height) > largest:
        raise UnsupportedInput(
            f"{encoding.encoder} takes sides of at most {largest} pixels, not {encoding.width}x{encoding.height}",
            hint="choose a smaller size with -s or --fit, or --codec ffv1",
        )
    if min(encoding.width, encoding.height) < smallest:
        raise UnsupportedInput(
            f"{encoding.encoder} takes sides of at least {smallest} pixels, not {encoding.width}x{encoding.height}",
            hint="choose another with --codec",
        )


def _try_out(encoding: Encoding, options: VideoOptions) -> None:
    """Opens the encoder once. Raises: UsageError, UnsupportedInput."""
    try:
        with codec_messages(), explained():
            context = av.CodecContext.create(encoding.encoder, "w")
            configure(context, encoding)
            context.open()
    except _REFUSALS as error:
        what = f"{encoding.width}x{encoding.height}, {encoding.pixel_format}"
        if options.encoder_options or options.crf is not None or options.preset or options.pixel_format:
            raise UsageError(
                f"{encoding.encoder} refuses {what} with {dict(encoding.options)}: {_reason(error)}",
                hint="check --crf, --preset, --pix-fmt and --encoder-option",
            ) from error
        raise UnsupportedInput(
            f"{encoding.encoder} refuses {what}: {_reason(error)}", hint="choose another size or --codec"
        ) from error
    if context.options:
        raise UsageError(
            f"{encoding.encoder} does not know the option {', '.join(context.options)}",
            hint=f"`ffmpeg -h encoder={encoding.encoder}` lists those it knows",
        )


def _reason(error: Exception) -> str:
    log = getattr(error, "log", None)
    if log:
        return str(log[2]).strip()
    return str(error.strerror if isinstance(error, OSError) and error.strerror else error)
