"""Picture files: bytes on disk to upright RGB arrays and back, with their metadata.

BGR, OpenCV's channel order, exists only in this file.
"""

import dataclasses
import io
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray

from realesr_cli import boxes, cmyk, tiff
from realesr_cli.alpha import is_opaque
from realesr_cli.atomic import replacing
from realesr_cli.containers import lost, read_metadata, write_metadata
from realesr_cli.errors import EncodeFailed, OutputExists, UnreadableInput, UnsupportedInput
from realesr_cli.gif import write_gif
from realesr_cli.image_formats import Format, check_can_hold, format_of
from realesr_cli.image_header import Header, read_header, sniff
from realesr_cli.metadata import Metadata, orientation, profile_fits
from realesr_cli.native_output import codec_messages
from realesr_cli.options import MAX_PIXELS
from realesr_cli.reporting import NULL, Reporter
from realesr_cli.row_writers import ROW_WRITERS

Pixels = NDArray[Any]

_AVIF_BITS = 12
DEFAULT_QUALITY = 95


@dataclass(frozen=True, kw_only=True, slots=True)
class Image:
    """A decoded picture: upright, RGB, with the metadata that goes into its enlargement."""

    pixels: Pixels
    """(H, W, C) uint8 or uint16 over the full range; C = 1 grey, 3 RGB, 4 RGBA (alpha not premultiplied)."""
    format: str = "png"
    """By content: jpg, png, webp, ..."""
    metadata: Metadata = field(default_factory=Metadata)
    lossless: bool = False
    """It comes from a WebP file that holds its pixels exactly, and goes into such a one."""

    @property
    def shape(self) -> tuple[int, ...]:
        return self.pixels.shape

    def replace(self, pixels: Pixels) -> "Image":
        """The same picture with other pixels; the metadata follows their size."""
        return dataclasses.replace(self, pixels=pixels, metadata=self.metadata.for_result(*pixels.shape))

    def enlarged(self, height: int, width: int, bands: Iterable[Pixels]) -> "ImageRows":
        """The same picture in another size, whose rows are still being made."""
        shape = (height, width, self.pixels.shape[2])
        return ImageRows(
            shape=shape,
            dtype=self.pixels.dtype,
            bands=bands,
            metadata=self.metadata.for_result(*shape),
            lossless=self.lossless,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageRows:
    """An `Image` whose rows come one band after the other, and once."""

    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    bands: Iterable[Pixels]
    """Of (h, W, C) each, from top to bottom."""
    metadata: Metadata
    lossless: bool = False


def read_image(
    source: Path | str | bytes, *, name: str | None = None, max_pixels: int = MAX_PIXELS, reporter: Reporter = NULL
) -> Image:
    """The picture in a file, or in the bytes of one. The suffix does not matter, and EXIF turns are applied.

    `name` is how messages call it; default: its path. Of several frames or pages the first is taken, with a `warning`
    event; a `warning` also says where colours may be off. The size is checked before anything is decoded.

    Raises: UnreadableInput, UnsupportedInput (more pixels than `max_pixels`, floating point).
    """
    path, data = load_bytes(source)
    name = name or str(path or "picture")
    header = checked_header(data, name, path, max_pixels)
    pixels, damage = _decode(_as_stored(data, header), header, name, path)
    if header.frames > 1 and pixels.shape[2] == 4 and is_opaque(pixels):
        pixels = pixels[..., :3]  # animations are decoded with an alpha channel, whether they have one or not
    if (
        header.format == "tif"
        and not header.inks
        and pixels.shape[2] == 4
        and tiff.number(tiff.read(data), tiff.EXTRA_SAMPLES) == 1
    ):
        pixels = _divided_by_alpha(pixels)
    found = read_metadata(header.format, data)
    exact = True
    if header.inks:
        pixels, exact = _from_inks(data, pixels, header, found.icc)
    if header.format == "avif":
        turn = boxes.avif_turn(data)
    else:
        # the TIFF decoder turns by itself, the others leave it to us
        turn = 1 if header.format == "tif" else orientation(found.exif)
    pixels = upright(swap_channels(pixels), turn)
    metadata = found.for_result(*pixels.shape)
    if damage:
        reporter.emit(
            "warning", code="damaged", message=f"{name} is damaged; parts of the picture may be wrong", hint=None
        )
    if found.icc and not metadata.icc and not header.inks:
        exact = False
    if not exact:
        reporter.emit(
            "warning",
            code="profile",
            message=f"{name}: no colour profile that fits its pixels; colours may be slightly off",
            hint=None,
        )
    if header.format == "tif" and pixels.shape[2] == 1 and tiff.number(tiff.read(data), tiff.SAMPLES) == 2:
        reporter.emit(
            "warning", code="alpha", message=f"{name}: transparency of grey TIFF files is left out", hint="save as PNG"
        )
    _report(header, found, name, reporter)
    return Image(pixels=pixels, format=header.format, metadata=metadata, lossless=header.lossless)


def write_image(
    path: Path | str,
    image: Image | ImageRows,
    *,
    overwrite: bool = False,
    quality: int | None = None,
    lossless: bool = False,
    reporter: Reporter = NULL,
    on_complete: Callable[[Path], None] = lambda temporary: None,
) -> None:
    """Writes a picture in the format that the suffix names, whole or not at all. Parameters as in `encode_image`.

    PNG, TIFF and PNM files are written row by row; for the other formats the whole picture is gathered first.
    `on_complete` is told the temporary file when it is complete, just before it gets its name.

    Raises: OutputExists, UnsupportedInput, EncodeFailed, DiskFull, OutputError.
    """
    path = Path(path)
    if not overwrite and (path.exists() or path.is_symlink()):
        raise OutputExists(f"{path} is already there", hint="overwrite=True (--overwrite) replaces it", path=path)
    with replacing(path, overwrite=overwrite) as temporary:
        with temporary.open("wb") as file:
            _encode_into(file, path, _rows(image), quality, lossless, reporter)
        on_complete(temporary)


def encode_image(
    path: Path,
    image: Image | ImageRows,
    *,
    quality: int | None = None,
    lossless: bool = False,
    reporter: Reporter = NULL,
) -> bytes:
    """The bytes of a file of the format that the suffix of `path` names; nothing is written.

    16 bits become 8 where the format has no more (AVIF: 12). `quality`, 1 to 100, and `lossless` are for the formats
    that lose detail. A `warning` event says which metadata the format cannot hold.

    Raises: UnsupportedInput (alpha into JPEG, an unknown suffix), EncodeFailed.
    """
    file = io.BytesIO()
    _encode_into(file, path, _rows(image), quality, lossless, reporter)
    return file.getvalue()


def _rows(image: Image | ImageRows) -> ImageRows:
    if isinstance(image, ImageRows):
        return image
    height, width, channels = image.pixels.shape
    return ImageRows(
        shape=(height, width, channels),
        dtype=image.pixels.dtype,
        bands=[image.pixels],
        metadata=image.metadata,
        lossless=image.lossless,
    )


def _encode_into(
    file: BinaryIO, path: Path, rows: ImageRows, quality: int | None, lossless: bool, reporter: Reporter
) -> None:
    kind = format_of(path)
    height, width, channels = rows.shape
    check_can_hold(path, channels)
    shape = (height, width, 3 if channels == 1 and not kind.grey else channels)
    dtype = rows.dtype if kind.deep else np.dtype(np.uint8)
    metadata = metadata_held(path, kind, rows.metadata, shape[2], reporter)
    held = (as_held(band, kind) for band in rows.bands)
    if kind.name == "gif":
        write_gif(file, height, width, [0], 1, [join_bands(held, shape, dtype)])
        return
    if kind.name in ROW_WRITERS:
        ROW_WRITERS[kind.name](file, shape, dtype, held, metadata)
        return
    whole = join_bands(map(swap_channels, held), shape, dtype)
    lossless = lossless or (rows.lossless and kind.name == "webp" and quality is None)
    parameters = _parameters(kind, quality, lossless, deep=dtype == np.uint16)
    file.write(write_metadata(kind.name, _encode(path, kind, whole, metadata, parameters), metadata))


def join_bands(bands: Iterable[Pixels], shape: tuple[int, int, int], dtype: np.dtype[Any]) -> Pixels:
    """(H, W, C) of its rows from top to bottom; of `bands` no more is taken than it needs."""
    whole, top = np.empty(shape, dtype), 0
    for band in bands:
        whole[top : top + band.shape[0]] = band
        top += band.shape[0]
        if top == shape[0]:
            break
    return whole


def metadata_held(path: Path, kind: Format, metadata: Metadata, channels: int, reporter: Reporter) -> Metadata:
    """What a file of this format can hold of `metadata`; a `warning` event names the rest."""
    held = metadata
    if metadata.icc and not profile_fits(metadata.icc, 1 if channels == 1 else 3):
        held = dataclasses.replace(held, icc=b"")
    if kind.name in ("webp", "avif") and metadata.dpi and not metadata.exif:
        held = dataclasses.replace(held, exif=tiff.build_block(tiff.with_resolution({}, metadata.dpi)))
    missing = lost(kind.name, held)
    if metadata.icc and not held.icc:
        missing.append("the colour profile")
    if missing:
        reporter.emit(
            "warning",
            code="metadata",
            message=f"{path} cannot hold everything: {', '.join(missing)} left out",
            hint="PNG, JPEG and TIFF hold most",
        )
    return held


def checked_header(data: bytes, name: str, path: Path | None, max_pixels: int) -> Header:
    """Raises: UnreadableInput, UnsupportedInput."""
    if not data:
        raise UnreadableInput(f"cannot read {name}: the file is empty", path=path)
    header = read_header(data)
    if header is None:
        raise UnreadableInput(f"cannot decode {name}: {_what_is_it(data)}", path=path)
    size = header.height * header.width
    if size > max_pixels:
        raise UnsupportedInput(
            f"{name} says that it has {header.width}x{header.height} = {size / 1e6:,.0f} million pixels; "
            f"the limit is {max_pixels / 1e6:,.0f} million",
            hint=f"if that is meant, --max-pixels {size} lets it through",
            path=path,
        )
    return header


def _decode(data: bytes, header: Header, name: str, path: Path | None) -> tuple[Pixels, bool]:
    """(H, W, C) in OpenCV's channel order, over the full range of its dtype; and whether the decoder met damage.

    Raises: UnreadableInput, UnsupportedInput.
    """
    with silent_codecs(), codec_messages() as messages:
        try:
            # unlike imdecode this gives nothing, rather than half a picture, where a JPEG file is cut off
            pixels, _, _ = cv2.imdecodeWithMetadata(np.frombuffer(data, np.uint8), flags=cv2.IMREAD_UNCHANGED)
        except (cv2.error, MemoryError) as error:
            raise UnreadableInput(
                f"cannot decode {name}: {_reason(error)}", hint="is it complete? open it in a viewer", path=path
            ) from error
    if pixels is None or pixels.size == 0:
        raise UnreadableInput(f"cannot decode {name}: {_what_is_it(data)}", path=path)
    if pixels.dtype not in (np.uint8, np.uint16):
        raise UnsupportedInput(
            f"{name} has {pixels.dtype} pixels", hint="convert it to 8 or 16 bits a channel first", path=path
        )
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    if pixels.shape[2] not in (1, 3, 4):
        raise UnsupportedInput(
            f"{name} has {pixels.shape[2]} channels", hint="convert it to grey, RGB or RGBA first", path=path
        )
    damage = any(line.startswith(("Corrupt", "Premature", "libpng error")) for line in messages)
    return full_range(pixels, header.white), damage


def _as_stored(data: bytes, header: Header) -> bytes:
    """The file, changed so that the TIFF decoder leaves numbers alone.

    It would multiply 8-bit colours by their alpha, and call CMYK something else.
    """
    if header.format != "tif":
        return data
    data = tiff.patched(data, tiff.EXTRA_SAMPLES, 1)
    return tiff.patched(data, tiff.PHOTOMETRIC, 2) if header.inks else data


def _from_inks(data: bytes, pixels: Pixels, header: Header, icc: bytes) -> tuple[Pixels, bool]:
    """sRGB of a CMYK picture, in OpenCV's channel order, and whether its own profile says so.

    `pixels` are the four inks of a TIFF file, or what the decoder made of those of a JPEG file.
    """
    if header.format == "jpg":
        transform = cmyk.adobe_transform(data)
        wrapped = cmyk.tiff_around(data, header.height, header.width)
        with silent_codecs(), codec_messages():
            stored = cv2.imdecode(np.frombuffer(wrapped, np.uint8), cv2.IMREAD_UNCHANGED)
        if stored is None or stored.shape != (*pixels.shape[:2], 4) or transform is None:
            return pixels, False
        inks = cmyk.inks_of_jpeg(swap_channels(stored), transform)
    elif pixels.shape[2] == 4:
        inks = swap_channels(pixels)
    else:
        return pixels, False
    rgb, exact = cmyk.to_srgb(inks, icc)
    return swap_channels(rgb), exact


def _divided_by_alpha(pixels: Pixels) -> Pixels:
    """(H, W, 4) whose colours are multiplied by alpha (TIFF 6.0, ExtraSamples 1), with plain ones."""
    top = int(np.iinfo(pixels.dtype).max)
    opacity = pixels[..., 3:].astype(np.uint32)
    colour = np.minimum((pixels[..., :3].astype(np.uint32) * top + opacity // 2) // np.maximum(opacity, 1), top)
    return np.concatenate((colour.astype(pixels.dtype), pixels[..., 3:]), axis=2)


def full_range(pixels: Pixels, white: int | None) -> Pixels:
    """Stretches 10 bits in a 16-bit array, and the like, so that `white` becomes the dtype's greatest value."""
    top = int(np.iinfo(pixels.dtype).max)
    if white is None or white >= top or white < 1:
        return pixels
    wide = np.minimum(pixels, white).astype(np.uint32)
    stretched: Pixels = ((wide * top + white // 2) // white).astype(pixels.dtype)
    return stretched


def _report(header: Header, found: Metadata, name: str, reporter: Reporter) -> None:
    if header.frames > 1:
        what = "pages" if header.format == "tif" else "frames"
        reporter.emit(
            "warning", code="frames", message=f"{name}: only the first of {header.frames} {what} is enlarged", hint=None
        )
    if found.dropped:
        reporter.emit("note", message=f"{name}: {', '.join(found.dropped)} is not carried over")


def as_held(pixels: Pixels, kind: Format) -> Pixels:
    """The pixels with the depth and the channels that the format has."""
    if pixels.dtype == np.uint16 and not kind.deep:
        pixels = ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if pixels.dtype == np.uint16 and kind.name == "avif":
        white = 2**_AVIF_BITS - 1
        pixels = ((pixels.astype(np.uint32) * white + 32767) // 65535).astype(np.uint16)
    return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 and not kind.grey else pixels


def _parameters(kind: Format, quality: int | None, lossless: bool, *, deep: bool) -> list[int]:
    """How OpenCV's encoder is asked for it."""
    chosen = 100 if lossless else quality or DEFAULT_QUALITY
    if kind.name == "webp" and lossless:
        return [cv2.IMWRITE_WEBP_LOSSLESS_MODE, cv2.IMWRITE_WEBP_LOSSLESS_PRESERVE_COLOR]
    # thousandths of the uncompressed size; 1000 is without loss, and the rule unless a quality is asked for
    jp2_size = 1000 if lossless or quality is None else 10 * quality
    # full resolution of colour: an enlargement is not for saving bytes
    sampling = (cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444)
    return {
        "jpg": [cv2.IMWRITE_JPEG_QUALITY, chosen, *sampling],
        "webp": [cv2.IMWRITE_WEBP_QUALITY, chosen],
        "avif": [cv2.IMWRITE_AVIF_QUALITY, chosen, *((cv2.IMWRITE_AVIF_DEPTH, _AVIF_BITS) if deep else ())],
        "jp2": [cv2.IMWRITE_JPEG2000_COMPRESSION_X1000, jp2_size],
    }.get(kind.name, [])


def _encode(path: Path, kind: Format, pixels: Pixels, metadata: Metadata, parameters: list[int]) -> bytes:
    """The bytes of the file; WebP and AVIF with their metadata. `pixels` are BGR(A) or grey. Raises: EncodeFailed."""
    blobs = []
    if kind.name in ("webp", "avif"):
        blobs = [
            (cv2.IMAGE_METADATA_EXIF, metadata.exif),
            (cv2.IMAGE_METADATA_XMP, metadata.xmp),
            (cv2.IMAGE_METADATA_ICCP, metadata.icc),
        ]
    present = [(number, np.frombuffer(blob, np.uint8)) for number, blob in blobs if blob]
    with silent_codecs():
        try:
            done, data = cv2.imencodeWithMetadata(
                kind.suffixes[0], pixels, [n for n, _ in present], [b for _, b in present], parameters
            )
        except (cv2.error, MemoryError) as error:
            raise EncodeFailed(f"cannot encode {path}: {_reason(error)}", path=path) from error
    if not done:
        small = kind.name == "jp2" and min(pixels.shape[:2]) < 32
        why = "JPEG 2000 files must have at least 32x32 pixels here" if small else "the encoder refused the picture"
        raise EncodeFailed(f"cannot encode {path}: {why}", hint="write a .png instead with -o", path=path)
    encoded: bytes = data.tobytes()
    return encoded


def load_bytes(source: Path | str | bytes) -> tuple[Path | None, bytes]:
    """The path of a file, if there is one, and its bytes. Raises: UnreadableInput."""
    if isinstance(source, bytes):
        return None, source
    path = Path(source)
    try:
        return path, path.read_bytes()
    except OSError as error:
        what = "it is a folder" if path.is_dir() else (error.strerror or str(error)).lower()
        hint = "use `realesr directory` for folders" if path.is_dir() else None
        raise UnreadableInput(f"cannot read {path}: {what}", hint=hint, path=path) from error


def _what_is_it(data: bytes) -> str:
    format_ = sniff(data)
    if format_ is not None:
        return f"the {format_} data is cut off or damaged"
    if data.lstrip()[:1] == b"<":
        return "it is a web page or XML, not a picture"
    return "it is not a picture of a known format"


def upright(pixels: Pixels, turn: int) -> Pixels:
    """Applies an EXIF orientation (CIPA DC-008, tag 0x0112): 5 to 8 exchange the axes, then mirror."""
    if turn in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if turn in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if turn in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def swap_channels(pixels: Pixels) -> Pixels:
    """RGB <-> BGR, alpha staying last; grey as it is."""
    code = {3: cv2.COLOR_BGR2RGB, 4: cv2.COLOR_BGRA2RGBA}.get(pixels.shape[2])
    pixels = np.ascontiguousarray(pixels)
    return pixels if code is None else cv2.cvtColor(pixels, code)


def _reason(error: BaseException) -> str:
    """OpenCV's own words, without its file names and line numbers."""
    if isinstance(error, cv2.error):
        text = str(getattr(error, "err", "") or error)
        return text.strip().splitlines()[-1]
    return str(error) or type(error).__name__


@contextmanager
def silent_codecs() -> Iterator[None]:
    """OpenCV prints its own view of every damaged file; ours is in the error."""
    before = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(before)
