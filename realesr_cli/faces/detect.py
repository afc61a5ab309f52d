"""Where faces are: YuNet, run by OpenCV on a picture of bounded size, then on each face upright and at its best size.

In one look YuNet misses the tilt of a face and is off by a tenth of the distance of the eyes; looking again at the
aligned face, mirrored and in several sizes, brings that to a hundredth (docs/performance.md).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from realesr_cli.alpha import bleed
from realesr_cli.errors import CorruptWeights
from realesr_cli.faces.align import Points, alignment, cut, inverse, moved, resizing
from realesr_cli.options import FaceOptions
from realesr_cli.tiling import Box

Pixels = NDArray[Any]
Refusal = Literal["", "uncertain", "small", "turned", "not in the centre"]

DETECTOR = "yunet"
"""The detector's name in the catalogue."""

# Longest sides of the picture at which it is looked at; the small one is for faces that fill it.
_LOOKS_PX = (1280, 320)
# Sides of the aligned face at which it is looked at again.
_REFINED_PX = (256, 320, 384)
_FIRST_REFINED_PX = 320
_FIRST_SCORE = 0.5
# Share of the smaller of two boxes beyond which they are one face.
_SAME_FACE = 0.5
# A nose stands out by about half of the distance of the eyes.
_NOSE_DEPTH = 0.5
MOST_YAW_DEG = 60.0
_MIRRORED = [1, 0, 2, 4, 3]


@dataclass(frozen=True, kw_only=True, slots=True)
class Face:
    """A face in a picture."""

    box: Box
    """From hairline to chin, inside of the picture."""
    landmarks: Points
    """(5, 2): x, y of eyes, nose and corners of the mouth, from left to right; whole numbers are pixels' middles."""
    score: float
    """The detector's confidence, 0 to 1."""
    refused: Refusal = ""
    """Why it is left as it is; empty = it is restored."""

    @property
    def yaw_deg(self) -> float:
        """How far the head is turned, roughly: 0 looks at us, 90 is a profile; positive = to the picture's right."""
        eyes, mouth = self.landmarks[:2], self.landmarks[3:]
        across = eyes[1] - eyes[0]
        span = float(np.hypot(*across))
        off = float((self.landmarks[2] - (eyes.mean(0) + mouth.mean(0)) / 2) @ across) / max(span, 1e-6)
        return float(np.degrees(np.arctan2(off / _NOSE_DEPTH, span)))


def facts(face: Face) -> dict[str, Any]:
    """A face as JSON has it; lengths in pixels of the picture."""
    return {
        "box": asdict(face.box),
        "landmarks": face.landmarks.round(2).tolist(),
        "score": round(face.score, 3),
        "yaw_deg": round(face.yaw_deg, 1),
        "refused": face.refused or None,
    }


