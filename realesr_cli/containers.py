"""Metadata inside picture files, byte by byte: read from every format, written where OpenCV does not do it right.

OpenCV loses all metadata of TIFF, cannot write a JPEG profile above 64 KiB, and puts XMP where no PNG reader seeks it.
"""

import dataclasses
import struct
import zlib
from collections.abc import Callable, Iterator

from realesr_cli import boxes, tiff
from realesr_cli.image_header import riff_chunks
from realesr_cli.metadata import Metadata, exif_dpi

_EXIF_NAME = b"Exif\0\0"
_XMP_NAME = b"http://ns.adobe.com/xap/1.0/\0"
_LONG_XMP_NAME = b"http://ns.adobe.com/xmp/extension/\0"
_ICC_NAME = b"ICC_PROFILE\0"
_JPEG_SEGMENT = 65533
"""Most bytes in one segment."""
_PNG_XMP_KEY = b"XML:com.adobe.xmp"
# chunks that say what the pixel values mean; PNG specification, section 11.3.2
_PNG_COLOUR = (b"gAMA", b"cHRM", b"sRGB", b"cICP")
_PNG_TEXT = (b"tEXt", b"zTXt", b"iTXt")
_MOST_INFLATED = 2**26
_INCHES_PER_METRE = 39.3700787
# tags of a TIFF file that describe the picture; all others describe how its pixels are stored
_DESCRIPTIVE = {0x010D, 0x010E, 0x010F, 0x0110, 0x0131, 0x0132, 0x013B, 0x013C, 0x8298, tiff.EXIF, tiff.GPS,
                *range(0x4746, 0x474A), *range(0x9C9B, 0x9CA0)}  # fmt: skip


def read_metadata(format_: str, data: bytes) -> Metadata:
    """What a picture file holds beside its pixels; damaged parts are left out. `format_` is what `sniff` says."""
    try:
        found = _READERS.get(format_, _nothing)(data)
    except (struct.error, zlib.error, IndexError, ValueError):
        return Metadata()
    exif = found.exif if tiff.byte_order(found.exif) else b""
    return dataclasses.replace(found, exif=exif, dpi=found.dpi or exif_dpi(exif))


def write_metadata(format_: str, data: bytes, metadata: Metadata) -> bytes:
    """The encoded file `data` (as OpenCV wrote it, without metadata) with what its format can hold of `metadata`."""
    return _WRITERS[format_](data, metadata) if format_ in _WRITERS else data


def lost(format_: str, metadata: Metadata) -> list[str]:
    """What of `metadata` a file of this format cannot hold, in words."""
    holds_blobs = format_ in ("png", "jpg", "webp", "tif", "avif")
    # in JPEG a block must fit into one segment
    most_exif, most_xmp = (65527, 65504) if format_ == "jpg" else (2**32, 2**32)
    missing = []
    if metadata.exif and not (holds_blobs and len(metadata.exif) <= most_exif):
        missing.append("EXIF")
    if metadata.xmp and not (holds_blobs and len(metadata.xmp) <= most_xmp):
        missing.append("XMP")
    if metadata.icc and not holds_blobs:
        missing.append("the colour profile")
    has_place = format_ in ("png", "jpg", "tif", "bmp") or (format_ in ("webp", "avif") and exif_dpi(metadata.exif))
    if metadata.dpi and not has_place:
        missing.append("the resolution")
    if metadata.png_texts and format_ != "png":
        missing.append("PNG texts")
    return missing


def _nothing(data: bytes) -> Metadata:
    return Metadata()


# JPEG


def _segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(marker, contents) of the segments before the pixels (ITU-T T.81, annex B)."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] not in (0xDA, 0xD9):
        if data[at + 1] == 0xFF:
            at += 1
            continue
        size = int.from_bytes(data[at + 2 : at + 4], "big")
        yield data[at + 1], data[at + 4 : at + 2 + size]
        at += 2 + size


