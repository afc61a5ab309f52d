"""The same conversions by FFmpeg's libswscale: on a CPU several times as fast, for what it does exactly.

It is told matrix, ranges, chroma location and not to take shortcuts; then it agrees with `colour` within one code
(tests/unit/test_colour.py). Traps: PyAV's `reformat` cannot be told a chroma location and takes chroma for centred; for
odd sizes libswscale stretches chroma by up to a pixel, and with more than 8 bits it is off by several codes.
"""

from fractions import Fraction
from typing import Any, cast

import av
import cv2
import numpy as np
from av.filter import Graph
from numpy.typing import NDArray

from realesr_cli.video.colour import Colour, Matrix
from realesr_cli.video.frames import pixel_format, planes_of

_MATRICES: tuple[Matrix, ...] = ("bt601", "bt709", "bt2020", "smpte240m", "fcc")
_FLAGS = "bilinear+accurate_rnd+full_chroma_int+full_chroma_inp+bitexact"


def is_exact(name: str, height: int, width: int, colour: Colour) -> bool:
    """Whether libswscale may serve for films of this format, size and colour."""
    form = pixel_format(name)
    whole = height % form.divisors[0] == 0 and width % form.divisors[1] == 0
    return form.bit_depth == 8 and form.chroma in ("420", "422", "444") and whole and colour.matrix in _MATRICES


class Swscale:
    """Conversions for one film and one thread: the tables for a size are kept."""

    def __init__(self, colour: Colour) -> None:
        limits = "pc" if colour.full_range else "tv"
        self._in = f"in_color_matrix={colour.matrix}:in_range={limits}:in_chroma_loc={colour.chroma_location}"
        self._out = f"out_color_matrix={colour.matrix}:out_range={limits}:out_chroma_loc={colour.chroma_location}"
        self._colour = colour
        self._graphs: dict[tuple[Any, ...], Graph] = {}

    def to_rgb(self, frame: av.VideoFrame) -> NDArray[np.uint8]:
        """(H, W, 3) of a frame for which `is_exact`."""
        # planar RGB is made in a fifth of the time of packed RGB
        planes = planes_of(self._converted(frame, "gbrp", f"{self._in}:out_range=pc"))
        return cast(NDArray[np.uint8], cv2.merge([np.ascontiguousarray(plane) for plane in planes]))

    def from_rgb(self, pixels: NDArray[np.uint8], name: str) -> av.VideoFrame:
        """A tagged frame of format `name`, for which `is_exact`, of (H, W, 3)."""
        frame = self._converted(av.VideoFrame.from_ndarray(pixels, format="rgb24"), name, f"{self._out}:in_range=pc")
        frame.colorspace, frame.color_range = self._colour.matrix_code, self._colour.range_code
        frame.color_trc, frame.color_primaries = self._colour.transfer, self._colour.primaries
        return frame

    def _converted(self, frame: av.VideoFrame, name: str, options: str) -> av.VideoFrame:
        key = (frame.format.name, frame.height, frame.width, name)
        if key not in self._graphs:
            self._graphs[key] = _graph(frame, name, options)
        graph = self._graphs[key]
        graph.push(frame)
        return cast(av.VideoFrame, graph.pull())


def _graph(frame: av.VideoFrame, name: str, options: str) -> Graph:
    graph = Graph()
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 1000))
    scale = graph.add("scale", f"flags={_FLAGS}:{options}:threads=1")  # the others are for the network
    form, sink = graph.add("format", name), graph.add("buffersink")
    source.link_to(scale)
    scale.link_to(form)
    form.link_to(sink)
    graph.configure()
    return graph
