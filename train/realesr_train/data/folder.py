"""Training pictures in folders, lists and files: which there are, which can be used, and their pixels.

Traps: sizes in headers are those before an EXIF turn, and of tiled TIFF files those of whole tiles. `decode` is for
training, from many threads at once; it leaves it to `realesr data check` to tell of damage that a decoder overcomes.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from realesr_cli.errors import UnreadableInput
from realesr_cli.image_formats import FULL_COLOUR_SUFFIXES
from realesr_cli.image_header import read_header, sniff
from realesr_cli.image_io import read_image
from realesr_cli.reporting import NULL, Reporter

Picture = NDArray[np.uint8]
"""(H, W, 3) RGB."""

_HEAD_BYTES = 1 << 16
_SURVEY_THREADS = 16
_LISTED = 20
# what OpenCV alone decodes exactly as `read_image` does, which takes one picture at a time
_DECODED_DIRECTLY = ("jpg", "png", "webp", "bmp")
_DIRECTLY_PX = 1 << 26  # larger ones are checked by `read_image` first


@dataclass(frozen=True, kw_only=True, slots=True)
class Survey:
    """What the headers of many files say."""

    usable: tuple[Path, ...]
    sizes_px: tuple[tuple[int, int], ...]
    """(height, width) of each usable one, as its header says."""
    rejected: tuple[tuple[Path, str], ...]
    """(file, reason) of the others."""


def find_pictures(places: Sequence[Path]) -> tuple[Path, ...]:
    """The files that `places` name, in a stable order: all pictures of a folder at any depth, sorted, without hidden
    ones; the lines of a list (.txt); a file itself.

    Raises: UnreadableInput (a place that is missing or holds nothing).
    """
    return tuple(path for path, _ in named_pictures(places))


def named_pictures(places: Sequence[Path]) -> list[tuple[Path, str]]:
    """As `find_pictures`, each with its name: where it is in its folder, with `/`; or as its list names it."""
    found: list[tuple[Path, str]] = []
    for place in places:
        if place.is_dir():
            files = _in_folder(place)
            if not files:
                raise UnreadableInput(
                    f"{place} holds no pictures", hint=f"known are {', '.join(FULL_COLOUR_SUFFIXES)}", path=place
                )
            found += files
        elif place.suffix.lower() == ".txt":
            found += [(place.parent / line, line) for line in list_lines(place)]
        elif place.exists():
            found.append((place, place.name))
        else:
            raise UnreadableInput(f"{place} does not exist", hint="give folders, lists (.txt) or files", path=place)
    return found


def _in_folder(folder: Path) -> list[tuple[Path, str]]:
    relative = (file.relative_to(folder) for file in folder.rglob("*") if file.suffix.lower() in FULL_COLOUR_SUFFIXES)
    names = sorted(name.as_posix() for name in relative if not any(part.startswith(".") for part in name.parts))
    return [(folder / name, name) for name in names if (folder / name).is_file()]


def list_lines(path: Path) -> list[str]:
    """The lines of a list file, without empty ones and comments (#). Raises: UnreadableInput."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = "it is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else str(error.strerror).lower()
        raise UnreadableInput(f"cannot read the list {path}: {why}", path=path) from error
    # not splitlines(), which also splits at signs that names may hold
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    lines = [line for line in lines if line.strip() and not line.startswith("#")]
    if not lines:
        raise UnreadableInput(f"the list {path} names no pictures", hint="write one path on each line", path=path)
    return lines


def survey(paths: Sequence[Path], *, smallest_px: int, reporter: Reporter = NULL) -> Survey:
    """Which files are pictures with sides of at least `smallest_px`, by their headers alone; the others are reported
    as `warning` events, and so is what will be lost of the usable ones.

    Raises: UnreadableInput (none is usable).
    """
    with ThreadPoolExecutor(_SURVEY_THREADS, "realesr-survey") as threads:
        facts = list(threads.map(_look_at, paths))
    usable, sizes_px, rejected = [], [], []
    for path, fact in zip(paths, facts, strict=True):
        if isinstance(fact, str):
            rejected.append((path, f"cannot read {path}: {fact}"))
        elif min(fact.height, fact.width) < smallest_px:
            reason = f"{path} has {fact.width}x{fact.height} pixels; each side must have at least {smallest_px}"
            rejected.append((path, reason))
        else:
            usable.append(path)
            sizes_px.append((fact.height, fact.width))
    for _, reason in rejected[:_LISTED]:
        warn(reporter, "unusable", f"left out: {reason}")
    if len(rejected) > _LISTED:
        warn(reporter, "unusable", f"left out: {len(rejected) - _LISTED} more files", "`realesr data check` lists all")
    if not usable:
        first = rejected[0][1] if rejected else "no files were given"
        raise UnreadableInput(
            f"none of {len(paths)} files can be used; the first: {first}",
            hint=f"give pictures of at least {smallest_px} pixels a side, in "
            f"{', '.join(FULL_COLOUR_SUFFIXES[:4])} files",
            path=paths[0] if paths else None,
        )
    seen = [fact for fact in facts if isinstance(fact, _Facts)]
    report_losses(sum(fact.alpha for fact in seen), sum(fact.deep for fact in seen), reporter)
    return Survey(usable=tuple(usable), sizes_px=tuple(sizes_px), rejected=tuple(rejected))


def warn(reporter: Reporter, code: str, message: str, hint: str | None = None) -> None:
    """Emits a `warning` event."""
    reporter.emit("warning", code=code, message=message, hint=hint)


def report_losses(alpha: int, deep: int, reporter: Reporter) -> None:
    """Says, once, of how many pictures transparency is dropped or 16 bits are rounded to 8."""
    if alpha:
        warn(reporter, "alpha", f"{alpha} pictures have an alpha channel; it is left out")
    if deep:
        reporter.emit("note", message=f"{deep} pictures have 16 bits a channel; they are rounded to 8")


@dataclass(frozen=True, slots=True)
class _Facts:
    height: int
    width: int
    alpha: bool
    deep: bool


def _look_at(path: Path) -> _Facts | str:
    """What the header of a file says, or why it says nothing."""
    try:
        with path.open("rb") as file:
            data = file.read(_HEAD_BYTES)
            header = read_header(data)
            if header is None:
                data += file.read()  # some formats keep it at the end, and of PNG all chunks are counted
                header = read_header(data)
    except OSError as error:
        return str(error.strerror or error).lower()
    if not data:
        return "the file is empty"
    if header is None:
        format_ = sniff(data)
        return f"the {format_} data is cut off or damaged" if format_ else "it is not a picture of a known format"
    # PNG specification, section 11.2.1: bit depth and colour type; other formats are seldom transparent or deep
    depth, colour = (data[24], data[25]) if header.format == "png" else (8, 0)
    return _Facts(header.height, header.width, colour in (4, 6), depth == 16)


def decode(data: bytes, name: str) -> Picture:
    """(H, W, 3) uint8 RGB of a picture file's bytes, upright: grey in three channels, without alpha, 16 bits rounded.

    Raises: UnreadableInput, UnsupportedInput, with `name` in the message.
    """
    header = read_header(data)
    if (
        header is not None
        and header.format in _DECODED_DIRECTLY
        and not header.inks
        and header.height * header.width <= _DIRECTLY_PX
    ):
        with suppress(cv2.error):
            pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_ANYDEPTH)
            if pixels is not None and pixels.dtype in (np.uint8, np.uint16):
                return to_picture(pixels)
    # it knows the other formats, and why a picture cannot be read
    return to_picture(read_image(data, name=name).pixels)


