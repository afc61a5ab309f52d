"""Boxes of AVIF and JPEG 2000 files (ISO/IEC 14496-12, section 4.2): what stands in them beside the pixels."""

from collections.abc import Iterator

Box = tuple[bytes, bytes]
"""(type, contents)."""

_ADOBE_XMP = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")


def walk(data: bytes) -> Iterator[Box]:
    """The boxes of one level, in order; a box that is cut off is given as far as it goes."""
    at = 0
    while at + 8 <= len(data):
        size, start = int.from_bytes(data[at : at + 4], "big"), at + 8
        if size == 1:  # a 64-bit size follows
            size, start = int.from_bytes(data[at + 8 : at + 16], "big"), at + 16
        end = at + size if size else len(data)
        if end < start:
            return
        yield data[at + 4 : at + 8], data[start:end]
        at = end


def find(data: bytes, *path: bytes) -> bytes | None:
    """The contents of the first box of the given path of types, or None."""
    inside: bytes | None = data
    for kind in path:
        # `meta` has four bytes of version and flags before its boxes
        skip = 4 if kind == b"meta" else 0
        inside = next((body[skip:] for name, body in walk(inside or b"") if name == kind), None)
    return inside


def properties(data: bytes, kind: bytes) -> list[bytes]:
    """Contents of all properties of a type (`ispe`, `av1C`, `colr`, ...) of the items of an AVIF file."""
    container = find(data, b"meta", b"iprp", b"ipco") or b""
    return [body for name, body in walk(container) if name == kind]


def samples(data: bytes) -> int:
    """Frames of an image sequence; 1 for a still picture."""
    most = 1
    for name, track in walk(find(data, b"moov") or b""):
        table = find(track, b"mdia", b"minf", b"stbl", b"stsz") if name == b"trak" else None
        if table is not None and len(table) >= 12:
            most = max(most, int.from_bytes(table[8:12], "big"))
    return most


def avif_turn(data: bytes) -> int:
    """The EXIF number of the turn that `irot` and `imir` of an AVIF file ask for (ISO/IEC 23008-12, section 6.5.10).

    AVIF ignores the orientation in its EXIF block. The first turn of the file is taken: that of its main picture.
    """
    turn = next((body[0] & 3 for body in properties(data, b"irot") if body), 0)
    mirror = next((body[0] & 1 for body in properties(data, b"imir") if body), None)
    # irot counts quarter turns anticlockwise and comes first; imir 0 exchanges top and bottom, 1 left and right
    return {None: (1, 8, 3, 6), 0: (4, 5, 2, 7), 1: (2, 7, 4, 5)}[mirror][turn]


def avif_items(data: bytes) -> dict[bytes, bytes]:
    """Contents of the `Exif` and `mime` (XMP) items of an AVIF file; `Exif` from its TIFF header on."""
    places = _places(data)
    found = {}
    for number, kind in _item_kinds(find(data, b"meta", b"iinf") or b""):
        if kind in (b"Exif", b"mime") and number in places:
            start, size = places[number]
            found[kind] = data[start : start + size]
    if len(found.get(b"Exif", b"")) > 4:
        block = found[b"Exif"]
        found[b"Exif"] = block[4 + int.from_bytes(block[:4], "big") :].removeprefix(b"Exif\0\0")
    return found


def _item_kinds(table: bytes) -> Iterator[tuple[int, bytes]]:
    """(item number, type) from `iinf` (ISO/IEC 14496-12, section 8.11.6)."""
    for name, body in walk(table[6 if table[:1] == b"\0" else 8 :]):
        if name == b"infe" and len(body) > 12:
            wide = 4 if body[0] >= 3 else 2
            yield int.from_bytes(body[4 : 4 + wide], "big"), body[6 + wide : 10 + wide]


def _places(data: bytes) -> dict[int, tuple[int, int]]:
    """Item number -> (offset, size) in the file, from `iloc` (ISO/IEC 14496-12, section 8.11.3); one extent each."""
    table = find(data, b"meta", b"iloc")
    if table is None or len(table) < 8:
        return {}
    version = table[0]
    wide_offset, wide_size, wide_base = table[4] >> 4, table[4] & 15, table[5] >> 4
    wide_index = table[5] & 15 if version else 0
    wide_number = 4 if version >= 2 else 2
    at, places = 6 + wide_number, {}

    def take(size: int) -> int:
        nonlocal at
        at += size
        return int.from_bytes(table[at - size : at], "big")

    for _ in range(int.from_bytes(table[6:at], "big")):
        if at >= len(table):
            break
        number = take(wide_number)
        method = take(2) & 15 if version else 0
        take(2)  # where the data reference points: this file
        base, extents = take(wide_base), take(2)
        for _ in range(min(extents, len(table))):
            take(wide_index)
            offset, size = take(wide_offset), take(wide_size)
            if method == 0 and extents == 1:
                places[number] = base + offset, size
    return places


def avif_profile(data: bytes) -> bytes:
    """The ICC profile of an AVIF file."""
    return next((body[4:] for body in properties(data, b"colr") if body[:4] in (b"prof", b"rICC")), b"")


def jp2_profile(data: bytes) -> bytes:
    """The ICC profile of a JPEG 2000 file (ITU-T T.800, annex I.5.3.3: methods 2 and, in JPX files, 3)."""
    colour = find(data, b"jp2h", b"colr") or b""
    return colour[3:] if colour[:1] in (b"\2", b"\3") else b""


def jp2_xmp(data: bytes) -> bytes:
    """The XMP packet of a JPEG 2000 file (XMP specification, part 3)."""
    return next((body[16:] for name, body in walk(data) if name == b"uuid" and body[:16] == _ADOBE_XMP), b"")
