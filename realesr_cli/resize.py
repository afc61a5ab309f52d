"""The last step to the size asked for: an antialiased reduction of the network's result."""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray


def reduce(pixels: NDArray[Any], height: int, width: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """(H, W, C) uint16 -> (height, width, C) of `dtype` (uint8 or uint16); both sides shrink or stay.

    Each result pixel is the mean of the area that it covers: brightness is kept exactly, and a stripe too fine for
    the result becomes grey instead of another pattern (docs/performance.md compares filters).
    """
    if pixels.shape[:2] != (height, width):
        small = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
        pixels = small.reshape(height, width, pixels.shape[2])
    if dtype == np.uint16:
        return pixels
    # 65535 / 255 = 257
    return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