class FaceDetector:
    """YuNet with its weights, ready for pictures."""

    def __init__(self, weights: Path, options: FaceOptions | None = None) -> None:
        """Raises: CorruptWeights."""
        self._options = options or FaceOptions()
        try:
            model = np.frombuffer(weights.read_bytes(), np.uint8)
            with _quiet():
                self._network = cv2.FaceDetectorYN.create(
                    "onnx", model, np.empty(0, np.uint8), (320, 320), _FIRST_SCORE, 0.3, 5000
                )
        except (OSError, cv2.error) as error:
            raise CorruptWeights(
                f"{weights} is not a YuNet detector", hint="`realesr models download yunet`", path=weights
            ) from error

    def __call__(self, pixels: Pixels) -> list[Face]:
        """The faces of a picture (H, W, 1, 3 or 4), uint8 or uint16 RGB, best first.

        Those that would not be restored are there too and say why. The same picture gives the same faces.
        """
        picture = _as_bgr8(pixels)
        found: list[Face] = []
        for box, landmarks in self._candidates(picture):
            if all(_shared(box, face.box) <= _SAME_FACE for face in found):
                face = self._refined(picture, box, landmarks)
                # what does not look like a face from near is none; two candidates may turn out to be one face
                if face is not None and all(_apart(face, other) for other in found):
                    found.append(face)
        found.sort(key=lambda face: -face.score)
        return self._judged(found, pixels.shape[:2])

    def _candidates(self, picture: Pixels) -> list[tuple[Box, Points]]:
        """What looks like a face from afar, best first, in pixels of the picture."""
        height, width = picture.shape[:2]
        longest = max(height, width)
        found = []
        for number, side in enumerate(_LOOKS_PX):
            if number > 0 and longest <= side:
                continue
            share = min(1.0, side / longest)
            size = max(1, round(height * share)), max(1, round(width * share))
            small = picture if share == 1 else cv2.resize(picture, (size[1], size[0]), interpolation=cv2.INTER_AREA)
            back = resizing(size, (height, width))
            for row in self._look(small):
                corners = moved(np.array([row[:2], row[:2] + row[2:4]]) - 0.5, back) + 0.5
                left, top, right, bottom = (
                    int(np.clip(round(value), 0, end))
                    for value, end in zip(corners.flat, (width, height) * 2, strict=True)
                )
                if left < right and top < bottom:
                    found.append((row[14], Box(top, left, bottom, right), moved(row[4:14].reshape(5, 2), back)))
        found.sort(key=lambda candidate: -candidate[0])
        return [(box, landmarks) for _, box, landmarks in found]

    def _refined(self, picture: Pixels, box: Box, landmarks: Points) -> Face | None:
        """The face at these landmarks, looked at again from near; None if it is not seen there."""
        best = 0.0
        start = landmarks
        # of a face that lies or stands on its head, the first look saw an upright one
        for quarter in range(4):
            seen = self._look_near(picture, _turned(start, quarter), _FIRST_REFINED_PX, mirrored=False)
            if seen is not None and seen[1] > best:
                landmarks, best = seen
        if best == 0:
            return None
        for _ in range(2):
            seen = self._look_near(picture, landmarks, _FIRST_REFINED_PX, mirrored=False)
            landmarks = landmarks if seen is None else seen[0]
        looks = [
            self._look_near(picture, landmarks, side, mirrored=mirrored)
            for side in _REFINED_PX
            for mirrored in (False, True)
        ]
        seen_looks = [look for look in looks if look is not None]
        if not seen_looks:
            return None
        return Face(
            box=box,
            landmarks=np.mean([points for points, _ in seen_looks], axis=0),
            score=sum(score for _, score in seen_looks) / len(looks),
        )

    def _look_near(
        self, picture: Pixels, landmarks: Points, side: int, *, mirrored: bool
    ) -> tuple[Points, float] | None:
        """Landmarks, in pixels of the picture, and score of the face in the middle of the aligned face."""
        transform = alignment(landmarks, side)
        near = np.rint(cut(picture, transform, side)).astype(np.uint8)
        rows = self._look(near[:, ::-1] if mirrored else near)
        if not len(rows):
            return None
        points = rows[:, 4:14].reshape(-1, 5, 2)
        if mirrored:
            points = points[:, _MIRRORED]
            points[..., 0] = side - 1 - points[..., 0]
        middle = moved(landmarks, transform).mean(0)
        distances = np.hypot(*(points.mean(1) - middle).T)
        nearest = int(distances.argmin())
        if distances[nearest] > side / 6:
            return None
        return moved(points[nearest], inverse(transform)), float(rows[nearest, 14])

    def _look(self, picture: Pixels) -> NDArray[np.float64]:
        """YuNet's rows of 15 for a picture (H, W, 3) uint8 BGR: x, y, width, height, five points, score."""
        self._network.setInputSize((picture.shape[1], picture.shape[0]))
        _, rows = self._network.detect(np.ascontiguousarray(picture))
        return np.empty((0, 15)) if rows is None else np.asarray(rows, np.float64)

    def _judged(self, faces: list[Face], size: tuple[int, int]) -> list[Face]:
        """The faces with the reason why each is left as it is, if there is one."""
        judged = [replace(face, refused=self._refusal(face)) for face in faces]
        if self._options.only_center_face:
            fine = [face for face in judged if not face.refused]
            centre = np.array([size[1] - 1, size[0] - 1]) / 2
            chosen = min(fine, key=lambda face: float(np.hypot(*(face.landmarks.mean(0) - centre))), default=None)
            judged = [
                face if face.refused or face is chosen else replace(face, refused="not in the centre")
                for face in judged
            ]
        return judged

    def _refusal(self, face: Face) -> Refusal:
        if face.score < self._options.threshold:
            return "uncertain"
        if min(face.box.height, face.box.width) < self._options.min_size_px:
            return "small"
        return "turned" if abs(face.yaw_deg) > MOST_YAW_DEG else ""


def _turned(landmarks: Points, quarters: int) -> Points:
    """The points, turned by quarters of a circle about their middle."""
    middle = landmarks.mean(0)
    turn: Points = np.linalg.matrix_power(np.array([[0.0, -1], [1, 0]]), quarters)
    turned: Points = (landmarks - middle) @ turn.T + middle
    return turned


def _shared(one: Box, other: Box) -> float:
    """Share of the smaller box that both have."""
    height = min(one.bottom, other.bottom) - max(one.top, other.top)
    width = min(one.right, other.right) - max(one.left, other.left)
    return max(0, height) * max(0, width) / min(one.area, other.area)


def _apart(one: Face, other: Face) -> bool:
    """Whether two faces' landmarks are further apart than two heads can be."""
    distance = float(np.hypot(*(one.landmarks.mean(0) - other.landmarks.mean(0))))
    return distance > max(_extent(one), _extent(other)) / 2


def _extent(face: Face) -> float:
    """From the middle of the eyes to that of the mouth."""
    return float(np.hypot(*(face.landmarks[:2].mean(0) - face.landmarks[3:].mean(0))))


def _as_bgr8(pixels: Pixels) -> Pixels:
    """What the detector sees; hidden colours, which may be anything, become the nearest visible ones."""
    if pixels.dtype == np.uint16:
        pixels = (pixels >> 8).astype(np.uint8)
    if pixels.shape[2] == 1:
        return pixels.repeat(3, 2)
    colour = bleed(pixels[..., :3], pixels[..., 3:]) if pixels.shape[2] == 4 else pixels
    return np.ascontiguousarray(colour[..., ::-1])


@contextmanager
def _quiet() -> Iterator[None]:
    """OpenCV 5 warns at each start of the detector that its new engine has one target only."""
    before = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(before)
