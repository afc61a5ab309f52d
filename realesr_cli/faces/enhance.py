"""Faces restored by a network and put into the upscaled picture.

The network sees the face as it is in the input, cut out upright; its result replaces the face in the upscaled picture,
under a soft oval. Nothing else of the picture is touched, and no copy of it is made.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from realesr_cli import weights
from realesr_cli.alpha import bleed
from realesr_cli.device import choose_device
from realesr_cli.errors import OutOfMemory
from realesr_cli.faces.align import (
    Transform,
    alignment,
    chained,
    cut,
    inverse,
    moved,
    reduced,
    resizing,
    sample,
    scale_of,
)
from realesr_cli.faces.detect import DETECTOR, Face, FaceDetector
from realesr_cli.inference import Inference
from realesr_cli.memory import is_out_of_memory, keep_freed_memory
from realesr_cli.models.architectures import LoadedModel
from realesr_cli.models.restorers import load_restorer
from realesr_cli.options import DeviceOptions, FaceOptions
from realesr_cli.reporting import NULL, Reporter, progress
from realesr_cli.tiling import Box

Pixels = NDArray[Any]
Enlarge = Callable[[Pixels], Pixels]
"""An `Upscaler`: (H, W, C) -> the same, some times larger."""

_DEPTH = 65535
# The oval, in parts of the aligned face's side: its middle, its half axes, and the share of them that is all face. It
# holds chin and forehead whole, and is zero well inside the aligned face, whose border so never shows.
_MIDDLE = (0.5, 0.53)
_HALF_AXES = (0.39, 0.45)
_WHOLE = 0.75
# A GPU takes several faces at once; on a CPU they take as long one by one, and less memory.
_LARGEST_BATCH = 8
# A face that becomes this many times larger than the network made it is enlarged as the rest of the picture is.
_SOFT_ENLARGEMENT = 1.5
_STRIP_VALUES = 2**22


@dataclass(frozen=True, kw_only=True, slots=True)
class RestoredFace:
    """A face before and after the network."""

    face: Face
    before: Pixels
    """The aligned face of the input, (side, side, C) uint16, C = 1 or 3."""
    after: Pixels
    """The same, restored."""


def load_parts(options: FaceOptions, *, offline: bool = False, reporter: Reporter = NULL) -> tuple[LoadedModel, Path]:
    """The restorer and the detector's weights, fetched where the cache has no copy.

    Raises: ModelError and its kinds, UsageError (not a restorer; a licence that was not accepted).
    """
    restorer = load_restorer(options.model, offline=offline, accept_licence=options.accept_licence, reporter=reporter)
    return restorer, weights.resolve(DETECTOR, offline=offline, reporter=reporter)


def face_settings(restorer: LoadedModel, options: FaceOptions) -> dict[str, Any]:
    """All that decides what is restored and what it looks like, but for device and precision."""
    chosen = asdict(options)
    del chosen["model"], chosen["save_folder"], chosen["accept_licence"]
    return {"restorer": restorer.sha256, **chosen}


class FaceEnhancer:
    """Detector and restorer, ready for pictures. Each thread needs its own, and its own detector.

    enhancer = FaceEnhancer(load_restorer("gfpgan-1.4"), FaceDetector(resolve("yunet")))
    upscaled = enhancer(pixels, upscaler(pixels))
    """

    def __init__(
        self,
        restorer: LoadedModel,
        detector: FaceDetector,
        *,
        options: FaceOptions | None = None,
        device: DeviceOptions | None = None,
        enlarge: Enlarge | None = None,
        reporter: Reporter = NULL,
    ) -> None:
        """`enlarge` is what enlarges faces that the restorer makes too small: the picture's own upscaler.

        Raises: DeviceUnavailable.
        """
        assert restorer.side_px is not None
        self.model = restorer
        self.side_px = restorer.side_px
        self.choice = choose_device(device or DeviceOptions(), restorer)
        self._detector = detector
        self.options = options or FaceOptions()
        self._enlarge = enlarge
        self._reporter = reporter
        self._inference = Inference(restorer, self.choice, reporter)
        self._batch = 1 if self.choice.device.type == "cpu" else _LARGEST_BATCH
        if self.choice.device.type == "cpu":
            keep_freed_memory()

    def __call__(self, original: Pixels, upscaled: Pixels) -> Pixels:
        """`upscaled` with the faces of `original` restored; `upscaled` itself where there is none.

        Both are (H, W) or (H, W, C), C = 1, 3 or 4, uint8 or uint16, of any sizes; the result is as `upscaled`.

        Raises: OutOfMemory, NonFiniteOutput.
        """
        picture = original.reshape(*original.shape[:2], -1)
        restored = self.restore(picture, self.find(picture))
        if not restored:
            return upscaled
        result = upscaled.copy()
        rows = result.reshape(*upscaled.shape[:2], -1)
        Pasting(restored, original.shape[:2], upscaled.shape[:2], self.options.strength, self._enlarge)(rows, 0)
        return result

    def facts(self) -> dict[str, Any]:
        """What restores faces here, as events say it."""
        return {
            "name": self.model.name,
            "architecture": self.model.architecture,
            "sha256": self.model.sha256,
            "licence": self.model.metadata.get("licence", "not stated in the file"),
            "device": str(self.choice.device),
            "precision": self.choice.precision,
            "reason": self.choice.reason,
        }

    def settings(self) -> dict[str, Any]:
        """As `face_settings`."""
        return face_settings(self.model, self.options)

    def find(self, pixels: Pixels) -> list[Face]:
        """All faces of a picture (H, W, C), best first; those with `refused` will not be restored."""
        return self._detector(pixels)

    def restore(self, pixels: Pixels, faces: Sequence[Face]) -> list[RestoredFace]:
        """The faces that are not refused, through the network, in their order.

        Raises: OutOfMemory, NonFiniteOutput.
        """
        faces = [face for face in faces if not face.refused]
        if not faces:
            return []
        colour = pixels[..., :3] if pixels.shape[2] < 4 else bleed(pixels[..., :3], pixels[..., 3:])
        deep = _DEPTH // np.iinfo(pixels.dtype).max
        before = []
        for face in faces:
            aligned = np.rint(cut(colour, alignment(face.landmarks, self.side_px), self.side_px) * deep)
            before.append(_as_grey_if_grey(aligned.astype(np.uint16)))
        precise = pixels.dtype == np.uint16 and not self.choice.explicit_precision
        after: list[Pixels] = []
        with progress(self._reporter, len(faces), "faces", label="restoring faces") as advance:
            while len(after) < len(faces):
                batch = [before[len(after)]]
                for aligned in before[len(after) + 1 : len(after) + self._batch]:
                    if aligned.shape != batch[0].shape:
                        break
                    batch.append(aligned)
                made = self._through_network(np.stack(batch), precise=precise)
                after += made
                advance(len(made))
        return [
            RestoredFace(face=face, before=aligned, after=result)
            for face, aligned, result in zip(faces, before, after, strict=True)
        ]

    def pasting(
        self, restored: Sequence[RestoredFace], original: tuple[int, int], upscaled: tuple[int, int]
    ) -> "Pasting":
        """What puts these faces of a picture of `original` = (height, width) into one of size `upscaled`."""
        return Pasting(restored, original, upscaled, self.options.strength, self._enlarge)

    def _through_network(self, batch: Pixels, *, precise: bool) -> list[Pixels]:
        """(N, side, side, C) uint16 -> restored ones, of the first of them if memory is short."""
        while True:
            kept = [Box(0, 0, self.side_px, self.side_px)] * len(batch)
            try:
                return self._inference.start(batch, kept, _DEPTH, precise=precise, on_step=lambda share: None)()
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if len(batch) == 1:
                    raise OutOfMemory(
                        f"memory is full: {self.model.name} cannot restore a face on {self.choice.device}",
                        hint="close other programs, or choose --device cpu",
                    ) from error
            self._batch = len(batch) // 2
            batch = batch[: self._batch]


class Pasting:
    """Restored faces, ready to be put into an upscaled picture, band by band."""

    def __init__(
        self,
        restored: Sequence[RestoredFace],
        original: tuple[int, int],
        upscaled: tuple[int, int],
        strength: float,
        enlarge: Enlarge | None = None,
    ) -> None:
        """`original` and `upscaled` are (height, width) of the pictures in which the faces are, and shall be."""
        self._strength = strength
        # the best last, so that it lies on top
        self._faces = [_prepared(face, original, upscaled, enlarge) for face in reversed(restored)]

    def __call__(self, rows: Pixels, top: int) -> None:
        """Changes `rows` (h, width, 1, 3 or 4), uint8 or uint16, of which the first is row `top` of the picture."""
        for face in self._faces:
            first, end = max(face.box.top, top), min(face.box.bottom, top + len(rows))
            step = max(1, _STRIP_VALUES // max(1, 3 * face.box.width))
            for start in range(first, end, step):
                strip = Box(start, face.box.left, min(start + step, end), face.box.right)
                _blend(
                    rows[strip.top - top : strip.bottom - top, strip.left : strip.right], strip, face, self._strength
                )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Prepared:
    pixels: Pixels
    """(h, w, C) float32 in [0, 1]."""
    to_pixels: Transform
    """From the upscaled picture."""
    to_unit: Transform
    """From the upscaled picture to the plane in which the oval is the unit circle."""
    box: Box
    """The oval's bounds in the upscaled picture."""


