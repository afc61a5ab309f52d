"""Every default that a user can see, as frozen records shared by the command line, the Python API and `--json`."""

import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal, get_args

from realesr_cli.errors import UsageError

Precision = Literal["auto", "fp32", "fp16", "bf16"]
AlphaMode = Literal["model", "resize"]
VideoCodec = Literal["h264", "hevc", "av1", "prores", "ffv1"]
OnUnsupported = Literal["error", "drop", "transcode"]

MAX_PIXELS = 2**28
"""Largest picture that is decoded without being asked to, 16384x16384: larger than any camera makes, and 0.8 GB as RGB.

What claims to be larger is mostly a damaged file or one made to fill memory.
"""
_DECODER_LIMIT = 2**30  # of OpenCV


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceOptions:
    """Where the network runs, and in which number format."""

    device: str = "auto"
    """auto, cpu, cuda, cuda:N, mps or xpu."""
    precision: Precision = "auto"
    """auto = fp16 on CUDA, bf16 on CPUs where it is measured to be faster, else fp32; 16-bit pictures in fp32."""
    threads: int | None = None
    """CPU threads of the network; None = one for each core."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?|mps|xpu", self.device):
            raise UsageError(f"--device {self.device} is none of auto, cpu, cuda, cuda:N, mps and xpu")
        if self.precision not in get_args(Precision):
            raise UsageError(f"--precision {self.precision} is not one of {', '.join(get_args(Precision))}")
        if self.threads is not None and self.threads < 1:
            raise UsageError(f"--threads must be at least 1, not {self.threads}")


@dataclass(frozen=True, kw_only=True, slots=True)
class TileOptions:
    """How a picture is cut for the network, and what is done to each part of its result."""

    size: int | None = None
    """Side of the part that one tile contributes, in input pixels, its context not counted; None = from free memory."""
    pad_px: int | None = None
    """Context on each side, in input pixels; None = what the network needs for seams to be invisible."""
    self_ensemble: bool = False
    """Mean over the 8 turns and mirrorings of each tile (`--tta`): 8 times the work, slightly better."""
    keep_colours: bool = False
    """Give the result the low frequencies of the picture back (`--keep-colours`), which many networks change a little.
    Off by default: they are also where strong noise and compression are (docs/default_model.md has the figures)."""

    def __post_init__(self) -> None:
        if self.size is not None and self.size < 16:
            raise UsageError(f"--tile must be at least 16, not {self.size}")
        if self.pad_px is not None and self.pad_px < 0:
            raise UsageError(f"the tile context must not be negative, but is {self.pad_px}")


@dataclass(frozen=True, kw_only=True, slots=True)
class SizeOptions:
    """The size of the result: at most one of the fields is given; none = the model's own scale."""

    scale: float | None = None
    width: int | None = None
    height: int | None = None
    fit: tuple[int, int] | None = None
    """(width, height) of the box that the result fills as far as its proportions allow."""

    def __post_init__(self) -> None:
        given = [name for name in ("scale", "width", "height", "fit") if getattr(self, name) is not None]
        if len(given) > 1:
            raise UsageError(f"--{given[0]} and --{given[1]} exclude each other", hint="give one of them")
        if self.scale is not None and not 0.01 <= self.scale <= 64:
            raise UsageError(f"the scale must lie between 0.01 and 64, not {self.scale:g}")
        for name, value in (("width", self.width), ("height", self.height), *(("fit", v) for v in self.fit or ())):
            if value is not None and value < 1:
                raise UsageError(f"--{name} must be at least 1, not {value}")

    def target(self, height: int, width: int, native_scale: int) -> tuple[int, int]:
        """The result's (height, width) for a picture of the given size; halves round up, a side is at least 1."""
        if self.width is not None:
            return _rounded(Fraction(height * self.width, width)), self.width
        if self.height is not None:
            return self.height, _rounded(Fraction(width * self.height, height))
        if self.fit is not None:
            ratio = min(Fraction(self.fit[0], width), Fraction(self.fit[1], height))
        else:
            # str() keeps 1.15 at 1.15: the nearest binary number would turn 100 x 1.15 into 114.99
            ratio = Fraction(str(self.scale)) if self.scale is not None else Fraction(native_scale)
        return _rounded(height * ratio), _rounded(width * ratio)

    def suffix(self, native_scale: int) -> str:
        """What distinguishes the result's name: `_x4`, `_x2.5`, `_w1920`, `_h1080`, `_fit3840x2160`."""
        if self.width is not None:
            return f"_w{self.width}"
        if self.height is not None:
            return f"_h{self.height}"
        if self.fit is not None:
            return f"_fit{self.fit[0]}x{self.fit[1]}"
        return f"_x{self.scale if self.scale is not None else native_scale:g}"


