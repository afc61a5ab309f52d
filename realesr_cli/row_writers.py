"""Encoders for formats that take a picture row by row, so that it never has to be in memory as a whole.

Pixels are bands of rows (h, W, C) uint8 or uint16, C = 1 grey, 3 RGB or 4 RGBA, from top to bottom. Bands are cut into
slabs that are packed apart, each by a thread of its own (zlib releases the interpreter's lock).
"""

import os
import struct
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, BinaryIO, TypeVar

import numpy as np
from numpy.typing import NDArray

from realesr_cli import tiff
from realesr_cli.containers import png_chunk, png_metadata, tiff_metadata
from realesr_cli.errors import EncodeFailed
from realesr_cli.metadata import Metadata

Given = TypeVar("Given")
Made = TypeVar("Made")
Pixels = NDArray[Any]
RowWriter = Callable[[BinaryIO, tuple[int, int, int], np.dtype[Any], Iterable[Pixels], Metadata], None]

# Rows before a PNG filter or TIFF predictor see the slab's own rows alone, so slabs must not be small.
_SLAB_BYTES = 2**20
# Measured (docs/performance.md): level 3 takes twice as long for 8 % less, level 6 six times as long for 18 % less.
_LEVEL = 1
_MOST_THREADS = 8


def write_png(
    file: BinaryIO, shape: tuple[int, int, int], dtype: np.dtype[Any], bands: Iterable[Pixels], metadata: Metadata
) -> None:
    """PNG (third edition). Filter 2, the difference to the row above, is the best single one for enlarged pictures."""
    height, width, channels = shape
    colour_type = {1: 0, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, 8 * dtype.itemsize, colour_type, 0, 0, 0)
    file.write(b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_metadata(metadata))
    file.write(png_chunk(b"IDAT", b"\x78\x01"))  # RFC 1950: deflate with a window of 32 KiB
    checksum = 1
    for filtered, packed in in_threads(_packed_png_rows, _with_row_above(_slabs(bands, _slab_rows(shape, dtype)))):
        checksum = zlib.adler32(filtered.data, checksum)
        file.write(png_chunk(b"IDAT", packed))
    end = zlib.compressobj(wbits=-zlib.MAX_WBITS).flush()
    file.write(png_chunk(b"IDAT", end + struct.pack(">I", checksum)) + png_chunk(b"IEND", b""))


def write_tiff(
    file: BinaryIO, shape: tuple[int, int, int], dtype: np.dtype[Any], bands: Iterable[Pixels], metadata: Metadata
) -> None:
    """TIFF 6.0 with deflated strips and horizontal differences. `file` must be seekable.

    Raises: EncodeFailed (more than 4 GiB, where offsets of 32 bits end).
    """
    height, width, channels = shape
    rows = _slab_rows(shape, dtype)
    file.write(b"II*\0" + bytes(4))
    at, offsets, sizes = 8, [], []
    for packed in in_threads(_packed_strip, _slabs(bands, rows)):
        offsets.append(at)
        sizes.append(len(packed))
        at += len(packed)
        if at >= 2**32 - 2**24:  # room for metadata
            raise EncodeFailed("the picture is too large for TIFF, which ends at 4 GiB", hint="write a .png instead")
        file.write(packed)
    directory: tiff.Directory = {
        tiff.WIDTH: tiff.long(width),
        tiff.HEIGHT: tiff.long(height),
        0x0102: tiff.short(*[8 * dtype.itemsize] * channels),  # BitsPerSample
        0x0103: tiff.short(8),  # Compression: deflate
        tiff.PHOTOMETRIC: tiff.short(1 if channels == 1 else 2),
        0x0111: tiff.long(*offsets),  # StripOffsets
        tiff.SAMPLES: tiff.short(channels),
        0x0116: tiff.long(rows),  # RowsPerStrip
        0x0117: tiff.long(*sizes),  # StripByteCounts
        0x011C: tiff.short(1),  # PlanarConfiguration: pixel by pixel
        0x013D: tiff.short(2),  # Predictor: horizontal differences
    }
    if channels == 4:
        directory[tiff.EXTRA_SAMPLES] = tiff.short(2)  # alpha, colours not multiplied by it
    file.write(b"\0" * (at % 2) + tiff.build(directory | tiff_metadata(metadata), at + at % 2))
    file.seek(4)
    file.write(struct.pack("<I", at + at % 2))