def _prepared(
    restored: RestoredFace, original: tuple[int, int], upscaled: tuple[int, int], enlarge: Enlarge | None
) -> _Prepared:
    side = restored.after.shape[0]
    to_aligned = chained(resizing(upscaled, original), alignment(restored.face.landmarks, side))
    density = scale_of(to_aligned)
    pixels, to_pixels = restored.after, to_aligned
    if enlarge is not None and density * _SOFT_ENLARGEMENT < 1:
        pixels = enlarge(pixels)
        to_pixels = chained(to_aligned, resizing((side, side), pixels.shape[:2]))
    small, reduction = reduced(pixels, scale_of(to_pixels))
    to_unit = _to_unit(to_aligned, side)
    corners = moved(np.array([(x, y) for x in (-1.0, 1.0) for y in (-1.0, 1.0)]), inverse(to_unit))
    (left, top), (right, bottom) = np.floor(corners.min(0)).astype(int), np.ceil(corners.max(0)).astype(int) + 1
    height, width = upscaled
    return _Prepared(
        pixels=small / np.float32(_DEPTH),
        to_pixels=chained(to_pixels, reduction),
        to_unit=to_unit,
        box=Box(max(0, int(top)), max(0, int(left)), min(height, int(bottom)), min(width, int(right))),
    )


