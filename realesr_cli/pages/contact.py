"""The page of `realesr directory --sheet`: a card for each file of a run, before and after, written as the files come.

Traps: thumbnails are made from the files, which are read again; memory is that of one picture. A card shows two views:
the whole picture, in which an enlargement looks like its source, and the detail, one pixel of the result for one of the
page (about), beside the same part of the source under cubic interpolation.
"""

import os
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO
from urllib.parse import quote

import cv2
import numpy as np
from numpy.typing import NDArray

from realesr_cli.atomic import output_error, replacing
from realesr_cli.errors import OutputError, OutputExists, RealesrError
from realesr_cli.image_io import Image, encode_image, read_image
from realesr_cli.metadata import Metadata
from realesr_cli.pages.frame import data_uri, escaped, page_frame

Pixels = NDArray[Any]

THUMBNAIL_PX = (240, 320)
"""Largest (height, width) of a picture in the page."""
_QUALITY = 78
_MOST_PROFILE_BYTES = 4096  # profiles of screens and cameras are smaller; those of printers would fill the page


class ContactPage:
    """A page that grows with a run: `add` for each file, `close` (or leave the `with` block) at its end.

    The file appears at the end, whole, also when the block is left by Ctrl-C or an error: it then shows the files until
    there. To be called from one thread at a time.
    """

    def __init__(self, target: Path, *, title: str, overwrite: bool = False) -> None:
        """Begins the page. `title` is plain text. Raises: OutputExists, DiskFull, OutputError."""
        if not overwrite and (target.exists() or target.is_symlink()):
            raise OutputExists(f"{target} is already there", hint="--overwrite replaces it", path=target)
        self._target = target
        self._stack = ExitStack()
        before, self._after = page_frame("contact", title)
        self._file: TextIO | None = None
        temporary = self._stack.enter_context(replacing(target, overwrite=overwrite))
        try:
            self._file = self._stack.enter_context(temporary.open("w", encoding="utf-8", newline="\n"))
        except OSError as error:
            raise self._given_up(error) from error
        self._write(before)

    def add(self, source: Path, result: Path | None, note: str = "") -> None:
        """A card: `note` says what was done (`960x640, 1.2 s`) or, where `result` is None, why it failed.

        A file that cannot be read again has a card without thumbnails. Raises: DiskFull, OutputError.
        """
        pictures = "" if result is None else self._pictures(source, result)
        link = self._link(source, escaped(source.name))
        kind = ' class="failed"' if result is None else ""
        self._write(f"<article{kind}>{pictures}<h2>{link}</h2><p>{escaped(note)}</p></article>\n")

    def close(self) -> None:
        """Ends the page, which then has its name. Raises: OutputExists, DiskFull, OutputError."""
        if self._file is not None:
            self._write(self._after)
            self._file = None
            self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _write(self, text: str) -> None:
        assert self._file is not None, "the page is closed"
        try:
            self._file.write(text)
        except OSError as error:
            raise self._given_up(error) from error

    def _given_up(self, error: OSError) -> OutputError:
        """Removes what was written; the error to raise."""
        self._file = None
        with suppress(OutputError):
            self._stack.__exit__(type(error), error, error.__traceback__)
        return output_error(error, self._target)

    def _pictures(self, source: Path, result: Path) -> str:
        """Both views of both files; empty if one cannot be read."""
        try:
            before, after = read_image(source), read_image(result)
            views = {
                "detail": _details(before.pixels, after.pixels),
                "whole": (_whole(before.pixels), _whole(after.pixels)),
            }
            return "".join(
                f'<div class="pair {view}">{self._figure(source, before, first, "before")}'
                f"{self._figure(result, after, second, 'after')}</div>"
                for view, (first, second) in views.items()
            )
        except RealesrError:
            return ""

    def _figure(self, path: Path, image: Image, pixels: Pixels, what: str) -> str:
        metadata = image.metadata.colours_only()
        if len(metadata.icc) > _MOST_PROFILE_BYTES:
            metadata = Metadata()
        data = encode_image(Path("thumbnail.webp"), Image(pixels=pixels, metadata=metadata), quality=_QUALITY)
        transparent = " class=transparent" if pixels.shape[2] == 4 else ""
        picture = (
            f'<img{transparent} alt="{what}: {escaped(path.name)}" width="{pixels.shape[1]}" '
            f'height="{pixels.shape[0]}" decoding="async" src="{data_uri(data)}">'
        )
        size = f"{image.pixels.shape[1]}x{image.pixels.shape[0]}"
        return f"<figure>{self._link(path, picture)}<figcaption>{what}, {size}</figcaption></figure>"

    def _link(self, path: Path, inside: str) -> str:
        """A link to a file, relative to the page, so that they can be moved together."""
        try:
            place = quote(os.fsencode(Path(os.path.relpath(path, self._target.parent)).as_posix()))
        except ValueError:  # another drive of Windows
            place = path.absolute().as_uri()
        return f'<a href="{place}" target="_blank">{inside}</a>'


def _whole(pixels: Pixels) -> Pixels:
    """The picture reduced to a thumbnail; a smaller one as it is."""
    height, width = pixels.shape[:2]
    ratio = min(1.0, THUMBNAIL_PX[0] / height, THUMBNAIL_PX[1] / width)
    return _resized(pixels, max(1, round(height * ratio)), max(1, round(width * ratio)))


def _details(before: Pixels, after: Pixels) -> tuple[Pixels, Pixels]:
    """The busiest part of the source, enlarged to the size that it has in the result; and that of the result."""
    sides = before.shape[:2]
    ratios = [after.shape[axis] / sides[axis] for axis in (0, 1)]
    window = [min(sides[axis], max(1, int(THUMBNAIL_PX[axis] / ratios[axis]))) for axis in (0, 1)]
    start = _busiest(before, *window)
    here = tuple(slice(start[axis], start[axis] + window[axis]) for axis in (0, 1))
    there = tuple(
        slice(*(round(edge * ratios[axis]) for edge in (here[axis].start, here[axis].stop))) for axis in (0, 1)
    )
    part = after[there]
    if 0 in part.shape:  # a reduction of a few pixels
        part = after[:1, :1]
    return _resized(before[here], *part.shape[:2]), part


def _busiest(pixels: Pixels, height: int, width: int) -> tuple[int, int]:
    """Top and left of the window with the largest variance; searched in a copy of at most 512 pixels a side."""
    ratio = min(1.0, 512 / max(pixels.shape[:2]))
    rows, columns = (max(1, round(side * ratio)) for side in pixels.shape[:2])
    small = _resized(pixels[..., :3], rows, columns).astype(np.float32).mean(axis=2)
    tall, wide = min(rows, max(1, round(height * ratio))), min(columns, max(1, round(width * ratio)))
    mean, square = (cv2.boxFilter(one, -1, (wide, tall), anchor=(0, 0)) for one in (small, small * small))
    spread = (square - mean * mean)[: rows - tall + 1, : columns - wide + 1]
    top, left = np.unravel_index(int(spread.argmax()), spread.shape)
    return min(round(top / ratio), pixels.shape[0] - height), min(round(left / ratio), pixels.shape[1] - width)


def _resized(pixels: Pixels, height: int, width: int) -> Pixels:
    is_smaller = height < pixels.shape[0] or width < pixels.shape[1]
    how = cv2.INTER_AREA if is_smaller else cv2.INTER_CUBIC
    return cv2.resize(pixels, (width, height), interpolation=how).reshape(height, width, pixels.shape[2])
