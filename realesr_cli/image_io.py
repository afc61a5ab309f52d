"""Picture files: bytes on disk to upright RGB arrays and back, with their metadata.

BGR, OpenCV's channel order, exists only in this file.
"""

import dataclasses
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from realesr_cli.atomic import replacing
from realesr_cli.errors import EncodeFailed, OutputExists, UnreadableInput, UnsupportedInput
from realesr_cli.image_header import orientation, sniff, with_orientation_reset

_EXIF, _XMP, _ICC = cv2.IMAGE_METADATA_EXIF, cv2.IMAGE_METADATA_XMP, cv2.IMAGE_METADATA_ICCP
# JPEG stores XMP behind this name; the other formats without it (XMP specification, part 3)
_JPEG_XMP = b"http://ns.adobe.com/xap/1.0/\0"


_JPEG_PARAMETERS = (
    *(cv2.IMWRITE_JPEG_QUALITY, 95),
    *(cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444),
)


@dataclass(frozen=True, slots=True)
class _Format:
    """What a file format can hold, and how OpenCV is asked for it."""

    suffixes: tuple[str, ...]
    parameters: tuple[int, ...] = ()
    alpha: bool = True
    deep: bool = False
    """16 bits a channel."""
    metadata: bool = True


_FORMATS = (
    _Format((".png",), deep=True),
    _Format((".jpg", ".jpeg", ".jpe"), _JPEG_PARAMETERS, alpha=False),
    _Format((".webp",), (cv2.IMWRITE_WEBP_QUALITY, 95)),
    _Format((".tif", ".tiff"), deep=True, metadata=False),
    _Format((".bmp",), metadata=False),
)
WRITABLE_SUFFIXES = tuple(suffix for kind in _FORMATS for suffix in kind.suffixes)
"""Suffixes, in lower case, that `write_image` accepts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Image:
    """A decoded picture: upright, RGB, with the metadata that goes into its enlargement."""

    pixels: NDArray[Any]
    """(H, W, C) uint8 or uint16 over the full range; C = 1 grey, 3 RGB, 4 RGBA (alpha not premultiplied)."""
    format: str = "png"
    """By content: jpg, png, webp, ..."""
    exif: bytes = b""
    """From its TIFF header on; orientation 1."""
    xmp: bytes = b""
    icc: bytes = b""

    def replace(self, pixels: NDArray[Any]) -> "Image":
        """The same picture with other pixels."""
        return dataclasses.replace(self, pixels=pixels)


def read_image(source: Path | str | bytes) -> Image:
    """The picture in a file, or in the bytes of one. The suffix does not matter, and EXIF turns are applied.

    Raises: UnreadableInput, UnsupportedInput (floating point).
    """
    path, data = _load(source)
    name = path or "picture"
    format_ = sniff(data)
    buffer = np.frombuffer(data, np.uint8)
    with _silent_codecs():
        try:
            pixels, kinds, blobs = cv2.imdecodeWithMetadata(buffer, flags=cv2.IMREAD_UNCHANGED)
        except (cv2.error, MemoryError) as error:
            raise UnreadableInput(
                f"cannot decode {name}: {_reason(error)}", hint="is it complete? open it in a viewer", path=path
            ) from error
    if pixels is None or format_ is None:
        raise UnreadableInput(f"cannot decode {name}: {_what_is_it(data, format_)}", path=path)
    if pixels.dtype not in (np.uint8, np.uint16):
        raise UnsupportedInput(
            f"{name} has {pixels.dtype} pixels", hint="convert it to 8 or 16 bits a channel first", path=path
        )
    metadata = {kind: np.asarray(blob).tobytes() for kind, blob in zip(kinds, blobs, strict=True)}
    exif = metadata.get(_EXIF, b"")
    # the TIFF decoder turns by itself, all others leave it to us
    turn = 1 if format_ == "tif" else orientation(exif)
    return Image(
        pixels=_upright(_swap_channels(pixels.reshape(*pixels.shape[:2], -1)), turn),
        format=format_,
        exif=with_orientation_reset(exif),
        xmp=_xmp_packet(metadata.get(_XMP, b"")),
        icc=metadata.get(_ICC, b""),
    )


def write_image(path: Path | str, image: Image, *, overwrite: bool = False) -> None:
    """Writes a picture in the format that the suffix names, whole or not at all.

    16 bits become 8 where the format has no more. Raises: OutputExists, UnsupportedInput (alpha into JPEG, an unknown
    suffix), EncodeFailed, DiskFull, OutputError.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise OutputExists(f"{path} is already there", hint="--overwrite replaces it", path=path)
    data = _encode(path, image)
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def check_can_hold(path: Path, *, alpha: bool = False) -> None:
    """Raises UnsupportedInput where the format of `path`'s suffix is unknown or cannot hold such a picture."""
    _format_of(path, alpha)


