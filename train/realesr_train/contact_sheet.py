"""A picture of an evaluation: for some pictures of the set the same crop of every model's result, side by side."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from realesr_cli.image_io import Image, write_image
from realesr_train.eval_set import Pixels
from realesr_train.measuring import COLUMNS, Values

MOST_ROWS = 24
"""Pictures on one sheet."""

_CROP_PX = 128
_ZOOM = 2
_GAP_PX = 8
_LINE_PX = 18
_TEXT_PX = 14
_TEXT_STEP_PX = 7  # of a letter, about
_PAPER, _INK = 255, (0, 0, 0)
_IN_LABEL = ("psnr_y_db", "lpips_squeeze", "lpips_alex", "lpips_vgg", "niqe")
_NUMBERS_IN_LABEL = 2


class ContactSheet:
    """Grows by a row for each picture that it is shown, of which it keeps the crops alone."""

    def __init__(self, scale: int, networks: Collection[str]) -> None:
        """`networks` are the results that choose the crop; with fewer than two, all do."""
        self._scale = scale
        self._networks = networks
        self._rows: list[Pixels] = []

    def add(
        self, name: str, low: Pixels, results: Mapping[str, Pixels], clean: Pixels | None, values: Mapping[str, Values]
    ) -> None:
        """A row: the low-resolution picture with its pixels repeated, the results in order, and the clean one.

        The crop is where the networks differ most; one alone, from the other results.
        """
        compared = [result for model, result in results.items() if model in self._networks]
        crop = find_crop(
            compared if len(compared) > 1 else list(results.values()), side_px=_CROP_PX, grid_px=self._scale
        )
        tiles = [_tile(low.repeat(self._scale, 0).repeat(self._scale, 1)[crop], f"{name}: LR", "")]
        tiles += [_tile(result[crop], model, _numbers(values[model])) for model, result in results.items()]
        if clean is not None:
            tiles.append(_tile(clean[crop], "HR", ""))
        self._rows.append(_joined(tiles, axis=1))

    def write(self, path: Path) -> None:
        """Writes the rows, if there are any, one below the other as PNG, over an older one.

        Raises: DiskFull, OutputError.
        """
        if self._rows:
            write_image(path, Image(pixels=_joined(self._rows, axis=0)), overwrite=True)


def find_crop(results: Sequence[Pixels], *, side_px: int, grid_px: int) -> tuple[slice, slice]:
    """Rows and columns of the square of about `side_px`, at multiples of `grid_px`, where the pictures differ most.

    One picture is compared with its own blur: the place with most detail.
    """
    greys = [result.astype(np.float32).mean(2) for result in results]
    if len(greys) == 1:
        greys.append(cv2.GaussianBlur(greys[0], (0, 0), 2).astype(np.float32))
    spread: NDArray[np.float32] = np.std(greys, axis=0)
    height, width = (max(1, min(side_px, length) // grid_px) * grid_px for length in spread.shape)
    sums = np.pad(spread.cumsum(0, dtype=np.float64).cumsum(1), ((1, 0), (1, 0)))
    boxes = sums[height:, width:] - sums[:-height, width:] - sums[height:, :-width] + sums[:-height, :-width]
    boxes = boxes[::grid_px, ::grid_px]
    top, left = (int(place) * grid_px for place in np.unravel_index(boxes.argmax(), boxes.shape))
    return slice(top, top + height), slice(left, left + width)


def chosen(count: int) -> set[int]:
    """Places of the pictures that a sheet shows of a set of `count`: all, or `MOST_ROWS` evenly spread ones."""
    rows = min(count, MOST_ROWS)
    return {(2 * row + 1) * count // (2 * rows) for row in range(rows)}


def _numbers(values: Values) -> str:
    shown = [key for key in _IN_LABEL if key in values][:_NUMBERS_IN_LABEL]
    return "   ".join(f"{COLUMNS[key][0]} {values[key]:.{COLUMNS[key][1]}f}" for key in shown)


def _tile(pixels: Pixels, title: str, numbers: str) -> Pixels:
    """The crop, enlarged so that its pixels can be seen, under two lines of text; as wide as a full crop."""
    large = pixels.repeat(_ZOOM, 0).repeat(_ZOOM, 1)
    width = max(large.shape[1], _CROP_PX * _ZOOM)
    tile = np.full((2 * _LINE_PX + large.shape[0], width, 3), _PAPER, np.uint8)
    tile[2 * _LINE_PX :, : large.shape[1]] = large
    letters = width // _TEXT_STEP_PX
    title = title if len(title) <= letters else f"{title[: letters // 2 - 2]}...{title[-letters // 2 + 2 :]}"
    for number, line in enumerate((title, numbers), 1):
        cv2.putText(tile, line, (1, number * _LINE_PX - 5), _INK, cv2.FontFace("sans"), _TEXT_PX)
    return tile


def _joined(parts: Sequence[Pixels], *, axis: int) -> Pixels:
    """Side by side (axis 1) or one below the other (0), with a gap, on paper as large as the largest part."""
    other = max(part.shape[1 - axis] for part in parts)
    padded = []
    for part in parts:
        space = [(0, 0), (0, 0), (0, 0)]
        space[axis], space[1 - axis] = (0, _GAP_PX), (0, other - part.shape[1 - axis])
        padded.append(np.pad(part, space, constant_values=_PAPER))
    return np.concatenate(padded, axis)
