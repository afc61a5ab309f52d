"""A copy of a picture with what the detector found drawn on it."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from realesr_cli.faces.detect import Face

Pixels = NDArray[Any]

_TAKEN, _REFUSED = (0, 200, 0), (255, 140, 0)
# eyes, nose and corners of the mouth, from left to right
_POINTS = ((255, 0, 0), (0, 120, 255), (255, 255, 0), (255, 0, 255), (0, 255, 255))


def drawn(pixels: Pixels, faces: Sequence[Face]) -> Pixels:
    """(H, W, 1, 3 or 4) -> RGB (H, W, 3) uint8: green boxes are restored, orange ones are not, and say why."""
    if pixels.dtype == np.uint16:
        pixels = (pixels >> 8).astype(np.uint8)
    picture = np.ascontiguousarray(pixels.repeat(3, 2) if pixels.shape[2] == 1 else pixels[..., :3])
    line = max(1, round(min(picture.shape[:2]) / 500))
    # worst first, so that the best lie on top
    for face in reversed(faces):
        colour = _REFUSED if face.refused else _TAKEN
        box = face.box
        cv2.rectangle(picture, (box.left, box.top), (box.right - 1, box.bottom - 1), colour, line)
        radius = max(line, round(0.02 * box.width))
        for point, shade in zip(face.landmarks, _POINTS, strict=True):
            cv2.circle(picture, (round(point[0]), round(point[1])), radius, shade, cv2.FILLED, cv2.LINE_AA)
        text = f"{face.score:.2f} {face.refused}".strip()
        below = min(box.bottom + 12 * line, picture.shape[0] - 3)
        cv2.putText(picture, text, (box.left, below), cv2.FONT_HERSHEY_SIMPLEX, 0.4 * line, colour, line, cv2.LINE_AA)
    return picture
