"""The faces of a picture, or of the frames of an animation or film one after the other: found, restored, counted."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from realesr_cli.faces.detect import Face, facts
from realesr_cli.faces.enhance import FaceEnhancer, RestoredFace
from realesr_cli.faces.track import FaceTracker

Pixels = NDArray[Any]


class FrameFaces:
    """Called for each frame in turn. Faces keep steady, and a frame equal to the one before gets equal faces."""

    def __init__(self, enhancer: FaceEnhancer, memory: Sequence[Any] = ()) -> None:
        """`memory` is what `self.memory` was after the frame before."""
        self._enhancer = enhancer
        self.options = enhancer.options
        self._tracker = FaceTracker(enhancer.options, memory)
        self._last: tuple[Pixels, list[RestoredFace]] | None = None
        self._found: list[Face] = []
        self._refused: Counter[str] = Counter()
        self._frames_with_faces = self._restored = 0
        self.frames = 0
        self.pairs: list[Pixels] = []
        """Of the first frame that has any, each face before and after, (side, 2 * side, C), dtype of the frame."""

    def __call__(self, bands: Iterable[Pixels], pixels: Pixels, size: tuple[int, int]) -> Iterator[Pixels]:
        """The bands of the enlargement of `pixels` (H, W, C) to `size` = (height, width), with its faces restored.

        Raises: OutOfMemory, NonFiniteOutput.
        """
        restored = self.restore(pixels)
        if not restored:
            yield from bands
            return
        paste = self._enhancer.pasting(restored, pixels.shape[:2], size)
        top = 0
        for band in bands:
            rows = band.copy()  # its memory may be the engine's
            paste(rows, top)
            yield rows
            top += len(rows)

    def restore(self, pixels: Pixels) -> list[RestoredFace]:
        """The restored faces of the next frame (H, W, C), or of the same again, which is not counted then.

        Raises: OutOfMemory, NonFiniteOutput.
        """
        if self._last is not None and self._last[0] is pixels:
            return self._last[1]
        if self._last is None or not np.array_equal(self._last[0], pixels):
            self._found = self._tracker(self._enhancer.find(pixels))
            self._last = pixels, self._enhancer.restore(pixels, self._found)
        restored = self._last[1]
        self.frames += 1
        self._frames_with_faces += bool(restored)
        self._restored += len(restored)
        self._refused.update(face.refused for face in self._found if face.refused)
        self.pairs = self.pairs or [_pair(face, pixels.dtype) for face in restored]
        return restored

    @property
    def memory(self) -> list[Any]:
        """What the frames so far mean for the next, as JSON knows it."""
        return self._tracker.memory

    def facts(self) -> dict[str, Any]:
        """What the `faces` event says of a picture."""
        return {"faces": [facts(face) for face in self._found]}

    def frame_facts(self) -> dict[str, Any]:
        """What the `frame_faces` event says of an animation or film."""
        return {
            "frames": self.frames,
            "frames_with_faces": self._frames_with_faces,
            "restored": self._restored,
            "refused": dict(self._refused),
        }


def _pair(face: RestoredFace, dtype: np.dtype[Any]) -> Pixels:
    pair: Pixels = np.concatenate((face.before, face.after), axis=1)
    return pair if dtype == np.uint16 else ((pair.astype(np.uint32) + 128) // 257).astype(np.uint8)
