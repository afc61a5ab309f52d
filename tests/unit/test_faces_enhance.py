"""Faces cut out, restored and put back: nothing moves, nothing else changes, at any depth, scale and place."""

from typing import Any, cast

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from faces import Found, Restorer, face_at, restorer
from realesr_cli.errors import NonFiniteOutput, OutOfMemory
from realesr_cli.faces.align import alignment, chained, cut, inverse, moved, resizing, sample, scale_of
from realesr_cli.faces.detect import Face, FaceDetector
from realesr_cli.faces.enhance import FaceEnhancer, Pasting
from realesr_cli.options import DeviceOptions, FaceOptions

Pixels = NDArray[Any]
CPU = DeviceOptions(device="cpu", precision="fp32")


def enhancer(*faces: Face, model: Any = None, **options: Any) -> FaceEnhancer:
    detector = cast(FaceDetector, Found(*faces))
    return FaceEnhancer(model or restorer(), detector, options=FaceOptions(**options), device=CPU)


def smooth(height: int, width: int, top: int = 255, channels: int = 3) -> Pixels:
    """Waves of 40 pixels and more, between 10 and 90 % of the range; the same scene at any size."""
    y, x = ((np.arange(side) + 0.5) / side for side in (height, width))
    waves = [
        0.5 + 0.2 * np.sin(2 * np.pi * (3 + c) * x)[None] + 0.2 * np.cos(2 * np.pi * (4 - c) * y)[:, None]
        for c in range(channels)
    ]
    dtype = np.uint8 if top == 255 else np.uint16
    return cast(Pixels, np.rint(np.stack(waves, 2) * top).astype(dtype))


def detailed(height: int, width: int, seed: int = 0) -> Pixels:
    noise = np.random.default_rng(seed).normal(size=(height, width)).astype(np.float32)
    blurred = cv2.GaussianBlur(noise, (0, 0), 4.0)
    grey = np.clip(128 + 40 * blurred / blurred.std(), 0, 255)
    return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)


# --- geometry ---------------------------------------------------------------------------------------------------------


def test_landmarks_come_to_lie_on_the_template() -> None:
    face = face_at(300, 200, scale=0.31, turn_deg=33)
    at_512 = moved(face.landmarks, alignment(face.landmarks, 512))
    assert np.allclose(at_512, moved(face_at(255.5, 255.5, scale=1).landmarks, np.eye(2, 3)), atol=1e-9)
    # at half the size, pixel middles are at half of the place, less a quarter
    assert np.allclose(moved(face.landmarks, alignment(face.landmarks, 256)), (at_512 + 0.5) / 2 - 0.5, atol=1e-9)


def test_transforms_chain_and_turn_round() -> None:
    first, second = alignment(face_at(30, 50, turn_deg=70).landmarks, 512), resizing((100, 200), (150, 400))
    points = np.array([[3.0, 4.0], [50.0, -7.5]])
    assert np.allclose(moved(points, chained(first, second)), moved(moved(points, first), second))
    assert np.allclose(moved(moved(points, first), inverse(first)), points)
    assert np.allclose(moved(np.array([[-0.5, -0.5], [199.5, 99.5]]), second), [[-0.5, -0.5], [399.5, 149.5]])
    assert scale_of(first) == pytest.approx(4)


def test_sampling_a_ramp_is_exact_between_pixels() -> None:
    ramp = (np.arange(40.0)[None, :, None] + 100 * np.arange(30.0)[:, None, None]).astype(np.float32)
    transform = np.array([[0.3, 0.1, 5.37], [-0.1, 0.3, 9.41]])
    rows, columns = np.arange(20)[:, None], np.arange(25)[None]
    x, y = (row[0] * columns + row[1] * rows + row[2] for row in transform)
    assert np.abs(sample(ramp, transform, 20, 25)[..., 0] - (x + 100 * y)).max() < 0.01


def test_large_faces_are_cut_out_without_aliasing() -> None:
    stripes = np.zeros((1600, 1600, 1), np.uint8)
    stripes[:, ::2] = 255
    face = face_at(800, 800, scale=2.7, turn_deg=5)
    transform = alignment(face.landmarks, 512)
    assert sample(stripes.astype(np.float32), inverse(transform), 512, 512).std() > 60, "a pattern that is not there"
    aligned = cut(stripes, transform, 512)
    assert aligned.std() < 20
    assert np.abs(aligned.mean() - 127.5) < 0.5


def test_a_face_beyond_the_edge_sees_the_edge_repeated() -> None:
    picture = smooth(60, 80)
    aligned = cut(picture, alignment(face_at(-300, 20).landmarks, 512), 512)
    assert np.isfinite(aligned).all()
    assert np.abs(aligned - aligned[:, :1]).max() < 1e-3
    assert aligned[..., 0].std() > 0