@dataclass(frozen=True, kw_only=True, slots=True)
class InputOptions:
    """What is accepted as a picture."""

    max_pixels: int = MAX_PIXELS
    """Files that declare more are refused before they are decoded."""

    def __post_init__(self) -> None:
        if not 1 <= self.max_pixels <= _DECODER_LIMIT:
            raise UsageError(f"--max-pixels must lie between 1 and {_DECODER_LIMIT}, not {self.max_pixels}")


@dataclass(frozen=True, kw_only=True, slots=True)
class FaceOptions:
    """Which faces are restored, and how much."""

    model: str = "gfpgan-1.4"
    """Name from the catalogue, or a weights file."""
    strength: float = 1.0
    """0 leaves the upscaled picture as it is, 1 takes the restored face; between, a mean of both."""
    only_center_face: bool = False
    """Of several faces only the one nearest to the middle of the picture."""
    min_size_px: int = 16
    """Shorter side, in pixels of the input, below which a face is left alone: a network would invent all of it."""
    threshold: float = 0.7
    """Confidence of the detector, 0 to 1, below which something is not taken for a face."""
    save_folder: Path | None = None
    """Where each face is kept as a picture of it before and after."""
    accept_licence: bool = False
    """The user has read and keeps to a licence that forbids commercial use."""

    def __post_init__(self) -> None:
        if not 0 <= self.strength <= 1:
            raise UsageError(f"--face-strength must lie between 0 and 1, not {self.strength:g}")
        if self.min_size_px < 1:
            raise UsageError(f"--face-min-size must be at least 1, not {self.min_size_px}")
        if not 0 < self.threshold < 1:
            raise UsageError(f"--face-threshold must lie between 0 and 1, not {self.threshold:g}")


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputOptions:
    """How results are made and written."""

    overwrite: bool = False
    """Replace a result that is already there; an input is never replaced."""
    skip_existing: bool = False
    """Leave inputs alone whose result is already there."""
    format: str | None = None
    """Suffix of the results, without the dot; None = what their name says, or the input's."""
    quality: int | None = None
    """1 to 100, for JPEG, WebP, AVIF and JPEG 2000; None = 95, and JPEG 2000 without loss."""
    lossless: bool = False
    """WebP, AVIF and JPEG 2000 without loss; the formats that never lose anything need no asking."""
    strip: bool = False
    """Leave out EXIF, XMP, resolution and texts. The colour profile stays: without it colours would change."""
    background: tuple[int, int, int] | None = None
    """RGB, 0 to 255: what transparent pictures are laid on; None = they stay transparent."""
    alpha_mode: AlphaMode = "model"
    """How the alpha channel is enlarged: by the network, or by bicubic interpolation (faster)."""

    def __post_init__(self) -> None:
        if self.overwrite and self.skip_existing:
            raise UsageError("--overwrite and --skip-existing exclude each other", hint="give one of them")
        if self.quality is not None and not 1 <= self.quality <= 100:
            raise UsageError(f"--quality must lie between 1 and 100, not {self.quality}")
        if self.quality is not None and self.lossless:
            raise UsageError("--quality and --lossless exclude each other", hint="give one of them")
        if self.alpha_mode not in get_args(AlphaMode):
            raise UsageError(f"--alpha-mode {self.alpha_mode} is not one of {', '.join(get_args(AlphaMode))}")


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoOptions:
    """How films are read, encoded and written. Times are seconds from the film's beginning."""

    overwrite: bool = False
    """Replace a result that is already there, and work begun with other options; an input is never replaced."""
    skip_existing: bool = False
    """Leave inputs alone whose result is already there."""
    codec: VideoCodec | None = None
    """None = by container and bit depth: H.264 for 8 bits, HEVC for more, AV1 in WebM."""
    encoder: str | None = None
    """FFmpeg's name of an encoder, e.g. hevc_nvenc; None = the software encoder of `codec`."""
    crf: float | None = None
    """Constant quality on the encoder's own scale, lower is better; None = a little better than the eye asks for."""
    preset: str | None = None
    """The encoder's own word for its speed; None = its usual one."""
    encoder_options: tuple[tuple[str, str], ...] = ()
    pixel_format: str | None = None
    """FFmpeg's name, e.g. yuv420p10le; None = the depth and, where the encoder can, the chroma of the source."""
    hwaccel: str | None = None
    """Device that decodes: cuda, vaapi, qsv, videotoolbox, ...; None = the CPU."""
    fps: Fraction | None = None
    """Constant frame rate of the result, by repeating and leaving out frames; None = every frame at its own time."""
    start: Fraction | None = None
    end: Fraction | None = None
    preview_s: Fraction | None = None
    """So many seconds from the middle, instead of `start` and `end`."""
    deinterlace: str = "auto"
    """auto = where the film says that it is interlaced; off; or an FFmpeg filter such as `yadif`."""
    on_unsupported: OnUnsupported = "error"
    """What happens to streams that the container cannot hold."""
    resume: bool = True
    """Work in segments that survive a killed run; False = one pass."""
    segment_frames: int = 120
    """Frames of a segment: what a killed run loses at most, and the distance of forced key frames."""

    def __post_init__(self) -> None:
        if self.overwrite and self.skip_existing:
            raise UsageError("--overwrite and --skip-existing exclude each other", hint="give one of them")
        if self.codec is not None and self.codec not in get_args(VideoCodec):
            raise UsageError(f"--codec {self.codec} is not one of {', '.join(get_args(VideoCodec))}")
        if self.on_unsupported not in get_args(OnUnsupported):
            raise UsageError(
                f"--on-unsupported {self.on_unsupported} is not one of {', '.join(get_args(OnUnsupported))}"
            )
        if self.preview_s is not None and (self.start is not None or self.end is not None):
            raise UsageError("--preview and --start or --end exclude each other", hint="give one of them")
        if self.start is not None and self.end is not None and self.start >= self.end:
            raise UsageError(f"--start {float(self.start):g} is not before --end {float(self.end):g}")
        for name, value in (("fps", self.fps), ("end", self.end), ("preview", self.preview_s)):
            if value is not None and value <= 0:
                raise UsageError(f"--{name} must be above 0")
        if self.crf is not None and not 0 <= self.crf <= 63:
            raise UsageError(f"--crf must lie between 0 and 63, not {self.crf:g}")
        if self.segment_frames < 1:
            raise UsageError("a segment has at least one frame")