def _encode(path: Path, image: Image) -> bytes:
    pixels = image.pixels
    kind = _format_of(path, alpha=pixels.shape[2] == 4)
    if pixels.dtype == np.uint16 and not kind.deep:
        pixels = ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    is_jpeg = ".jpg" in kind.suffixes
    xmp = _JPEG_XMP + image.xmp if is_jpeg and image.xmp else image.xmp
    present = [(k, blob) for k, blob in ((_EXIF, image.exif), (_XMP, xmp), (_ICC, image.icc)) if blob and kind.metadata]
    blobs = [np.frombuffer(blob, np.uint8) for _, blob in present]
    with _silent_codecs():
        try:
            done, data = cv2.imencodeWithMetadata(
                kind.suffixes[0], _swap_channels(pixels), [k for k, _ in present], blobs, list(kind.parameters)
            )
        except cv2.error as error:
            raise EncodeFailed(f"cannot encode {path}: {_reason(error)}", path=path) from error
    if not done:
        raise EncodeFailed(f"the encoder refused {path}", hint="write a .png instead with -o", path=path)
    return data.tobytes()


def _format_of(path: Path, alpha: bool) -> _Format:
    for kind in _FORMATS:
        if path.suffix.lower() in kind.suffixes:
            if alpha and not kind.alpha:
                raise UnsupportedInput(
                    f"{path} cannot hold transparency", hint="write a .png or .webp instead with -o", path=path
                )
            return kind
    raise UnsupportedInput(
        f"realesr does not write {path.suffix or 'files without a suffix'}: {path}",
        hint=f"choose one of {', '.join(WRITABLE_SUFFIXES)} with -o",
        path=path,
    )


def _load(source: Path | str | bytes) -> tuple[Path | None, bytes]:
    if isinstance(source, bytes):
        path, data = None, source
    else:
        path = Path(source)
        try:
            data = path.read_bytes()
        except OSError as error:
            what = "it is a folder" if path.is_dir() else (error.strerror or str(error)).lower()
            hint = "use `realesr directory` for folders" if path.is_dir() else None
            raise UnreadableInput(f"cannot read {path}: {what}", hint=hint, path=path) from error
    if not data:
        raise UnreadableInput(f"cannot read {path or 'picture'}: the file is empty", path=path)
    return path, data


def _what_is_it(data: bytes, format_: str | None) -> str:
    if format_ is not None:
        return f"the {format_} data is cut off or damaged"
    if data.lstrip()[:1] == b"<":
        return "it is a web page or XML, not a picture"
    return "it is not a picture of a known format"


def _xmp_packet(blob: bytes) -> bytes:
    """The XMP text alone: without JPEG's prefix, and without the bytes that OpenCV appends when it reads a PNG."""
    blob = blob.removeprefix(_JPEG_XMP)
    end = re.search(rb"<\?xpacket end=[^>]*>", blob)
    return blob[: end.end()] if end else blob[: blob.rfind(b">") + 1]


def _upright(pixels: NDArray[Any], turn: int) -> NDArray[Any]:
    """Applies an EXIF orientation (CIPA DC-008, tag 0x0112): 5 to 8 exchange the axes, then mirror."""
    if turn in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if turn in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if turn in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def _swap_channels(pixels: NDArray[Any]) -> NDArray[Any]:
    """RGB <-> BGR, alpha staying last; grey as it is."""
    match pixels.shape[2]:
        case 3:
            return np.ascontiguousarray(pixels[..., ::-1])
        case 4:
            return np.ascontiguousarray(pixels[..., [2, 1, 0, 3]])
    return np.ascontiguousarray(pixels)


def _reason(error: BaseException) -> str:
    """OpenCV's own words, without its file names and line numbers."""
    if isinstance(error, cv2.error):
        text = str(getattr(error, "err", "") or error)
        return text.strip().splitlines()[-1]
    return str(error) or type(error).__name__


@contextmanager
def _silent_codecs() -> Iterator[None]:
    """OpenCV prints its own view of every damaged file; ours is in the error."""
    before = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(before)