def _read_jpeg(data: bytes) -> Metadata:
    exif, xmp, dpi, dropped = b"", b"", None, set()
    profile: dict[int, bytes] = {}
    for marker, body in _segments(data):
        if marker == 0xE0 and body.startswith(b"JFIF\0") and len(body) >= 12:
            unit, x, y = struct.unpack_from(">BHH", body, 7)
            per_inch = {1: 1.0, 2: 2.54}.get(unit, 0.0)
            dpi = (x * per_inch, y * per_inch) if per_inch and x and y else None
        elif marker == 0xE1 and body.startswith(_EXIF_NAME):
            exif = exif or body[len(_EXIF_NAME) :]
        elif marker == 0xE1 and body.startswith(_XMP_NAME):
            xmp = body[len(_XMP_NAME) :]
        elif marker == 0xE1 and body.startswith(_LONG_XMP_NAME):
            dropped.add("extended XMP")
        elif marker == 0xE2 and body.startswith(_ICC_NAME) and len(body) > 14:
            profile[body[12]] = body[14:]
        elif marker == 0xED and body.startswith(b"Photoshop 3.0\0"):
            dropped.add("IPTC")
    icc = b"".join(part for _, part in sorted(profile.items()))
    return Metadata(exif=exif, xmp=xmp, icc=icc, dpi=dpi, dropped=tuple(sorted(dropped)))


def _segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def _write_jpeg(data: bytes, metadata: Metadata) -> bytes:
    """Behind the JFIF segment with which OpenCV begins every file."""
    head, rest = bytearray(data[:20]), data[20:]
    if metadata.dpi:
        x, y = (min(max(round(value), 1), 65535) for value in metadata.dpi)
        struct.pack_into(">BHH", head, 13, 1, x, y)
    added = b""
    missing = lost("jpg", metadata)
    if metadata.exif and "EXIF" not in missing:
        added += _segment(0xE1, _EXIF_NAME + metadata.exif)
    if metadata.xmp and "XMP" not in missing:
        added += _segment(0xE1, _XMP_NAME + metadata.xmp)
    step = _JPEG_SEGMENT - len(_ICC_NAME) - 2  # ICC.1, annex B.4
    parts = [metadata.icc[at : at + step] for at in range(0, len(metadata.icc), step)]
    for number, part in enumerate(parts, 1):
        added += _segment(0xE2, _ICC_NAME + bytes([number, len(parts)]) + part)
    return bytes(head) + added + rest


# PNG


def png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(name, contents) of chunks that follow each other; `data` begins with the first one's length."""
    at = 0
    while at + 12 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        yield data[at + 4 : at + 8], data[at + 8 : at + 8 + size]
        at += 12 + size


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _inflate(data: bytes) -> bytes:
    """Raises: zlib.error (damaged, or larger than any profile or text)."""
    engine = zlib.decompressobj()
    out = engine.decompress(data, _MOST_INFLATED)
    if engine.unconsumed_tail:
        raise zlib.error("too large")
    return out


def _read_png(data: bytes) -> Metadata:
    exif, xmp, icc, dpi, colour, texts = b"", b"", b"", None, b"", b""
    for kind, body in png_chunks(data[8:]):
        if kind == b"eXIf":
            exif = body.removeprefix(_EXIF_NAME)
        elif kind == b"iCCP":
            _, _, packed = body.partition(b"\0")
            icc = _inflate(packed[1:])
        elif kind == b"pHYs" and len(body) == 9 and body[8] == 1:
            x, y = (value / _INCHES_PER_METRE for value in struct.unpack(">II", body[:8]))
            dpi = (x, y) if x and y else None
        elif kind in _PNG_TEXT and body.startswith(_PNG_XMP_KEY + b"\0"):
            xmp = _png_xmp(kind, body[len(_PNG_XMP_KEY) + 1 :])
        elif kind in _PNG_COLOUR:
            colour += png_chunk(kind, body)
        elif kind in _PNG_TEXT:
            texts += png_chunk(kind, body)
    return Metadata(exif=exif, xmp=xmp, icc=icc, dpi=dpi, png_colour=colour, png_texts=texts)


