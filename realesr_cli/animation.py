"""Animated GIF, WebP, APNG and AVIF files: frames with their timing, decoded a few at a time and written one by one.

OpenCV reads them and composes each frame as it is shown, whatever the file stores of it. It writes only animations that
are in memory as a whole, so all but AVIF are put together here from single frames. In AVIF it writes no loop count:
such files are played for ever. BGR exists in this file, for it calls the decoder.
"""

import dataclasses
import io
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray

from realesr_cli.alpha import flatten, is_opaque
from realesr_cli.atomic import replacing
from realesr_cli.boxes import avif_turn
from realesr_cli.containers import png_chunk, png_metadata, read_metadata
from realesr_cli.errors import EncodeFailed, OutputExists, UnreadableInput
from realesr_cli.gif import write_gif
from realesr_cli.image_formats import ANIMATED, format_of
from realesr_cli.image_header import riff_chunks
from realesr_cli.image_io import (
    DEFAULT_QUALITY,
    Image,
    as_held,
    checked_header,
    encode_image,
    full_range,
    join_bands,
    metadata_held,
    silent_codecs,
    swap_channels,
    upright,
)
from realesr_cli.metadata import Metadata, orientation
from realesr_cli.native_output import codec_messages
from realesr_cli.options import MAX_PIXELS
from realesr_cli.reporting import NULL, Reporter
from realesr_cli.row_writers import in_threads, write_png

Pixels = NDArray[Any]