def to_picture(pixels: NDArray[Any]) -> Picture:
    """(H, W, 3) uint8 of (H, W, 1, 3 or 4) uint8 or uint16."""
    if pixels.shape[2] != 3:
        pixels = np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels[..., :3]
    if pixels.dtype == np.uint16:
        pixels = (pixels.astype(np.uint32) + 128) // 257
    result: Picture = pixels.astype(np.uint8, copy=False)
    return result


def file_bytes(path: Path) -> bytes:
    """Raises: UnreadableInput."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise UnreadableInput(f"cannot read {path}: {(error.strerror or str(error)).lower()}", path=path) from error


@dataclass(frozen=True, kw_only=True, slots=True)
class LazyPicture:
    """A picture that is read when asked for."""

    name: str
    size_px: tuple[int, int]
    """(height, width), as the header says."""
    read: Callable[[], Picture]
    """Raises UnreadableInput, UnsupportedInput."""
    origin: str
    """The same for all crops and reduced copies of one picture, and for it itself."""
    whole: "LazyPicture | None" = None
    """Of a crop: the picture that it is cut out of."""


def open_files(named: Sequence[tuple[Path, str]], *, smallest_px: int, reporter: Reporter) -> list[LazyPicture]:
    """The usable ones of these (file, name). Raises and reports as `survey` does."""
    found = survey([path for path, _ in named], smallest_px=smallest_px, reporter=reporter)
    sizes = dict(zip(found.usable, found.sizes_px, strict=True))
    return [
        LazyPicture(name=name, size_px=sizes[path], read=partial(read_picture, path), origin=str(path))
        for path, name in named
        if path in sizes
    ]


def read_picture(path: Path) -> Picture:
    """(H, W, 3) uint8 RGB, as `decode` gives it. Raises: UnreadableInput, UnsupportedInput."""
    return decode(file_bytes(path), str(path))
