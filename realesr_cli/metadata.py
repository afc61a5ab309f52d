"""What a picture file knows beside its pixels, and what of it is still true of the enlargement."""

import dataclasses
import re
from dataclasses import dataclass

from realesr_cli import tiff

_EXIF_WIDTH, _EXIF_HEIGHT = 0xA002, 0xA003
_THUMBNAIL_START, _THUMBNAIL_SIZE = 0x0201, 0x0202


@dataclass(frozen=True, kw_only=True, slots=True)
class Metadata:
    """Everything that goes from a picture into its enlargement."""

    exif: bytes = b""
    """From its TIFF header on."""
    xmp: bytes = b""
    """The packet alone, without the name in front of it that JPEG needs."""
    icc: bytes = b""
    """The colour profile."""
    dpi: tuple[float, float] | None = None
    """Pixels per inch in x and y, where the file says so itself or in its EXIF block."""
    png_colour: bytes = b""
    """The chunks of a PNG file that say what its pixel values mean, whole, for another PNG file."""
    png_texts: bytes = b""
    """The texts of a PNG file, in the same way."""
    dropped: tuple[str, ...] = ()
    """What the file had and realesr does not carry over."""

    def colours_only(self) -> "Metadata":
        """The colour profile and its like alone: without them the pixels would mean other colours (`--strip`)."""
        return Metadata(icc=self.icc, png_colour=self.png_colour)

    def for_result(self, height: int, width: int, channels: int) -> "Metadata":
        """What is true of an upright result of this size: no turn, its own size, no thumbnail, a fitting profile."""
        return dataclasses.replace(
            self,
            exif=_exif_for_result(self.exif, height, width),
            xmp=_xmp_for_result(self.xmp, height, width),
            icc=self.icc if profile_fits(self.icc, channels) else b"",
        )


def profile_fits(icc: bytes, channels: int) -> bool:
    """Whether the profile is for pixels of this kind (ICC.1, section 7.2.6): grey for grey, RGB for RGB(A)."""
    return icc[16:20] == (b"GRAY" if channels == 1 else b"RGB ")


def orientation(exif: bytes) -> int:
    """The EXIF orientation, 1 to 8; 1 where there is none. `exif` starts with its TIFF header."""
    value = tiff.number(tiff.read(exif), tiff.ORIENTATION)
    return value if value is not None and 1 <= value <= 8 else 1


def exif_dpi(exif: bytes) -> tuple[float, float] | None:
    """Pixels per inch in x and y by the EXIF block."""
    return tiff.resolution(tiff.read(exif))


def _exif_for_result(exif: bytes, height: int, width: int) -> bytes:
    """The block with orientation and sizes corrected, and the thumbnail gone.

    Numbers are patched where they stand: notes of camera makers refer to places in the block, so nothing may move.
    """
    order = tiff.byte_order(exif)
    if order is None:
        return b""
    block = bytearray(exif)
    first = tiff.first_directory(exif)
    corrections = {tiff.WIDTH: width, tiff.HEIGHT: height, _EXIF_WIDTH: width, _EXIF_HEIGHT: height}
    corrections[tiff.ORIENTATION] = 1
    below = [
        int.from_bytes(exif[entry.place : entry.place + 4], order)
        for entry in tiff.entries(exif, first)
        if entry.tag == tiff.EXIF
    ]
    for offset in (first, *below):
        for entry in tiff.entries(exif, offset):
            if entry.tag in corrections and entry.count == 1:
                kind = tiff.SHORT if entry.tag == tiff.ORIENTATION else tiff.LONG
                size = 2 if kind == tiff.SHORT else 4
                block[entry.place - 6 : entry.place - 4] = kind.to_bytes(2, order)
                block[entry.place : entry.place + 4] = corrections[entry.tag].to_bytes(size, order).ljust(4, b"\0")
    return _without_thumbnail(bytes(block), first)


def _without_thumbnail(exif: bytes, first: int) -> bytes:
    """Unlinks the second directory (EXIF 3.0, section 4.5.8), blanks its picture, and cuts what was at the end."""
    order = tiff.byte_order(exif)
    place, second = tiff.next_directory(exif, first)
    if order is None or not second:
        return exif
    block = bytearray(exif)
    tags = tiff.read(exif, second)
    start, size = (tiff.number(tags, tag) or 0 for tag in (_THUMBNAIL_START, _THUMBNAIL_SIZE))
    block[place : place + 4] = bytes(4)
    if start > second and start + size >= len(block):
        del block[start:]
    elif start > second:
        block[start : start + size] = bytes(size)
    return bytes(block)


def _xmp_for_result(xmp: bytes, height: int, width: int) -> bytes:
    """The packet with the properties that repeat EXIF corrected, as attributes or as elements (XMP part 2)."""
    for names, value in (
        (rb"tiff:Orientation", 1),
        (rb"exif:PixelXDimension|tiff:ImageWidth", width),
        (rb"exif:PixelYDimension|tiff:ImageLength", height),
    ):
        digits = b"%d" % value
        xmp = re.sub(rb"\b(" + names + rb")(\s*=\s*)([\"'])\s*\d+\s*\3", rb"\g<1>\g<2>\g<3>" + digits + rb"\g<3>", xmp)
        xmp = re.sub(rb"<(" + names + rb")>\s*\d+\s*</\1>", rb"<\g<1>>" + digits + rb"</\g<1>>", xmp)
    return xmp