def parse_time(text: str) -> Fraction:
    """Seconds of `90`, `1:30` or `0:01:30.5`. Raises: UsageError."""
    if not re.fullmatch(r"(\d+:){0,2}\d+(\.\d*)?", text):
        raise UsageError(f"{text} is not a time", hint="write seconds or h:mm:ss, e.g. 90, 1:30 or 0:01:30.5")
    seconds = Fraction(0)
    for part in text.rstrip(".").split(":"):
        seconds = 60 * seconds + Fraction(part)
    return seconds


def parse_rate(text: str) -> Fraction:
    """Frames a second of `25`, `23.976` or `24000/1001`. Raises: UsageError."""
    try:
        rate = Fraction(text)
    except (ValueError, ZeroDivisionError):
        raise UsageError(f"--fps {text} is not a frame rate", hint="write 25, 29.97 or 30000/1001") from None
    ntsc = round(rate * 1001 / 1000)  # 23.976, 29.97 and 59.94 are short for exact ratios
    return Fraction(ntsc * 1000, 1001) if abs(rate - Fraction(ntsc * 1000, 1001)) < Fraction(1, 200) else rate


def parse_pair(text: str) -> tuple[str, str]:
    """(key, value) of `key=value`. Raises: UsageError."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UsageError(f"--encoder-option {text} is not KEY=VALUE", hint="e.g. --encoder-option tune=film")
    return key, value


def parse_colour(text: str) -> tuple[int, int, int]:
    """(R, G, B) of `white`, `black` or `#rrggbb`. Raises: UsageError."""
    text = {"white": "#ffffff", "black": "#000000"}.get(text.lower(), text)
    if not re.fullmatch(r"#[0-9a-fA-F]{6}", text):
        raise UsageError(f"{text} is not a colour", hint="write white, black or #rrggbb, e.g. --background #336699")
    red, green, blue = bytes.fromhex(text[1:])
    return red, green, blue


@dataclass(frozen=True, kw_only=True, slots=True)
class Crop:
    """A part of a picture, in its pixels; without `left` and `top` the middle."""

    width: int
    height: int
    left: int | None = None
    top: int | None = None

    def box(self, height: int, width: int) -> tuple[int, int, int, int]:
        """(top, left, bottom, right) within a picture of the given size. Raises: UsageError (it lies outside)."""
        top = max(0, (height - self.height) // 2) if self.top is None else self.top
        left = max(0, (width - self.width) // 2) if self.left is None else self.left
        if top >= height or left >= width or self.width < 1 or self.height < 1:
            raise UsageError(f"--crop {self}: no part of the {width}x{height} pixels", hint="write WxH or WxH+LEFT+TOP")
        return top, left, min(height, top + self.height), min(width, left + self.width)

    def __str__(self) -> str:
        place = "" if self.left is None or self.top is None else f"+{self.left}+{self.top}"
        return f"{self.width}x{self.height}{place}"


def parse_crop(text: str) -> Crop:
    """The crop of `800x600` (the middle) or of `800x600+100+50` (from the left, from the top). Raises: UsageError."""
    found = re.fullmatch(r"(\d+)x(\d+)(?:\+(\d+)\+(\d+))?", text, re.ASCII)
    if found is None:
        raise UsageError(f"--crop {text} is not a part of a picture", hint="write e.g. 800x600 or 800x600+100+50")
    width, height, left, top = (None if group is None else int(group) for group in found.groups())
    assert width is not None and height is not None
    return Crop(width=width, height=height, left=left, top=top)


def _rounded(value: Fraction) -> int:
    return max(1, int(value + Fraction(1, 2)))
