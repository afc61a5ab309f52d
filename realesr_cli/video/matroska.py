"""The size at which a Matroska file wants its pictures shown, written into it afterwards.

Streams of H.264 and HEVC say themselves that their pixels are not square; for others the container has to, and PyAV
cannot tell FFmpeg's muxer so. Source: RFC 8794 (EBML); RFC 9559 (Matroska), elements DisplayWidth and DisplayHeight.
"""

import zlib
from collections.abc import Sequence
from pathlib import Path

_SEGMENT, _TRACKS, _TRACK, _VIDEO = 0x18538067, 0x1654AE6B, 0xAE, 0xE0
_CRC, _VOID, _TRACK_TYPE = 0xBF, 0xEC, 0x83
_DISPLAY_WIDTH, _DISPLAY_HEIGHT, _DISPLAY_UNIT = 0x54B0, 0x54BA, 0x54B2
# More than lies before the first pictures; attached fonts come after the tracks.
_HEAD_BYTES = 2**20
_LONGEST_VALUE = 8

_Element = tuple[int, bytes, int]
"""(number, contents, bytes that tell its size)."""


def set_display_size(path: Path, width: int, height: int) -> bool:
    """Makes players show the first picture track at this size, in pixels; False if the file has no room to say so.

    Nothing moves: FFmpeg leaves empty space within each track, and says with some bytes that the size is unknown.
    """
    with path.open("r+b") as file:
        head = file.read(_HEAD_BYTES)
        at = _start(head)
        tracks = None if at is None else _elements(head[at[0] : at[1]])
        if at is None or not tracks:
            return False
        for index, (number, body, size_bytes) in enumerate(tracks):
            if number == _TRACK and (_TRACK_TYPE, b"\1", 1) in _elements(body):
                changed = _with_display_size(body, width, height)
                if changed is None:
                    return False
                tracks[index] = (number, changed, size_bytes)
                break
        if tracks[0][0] == _CRC:
            tracks[0] = (_CRC, zlib.crc32(_written(tracks[1:])).to_bytes(4, "little"), tracks[0][2])
        file.seek(at[0])
        file.write(_written(tracks))
        return True


def _start(head: bytes) -> tuple[int, int] | None:
    """Where the contents of the tracks begin and end."""
    at = 0
    while at < len(head):
        number, size, start, _ = _header(head, at)
        if number == _TRACKS:
            return (start, start + size) if start + size <= len(head) else None
        at = start if number == _SEGMENT else start + size
    return None


def _with_display_size(track: bytes, width: int, height: int) -> bytes | None:
    """The contents of a track, as long as before."""
    elements = [element for element in _elements(track) if element[0] != _VOID]
    place = next((i for i, (number, _, _) in enumerate(elements) if number == _VIDEO), None)
    if place is None:
        return None
    _, body, size_bytes = elements[place]
    video = [e for e in _elements(body) if e[0] not in (_DISPLAY_WIDTH, _DISPLAY_HEIGHT, _DISPLAY_UNIT)]
    for length in range(4, 2 * _LONGEST_VALUE + 1):  # leading zeros fill what is left over
        first = length // 2
        if max(width.bit_length(), height.bit_length()) > 8 * first:
            continue
        sizes = [
            (_DISPLAY_WIDTH, width.to_bytes(first, "big"), 1),
            (_DISPLAY_HEIGHT, height.to_bytes(length - first, "big"), 1),
        ]
        elements[place] = (_VIDEO, _written([*video, *sizes]), size_bytes)
        changed = _written(elements)
        if len(changed) == len(track):
            return changed
    return None


def _elements(data: bytes) -> list[_Element]:
    found, at = [], 0
    while at < len(data):
        number, size, start, size_bytes = _header(data, at)
        found.append((number, data[start : start + size], size_bytes))
        at = start + size
    return found


def _header(data: bytes, at: int) -> tuple[int, int, int, int]:
    """(number, size of the contents, where they begin, bytes that tell the size) of the element at a place."""
    length = 9 - data[at].bit_length()
    number = int.from_bytes(data[at : at + length], "big")
    at += length
    length = 9 - data[at].bit_length()
    size = int.from_bytes(data[at : at + length], "big") & ((1 << 7 * length) - 1)
    return number, size, at + length, length


def _written(elements: Sequence[_Element]) -> bytes:
    return b"".join(
        number.to_bytes((number.bit_length() + 7) // 8, "big")
        + (len(body) | 1 << 7 * size_bytes).to_bytes(size_bytes, "big")
        + body
        for number, body, size_bytes in elements
    )
