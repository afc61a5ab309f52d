"""One crop of a picture through several blends of two networks, side by side with their shares written above."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from realesr_cli.image_io import Image, read_image, write_image
from realesr_cli.models.architectures import build_model
from realesr_cli.models.reading import RawWeights, blend
from realesr_cli.reporting import Reporter
from realesr_cli.upscaler import Upscaler

_GAP_PX = 6
_LABEL_PX = 26
_TEXT_PX = 15


def write_strip(
    a: RawWeights,
    b: RawWeights,
    shares: Sequence[float],
    picture: Path,
    target: Path,
    *,
    crop_px: int = 96,
    overwrite: bool = False,
    reporter: Reporter,
) -> None:
    """Writes (1 - s) a + b s for every s of `shares`, applied to the crop of `picture` with most detail.

    Raises: UsageError (different networks), RealesrError of reading, enlarging and writing.
    """
    crop = _most_detailed(read_image(picture, reporter=reporter).pixels, crop_px)
    panels = []
    for share in shares:
        model = build_model(blend(a, b, 1 - share), f"alpha {share:g}", reporter=reporter)
        with Upscaler(model) as upscaler:
            panels.append(_labelled(_rgb8(upscaler(crop)), f"alpha {share:g}"))
    pixels = np.concatenate(panels, 1)[:, :-_GAP_PX]
    write_image(target, Image(pixels=pixels), overwrite=overwrite, reporter=reporter)


def _most_detailed(pixels: NDArray[Any], side: int) -> NDArray[Any]:
    """The window of at most `side` pixels with the largest variance."""
    height, width = (min(side, length) for length in pixels.shape[:2])
    places = [
        (top, left)
        for top in _starts(pixels.shape[0] - height, height // 2)
        for left in _starts(pixels.shape[1] - width, width // 2)
    ]
    best = max(places, key=lambda place: pixels[place[0] : place[0] + height, place[1] : place[1] + width].std())
    return np.ascontiguousarray(pixels[best[0] : best[0] + height, best[1] : best[1] + width])


def _starts(last: int, step: int) -> list[int]:
    return [*range(0, last, max(1, step)), last]


def _rgb8(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    if pixels.dtype == np.uint16:
        pixels = (pixels.astype(np.uint32) * 255 + 32767) // 65535
    return np.broadcast_to(pixels[..., :3], (*pixels.shape[:2], 3)).astype(np.uint8)


def _labelled(pixels: NDArray[np.uint8], label: str) -> NDArray[np.uint8]:
    panel = np.full((_LABEL_PX + pixels.shape[0], max(pixels.shape[1], 100) + _GAP_PX, 3), 255, np.uint8)
    panel[_LABEL_PX:, : pixels.shape[1]] = pixels
    cv2.putText(panel, label, (2, _LABEL_PX - 8), (0, 0, 0), cv2.FontFace("sans"), _TEXT_PX)
    return panel
