"""What the first bytes of a picture file tell without decoding it: format, size, number of frames, depth."""

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass

from realesr_cli import boxes, tiff


@dataclass(frozen=True, kw_only=True, slots=True)
class Header:
    """What a file says about itself; the pixels may still be damaged."""

    format: str
    """By content, as `sniff` names it."""
    height: int
    """As stored, before any EXIF turn."""
    width: int
    frames: int = 1
    """Pages, or frames of an animation."""
    white: int | None = None
    """The greatest value a channel can have, where the decoder leaves values as they are in the file."""
    inks: bool = False
    """Four channels that are cyan, magenta, yellow and black."""
    lossless: bool = False
    """A WebP file that holds its pixels exactly."""


def sniff(data: bytes) -> str | None:
    """The format's usual suffix without the dot, by content: jpg, png, webp, ...; None if it is no known picture."""
    for start, name in (
        (b"\xff\xd8\xff", "jpg"),
        (b"\x89PNG\r\n\x1a\n", "png"),
        (b"GIF8", "gif"),
        (b"BM", "bmp"),
        (b"II*\0", "tif"),
        (b"MM\0*", "tif"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "jp2"),
        (b"\xff\x4f\xff\x51", "jp2"),
    ):
        if data.startswith(start):
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    if data[4:8] == b"ftyp" and (b"avif" in data[8:32] or b"avis" in data[8:32]):
        return "avif"
    if len(data) > 2 and data[:1] == b"P" and data[1:2] in b"1234567" and data[2:3].isspace():
        return "pnm"
    return None


def read_header(data: bytes) -> Header | None:
    """The header of a picture file; None where the format is unknown, or the header cut off or nonsense."""
    format_ = sniff(data)
    if format_ is None:
        return None
    try:
        header = _READERS[format_](data)
    except (struct.error, IndexError, ValueError):
        return None
    return header if header is not None and header.height > 0 and header.width > 0 else None


def _png(data: bytes) -> Header | None:
    """PNG specification, sections 5.3 and 11.2.1.

    A chunk that says it is longer than the file is refused here: the decoder would make room for it first.
    """
    width, height = struct.unpack_from(">II", data, 16)
    frames, at = 1, 8
    while at < len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        if kind == b"acTL":
            frames = max(1, struct.unpack_from(">I", data, at + 8)[0])
        at += 12 + size
        if kind == b"IEND":
            break
    return Header(format="png", height=height, width=width, frames=frames) if at <= len(data) else None


# ITU-T T.81, table B.1: markers without a length, and the starts of frames (not DHT, JPG, DAC)
_JPEG_WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD9)}
_JPEG_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}


def _jpg(data: bytes) -> Header | None:
    at = 2
    while at + 9 < len(data):
        if data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
        elif marker in _JPEG_WITHOUT_LENGTH:
            at += 2
        elif marker in _JPEG_FRAMES:
            height, width = struct.unpack_from(">HH", data, at + 5)
            return Header(format="jpg", height=height, width=width, inks=data[at + 9] == 4)
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None


def _webp(data: bytes) -> Header | None:
    """RFC 9649, section 2.7, and for the two kinds of pixels RFC 6386, section 9.1, and RFC 9649, section 3.4."""
    chunks = list(riff_chunks(data))
    kinds = [kind for kind, _, _ in chunks]
    pixels = [data[start + 16 : start + 20] if kind == b"ANMF" else kind for kind, start, _ in chunks]
    lossless = b"VP8L" in pixels and b"VP8 " not in pixels and b"ALPH" not in pixels
    frames = max(1, kinds.count(b"ANMF"))
    match kinds[0]:
        case b"VP8X":
            width, height = (1 + int.from_bytes(data[at : at + 3], "little") for at in (24, 27))
        case b"VP8 ":
            width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
        case b"VP8L":
            bits = struct.unpack_from("<I", data, 21)[0]
            width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
        case _:
            return None
    return Header(format="webp", height=height, width=width, frames=frames, lossless=lossless)


def riff_chunks(data: bytes) -> list[tuple[bytes, int, int]]:
    """(name, start, end) of the contents of each chunk of a RIFF file."""
    found, at = [], 12
    while at + 8 <= len(data):
        size = struct.unpack_from("<I", data, at + 4)[0]
        found.append((data[at : at + 4], at + 8, at + 8 + size))
        at += 8 + size + size % 2
    return found


