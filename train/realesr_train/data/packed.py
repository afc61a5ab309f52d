"""Many pictures in one memory-mapped file, `NAME.pack`: raw pixels, or the bytes of the picture files.

    "realesr pack 1\\n\\0"                            16 bytes
    each picture: (H, W, 3) uint8 RGB, or a file    back to back, in the order of the index
    index: JSON                                     storage, crop_px, stride_px, pictures
    footer: place and length of the index (little-endian uint64 each), its SHA-256, "realesr pack end"

Reading a crop of a raw picture touches only the pages that hold its rows. Crops are places in the index, not copies.
"""

import hashlib
import json
import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from realesr_cli.atomic import replacing
from realesr_cli.errors import UnreadableInput, UnsupportedInput
from realesr_train.data.folder import LazyPicture, Picture, decode

SUFFIX = ".pack"
Storage = Literal["raw", "encoded"]

_START = b"realesr pack 1\n\0"
_END = b"realesr pack end"
_FOOTER = struct.Struct("<QQ32s16s")
_VERSION = 1
_COPY = re.compile(r"@\d+x\d+$")


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One picture on its way into a pack."""

    name: str
    height: int
    width: int
    data: bytes
    """Its pixels, or the bytes of its file."""


def copy_name(name: str, height: int, width: int) -> str:
    """What a reduced copy is called; so readers know which pictures show the same."""
    return f"{name}@{width}x{height}"


def write_pack(
    target: Path,
    entries: Iterable[Entry],
    *,
    storage: Storage,
    crop_px: int | None = None,
    stride_px: int | None = None,
    overwrite: bool = False,
) -> None:
    """Writes a pack, whole or not at all; one picture at a time is in memory.

    With `crop_px` the pack's pictures are the crops of that side, every `stride_px` pixels.

    Raises: OutputExists, DiskFull, OutputError.
    """
    pictures: list[dict[str, Any]] = []
    with replacing(target, overwrite=overwrite) as temporary, temporary.open("wb") as file:
        offset = file.write(_START)
        for entry in entries:
            pictures.append(
                {
                    "name": entry.name,
                    "height": entry.height,
                    "width": entry.width,
                    "offset": offset,
                    "bytes": len(entry.data),
                    "sha256": hashlib.sha256(entry.data).hexdigest(),
                }
            )
            offset += file.write(entry.data)
        table = {
            "version": _VERSION,
            "storage": storage,
            "crop_px": crop_px,
            "stride_px": stride_px,
            "pictures": pictures,
        }
        index = json.dumps(table, ensure_ascii=False).encode()
        file.write(index)
        file.write(_FOOTER.pack(offset, len(index), hashlib.sha256(index).digest(), _END))


class Pack:
    """The pictures of a pack; their pixels are read when asked for.

    Raises: UnreadableInput (cut off, damaged, no pack), UnsupportedInput (of another version).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._bytes: NDArray[np.uint8] = np.memmap(path, np.uint8, mode="r")
        except (OSError, ValueError) as error:
            why = "the file is empty" if isinstance(error, ValueError) else str(error.strerror or error).lower()
            raise UnreadableInput(f"cannot read {path}: {why}", path=path) from error
        table = self._index()
        self._raw = table["storage"] == "raw"
        self._pictures: list[dict[str, Any]] = table["pictures"]
        self._windows = [
            (number, top, left)
            for number, one in enumerate(self._pictures)
            for top in window_places(one["height"], table["crop_px"], table["stride_px"])
            for left in window_places(one["width"], table["crop_px"], table["stride_px"])
        ]
        self._crop_px: int | None = table["crop_px"]

    def pictures(self) -> list[LazyPicture]:
        """The pictures, or the crops where it was made with `crop_px`; those of one picture have its name."""
        wholes = [
            LazyPicture(
                name=one["name"],
                size_px=(one["height"], one["width"]),
                read=partial(self._stored, number),
                origin=f"{self.path}: {_COPY.sub('', one['name'])}",
            )
            for number, one in enumerate(self._pictures)
        ]
        if self._crop_px is None:
            return wholes
        return [
            replace(wholes[number], size_px=self._size(number), read=partial(self._crop, index), whole=wholes[number])
            for index, (number, _, _) in enumerate(self._windows)
        ]

    def _index(self) -> dict[str, Any]:
        path, size = self.path, len(self._bytes)
        again = "make it again with `realesr data prepare`"
        start = self._bytes[: len(_START)].tobytes()
        if start != _START:
            if start.startswith(b"realesr pack "):
                raise UnsupportedInput(f"{path} is a pack of another version", hint=again, path=path)
            raise UnreadableInput(f"{path} is not a pack", hint=again, path=path)
        footer = self._bytes[max(0, size - _FOOTER.size) :].tobytes()
        if len(footer) < _FOOTER.size or not footer.endswith(_END):
            raise UnreadableInput(f"{path} is cut off", hint="copy it again", path=path)
        offset, length, digest, _ = _FOOTER.unpack(footer)
        index = self._bytes[offset : offset + length].tobytes()
        if offset + length + _FOOTER.size != size or hashlib.sha256(index).digest() != digest:
            raise UnreadableInput(f"the index of {path} is damaged", hint="copy it again", path=path)
        table: dict[str, Any] = json.loads(index)
        return table

    def _size(self, number: int) -> tuple[int, int]:
        one, side = self._pictures[number], self._crop_px
        height, width = one["height"], one["width"]
        return (height, width) if side is None else (min(height, side), min(width, side))

    def _crop(self, index: int) -> Picture:
        """As `_stored`."""
        number, top, left = self._windows[index]
        height, width = self._size(number)
        return self._stored(number)[top : top + height, left : left + width]

    def _stored(self, number: int) -> Picture:
        """(H, W, 3) uint8 RGB; of a raw pack a read-only view into the file. Raises: UnreadableInput."""
        one, data = self._pictures[number], self._content(number)
        if self._raw:
            return data.reshape(one["height"], one["width"], 3)
        return decode(data.tobytes(), f"{one['name']} in {self.path}")

    def verify(self) -> tuple[str, ...]:
        """The names of the pictures whose bytes are not those that were written; reads the whole file."""
        return tuple(
            one["name"]
            for number, one in enumerate(self._pictures)
            if hashlib.sha256(self._content(number).data).hexdigest() != one["sha256"]
        )

    def _content(self, number: int) -> NDArray[np.uint8]:
        one = self._pictures[number]
        return self._bytes[one["offset"] : one["offset"] + one["bytes"]]


def window_places(length: int, crop_px: int | None, stride_px: int | None) -> list[int]:
    """Where crops begin along a side of `length`: every `stride_px`, and one at the far edge where that leaves a rest.

    Source: training specification, section 13, step 2.
    """
    if crop_px is None or stride_px is None or length <= crop_px:
        return [0]
    places = list(range(0, length - crop_px + 1, stride_px))
    return places if places[-1] == length - crop_px else [*places, length - crop_px]
