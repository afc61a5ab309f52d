"""Directories of tags, as in TIFF files and EXIF blocks (TIFF 6.0, section 2): read, written, patched in place."""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

WIDTH, HEIGHT, ORIENTATION = 0x0100, 0x0101, 0x0112
X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = 0x011A, 0x011B, 0x0128
PHOTOMETRIC, SAMPLES, EXTRA_SAMPLES = 0x0106, 0x0115, 0x0152
XMP, ICC, EXIF, GPS, INTEROPERABILITY = 0x02BC, 0x8773, 0x8769, 0x8825, 0xA005
_POINTERS = (EXIF, GPS, INTEROPERABILITY)

SHORT, LONG, RATIONAL, UNDEFINED = 3, 4, 5, 7
# type -> (bytes of one number, numbers in one value)
_TYPES = {1: (1, 1), 2: (1, 1), 3: (2, 1), 4: (4, 1), 5: (4, 2), 6: (1, 1), 7: (1, 1), 8: (2, 1), 9: (4, 1),
          10: (4, 2), 11: (4, 1), 12: (8, 1), 13: (4, 1)}  # fmt: skip
_MOST_ENTRIES = 1000
_MOST_PAGES = 10_000

ByteOrder = Literal["little", "big"]


@dataclass(frozen=True, slots=True)
class Value:
    """What a tag holds: `data` in little-endian order, `kind` one of the types of TIFF 6.0."""

    kind: int
    data: bytes

    @property
    def count(self) -> int:
        size, numbers = _TYPES[self.kind]
        return len(self.data) // (size * numbers)


Directory = dict[int, "Value | Directory"]
"""Tag -> its value; the tags that point to further directories hold those."""


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a directory keeps a tag."""

    tag: int
    kind: int
    count: int
    place: int
    """Where its value, or the offset of that, stands: the last 4 of the entry's 12 bytes."""
    start: int
    """Where the value begins."""
    size: int


def byte_order(data: bytes) -> ByteOrder | None:
    """How a TIFF file or EXIF block writes its numbers; None if it is neither."""
    return {b"II*\0": "little", b"MM\0*": "big"}.get(data[:4])  # type: ignore[return-value]


def first_directory(data: bytes) -> int:
    """The offset of the first directory. `data` starts with its TIFF header."""
    return int.from_bytes(data[4:8], byte_order(data) or "little")


def entries(data: bytes, offset: int) -> Iterator[Entry]:
    """The entries of the directory at `offset` whose values lie within `data`."""
    order = byte_order(data)
    if order is None or offset < 8:
        return
    number = int.from_bytes(data[offset : offset + 2], order)
    for at in range(offset + 2, offset + 2 + 12 * min(number, _MOST_ENTRIES), 12):
        if at + 12 > len(data):
            return
        tag, kind = (int.from_bytes(data[at + i : at + i + 2], order) for i in (0, 2))
        count = int.from_bytes(data[at + 4 : at + 8], order)
        if kind not in _TYPES:
            continue
        size = count * _TYPES[kind][0] * _TYPES[kind][1]
        start = at + 8 if size <= 4 else int.from_bytes(data[at + 8 : at + 12], order)
        if start + size <= len(data):
            yield Entry(tag, kind, count, at + 8, start, size)


def next_directory(data: bytes, offset: int) -> tuple[int, int]:
    """(where the offset of the directory after the one at `offset` stands, that offset); (0, 0) if there is none."""
    order = byte_order(data)
    if order is None or offset < 8:
        return 0, 0
    place = offset + 2 + 12 * int.from_bytes(data[offset : offset + 2], order)
    return (place, int.from_bytes(data[place : place + 4], order)) if place + 4 <= len(data) else (0, 0)


def pages(data: bytes) -> int:
    """Pictures in a TIFF file, not counting reduced copies of another one."""
    seen: set[int] = set()
    offset, found = first_directory(data), 0
    while offset and offset not in seen and len(seen) < _MOST_PAGES:
        seen.add(offset)
        kind = next((e for e in entries(data, offset) if e.tag == 0x00FE), None)
        is_copy = kind is not None and _little(data, kind)[0] & 1
        found += not is_copy
        _, offset = next_directory(data, offset)
    return max(1, found)


