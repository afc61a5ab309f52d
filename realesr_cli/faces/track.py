"""Faces over the frames of a film: landmarks that do not tremble, and no face that comes and goes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from realesr_cli.faces.align import Points
from realesr_cli.faces.detect import MOST_YAW_DEG, Face
from realesr_cli.options import FaceOptions

# Share of a new position that is taken when nothing moves, and the movement, in distances from eyes to mouth for each
# frame, from which all of it is: below it is trembling of the detector, above it is the head.
_LEAST_SHARE = 0.2
_REAL_MOVEMENT = 0.1
# Movement between two frames beyond which it is another face, in the same unit.
_OTHER_FACE = 0.7
# How far a face that was restored in the frame before may miss what is asked of a new one.
_SCORE_SLACK, _SIZE_SLACK, _YAW_SLACK_DEG = 0.2, 0.8, 10.0


@dataclass(frozen=True, slots=True, eq=False)
class _Track:
    seen: Points
    """Landmarks in the last frame, as found."""
    steady: Points
    """The same, smoothed."""
    is_restored: bool


class FaceTracker:
    """Called with the faces of each frame in turn. A new shot needs no word: its faces are elsewhere."""

    def __init__(self, options: FaceOptions | None = None, memory: Sequence[Any] = ()) -> None:
        """`memory` is that of a tracker with whose next frame this one begins."""
        self._options = options or FaceOptions()
        self._tracks = [_Track(np.array(seen), np.array(steady), restored) for seen, steady, restored in memory]

    @property
    def memory(self) -> list[Any]:
        """All that decides what the next frame gives, as JSON knows it."""
        return [[track.seen.tolist(), track.steady.tolist(), track.is_restored] for track in self._tracks]

    def __call__(self, faces: Sequence[Face]) -> list[Face]:
        """The same faces in the same order with steady landmarks; one that was restored before is so more readily.

        A frame equal to the one before gives equal faces.
        """
        tracks: list[_Track] = []
        result = []
        before = list(self._tracks)
        for face in faces:
            track = min(before, key=lambda track: _movement(face.landmarks, track.seen), default=None)
            if track is None or _movement(face.landmarks, track.seen) > _OTHER_FACE:
                track = _Track(face.landmarks, face.landmarks, not face.refused)
            else:
                before.remove(track)
                track = self._continued(track, face)
            tracks.append(track)
            result.append(replace(face, landmarks=track.steady, refused="" if track.is_restored else face.refused))
        self._tracks = tracks
        return result

    def _continued(self, track: _Track, face: Face) -> _Track:
        is_restored = not face.refused or (track.is_restored and self._nearly(face))
        if np.array_equal(face.landmarks, track.seen):
            return _Track(track.seen, track.steady, is_restored)
        off = _movement(face.landmarks, track.steady)
        share = min(1.0, _LEAST_SHARE + (1 - _LEAST_SHARE) * off / _REAL_MOVEMENT)
        return _Track(face.landmarks, track.steady + share * (face.landmarks - track.steady), is_restored)

    def _nearly(self, face: Face) -> bool:
        """Whether a refused face is so by little."""
        return (
            face.refused != "not in the centre"
            and face.score >= self._options.threshold - _SCORE_SLACK
            and min(face.box.height, face.box.width) >= self._options.min_size_px * _SIZE_SLACK
            and abs(face.yaw_deg) <= MOST_YAW_DEG + _YAW_SLACK_DEG
        )


def _movement(landmarks: Points, before: Points) -> float:
    """Mean way of the points, in distances from eyes to mouth."""
    extent = np.hypot(*(before[:2].mean(0) - before[3:].mean(0)))
    return float(np.hypot(*(landmarks - before).T).mean() / max(extent, 1e-6))
