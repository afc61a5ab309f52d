"""What the first bytes of a picture file tell without decoding it: its format, and the EXIF orientation."""

from typing import Literal


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


def orientation(exif: bytes) -> int:
    """The EXIF orientation, 1 to 8; 1 where there is none. `exif` starts with its TIFF header."""
    place = _orientation_place(exif)
    if place is None:
        return 1
    value = int.from_bytes(exif[place : place + 2], _byte_order(exif))
    return value if 1 <= value <= 8 else 1


def with_orientation_reset(exif: bytes) -> bytes:
    """The same EXIF block, its orientation set to 1 (upright)."""
    place = _orientation_place(exif)
    if place is None:
        return exif
    return exif[:place] + (1).to_bytes(2, _byte_order(exif)) + exif[place + 2 :]


def _byte_order(exif: bytes) -> Literal["little", "big"]:
    return "little" if exif[:2] == b"II" else "big"


def _orientation_place(exif: bytes) -> int | None:
    """Where the value of tag 0x0112 of the first directory stands (TIFF 6.0, section 2)."""
    if exif[:2] not in (b"II", b"MM") or len(exif) < 10:
        return None
    order = _byte_order(exif)
    start = int.from_bytes(exif[4:8], order)
    for index in range(int.from_bytes(exif[start : start + 2], order)):
        entry = start + 2 + 12 * index
        if entry + 12 > len(exif):
            return None
        if int.from_bytes(exif[entry : entry + 2], order) == 0x0112:
            return entry + 8
    return None
