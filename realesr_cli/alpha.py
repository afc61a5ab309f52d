"""Transparency: what a network may see of the colours behind it, and what it may do to the alpha channel itself."""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[Any]


def bleed(colour: Pixels, opacity: Pixels) -> Pixels:
    """`colour` (H, W, 3) with every fully transparent pixel replaced by the nearest one that can be seen.

    Colours under alpha 0 are arbitrary, mostly black or white; a network would draw them into the visible edge.
    `opacity` is (H, W, 1) of the same dtype.
    """
    hidden = opacity[..., 0] == 0
    if not hidden.any() or hidden.all():
        return colour
    # for every hidden pixel the label of the nearest zero, that is, of the nearest visible pixel
    _, labels = cv2.distanceTransformWithLabels(hidden.astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    seen = ~hidden
    colour_of_label = np.zeros((int(labels.max()) + 1, 3), colour.dtype)
    colour_of_label[labels[seen]] = colour[seen]
    filled = colour.copy()
    filled[hidden] = colour_of_label[labels[hidden]]
    return filled


class Limits:
    """The least and the greatest alpha around each source pixel, between which its enlargement is held.

    So what was fully opaque or fully transparent away from an edge stays exactly that.
    """

    def __init__(self, opacity: Pixels) -> None:
        """`opacity` is (H, W, 1), uint8 or uint16."""
        around = np.ones((3, 3), np.uint8)
        self._lowest, self._highest = (spread(opacity[..., 0], around) for spread in (cv2.erode, cv2.dilate))

    def hold(self, band: Pixels, top: int, size: tuple[int, int]) -> Pixels:
        """Rows (h, W', 1) from `top` on of an enlargement to `size` = (height, W'); uint16 beside uint8 is allowed."""
        rows, columns = (
            (2 * np.arange(start, stop) + 1) * source // (2 * side)  # the source pixel below the middle of each
            for start, stop, source, side in (
                (top, top + band.shape[0], self._lowest.shape[0], size[0]),
                (0, size[1], self._lowest.shape[1], size[1]),
            )
        )
        bounds = (bound[rows[:, None], columns[None], None] for bound in (self._lowest, self._highest))
        if band.dtype != self._lowest.dtype:
            bounds = (bound.astype(np.uint16) * 257 for bound in bounds)  # 65535 / 255
        return np.clip(band, *bounds)


def resize(opacity: Pixels, height: int, width: int) -> Pixels:
    """(H, W, 1) -> (height, width, 1) without the network (`--alpha-mode resize`): bicubic, or area means to shrink.

    What bicubic interpolation overshoots at edges is taken back.
    """
    if height < opacity.shape[0] or width < opacity.shape[1]:
        return cv2.resize(opacity, (width, height), interpolation=cv2.INTER_AREA).reshape(height, width, 1)
    enlarged = cv2.resize(opacity, (width, height), interpolation=cv2.INTER_CUBIC)[..., None]
    return Limits(opacity).hold(enlarged, 0, (height, width))


def flatten(pixels: Pixels, colour: tuple[int, int, int]) -> Pixels:
    """RGBA (H, W, 4) laid on `colour` (each 0 to 255): RGB (H, W, 3) of the same dtype, as a browser shows it."""
    top = int(np.iinfo(pixels.dtype).max)
    behind = np.array(colour, np.uint64) * (top // 255)
    opacity = pixels[..., 3:].astype(np.uint64)
    mixed = pixels[..., :3] * opacity + behind * (top - opacity)
    flat: Pixels = ((mixed + top // 2) // top).astype(pixels.dtype)
    return flat


def is_opaque(pixels: Pixels) -> bool:
    """Whether RGBA (H, W, 4) hides nothing."""
    return bool((pixels[..., 3] == np.iinfo(pixels.dtype).max).all())