# --- there and back ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("top", [255, 65535])
@pytest.mark.parametrize("scale", [1, 2, 4, 0.5, 2.31])
@pytest.mark.parametrize("turn", [0, 27, 90])
def test_a_restorer_that_does_nothing_gives_the_picture_back(top: int, scale: float, turn: float) -> None:
    original = smooth(300, 400, top)
    upscaled = smooth(round(300 * scale), round(400 * scale), top)
    result = enhancer(face_at(211.3, 140.8, scale=0.3, turn_deg=turn))(original, upscaled)
    assert result.dtype == upscaled.dtype
    difference = np.abs(result.astype(np.int64) - upscaled)
    assert difference.max() <= top / 255, "of 8 bits"
    assert difference.mean() < 0.25 * top / 255


@pytest.mark.parametrize("scale", [1, 2, 4, 3.3, 0.7])
def test_a_pasted_face_is_not_shifted(scale: float) -> None:
    phases, slopes = [], []
    for seed in range(3):
        original = detailed(400, 400, seed)
        # the same scene, enlarged on the right grid of pixels
        interpolation = cv2.INTER_CUBIC if scale >= 1 else cv2.INTER_AREA
        upscaled = cv2.resize(original, (round(400 * scale),) * 2, interpolation=interpolation)
        # on plain grey the pasted face is all that there is
        result = enhancer(face_at(200, 200, scale=0.5, turn_deg=11))(original, np.full_like(upscaled, 128))
        inside = slice(round(136 * scale), round(264 * scale))
        expected, pasted = (picture[inside, inside, 0].astype(np.float64) for picture in (upscaled, result))
        window = cv2.createHanningWindow(expected.shape[::-1], cv2.CV_64F)
        phases.append(cv2.phaseCorrelate(expected, pasted, window)[0])
        # the same by least squares, which is far less noisy: difference = gradient * shift
        gradients = np.stack([(part * window).ravel() for part in np.gradient(expected)], 1)
        slopes.append(np.linalg.lstsq(gradients, ((expected - pasted) * window).ravel(), rcond=None)[0])
    # others scale the inverse matrix and add scale / 2 where (scale - 1) / 2 is right: half a pixel
    assert np.abs(np.median(phases, 0)).max() < 0.1
    assert np.abs(np.mean(slopes, 0)).max() < 0.01


def test_pasting_twice_is_like_pasting_once() -> None:
    original = detailed(200, 240)
    upscaled = cv2.resize(original, (480, 400), interpolation=cv2.INTER_CUBIC)
    enhance = enhancer(face_at(120, 100, scale=0.3))
    assert np.array_equal(enhance(original, upscaled), enhance(original, upscaled))


# --- what changes, and what does not ----------------------------------------------------------------------------------

WHITE = restorer(torch.ones_like, side=64)


def test_only_the_oval_of_the_face_changes() -> None:
    original = np.full((150, 200, 3), 100, np.uint8)
    upscaled = np.full((300, 400, 3), 100, np.uint8)
    result = enhancer(face_at(100, 75, scale=0.2), model=WHITE)(original, upscaled)
    assert (result[150, 200] == 255).all()
    rows, columns = np.nonzero(result[..., 0] != 100)
    # half of the aligned face is 0.2 * 256 * 2 = 102 pixels, of which the oval has 78 and 90 %
    assert 75 <= abs(columns - 200).max() <= 81
    assert 88 <= abs(rows - 156).max() <= 93
    steps = np.abs(np.diff(result[..., 0].astype(int), axis=1)).max()
    assert steps < 30, "the edge is soft"
    assert upscaled.max() == 100, "the upscaled picture is the caller's"


def test_strength_blends_with_the_upscaled_picture() -> None:
    original, upscaled = np.full((150, 200, 3), 100, np.uint8), np.full((300, 400, 3), 100, np.uint8)
    face = face_at(100, 75, scale=0.2)
    for strength, expected in ((0.0, 100), (0.25, 139), (0.5, 178), (1.0, 255)):
        result = enhancer(face, model=WHITE, strength=strength)(original, upscaled)
        assert abs(int(result[150, 200, 0]) - expected) <= 1
        if strength == 0:
            assert np.array_equal(result, upscaled)


def test_without_a_face_to_restore_the_picture_itself_comes_back() -> None:
    upscaled = smooth(60, 80)
    small = Face(box=face_at(20, 20).box, landmarks=face_at(20, 20).landmarks, score=0.9, refused="small")
    assert enhancer()(upscaled, upscaled) is upscaled
    model = restorer()
    assert enhancer(small, model=model)(upscaled, upscaled) is upscaled
    assert cast(Restorer, model.network).batches == []


def test_several_faces_at_the_edges_and_overlapping() -> None:
    original, upscaled = np.full((100, 100, 3), 50, np.uint8), np.full((200, 200, 3), 50, np.uint8)
    places = ((0, 0), (99, 50), (50, 99), (60, 60), (65, 60), (500, 500), (-400, 3))
    faces = [face_at(x, y, scale=0.1) for x, y in places]
    result = enhancer(*faces, model=WHITE)(original, upscaled)
    assert all((result[y, x] == 255).all() for y, x in ((0, 0), (100, 199), (199, 100), (120, 120)))
    assert (result[20, 120] == 50).all()


