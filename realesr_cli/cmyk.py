"""CMYK pictures as sRGB, by their own ICC profile where it has a usable table, else by a plain formula."""

import struct
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_PIXELS_AT_ONCE = 2**18  # bounds the memory of the interpolation
# linear light: CIE XYZ relative to D50 -> sRGB, adapted by Bradford's method (IEC 61966-2-1, ICC.1 annex E)
_XYZ_TO_RGB = np.array([[3.1338561, -1.6168667, -0.4906146], [-0.9787684, 1.9161415, 0.0334540],
                        [0.0719453, -0.2289914, 1.4052427]])  # fmt: skip
_D50 = np.array([0.9642, 1.0, 0.8249])


@dataclass(frozen=True, slots=True)
class _Table:
    """A profile's way from inks to the connection space: curves, a grid of colours, curves."""

    first: list[Array]
    grid: Array
    """(n, n, n, n, 3)."""
    last: list[Array]
    scale: Array
    """With `offset`: what the results from 0 to 1 are in the connection space."""
    offset: Array
    is_lab: bool


def to_srgb(inks: Array, icc: bytes) -> tuple[Array, bool]:
    """(H, W, 4) uint8 or uint16, 0 = no ink -> (H, W, 3) sRGB of the same dtype; and whether the profile was used.

    Relative colorimetric: white paper becomes white, colours outside sRGB are clipped.
    """
    table = _read_table(icc)
    top = np.iinfo(inks.dtype).max
    flat = inks.reshape(-1, 4)
    out = np.empty((len(flat), 3), inks.dtype)
    for start in range(0, len(flat), _PIXELS_AT_ONCE):
        part = flat[start : start + _PIXELS_AT_ONCE] / np.float32(top)
        rgb = (1 - part[:, :3]) * (1 - part[:, 3:]) if table is None else _by_table(part, table)
        out[start : start + _PIXELS_AT_ONCE] = np.rint(rgb * top)
    return out.reshape(*inks.shape[:2], 3), table is not None


def _by_table(inks: Array, table: _Table) -> Array:
    curved = np.stack([_curve(curve, inks[:, i]) for i, curve in enumerate(table.first)], axis=1)
    found = _interpolate(curved, table.grid)
    found = np.stack([_curve(curve, found[:, i]) for i, curve in enumerate(table.last)], axis=1)
    space = found * table.scale + table.offset
    light = (_lab_to_xyz(space) if table.is_lab else space) @ _XYZ_TO_RGB.T
    light = np.clip(light, 0, 1)
    shown: Array = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return shown


def _curve(table: Array, x: Array) -> Array:
    return np.interp(x, np.linspace(0, 1, len(table)), table)


def _interpolate(points: Array, grid: Array) -> Array:
    """Multilinear: (N, 4) in [0, 1] -> (N, 3), the weighted mean of the 16 corners around each point."""
    last = np.array(grid.shape[:4]) - 1
    place = np.clip(points, 0, 1) * last
    low = np.minimum(place.astype(np.intp), np.maximum(last - 1, 0))
    part = place - low
    result = np.zeros((len(points), 3))
    for corner in product((0, 1), repeat=4):
        weight = np.prod([part[:, i] if up else 1 - part[:, i] for i, up in enumerate(corner)], axis=0)
        at = np.minimum(low + corner, last)
        result += weight[:, None] * grid[at[:, 0], at[:, 1], at[:, 2], at[:, 3]]
    return result


def _lab_to_xyz(lab: Array) -> Array:
    """CIE 1976 L*a*b* -> XYZ relative to D50 (ICC.1, annex A)."""
    middle = (lab[:, 0] + 16) / 116
    f = np.stack([middle + lab[:, 1] / 500, middle, middle - lab[:, 2] / 200], axis=1)
    xyz: Array = _D50 * np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29))
    return xyz