def _png_xmp(kind: bytes, body: bytes) -> bytes:
    """iTXt has a flag, a method, a language and a translated key before the text (PNG specification, 11.3.3.4)."""
    if kind != b"iTXt":
        return body
    text = body[2:].split(b"\0", 2)[2]
    return _inflate(text) if body[0] else text


def png_metadata(metadata: Metadata) -> bytes:
    """The chunks to stand behind IHDR: profile and colour must come before the pixels."""
    added = metadata.png_colour + metadata.png_texts
    if metadata.icc:
        added += png_chunk(b"iCCP", b"icc\0\0" + zlib.compress(metadata.icc))
    if metadata.dpi:
        x, y = (min(round(value * _INCHES_PER_METRE), 2**31 - 1) for value in metadata.dpi)
        added += png_chunk(b"pHYs", struct.pack(">IIB", x, y, 1))
    if metadata.exif:
        added += png_chunk(b"eXIf", metadata.exif)
    if metadata.xmp:
        added += png_chunk(b"iTXt", _PNG_XMP_KEY + b"\0\0\0\0\0" + metadata.xmp)
    return added


# TIFF


def _read_tiff(data: bytes) -> Metadata:
    directory = tiff.read(data)

    def blob(tag: int) -> bytes:
        value = directory.get(tag)
        return value.data if isinstance(value, tiff.Value) else b""

    described = {tag: value for tag, value in directory.items() if tag in _DESCRIPTIVE}
    return Metadata(
        exif=tiff.build_block(described) if described else b"",
        xmp=blob(tiff.XMP),
        icc=blob(tiff.ICC),
        dpi=tiff.resolution(directory),
        dropped=("IPTC",) if 0x83BB in directory else (),
    )


def tiff_metadata(metadata: Metadata) -> tiff.Directory:
    """The tags of a picture's directory that describe it."""
    directory = {tag: value for tag, value in tiff.read(metadata.exif).items() if tag in _DESCRIPTIVE}
    for tag, blob in ((tiff.XMP, metadata.xmp), (tiff.ICC, metadata.icc)):
        if blob:
            directory[tag] = tiff.Value(tiff.UNDEFINED, blob)
    return tiff.with_resolution(directory, metadata.dpi) if metadata.dpi else directory


# the others


def _read_webp(data: bytes) -> Metadata:
    chunks = {kind: data[start:end] for kind, start, end in riff_chunks(data)}
    exif = chunks.get(b"EXIF", b"").removeprefix(_EXIF_NAME)
    return Metadata(exif=exif, xmp=chunks.get(b"XMP ", b""), icc=chunks.get(b"ICCP", b""))


def _read_avif(data: bytes) -> Metadata:
    items = boxes.avif_items(data)
    return Metadata(exif=items.get(b"Exif", b""), xmp=items.get(b"mime", b""), icc=boxes.avif_profile(data))


def _read_jp2(data: bytes) -> Metadata:
    return Metadata(xmp=boxes.jp2_xmp(data), icc=boxes.jp2_profile(data))


def _read_bmp(data: bytes) -> Metadata:
    if int.from_bytes(data[14:18], "little") < 40:
        return Metadata()
    x, y = (value / _INCHES_PER_METRE for value in struct.unpack_from("<ii", data, 38))
    return Metadata(dpi=(x, y) if x > 0 and y > 0 else None)


def _write_bmp(data: bytes, metadata: Metadata) -> bytes:
    if not metadata.dpi:
        return data
    x, y = (min(round(value * _INCHES_PER_METRE), 2**31 - 1) for value in metadata.dpi)
    return data[:38] + struct.pack("<ii", x, y) + data[46:]


_READERS: dict[str, Callable[[bytes], Metadata]] = {
    "jpg": _read_jpeg,
    "png": _read_png,
    "tif": _read_tiff,
    "webp": _read_webp,
    "avif": _read_avif,
    "jp2": _read_jp2,
    "bmp": _read_bmp,
}
_WRITERS: dict[str, Callable[[bytes, Metadata], bytes]] = {
    "jpg": _write_jpeg,
    "bmp": _write_bmp,
}