@pytest.mark.parametrize("top", [255, 65535])
@pytest.mark.parametrize("shape", [(), (1,), (3,), (4,)])
def test_grey_alpha_and_depth_are_kept(shape: tuple[int, ...], top: int) -> None:
    dtype = np.uint8 if top == 255 else np.uint16
    original = np.full((90, 120, *shape), top // 3, dtype)
    upscaled = np.full((180, 240, *shape), top // 3, dtype)
    half = restorer(lambda x: x * 0 + torch.tensor([0.9, 0.6, 0.3])[None, :, None, None], side=64)
    result = enhancer(face_at(60, 45, scale=0.2), model=half)(original, upscaled)
    assert (result.shape, result.dtype) == (upscaled.shape, dtype)
    middle = result[90, 120].astype(float) / top
    if shape in ((3,), (4,)):
        # a grey face stays grey: BT.601 luma of what the network made
        assert np.allclose(middle[:3], 0.6548, atol=0.01)
    else:
        assert np.allclose(middle, 0.6548, atol=0.01)
    if shape == (4,):
        assert (result[..., 3] == top // 3).all()


def test_colours_stay_in_their_channels() -> None:
    original = np.full((90, 120, 3), (200, 100, 50), np.uint8)
    half = restorer(lambda x: x * torch.tensor([1.0, 0.5, 0.0])[None, :, None, None], side=64)
    result = enhancer(face_at(60, 45, scale=0.2), model=half)(original, original.copy())
    assert np.abs(result[45, 60].astype(int) - (200, 50, 0)).max() <= 1


def test_hidden_colours_do_not_reach_the_network() -> None:
    original = np.full((90, 120, 4), 120, np.uint8)
    original[:, 60:] = (255, 0, 255, 0)
    result = enhancer(face_at(60, 45, scale=0.2))(original, original.copy())
    assert np.abs(result[45, 50:60, :3].astype(int) - 120).max() <= 1


def test_sixteen_bits_are_not_rounded_to_eight() -> None:
    original = np.full((90, 120, 3), (30001, 30002, 30003), np.uint16)
    result = enhancer(face_at(60, 45, scale=0.2))(original, np.zeros_like(original))
    assert np.abs(result[45, 60].astype(int) - (30001, 30002, 30003)).max() <= 1


def test_bands_give_what_the_whole_picture_gives() -> None:
    original = detailed(200, 240)
    upscaled = cv2.resize(original, (960, 800), interpolation=cv2.INTER_CUBIC)
    enhance = enhancer(face_at(120, 100, scale=0.3, turn_deg=15), face_at(20, 180, scale=0.1))
    whole = enhance(original, upscaled)
    rows = upscaled.copy()
    paste = enhance.pasting(enhance.restore(original, enhance.find(original)), (200, 240), (800, 960))
    for top in range(0, 800, 37):
        paste(rows[top : top + 37], top)
    assert np.array_equal(rows, whole)


# --- the network ------------------------------------------------------------------------------------------------------


def test_memory_that_is_full_halves_the_batch_and_then_says_so() -> None:
    def full_above(limit: int) -> Any:
        def function(x: torch.Tensor) -> torch.Tensor:
            if len(x) > limit:
                raise torch.OutOfMemoryError("out of memory")
            return x

        return restorer(function, side=64)

    original = smooth(100, 100)
    faces = [face_at(20 + 15 * i, 50, scale=0.1) for i in range(5)]
    model = full_above(2)
    enhance = enhancer(*faces, model=model)
    enhance._batch = 8
    assert len(enhance.restore(original, enhance.find(original))) == 5
    assert cast(Restorer, model.network).batches == [5, 2, 2, 1]
    with pytest.raises(OutOfMemory, match="restore a face"):
        enhancer(*faces, model=full_above(0))(original, original)


def test_numbers_that_are_none_are_an_error() -> None:
    broken = restorer(lambda x: x * float("nan"), side=64)
    with pytest.raises(NonFiniteOutput):
        enhancer(face_at(50, 50, scale=0.1), model=broken)(smooth(100, 100), smooth(100, 100))


def test_faces_that_the_network_makes_too_small_are_enlarged_with_the_picture() -> None:
    sizes = []

    def enlarge(pixels: Pixels) -> Pixels:
        sizes.append(pixels.shape[0])
        return np.full((4 * pixels.shape[0], 4 * pixels.shape[1], 3), 65535, np.uint16)

    original = smooth(100, 100)
    face = face_at(50, 50, scale=0.5)
    for side, scale, is_enlarged in ((64, 4, True), (512, 2, False), (64, 0.2, False)):
        enhance = enhancer(face, model=restorer(side=side))
        size = (round(100 * scale),) * 2
        picture = smooth(*size)
        Pasting(enhance.restore(original, [face]), (100, 100), size, 1.0, enlarge)(picture, 0)
        assert bool((picture[size[0] // 2, size[1] // 2] == 255).all()) == is_enlarged
    assert sizes == [64]
