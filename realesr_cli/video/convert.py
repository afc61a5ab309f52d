"""Frames of a film as the network takes them, and the network's results as an encoder takes them."""

from collections.abc import Sequence
from typing import Any

import av
import numpy as np
import torch
from numpy.typing import NDArray

from realesr_cli.video.colour import Colour, from_rgb, to_rgb
from realesr_cli.video.frames import frame_of, pixel_format

Pixels = NDArray[Any]


def to_pixels(planes: Sequence[Pixels], format_name: str, colour: Colour) -> Pixels:
    """RGB (H, W, 3) over the range of its dtype: uint8, or uint16 where the planes have more than 8 bits."""
    form = pixel_format(format_name)
    deep = form.bit_depth > 8
    rgb = to_rgb([torch.from_numpy(np.ascontiguousarray(plane)) for plane in planes], form, colour)
    levels = rgb.mul_(65535 if deep else 255).round_().to(torch.int32 if deep else torch.uint8)
    pixels = levels.permute(1, 2, 0).contiguous().numpy()
    return pixels.astype(np.uint16) if deep else pixels


def to_frame(pixels: Pixels, format_name: str, colour: Colour) -> av.VideoFrame:
    """The frame for RGB (H, W, 3) over the range of its dtype."""
    planes = from_rgb(torch.from_numpy(pixels).permute(2, 0, 1), pixel_format(format_name), colour)
    return frame_of([plane.numpy() for plane in planes], format_name, colour)
