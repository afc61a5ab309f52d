"""Pictures of a film as the network takes them, and the network's as an encoder takes them."""

from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[Any]

_FLAGS = 4 | 0x40000 | 0x2000 | 0x4000  # bicubic, accurate rounding, full chroma in and out


def to_pixels(frame: av.VideoFrame, colorspace: int, color_range: int) -> Pixels:
    deep = frame.format.components[0].bits > 8
    frame.colorspace, frame.color_range = colorspace, color_range
    rgb = frame.reformat(
        format="rgb48le" if deep else "rgb24",
        src_colorspace=colorspace, src_color_range=color_range, dst_color_range=2, interpolation=_FLAGS,
    )
    return np.ascontiguousarray(rgb.to_ndarray())


def to_frame(pixels: Pixels, format_name: str, colorspace: int, color_range: int) -> av.VideoFrame:
    rgb = av.VideoFrame.from_ndarray(pixels, format="rgb48le" if pixels.dtype == np.uint16 else "rgb24")
    return rgb.reformat(
        format=format_name, dst_colorspace=colorspace, src_color_range=2, dst_color_range=color_range,
        interpolation=_FLAGS,
    )
