"""Faces over frames: still ones do not tremble, moving ones are followed, and none flickers."""

from dataclasses import replace
from typing import Any, cast

import numpy as np

from faces import Found, Restorer, face_at, restorer
from realesr_cli.faces.detect import Face, FaceDetector
from realesr_cli.faces.enhance import FaceEnhancer, Pixels
from realesr_cli.faces.frames import FrameFaces
from realesr_cli.faces.track import FaceTracker
from realesr_cli.models.architectures import LoadedModel
from realesr_cli.options import DeviceOptions, FaceOptions


def _shaken(rng: np.random.Generator, face: Face, sigma_px: float) -> Face:
    return replace(face, landmarks=face.landmarks + rng.normal(0, sigma_px, (5, 2)))


def test_a_face_that_trembles_is_held_steady(rng: np.random.Generator) -> None:
    track, face = FaceTracker(), face_at(100, 100, scale=1)  # 131 pixels from eyes to mouth
    seen = [_shaken(rng, face, 1.0) for _ in range(100)]
    steady = [track([one])[0].landmarks for one in seen]

    def tremble(points: list[np.ndarray]) -> float:
        return float(np.std(np.diff(points[20:], axis=0)))

    assert tremble(steady) < 0.35 * tremble([one.landmarks for one in seen])
    assert np.abs(np.mean(steady[20:], axis=0) - face.landmarks).max() < 0.5


def test_a_face_that_moves_is_followed_closely() -> None:
    track = FaceTracker()
    for step in range(30):
        face = face_at(100 + 8 * step, 100, scale=1)
        (steady,) = track([face])
    # 8 pixels a frame are 6 % of the distance from eyes to mouth
    assert np.abs(steady.landmarks - face.landmarks).max() < 12
    fast = face_at(100 + 8 * 30 + 30, 100, scale=1)
    assert np.abs(track([fast])[0].landmarks - fast.landmarks).max() < 1


def test_equal_frames_give_equal_faces(rng: np.random.Generator) -> None:
    track, face = FaceTracker(), face_at(100, 100)
    for _ in range(5):
        track([_shaken(rng, face, 0.5)])
    last = _shaken(rng, face, 0.5)
    first = track([last])[0].landmarks
    for _ in range(3):
        assert np.array_equal(track([last])[0].landmarks, first)


def test_another_face_is_not_smoothed_into_the_last_one() -> None:
    track = FaceTracker()
    track([face_at(100, 100)])
    other = face_at(200, 100)
    assert np.array_equal(track([other])[0].landmarks, other.landmarks)


def test_two_faces_keep_their_tracks_in_any_order(rng: np.random.Generator) -> None:
    track, one, two = FaceTracker(), face_at(100, 100), face_at(170, 100)
    for step in range(6):
        faces = [_shaken(rng, one, 0.3), _shaken(rng, two, 0.3)]
        results = track(faces if step % 2 else faces[::-1])[:: 1 if step % 2 else -1]
        assert [abs(result.landmarks[:, 0].mean() - x) < 5 for result, x in zip(results, (100, 170), strict=True)]
        assert results[0].landmarks[:, 0].mean() < 120 < results[1].landmarks[:, 0].mean()


def test_a_restored_face_stays_restored_until_it_is_clearly_refused() -> None:
    track = FaceTracker(FaceOptions(threshold=0.7))
    good = face_at(100, 100, scale=0.5, score=0.9)
    unsure, wrong = (replace(good, score=score, refused="uncertain") for score in (0.6, 0.4))
    assert track([unsure])[0].refused == "uncertain", "it has never been good"
    assert track([good])[0].refused == ""
    assert track([unsure])[0].refused == ""
    assert track([wrong])[0].refused == "uncertain"
    assert track([unsure])[0].refused == "uncertain"
    track([good])
    track([])
    assert track([unsure])[0].refused == "uncertain", "it was gone"


def _enhancer(*faces: Face, model: LoadedModel, **options: Any) -> FaceEnhancer:
    detector = cast(FaceDetector, Found(*faces))
    device = DeviceOptions(device="cpu", precision="fp32")
    return FaceEnhancer(model, detector, options=FaceOptions(**options), device=device)


def _noise(seed: int) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (100, 120, 3), np.uint8)


def test_a_still_shot_does_not_flicker_and_is_restored_once() -> None:
    model = restorer(lambda x: 1 - x, side=64)
    faces = FrameFaces(_enhancer(face_at(60, 50, scale=0.15), model=model))
    results = []
    for _ in range(3):
        frame = _noise(0)
        results.append(np.concatenate(list(faces([frame[:30], frame[30:]], frame, (100, 120)))))
    assert not np.array_equal(results[0], _noise(0))
    assert all(np.array_equal(result, results[0]) for result in results)
    assert cast(Restorer, model.network).batches.count(1) == 1
    assert faces.frame_facts() == {"frames": 3, "frames_with_faces": 3, "restored": 3, "refused": {}}


def test_frames_are_steady_counted_and_give_the_pairs_of_the_first_with_faces(rng: np.random.Generator) -> None:
    detector, face = Found(), face_at(60, 50, scale=0.15)
    enhancer = _enhancer(model=restorer(lambda x: 1 - x, side=64))
    enhancer._detector = cast(FaceDetector, detector)
    faces = FrameFaces(enhancer)
    assert np.array_equal(np.concatenate(list(faces([_noise(0)], _noise(0), (100, 120)))), _noise(0))
    assert faces.pairs == []
    seen, places = [], []
    for seed in range(1, 8):
        detector.faces = [_shaken(rng, face, 0.15), replace(face_at(20, 20, scale=0.05), refused="small")]
        frame = _noise(seed)
        (restored,) = faces.restore(frame)
        assert faces.restore(frame)[0] is restored, "the same frame again"
        seen.append(detector.faces[0].landmarks)
        places.append(restored.face.landmarks)
        if seed == 1:
            (first,) = faces.pairs
    assert np.std(np.diff(places[2:], axis=0)) < 0.5 * np.std(np.diff(seen[2:], axis=0))
    assert faces.frame_facts() == {"frames": 8, "frames_with_faces": 7, "restored": 7, "refused": {"small": 7}}
    assert faces.pairs[0] is first
    assert (first.shape, first.dtype) == ((64, 128, 3), np.uint8)
    assert np.abs(first[:, :64] + first[:, 64:].astype(int) - 255).max() <= 1