def _gif(data: bytes) -> Header | None:
    """GIF89a specification, sections 18 to 26."""
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    at, frames = 13 + _gif_table(flags), 0
    while at < len(data) and data[at] in (0x21, 0x2C):
        if data[at] == 0x21:
            at += 2
        else:
            frames += 1
            at += 11 + _gif_table(data[at + 9])
        while at < len(data) and data[at]:
            at += 1 + data[at]
        at += 1
    return Header(format="gif", height=height, width=width, frames=max(1, frames))


def _gif_table(flags: int) -> int:
    """Bytes of the colour table that the flags of a screen or of a frame announce."""
    return 3 << (1 + (flags & 7)) if flags & 0x80 else 0


def _bmp(data: bytes) -> Header | None:
    """A negative height means that rows are stored from the top."""
    if struct.unpack_from("<I", data, 14)[0] == 12:
        width, height = struct.unpack_from("<HH", data, 18)
    else:
        width, height = struct.unpack_from("<ii", data, 18)
    return Header(format="bmp", height=abs(height), width=width)


def _tif(data: bytes) -> Header | None:
    directory = tiff.read(data)
    width, height = (tiff.number(directory, tag) for tag in (tiff.WIDTH, tiff.HEIGHT))
    if width is None or height is None:
        return None
    # the decoder makes room for a whole tile, however little of it the picture needs
    width, height = max(width, tiff.number(directory, 322) or 0), max(height, tiff.number(directory, 323) or 0)
    inks = tiff.number(directory, tiff.PHOTOMETRIC) == 5
    return Header(format="tif", height=height, width=width, frames=tiff.pages(data), inks=inks)


def _pnm(data: bytes) -> Header | None:
    """The pages pbm, pgm, ppm and pam of the Netpbm documentation."""
    start = data[:1000]
    if start[1:2] == b"7":
        fields = dict(re.findall(rb"^(WIDTH|HEIGHT|MAXVAL)\s+(\d+)", start, re.MULTILINE))
        if not fields.keys() >= {b"WIDTH", b"HEIGHT", b"MAXVAL"}:
            return None
        numbers = [int(fields[key]) for key in (b"WIDTH", b"HEIGHT", b"MAXVAL")]
    else:
        numbers = [int(word) for word in re.sub(rb"#[^\n]*", b"", start[2:]).split()[:3] if word.isdigit()]
    white = None if start[1:2] in b"14" else numbers[2]
    return Header(format="pnm", height=numbers[1], width=numbers[0], white=white)


def _jp2(data: bytes) -> Header | None:
    """ITU-T T.800, annex A.5.1: the SIZ marker segment of the codestream."""
    stream = boxes.find(data, b"jp2c") if data[:1] == b"\0" else data
    if stream is None or stream[:4] != b"\xff\x4f\xff\x51":
        return None
    right, bottom, left, top = struct.unpack_from(">4I", stream, 8)
    bits = (stream[42] & 0x7F) + 1
    return Header(format="jp2", height=bottom - top, width=right - left, white=2**bits - 1)


def _avif(data: bytes) -> Header | None:
    """ISO/IEC 23008-12, section 6.5.3 (ispe); AV1-ISOBMFF, section 2.3 (av1C). No part is larger than the whole."""
    sizes = [struct.unpack_from(">II", body, 4) for body in boxes.properties(data, b"ispe")]
    width, height = max(sizes, key=lambda size: int(size[0]) * int(size[1]))
    config = next(iter(boxes.properties(data, b"av1C")), b"\0\0\0")
    high, twelve = config[2] & 0x40, config[2] & 0x20
    bits = 12 if high and twelve else 10 if high else 8
    return Header(format="avif", height=height, width=width, frames=boxes.samples(data), white=2**bits - 1)


_READERS: dict[str, Callable[[bytes], Header | None]] = {
    "png": _png,
    "jpg": _jpg,
    "webp": _webp,
    "gif": _gif,
    "bmp": _bmp,
    "tif": _tif,
    "pnm": _pnm,
    "jp2": _jp2,
    "avif": _avif,
}