# Decoded at once. The decoder goes through the file from its beginning each time, so a few frames would be too few.
_DECODED_BYTES = 2**26


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """How the frames follow each other."""

    durations_ms: tuple[int, ...]
    loops: int
    """How often all is played; 0 = for ever."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Animation:
    """An animated picture: upright frames of one size, each decoded when it is asked for."""

    shape: tuple[int, int, int]
    """(H, W, C) of each frame; C = 3 RGB or 4 RGBA."""
    dtype: np.dtype[Any]
    timing: Timing
    format: str
    metadata: Metadata = field(default_factory=Metadata)
    lossless: bool = False
    source: "_Source"
    background: tuple[int, int, int] | None = None
    """What transparent frames are laid on."""

    def on(self, background: tuple[int, int, int]) -> "Animation":
        """The same without transparency."""
        return dataclasses.replace(self, background=background, shape=(*self.shape[:2], 3))

    def frames(self) -> Iterator[Pixels]:
        """(H, W, C) uint8 or uint16 each, as it is shown when its time has come. Raises: UnreadableInput."""
        for pixels in self.source.decoded():
            laid = pixels if self.background is None or pixels.shape[2] == 3 else flatten(pixels, self.background)
            yield laid[..., : self.shape[2]]

    def enlarged(self, height: int, width: int, bands: Iterator[Pixels]) -> "FrameRows":
        """The same animation in another size, whose rows are still being made, frame after frame."""
        shape = (height, width, self.shape[2])
        return FrameRows(
            shape=shape,
            timing=self.timing,
            frames=(join_bands(bands, shape, self.dtype) for _ in self.timing.durations_ms),
            metadata=self.metadata.for_result(*shape),
            lossless=self.lossless,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class FrameRows:
    """An `Animation` whose frames come one after the other, and once."""

    shape: tuple[int, int, int]
    timing: Timing
    frames: Iterable[Pixels]
    metadata: Metadata
    lossless: bool = False


@dataclass(frozen=True, slots=True)
class _Source:
    """The bytes of an animation, and how to read them."""

    data: bytes
    name: str
    frame_bytes: int
    turn: int
    white: int | None

    def decoded(self, durations_ms: list[int] | None = None) -> Iterator[Pixels]:
        """The frames; `durations_ms` is given their times."""
        step = max(1, _DECODED_BYTES // self.frame_bytes)
        start = 0
        while True:
            animation = self.part(start, step)
            if durations_ms is not None:
                durations_ms.extend(int(duration) for duration in animation.durations)
            count = len(animation.frames)
            for frame in animation.frames:
                pixels = frame.reshape(*frame.shape[:2], -1)
                yield upright(swap_channels(full_range(pixels, self.white)), self.turn)
            del animation
            start += count
            if count < step:
                return

    def part(self, start: int, count: int) -> Any:
        """Raises: UnreadableInput."""
        with silent_codecs(), codec_messages():
            try:
                done, animation = cv2.imdecodeanimation(np.frombuffer(self.data, np.uint8), start, count)
            except (cv2.error, MemoryError):
                done = False
        # beyond the last frame it fails as well
        if not done and start == 0:
            raise UnreadableInput(f"cannot decode {self.name}: the animation is cut off or damaged")
        return animation if done else cv2.Animation()


def read_animation(
    data: bytes, *, name: str, max_pixels: int = MAX_PIXELS, reporter: Reporter = NULL
) -> Animation | None:
    """The animation in the bytes of a file; None where they hold a single picture. Everything is decoded once.

    Raises: UnreadableInput (also where frames are missing), UnsupportedInput (more pixels than `max_pixels`).
    """
    header = checked_header(data, name, None, max_pixels)
    if header.frames < 2 or header.format not in ANIMATED:
        return None
    found = read_metadata(header.format, data)
    turn = avif_turn(data) if header.format == "avif" else orientation(found.exif)
    source = _Source(data, name, header.height * header.width * 4, turn, header.white)
    durations_ms: list[int] = []
    opaque, shape, dtype = True, (0, 0, 0), np.dtype(np.uint8)
    for pixels in source.decoded(durations_ms):
        dtype = pixels.dtype
        shape = (pixels.shape[0], pixels.shape[1], pixels.shape[2])
        opaque = opaque and (shape[2] == 3 or is_opaque(pixels))
    if len(durations_ms) < header.frames:
        raise UnreadableInput(
            f"cannot decode {name}: only {len(durations_ms)} of {header.frames} frames can be read",
            hint="the file is cut off or damaged",
        )
    if found.dropped:
        reporter.emit("note", message=f"{name}: {', '.join(found.dropped)} is not carried over")
    return Animation(
        shape=(shape[0], shape[1], 3 if opaque else shape[2]),
        dtype=dtype,
        timing=Timing(durations_ms=tuple(durations_ms), loops=int(source.part(0, 1).loop_count)),
        format=header.format,
        metadata=found,
        lossless=header.lossless,
        source=source,
    )


def bytes_at_once(path: Path, shape: tuple[int, int, int], frames: int) -> int:
    """Memory that writing so many frames of (H, W, C) takes beyond a few of them: AVIF keeps all, and codes them."""
    return 2 * frames * shape[0] * shape[1] * shape[2] if format_of(path).name == "avif" else 0


def write_animation(
    path: Path,
    animation: FrameRows,
    *,
    overwrite: bool = False,
    quality: int | None = None,
    lossless: bool = False,
    reporter: Reporter = NULL,
    on_complete: Callable[[Path], None] = lambda temporary: None,
) -> None:
    """Writes an animation in the format that the suffix names, whole or not at all. Parameters as in `write_image`.

    A `warning` event says what the format cannot hold.
    Raises: OutputExists, UnsupportedInput, EncodeFailed, DiskFull, OutputError.
    """
    if not overwrite and (path.exists() or path.is_symlink()):
        raise OutputExists(f"{path} is already there", hint="overwrite=True (--overwrite) replaces it", path=path)
    with replacing(path, overwrite=overwrite) as temporary:
        with temporary.open("wb") as file:
            _encode_into(file, path, animation, quality, lossless, reporter)
        on_complete(temporary)


def encode_animation(
    path: Path,
    animation: FrameRows,
    *,
    quality: int | None = None,
    lossless: bool = False,
    reporter: Reporter = NULL,
) -> bytes:
    """The bytes of a file of the format that the suffix of `path` names. Raises: UnsupportedInput, EncodeFailed."""
    file = io.BytesIO()
    _encode_into(file, path, animation, quality, lossless, reporter)
    return file.getvalue()


def _encode_into(
    file: BinaryIO, path: Path, animation: FrameRows, quality: int | None, lossless: bool, reporter: Reporter
) -> None:
    kind, timing, shape = format_of(path), animation.timing, animation.shape
    metadata = metadata_held(path, kind, animation.metadata, shape[2], reporter)
    frames = (as_held(frame, kind) for frame in animation.frames)
    lossless = lossless or (animation.lossless and kind.name == "webp" and quality is None)
    match kind.name:
        case "gif":
            write_gif(file, shape[0], shape[1], timing.durations_ms, timing.loops, frames)
        case "png":
            _write_apng(file, timing, frames, metadata)
        case "webp":
            _write_webp(file, shape, timing, frames, metadata, {"quality": quality, "lossless": lossless})
        case "avif":
            if timing.loops:
                message = f"{path} is played for ever, not {timing.loops} times: AVIF files get no loop count here"
                reporter.emit("warning", code="loop", message=message, hint="WebP, APNG and GIF keep it")
            _write_avif(file, path, timing, frames, 100 if lossless else quality or DEFAULT_QUALITY)
        case _:
            raise AssertionError(f"{kind.name} holds no animations")


def _write_apng(file: BinaryIO, timing: Timing, frames: Iterable[Pixels], metadata: Metadata) -> None:
    """PNG (third edition), sections 11.3.6 and 4.9: each frame replaces the whole picture."""
    sequence = 0
    for number, (frame, duration_ms) in enumerate(zip(frames, timing.durations_ms, strict=True)):
        still = io.BytesIO()
        height, width, channels = frame.shape
        write_png(still, (height, width, channels), frame.dtype, [frame], Metadata())
        chunks = list(_png_chunks(still.getvalue()))
        if number == 0:
            file.write(b"\x89PNG\r\n\x1a\n" + png_chunk(*chunks[0]) + png_metadata(metadata))
            file.write(png_chunk(b"acTL", struct.pack(">II", len(timing.durations_ms), timing.loops)))
        # a time is a fraction of two numbers of 16 bits
        numerator, denominator = (duration_ms, 1000) if duration_ms < 2**16 else (min(duration_ms // 100, 65535), 10)
        control = struct.pack(">IIIIIHHBB", sequence, width, height, 0, 0, numerator, denominator, 0, 0)
        file.write(png_chunk(b"fcTL", control))
        sequence += 1
        for kind, body in chunks:
            if kind != b"IDAT":
                continue
            if number == 0:
                file.write(png_chunk(b"IDAT", body))
            else:
                file.write(png_chunk(b"fdAT", struct.pack(">I", sequence) + body))
                sequence += 1
    file.write(png_chunk(b"IEND", b""))


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 8
    while at < len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        yield kind, data[at + 8 : at + 8 + size]
        at += 12 + size


def _write_webp(
    file: BinaryIO,
    shape: tuple[int, int, int],
    timing: Timing,
    frames: Iterable[Pixels],
    metadata: Metadata,
    how: dict[str, Any],
) -> None:
    """RFC 9649, section 2.7: each frame replaces the whole picture."""
    height, width, channels = shape

    def packed(frame: Pixels) -> bytes:
        still = encode_image(Path("frame.webp"), Image(pixels=frame), **how)
        kept = [(kind, still[start:end]) for kind, start, end in riff_chunks(still)]
        return b"".join(_riff_chunk(kind, body) for kind, body in kept if kind in (b"ALPH", b"VP8 ", b"VP8L"))

    has = (metadata.icc, channels == 4, metadata.exif, metadata.xmp)
    flags = sum(bit for bit, present in zip((0x20, 0x10, 0x08, 0x04), has, strict=True) if present) | 0x02
    file.write(b"RIFF" + bytes(4) + b"WEBP")
    file.write(_riff_chunk(b"VP8X", bytes([flags, 0, 0, 0]) + _u24(width - 1) + _u24(height - 1)))
    if metadata.icc:
        file.write(_riff_chunk(b"ICCP", metadata.icc))
    file.write(_riff_chunk(b"ANIM", struct.pack("<IH", 0, min(timing.loops, 65535))))
    for body, duration_ms in zip(in_threads(packed, frames), timing.durations_ms, strict=True):
        # 2: not blended with the frame before
        head = _u24(0) + _u24(0) + _u24(width - 1) + _u24(height - 1) + _u24(min(duration_ms, 2**24 - 1)) + b"\x02"
        file.write(_riff_chunk(b"ANMF", head + body))
    if metadata.exif:
        file.write(_riff_chunk(b"EXIF", metadata.exif))
    if metadata.xmp:
        file.write(_riff_chunk(b"XMP ", metadata.xmp))
    size = file.tell() - 8
    if size >= 2**32:
        raise EncodeFailed("the animation is too large for WebP, which ends at 4 GiB", hint="write a .png instead")
    file.seek(4)
    file.write(struct.pack("<I", size))


def _riff_chunk(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)


def _u24(value: int) -> bytes:
    return value.to_bytes(3, "little")


def _write_avif(file: BinaryIO, path: Path, timing: Timing, frames: Iterable[Pixels], quality: int) -> None:
    """By OpenCV, which wants all frames; without metadata."""
    animation: Any = cv2.Animation()
    animation.frames = [swap_channels(frame) for frame in frames]
    animation.durations = list(timing.durations_ms)
    deep = animation.frames[0].dtype == np.uint16
    depth: Sequence[int] = (cv2.IMWRITE_AVIF_DEPTH, 12) if deep else ()
    with silent_codecs():
        try:
            done, data = cv2.imencodeanimation(".avif", animation, [cv2.IMWRITE_AVIF_QUALITY, quality, *depth])
        except (cv2.error, MemoryError) as error:
            raise EncodeFailed(f"cannot encode {path}: {error}", path=path) from error
    if not done:
        raise EncodeFailed(f"cannot encode {path}", hint="write a .webp instead with -o", path=path)
    file.write(data.tobytes())