def _to_unit(to_aligned: Transform, side: int) -> Transform:
    (x, y), (half_x, half_y) = _MIDDLE, _HALF_AXES
    return chained(
        to_aligned,
        np.array(
            [
                [1 / (half_x * side), 0, -(x * side - 0.5) / (half_x * side)],
                [0, 1 / (half_y * side), -(y * side - 0.5) / (half_y * side)],
            ]
        ),
    )


def _blend(rows: Pixels, place: Box, face: _Prepared, strength: float) -> None:
    """Changes the part `rows` (h, w, C) of the upscaled picture, which lies at `place`."""
    if rows.size == 0:
        return
    here: Transform = np.array([[1.0, 0, place.left], [0, 1, place.top]])
    restored = sample(face.pixels, chained(here, face.to_pixels), place.height, place.width)
    weight = strength * _oval(chained(here, face.to_unit), place.height, place.width)[..., None]
    channels = min(rows.shape[2], 3)
    if restored.shape[2] > channels:
        restored = restored @ np.array([[0.299], [0.587], [0.114]], np.float32)
    below = rows[..., :channels]
    mixed = below + weight * (restored * np.float32(np.iinfo(rows.dtype).max) - below)
    below[...] = np.clip(np.rint(mixed), 0, np.iinfo(rows.dtype).max).astype(rows.dtype)


def _oval(to_unit: Transform, height: int, width: int) -> NDArray[np.float32]:
    """(height, width): 1 inside of the face, 0 from the unit circle on, with no kink between."""
    rows, columns = np.arange(height)[:, None], np.arange(width)[None]
    x, y = (row[0] * columns + row[1] * rows + row[2] for row in to_unit)
    inside = np.clip((1 - np.hypot(x, y)) / (1 - _WHOLE), 0, 1)
    weight: NDArray[np.float32] = (inside * inside * (3 - 2 * inside)).astype(np.float32)
    return weight


def _as_grey_if_grey(aligned: Pixels) -> Pixels:
    """One channel where all are equal: a network would colour a black-and-white face."""
    is_grey = aligned.shape[2] == 3 and all(np.array_equal(aligned[..., 0], aligned[..., i]) for i in (1, 2))
    return np.ascontiguousarray(aligned[..., :1]) if is_grey else aligned
