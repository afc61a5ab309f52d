"""Faces over frames: still ones do not tremble, moving ones are followed, and none flickers."""

from dataclasses import replace

import numpy as np

from faces import Found, face_at, restorer
from realesr_cli.faces.detect import Face
from realesr_cli.faces.enhance import FaceEnhancer
from realesr_cli.faces.track import FaceTracker
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


def test_a_still_shot_does_not_flicker() -> None:
    tracker = FaceTracker()
    enhance = FaceEnhancer(
        restorer(lambda x: 1 - x, side=64),
        Found(face_at(60, 50, scale=0.15)),  # type: ignore[arg-type]
        device=DeviceOptions(device="cpu", precision="fp32"),
    )
    frame = np.random.default_rng(0).integers(0, 256, (100, 120, 3), np.uint8)
    results = [enhance(frame, frame, tracker=tracker) for _ in range(3)]
    assert not np.array_equal(results[0], frame)
    assert all(np.array_equal(result, results[0]) for result in results)