def write_pnm(
    file: BinaryIO, shape: tuple[int, int, int], dtype: np.dtype[Any], bands: Iterable[Pixels], metadata: Metadata
) -> None:
    """Binary PGM or PPM, which hold no metadata."""
    height, width, channels = shape
    kind = 5 if channels == 1 else 6
    file.write(b"P%d\n%d %d\n%d\n" % (kind, width, height, np.iinfo(dtype).max))
    for band in bands:
        file.write(_big_endian(band).data)


ROW_WRITERS: dict[str, RowWriter] = {
    "png": write_png,
    "tif": write_tiff,
    "ppm": write_pnm,
    "pgm": write_pnm,
    "pnm": write_pnm,
}
"""By the names of `image_formats.FORMATS`; all other formats need the whole picture."""


def _packed_png_rows(slab: tuple[Pixels | None, Pixels]) -> tuple[Pixels, bytes]:
    """(the row above or None, rows) -> the filtered rows, and these deflated up to a byte's end."""
    above, band = slab
    rows = _big_endian(band).reshape(band.shape[0], -1)
    filtered = np.empty((rows.shape[0], rows.shape[1] + 1), np.uint8)
    filtered[:, 0] = 2
    filtered[0, 1:] = rows[0]
    if above is not None:
        filtered[0, 1:] -= _big_endian(above).reshape(-1)
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
    engine = zlib.compressobj(_LEVEL, wbits=-zlib.MAX_WBITS, memLevel=9)
    return filtered, engine.compress(filtered.data) + engine.flush(zlib.Z_SYNC_FLUSH)


def _packed_strip(rows: Pixels) -> bytes:
    differences = np.array(rows, rows.dtype.newbyteorder("<"), order="C")
    differences[:, 1:] -= rows[:, :-1]
    return zlib.compress(differences.data, _LEVEL)


def _big_endian(pixels: Pixels) -> Pixels:
    """The same numbers as bytes, the last axis twice as long for uint16."""
    return np.ascontiguousarray(pixels, pixels.dtype.newbyteorder(">")).view(np.uint8)


def _slab_rows(shape: tuple[int, int, int], dtype: np.dtype[Any]) -> int:
    return min(shape[0], max(1, _SLAB_BYTES // (shape[1] * shape[2] * dtype.itemsize)))


def _slabs(bands: Iterable[Pixels], rows: int) -> Iterator[Pixels]:
    """The same rows in slabs of `rows`, the last one with what is left."""
    rest: Pixels | None = None
    for band in bands:
        start = 0
        if rest is not None:
            start = rows - len(rest)
            rest = np.concatenate((rest, band[:start]))
            if len(rest) < rows:
                continue
            yield rest
        stop = start + (len(band) - start) // rows * rows
        for top in range(start, stop, rows):
            yield band[top : top + rows]
        rest = band[stop:].copy() if stop < len(band) else None  # not a view, which would keep the band alive
    if rest is not None:
        yield rest


def _with_row_above(slabs: Iterable[Pixels]) -> Iterator[tuple[Pixels | None, Pixels]]:
    above = None
    for slab in slabs:
        yield above, slab
        above = slab[-1].copy()


def in_threads(function: Callable[[Given], Made], items: Iterable[Given]) -> Iterator[Made]:
    """`map`, in order, with a bounded number of items in work."""
    workers = min(_MOST_THREADS, os.cpu_count() or 1)
    pending: deque[Future[Made]] = deque()
    with ThreadPoolExecutor(workers, "encode") as pool:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > 2 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