def read(data: bytes, offset: int | None = None, depth: int = 0) -> Directory:
    """The first directory, or that at `offset`, with the EXIF, GPS and interoperability directories below it."""
    directory: Directory = {}
    for entry in entries(data, first_directory(data) if offset is None else offset):
        if entry.tag not in _POINTERS:
            directory[entry.tag] = Value(entry.kind, _little(data, entry))
        elif depth < 2 and entry.count == 1 and entry.kind in (LONG, 13):
            directory[entry.tag] = read(data, int.from_bytes(_little(data, entry), "little"), depth + 1)
    return directory


def number(directory: Mapping[int, "Value | Directory"], tag: int) -> int | None:
    """The first number of a tag that holds SHORTs or LONGs; None if it is not there."""
    value = directory.get(tag)
    if not isinstance(value, Value) or value.kind not in (1, SHORT, LONG) or not value.data:
        return None
    return int.from_bytes(value.data[: _TYPES[value.kind][0]], "little")


def patched(data: bytes, tag: int, value: int) -> bytes:
    """The file with another first number in a tag of its first directory that holds SHORTs."""
    order = byte_order(data)
    for entry in entries(data, first_directory(data)):
        if order and entry.tag == tag and entry.kind == SHORT and entry.size >= 2:
            return data[: entry.start] + value.to_bytes(2, order) + data[entry.start + 2 :]
    return data


def short(*numbers: int) -> Value:
    return Value(SHORT, struct.pack(f"<{len(numbers)}H", *numbers))


def long(*numbers: int) -> Value:
    return Value(LONG, struct.pack(f"<{len(numbers)}I", *numbers))


def rational(value: float) -> Value:
    """A positive number to four decimals."""
    return Value(RATIONAL, struct.pack("<II", min(round(value * 10_000), 2**32 - 1), 10_000))


def resolution(directory: Mapping[int, "Value | Directory"]) -> tuple[float, float] | None:
    """Pixels per inch in x and y; None where they are not given, or without a unit."""
    unit = number(directory, RESOLUTION_UNIT)
    found = []
    for tag in (X_RESOLUTION, Y_RESOLUTION):
        value = directory.get(tag)
        if not isinstance(value, Value) or value.kind != RATIONAL or len(value.data) < 8:
            return None
        above, below = struct.unpack("<II", value.data[:8])
        found.append(above / below * (2.54 if unit == 3 else 1) if below else 0)
    return (found[0], found[1]) if unit in (2, 3) and min(found) > 0 else None


def with_resolution(directory: Directory, dpi: tuple[float, float]) -> Directory:
    """The directory with the tags of `dpi`."""
    x, y = (rational(value) for value in dpi)
    return directory | {X_RESOLUTION: x, Y_RESOLUTION: y, RESOLUTION_UNIT: short(2)}


def build(directory: Directory, at: int) -> bytes:
    """The bytes of a directory, little-endian, that will stand at offset `at`; what it points to follows it."""
    start = at + 2 + 12 * len(directory) + 4
    table, behind = struct.pack("<H", len(directory)), b""
    for tag, value in sorted(directory.items()):
        if isinstance(value, dict):
            place = start + len(behind)
            behind += build(value, place)
            table += struct.pack("<HHII", tag, LONG, 1, place)
        elif len(value.data) <= 4:
            table += struct.pack("<HHI", tag, value.kind, value.count) + value.data.ljust(4, b"\0")
        else:
            table += struct.pack("<HHII", tag, value.kind, value.count, start + len(behind))
            behind += value.data + b"\0" * (len(value.data) % 2)  # offsets must be even
    return table + bytes(4) + behind


def build_block(directory: Directory) -> bytes:
    """A whole EXIF block: the header and a directory."""
    return b"II*\0" + struct.pack("<I", 8) + build(directory, 8)


def _little(data: bytes, entry: Entry) -> bytes:
    """The value of an entry in little-endian order."""
    raw = data[entry.start : entry.start + entry.size]
    size = _TYPES[entry.kind][0]
    if byte_order(data) == "little" or size == 1:
        return raw
    return b"".join(raw[at : at + size][::-1] for at in range(0, len(raw), size))