def _read_table(icc: bytes) -> _Table | None:
    """The table for relative colorimetric conversion, else the perceptual one (ICC.1:2010, sections 9.2.1, 10.8, 10.9).

    None where there is none that can be understood; tables of type mAB are not.
    """
    if icc[16:20] != b"CMYK" or icc[20:24] not in (b"Lab ", b"XYZ "):
        return None
    try:
        tags = {icc[at : at + 4]: at for at in range(132, 132 + 12 * struct.unpack_from(">I", icc, 128)[0], 12)}
        at = tags[b"A2B1"] if b"A2B1" in tags else tags[b"A2B0"]
        start, size = struct.unpack_from(">II", icc, at + 4)
        return _read_lut(icc[start : start + size], is_lab=icc[20:24] == b"Lab ")
    except (KeyError, ValueError, struct.error):
        return None


def _read_lut(tag: bytes, *, is_lab: bool) -> _Table:
    """lut8Type and lut16Type. Raises: ValueError (another type, or cut off)."""
    channels_in, channels_out, points = tag[8:11]
    if tag[:4] not in (b"mft1", b"mft2") or (channels_in, channels_out) != (4, 3) or points < 2:
        raise ValueError("not a table from four inks to three numbers")
    deep = tag[:4] == b"mft2"
    entries_in, entries_out = struct.unpack_from(">HH", tag, 48) if deep else (256, 256)
    sizes = (4 * entries_in, points**4 * 3, 3 * entries_out)
    numbers = np.frombuffer(tag, ">u2" if deep else "u1", sum(sizes), 52 if deep else 48)
    values = numbers / (65535 if deep else 255)
    first, grid, last = np.split(values, np.cumsum(sizes)[:2])
    # 16-bit L*a*b* of these types: 0xff00 is 100, and 0x8000 is 0 (ICC.1, table 42)
    stretch = 65535 / 65280 if deep else 1.0
    lab = np.array([100.0, 255.0, 255.0]) * stretch, np.array([0.0, -128.0, -128.0])
    xyz = np.full(3, 1 + 32767 / 32768), np.zeros(3)
    scale, offset = lab if is_lab else xyz
    curves_in, curves_out = list(first.reshape(4, -1)), list(last.reshape(3, -1))
    return _Table(curves_in, grid.reshape(*[points] * 4, 3), curves_out, scale, offset, is_lab)


def tiff_around(jpeg: bytes, height: int, width: int) -> bytes:
    """A TIFF file around a JPEG stream of four components, which it declares to be RGB and one more.

    JPEG decoders turn CMYK into RGB by the plain formula and forget the inks. A TIFF decoder asked for RGB and
    another channel leaves all four numbers as they are. Source: TIFF technical note 2, "new" JPEG-in-TIFF.
    """
    entries = 11
    depths = 8 + 2 + 12 * entries + 4
    fields = (
        (256, 4, 1, width), (257, 4, 1, height), (258, 3, 4, depths), (259, 3, 1, 7), (262, 3, 1, 2),
        (273, 4, 1, depths + 8), (277, 3, 1, 4), (278, 4, 1, height), (279, 4, 1, len(jpeg)), (284, 3, 1, 1),
        (338, 3, 1, 0),
    )  # fmt: skip
    directory = struct.pack("<H", entries) + b"".join(struct.pack("<HHII", *field) for field in fields) + bytes(4)
    return b"II*\0\x08\0\0\0" + directory + struct.pack("<4H", 8, 8, 8, 8) + jpeg


def adobe_transform(jpeg: bytes) -> int | None:
    """0 for CMYK, 2 for YCCK; None where no Adobe marker says that inks are stored inverted (ITU-T T.872, 6.5.3)."""
    at = jpeg.find(b"\xff\xee\x00\x0eAdobe")
    return jpeg[at + 15] if 0 <= at < len(jpeg) - 15 else None


def inks_of_jpeg(stored: Array, transform: int) -> Array:
    """(H, W, 4) uint8 as stored by an Adobe program -> inks, 0 = none. `transform` 2 is YCCK, 0 is CMYK.

    Adobe stores CMYK inverted; in YCCK, the colours are those of 255 - inverted CMY, that is, of the ink itself."""
    inks: Array = 255 - stored
    if transform == 2:
        y, cb, cr = (stored[..., i].astype(np.float32) - (128 if i else 0) for i in range(3))
        rgb = np.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], axis=2)
        inks[..., :3] = np.clip(np.rint(rgb), 0, 255)
    return inks
