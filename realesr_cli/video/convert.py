"""Frames of a film as the network takes them, and the network's results as an encoder takes them."""

from collections.abc import Sequence
from typing import Any

import av
import numpy as np
import torch
from numpy.typing import NDArray

from realesr_cli.video.colour import Colour, from_rgb, to_rgb
from realesr_cli.video.frames import frame_of, pixel_format
from realesr_cli.video.swscale import Swscale, is_exact

Pixels = NDArray[Any]


def to_pixels(planes: Sequence[Pixels], format_name: str, colour: Colour) -> Pixels:
    """RGB (H, W, 3) over the range of its dtype: uint8, or uint16 where the planes have more than 8 bits."""
    form = pixel_format(format_name)
    deep = form.bit_depth > 8
    rgb = to_rgb([torch.from_numpy(np.ascontiguousarray(plane)) for plane in planes], form, colour)
    levels = rgb.mul_(65535 if deep else 255).round_().to(torch.int32 if deep else torch.uint8)
    pixels = levels.permute(1, 2, 0).contiguous().numpy()
    return pixels.astype(np.uint16) if deep else pixels


class FrameMaker:
    """Makes the encoder's frames: by libswscale where that is exact and faster, else by our own conversion."""

    def __init__(self, format_name: str, height: int, width: int, colour: Colour) -> None:
        self._format_name = format_name
        self._colour = colour
        self._swscale = Swscale(colour) if is_exact(format_name, height, width, colour) else None

    def __call__(self, pixels: Pixels) -> av.VideoFrame:
        """The frame for RGB (H, W, 3) over the range of its dtype."""
        if self._swscale is not None and pixels.dtype == np.uint8:
            return self._swscale.from_rgb(pixels, self._format_name)
        planes = from_rgb(torch.from_numpy(pixels).permute(2, 0, 1), pixel_format(self._format_name), self._colour)
        return frame_of([plane.numpy() for plane in planes], self._format_name, self._colour)
