"""PyAV frames as planes and back.

Traps: rows of a frame are padded, so planes are views with strides; they are the frame's own memory, which the view
keeps alive but decoders never write to again. FFmpeg orders planar RGB green, blue, red; P010 holds its 10 bits in the
upper end of 16.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import av
import numpy as np
from numpy.typing import NDArray

from realesr_cli.errors import UnsupportedInput
from realesr_cli.video.colour import Chroma, Colour, PixelFormat

Plane = NDArray[Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Layout:
    format: PixelFormat
    places: tuple[tuple[int, int, int], ...]
    """Where each of our planes is: (plane of the frame, its first sample in a row, distance to the next)."""
    shift: int = 0
    """Empty bits below each value."""


_PLANAR = ((0, 0, 1), (1, 0, 1), (2, 0, 1))


def _layouts() -> dict[str, _Layout]:
    def layout(bits: int, chroma: Chroma, places: tuple[tuple[int, int, int], ...], shift: int = 0) -> _Layout:
        return _Layout(format=PixelFormat(bit_depth=bits, chroma=chroma), places=places, shift=shift)

    found: dict[str, _Layout] = {}
    subsamplings: tuple[tuple[Chroma, str], ...] = (("420", "0"), ("422", "2"), ("444", "4"))
    for bits in (8, 9, 10, 12, 14, 16):
        end = "" if bits == 8 else f"{bits}le"
        found[f"gray{end}"] = layout(bits, "grey", _PLANAR[:1])
        found[f"gbrp{end}"] = layout(bits, "rgb", (_PLANAR[2], _PLANAR[0], _PLANAR[1]))
        for chroma, digit in subsamplings:
            found[f"yuv{chroma}p{end}"] = layout(bits, chroma, _PLANAR)
            if bits in (10, 12, 16):
                found[f"p{digit}{bits}le"] = layout(bits, chroma, ((0, 0, 1), (1, 0, 2), (1, 1, 2)), 16 - bits)
    for (chroma, _), name in zip(subsamplings, ("nv12", "nv16", "nv24"), strict=True):
        found[f"yuvj{chroma}p"] = found[f"yuv{chroma}p"]
        found[name] = layout(8, chroma, ((0, 0, 1), (1, 0, 2), (1, 1, 2)))
    packed = (
        ("rgb24", 8, (0, 1, 2), 3),
        ("bgr24", 8, (2, 1, 0), 3),
        ("rgb0", 8, (0, 1, 2), 4),
        ("bgr0", 8, (2, 1, 0), 4),
        ("rgb48le", 16, (0, 1, 2), 3),
    )
    for name, bits, order, step in packed:
        found[name] = layout(bits, "rgb", tuple((0, first, step) for first in order))
    return found


_LAYOUTS = _layouts()
FORMATS = tuple(_LAYOUTS)
"""Names of the formats that `frame_of` makes."""


def pixel_format(name: str) -> PixelFormat:
    """What `planes_of` gives for frames of the format that FFmpeg calls `name`.

    Raises: UnsupportedInput for formats that are no pixels in memory, such as those of hardware decoders.
    """
    return _LAYOUTS[_carrier(name)].format


def has_alpha(name: str) -> bool:
    """Whether frames of this format have transparency, which `planes_of` leaves out."""
    return name == "pal8" or len(av.VideoFormat(name).components) in (2, 4)


def planes_of(frame: av.VideoFrame) -> tuple[Plane, ...]:
    """The planes of `pixel_format(frame.format.name)`: (h, w) each, uint8 or uint16, without alpha.

    They are views of the frame's memory wherever its format is that of a plane in itself.
    """
    name = frame.format.name
    carrier = _carrier(name)
    # negative: rows from the bottom up, as in uncompressed AVI files, which PyAV's planes cannot show
    if carrier != name or any(plane.line_size < 0 for plane in frame.planes):
        # one thread: libswscale may write some bytes beyond the end of a row, which does no harm only where the next
        # row is written later (seen with yuv422p -> uyvy422)
        frame = frame.reformat(format=carrier, threads=1)
    layout = _LAYOUTS[carrier]
    planes = []
    for index, place in enumerate(layout.places):
        samples = _samples(
            frame, place, layout.format.shape(index if _is_yuv(layout) else 0, frame.height, frame.width)
        )
        planes.append(samples >> layout.shift if layout.shift else samples)
    return tuple(planes)


def frame_of(planes: Sequence[Plane], name: str, colour: Colour | None = None) -> av.VideoFrame:
    """A frame of the format that FFmpeg calls `name`, tagged with `colour`, from planes as `planes_of` gives them.

    An encoder needs the same tags on its codec context, or the file has none. Raises: UnsupportedInput.
    """
    if name not in _LAYOUTS:
        raise UnsupportedInput(f"frames of {name} cannot be made", hint=f"choose one of {', '.join(sorted(_LAYOUTS))}")
    layout = _LAYOUTS[name]
    height, width = planes[0].shape
    frame = av.VideoFrame(width, height, name)
    for index, (plane, place) in enumerate(zip(planes, layout.places, strict=True)):
        target = _samples(frame, place, layout.format.shape(index if _is_yuv(layout) else 0, height, width))
        np.left_shift(plane, layout.shift, out=target) if layout.shift else np.copyto(target, plane)
    if colour is not None:
        frame.colorspace, frame.color_range = colour.matrix_code, colour.range_code
        frame.color_trc, frame.color_primaries = colour.transfer, colour.primaries
    return frame


def _samples(frame: av.VideoFrame, place: tuple[int, int, int], shape: tuple[int, int]) -> Plane:
    number, first, step = place
    plane, (height, width) = frame.planes[number], shape
    dtype = np.uint8 if _LAYOUTS[frame.format.name].format.bit_depth == 8 else np.uint16
    rows = np.frombuffer(cast(Any, plane), dtype).reshape(-1, plane.line_size // np.dtype(dtype).itemsize)
    return rows[:height, first : first + (width - 1) * step + 1 : step]


def _is_yuv(layout: _Layout) -> bool:
    return layout.format.chroma != "rgb"


def _carrier(name: str) -> str:
    """The format of our table that holds all values of frames of format `name`, apart from alpha."""
    if name in _LAYOUTS:
        return name
    try:
        components = av.VideoFormat(name, 64, 64).components
    except ValueError as error:
        raise UnsupportedInput(f"FFmpeg knows no pixel format {name}") from error
    if not components:
        raise UnsupportedInput(f"frames of {name} are not in memory", hint="decode without hardware acceleration")
    if name == "pal8":
        return "gbrp"
    bits = next(bits for bits in (8, 9, 10, 12, 14, 16) if bits >= max(c.bits for c in components) or bits == 16)
    end = "" if bits == 8 else f"{bits}le"
    if len(components) < 3:
        return f"gray{end}"
    if av.VideoFormat(name).is_rgb:
        return f"gbrp{end}"
    chroma = components[1]
    divisors = (64 // chroma.height, 64 // chroma.width)
    return f"yuv{ {(2, 2): '420', (1, 2): '422'}.get(divisors, '444') }p{end}"
