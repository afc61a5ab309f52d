"""The face detector on real photographs: what it finds, how exactly, and what it leaves alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from faces import face_at
from realesr_cli import read_image
from realesr_cli.errors import CorruptWeights
from realesr_cli.faces.detect import Face, FaceDetector, facts
from realesr_cli.faces.draw import drawn
from realesr_cli.options import FaceOptions

Finder = Callable[[str], Path]
Pixels = NDArray[Any]

ASTRONAUT = [[203.4, 100.8], [245.5, 104.1], [221.8, 125.5], [202.5, 141.4], [240.6, 144.2]]
CURIE = [[301.1, 209.8], [337.9, 210.0], [325.2, 232.5], [304.0, 250.8], [332.8, 251.2]]
CHILD = [[465.6, 147.4], [624.4, 151.1], [548.3, 245.4], [475.7, 311.3], [603.0, 314.9]]
NOTHING = np.empty((0, 2)).tolist()


@pytest.fixture(scope="module")
def weights(weights_file: Finder) -> Path:
    return weights_file("face_detection_yunet_2023mar.onnx")


@pytest.fixture(scope="module")
def detect(weights: Path) -> FaceDetector:
    return FaceDetector(weights)


def _kept(faces: list[Face]) -> list[Face]:
    return [face for face in faces if not face.refused]


def _off(face: Face, expected: Any) -> float:
    """Mean distance of the landmarks, in distances of the eyes."""
    points = np.asarray(expected, np.float64)
    return float(np.hypot(*(face.landmarks - points).T).mean() / np.hypot(*(points[1] - points[0])))


@pytest.mark.parametrize(
    ("name", "found", "kept", "landmarks"),
    [
        ("astronaut_frontal.png", 1, 1, ASTRONAUT),
        ("astronaut_small_lr.jpg", 1, 1, ((np.array(ASTRONAUT) + 0.5) / 4 - 0.5).tolist()),
        ("child_face_paint.png", 1, 1, CHILD),
        ("two_faces_bw.jpg", 2, 1, CURIE),  # the other one is a profile
        ("exif_orientation_6.jpg", 2, 1, CURIE),
        # turned by a quarter of a circle, clockwise
        ("rotated_90_pixels.jpg", 1, 1, [[y, 511 - x] for x, y in ASTRONAUT]),
        ("raft_partly_hidden.jpg", 9, 7, [[435.6, 240.1], [445, 243.1], [440.1, 247.7], [433, 250], [441, 252]]),
        ("no_face.jpg", 0, 0, NOTHING),
        ("profile_backlit.jpg", 0, 0, NOTHING),
    ],
)  # fmt: skip
def test_faces_of_the_real_photos(
    name: str, found: int, kept: int, landmarks: list[list[float]], detect: FaceDetector, media: Finder
) -> None:
    faces = detect(read_image(media(f"faces/{name}")).pixels)
    assert (len(faces), len(_kept(faces))) == (found, kept)
    if landmarks:
        # positions of faces of 20 pixels are good to a pixel
        assert min(_off(face, landmarks) for face in faces) < (0.12 if "small" in name else 0.03)


def test_a_group_of_small_faces(detect: FaceDetector, media: Finder) -> None:
    pixels = read_image(media("faces/group_small_faces.jpg")).pixels[150:270, 600:800]
    faces = detect(pixels)
    assert 9 <= len(_kept(faces)) <= 12
    assert all(face.score > 0.7 for face in _kept(faces))
    for number, face in enumerate(faces):
        for other in faces[:number]:
            assert np.hypot(*(face.landmarks - other.landmarks).T).mean() > 5, "one face twice"


@pytest.mark.parametrize("turn", [-35, 20, 60, 180])
def test_tilted_faces_are_found_as_tilted(turn: float, detect: FaceDetector, media: Finder) -> None:
    pixels = read_image(media("faces/astronaut_frontal.png")).pixels
    matrix = cv2.getRotationMatrix2D((222, 150), turn, 0.9)
    matrix[:, 2] += (34, 106)
    turned = cv2.warpAffine(pixels, matrix, (512, 512), borderMode=cv2.BORDER_REPLICATE)
    (face,) = _kept(detect(turned))
    assert _off(face, np.array(ASTRONAUT) @ matrix[:, :2].T + matrix[:, 2]) < 0.05


def test_size_depth_channels_and_mirroring_change_nothing(detect: FaceDetector, media: Finder) -> None:
    pixels = read_image(media("faces/astronaut_frontal.png")).pixels[:300, 80:380]
    expected = np.array(ASTRONAUT) - (80, 0)
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)[..., None]
    opaque = np.concatenate((pixels, np.full((300, 300, 1), 255, np.uint8)), 2)
    for picture in (pixels, pixels.astype(np.uint16) * 257, grey, opaque):
        (face,) = detect(picture)
        assert _off(face, expected) < 0.04
    (face,) = detect(np.ascontiguousarray(pixels[:, ::-1]))
    mirrored = face.landmarks[[1, 0, 2, 4, 3]]
    assert _off(face, face.landmarks) == 0
    mirrored[:, 0] = 299 - mirrored[:, 0]
    assert np.hypot(*(mirrored - expected).T).mean() < 0.02 * 42
    # a close-up of 12 megapixels, which fills more of the picture than the detector can see at once
    large = cv2.resize(pixels[:240, 20:260], (3600, 3600), interpolation=cv2.INTER_CUBIC)
    (face,) = detect(large)
    assert _off(face, (np.array(expected) - (20, 0) + 0.5) * 15 - 0.5) < 0.04


def test_the_same_picture_gives_the_same_faces(weights: Path, detect: FaceDetector, media: Finder) -> None:
    pixels = read_image(media("faces/astronaut_small_lr.jpg")).pixels
    first = detect(pixels)
    detect(np.zeros((50, 60, 3), np.uint8))
    for faces in (detect(pixels), FaceDetector(weights)(pixels)):
        assert [facts(face) for face in faces] == [facts(face) for face in first]
        assert np.array_equal(faces[0].landmarks, first[0].landmarks)


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (7, 3), (40, 2000)])
def test_tiny_and_narrow_pictures_have_no_faces(size: tuple[int, int], detect: FaceDetector) -> None:
    assert detect(np.full((*size, 3), 90, np.uint8)) == []


def test_noise_and_textures_are_no_faces(detect: FaceDetector, rng: np.random.Generator) -> None:
    fine = rng.integers(0, 256, (200, 300, 3), np.uint8)
    coarse = cv2.resize(rng.integers(0, 256, (20, 30, 3), np.uint8), (300, 200), interpolation=cv2.INTER_CUBIC)
    assert _kept(detect(fine)) == _kept(detect(coarse)) == []


@pytest.mark.parametrize(
    ("options", "reasons"),
    [
        (FaceOptions(min_size_px=100), {"small"}),
        (FaceOptions(threshold=0.99), {"uncertain"}),
        (FaceOptions(only_center_face=True), {"", "not in the centre"}),
        (FaceOptions(), {""}),
    ],
)
def test_faces_are_refused_and_say_why(options: FaceOptions, reasons: set[str], weights: Path, media: Finder) -> None:
    face = read_image(media("faces/astronaut_frontal.png")).pixels[40:200, 130:310]
    pixels = np.concatenate((face, face), axis=1)[:, :320]
    faces = FaceDetector(weights, options)(pixels)
    assert {face.refused for face in faces} == reasons
    if options.only_center_face:
        (chosen,) = _kept(faces)
        assert abs(chosen.landmarks[:, 0].mean() - 160) == min(abs(f.landmarks[:, 0].mean() - 160) for f in faces)
        assert len(faces) == 2


def test_a_profile_is_refused() -> None:
    face = face_at(100, 100)
    assert abs(face.yaw_deg) < 5
    face.landmarks[2, 0] += 100 * 0.25
    assert 50 < face.yaw_deg < 65
    face.landmarks[2, 0] -= 200 * 0.25
    assert -65 < face.yaw_deg < -50


def test_hidden_colours_are_not_looked_at(detect: FaceDetector, media: Finder) -> None:
    pixels = read_image(media("faces/astronaut_frontal.png")).pixels[:256, 100:356]
    transparent = np.concatenate((pixels, np.zeros((256, 256, 1), np.uint8)), 2)
    transparent[:4, :4, 3] = 255
    assert detect(transparent) == []


def test_the_detector_starts_without_a_word(weights: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = cv2.utils.logging.getLogLevel()
    FaceDetector(weights)(np.zeros((50, 60, 3), np.uint8))
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")
    assert cv2.utils.logging.getLogLevel() == before


@pytest.mark.parametrize("content", [b"", b"version https://git-lfs.github.com/spec/v1\n", b"<!doctype html>" * 99])
def test_what_is_no_detector_is_refused(content: bytes, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "face.onnx"
    path.write_bytes(content)
    with pytest.raises(CorruptWeights, match=r"face\.onnx is not a YuNet detector"):
        FaceDetector(path)
    assert capfd.readouterr().err == ""


def test_a_drawing_shows_boxes_and_points_and_leaves_the_picture_alone() -> None:
    pixels = np.zeros((200, 300, 1), np.uint16)
    fine, small = face_at(80, 100), face_at(220, 100, scale=0.1)
    picture = drawn(pixels, [fine, Face(box=small.box, landmarks=small.landmarks, score=0.5, refused="small")])
    assert (picture.shape, picture.dtype) == ((200, 300, 3), np.uint8)
    assert (picture[fine.box.top, fine.box.left] == (0, 200, 0)).all()
    assert (picture[small.box.top, small.box.left] == (255, 140, 0)).all()
    for x, y in fine.landmarks:
        assert picture[round(y), round(x)].any()
    assert not pixels.any()
