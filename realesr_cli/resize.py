"""The last step to the size asked for: an antialiased reduction of the network's result, band by band."""

from collections.abc import Iterable, Iterator
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[Any]

# Rows of the result that are made at once.
_ROWS = 64


def reduce(
    bands: Iterable[Pixels], source: tuple[int, int], target: tuple[int, int], dtype: np.dtype[Any]
) -> Iterator[Pixels]:
    """Bands of rows (h, W, C) uint16 of a picture of `source` = (H, W) -> bands of the reduced one, of `dtype`.

    `target` = (height, width) is at most `source`, `dtype` uint8 or uint16. Each result pixel is the mean of the area
    that it covers: brightness is kept exactly, and a stripe too fine for the result becomes grey instead of another
    pattern (docs/performance.md compares filters).
    """
    height, width = target
    kept: Pixels | None = None
    first = done = 0  # source row with which `kept` begins; rows of the result that are done
    for band in bands:
        narrow = band if width == source[1] else cv2.resize(band, (width, len(band)), interpolation=cv2.INTER_AREA)
        narrow = narrow.reshape(len(band), width, band.shape[2])
        kept = narrow if kept is None else np.concatenate((kept, narrow))
        complete = (first + kept.shape[0]) * height // source[0]
        while done < complete:
            stop = min(done + _ROWS, complete)
            top, bottom = done * source[0] // height, -(-stop * source[0] // height)
            rows = kept[top - first : bottom - first]
            yield _as_depth(rows if height == source[0] else _means(rows, top, done, stop, source[0] / height), dtype)
            done = stop
        used = done * source[0] // height - first
        kept, first = kept[used:], first + used


def _means(rows: Pixels, top: int, first: int, stop: int, ratio: float) -> Pixels:
    """Rows `first` to `stop` of the result from source rows (h, W, C), of which the first is row `top`."""
    edges = np.arange(first, stop + 1) * ratio - top
    below = np.arange(rows.shape[0])
    share = np.minimum(edges[1:, None], below + 1) - np.maximum(edges[:-1, None], below)
    weights = (np.maximum(share, 0) / ratio).astype(np.float32)
    means = weights @ rows.reshape(rows.shape[0], -1).astype(np.float32)
    rounded: Pixels = (means + 0.5).astype(np.uint16)
    return rounded.reshape(stop - first, *rows.shape[1:])


def _as_depth(pixels: Pixels, dtype: np.dtype[Any]) -> Pixels:
    if dtype == np.uint16:
        return pixels
    # 65535 / 255 = 257
    return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
