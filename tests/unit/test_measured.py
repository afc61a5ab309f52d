"""Blur and noise that are found in photos, and the pools made of them."""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from realesr_cli.errors import ConfigError, UnreadableInput, UnsupportedInput
from realesr_train.data.kernels import Blur, covariance, estimate, for_scale, widened
from realesr_train.data.measured import read_kernels, read_noise
from realesr_train.data.noise import tiles
from realesr_train.degradation.realsr import reduce
from realesr_train.kernel_forms import centre_of_mass, centred, clean, gaussian
from realesr_train.kernelgan import OUTPUT_PX, draw_corners, learn

KERNEL_PX = 21


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def dead_leaves(seed: int, side: int) -> Tensor:
    """(3, side, side) in [0, 1]: discs that hide each other, few large and many small, as things in photos do."""
    rng = np.random.default_rng(seed)
    pixels = np.full((side, side, 3), 128, np.uint8)
    for _ in range(2500):
        radius = 2 / math.sqrt(rng.uniform((2 / (side / 3)) ** 2, 1))  # as many as 1 / radius^3
        centre = tuple(int(value) for value in rng.integers(-20, side + 20, 2))
        colour = (rng.uniform(20, 235) + rng.uniform(-30, 30, 3)).clip(0, 255)
        cv2.circle(pixels, centre, round(radius), colour.tolist(), -1, cv2.LINE_AA)
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255


def known_blur(seed: int) -> tuple[Tensor, float, tuple[float, float]]:
    """A Gaussian kernel, its angle in degrees, and its variances."""
    rng = np.random.default_rng(100 + seed)
    long, short, angle = rng.uniform(3, 6), rng.uniform(0.7, 1.4), rng.uniform(0, 180)
    turn = math.radians(angle)
    axes = torch.tensor([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]], dtype=torch.float64)
    matrix = axes @ torch.diag(torch.tensor([long, short], dtype=torch.float64)) @ axes.T
    return gaussian(matrix, KERNEL_PX), angle, (long, short)


def blurred(seed: int, side: int = 720) -> Tensor:
    reduced = reduce(dead_leaves(seed, side)[None], known_blur(seed)[0][None], 2)[0]
    return (reduced * 255).round().clamp(0, 255) / 255


@pytest.fixture(scope="module")
def photos() -> list[Tensor]:
    """Ten pictures of which the blur is known."""
    return [blurred(seed) for seed in range(10)]


def _correlation(a: Tensor, b: Tensor) -> float:
    return float((a * b).sum() / (a.norm() * b.norm()))


def _angle_error(found: float, wanted: float) -> float:
    return abs((found - wanted + 90) % 180 - 90)


def _check(found: Sequence[Blur]) -> None:
    errors, correlations = [], []
    for seed, blur in enumerate(found):
        kernel, angle, (long, short) = known_blur(seed)
        errors.append(_angle_error(blur.angle_deg, angle))
        correlations.append(_correlation(blur.kernel, kernel))
        assert blur.kernel.sum() == pytest.approx(1, abs=1e-4)
        wanted = KERNEL_PX // 2 + 0.5
        assert abs(blur.centre[0] - wanted) < 0.5 and abs(blur.centre[1] - wanted) < 0.5
        assert 0.5 < blur.variances[0] / long < 2 and blur.variances[1] < blur.variances[0], (
            blur.variances,
            long,
            short,
        )
    assert np.median(errors) <= 10 and max(errors) <= 20, errors
    assert np.median(correlations) > 0.9, correlations


def test_the_blur_of_ten_pictures_is_found_with_its_orientation(photos: list[Tensor]) -> None:
    before = [photo.clone() for photo in photos]
    _check(estimate(photos))
    assert all(torch.equal(photo, kept) for photo, kept in zip(photos, before, strict=True))


def test_kernelgan_goes_on_from_there_and_keeps_the_orientation(photos: list[Tensor]) -> None:
    before = [photo.clone() for photo in photos[:3]]
    found = estimate(photos[:3], method="gan", iterations=12)
    _check(found)
    assert all(torch.equal(photo, kept) for photo, kept in zip(photos, before, strict=False))
    again = estimate(photos[:3], method="gan", iterations=12)
    assert all(torch.equal(one.kernel, two.kernel) for one, two in zip(found, again, strict=True))


def test_kernelgan_as_published_starts_from_nothing_and_draws_to_the_bicubic_kernel() -> None:
    pictures = [2 * blurred(seed, 300) - 1 for seed in range(2)]
    kernels = learn(pictures, None, iterations=60, device=torch.device("cpu"))
    assert kernels.shape == (2, 13, 13) and not torch.equal(kernels[0], kernels[1])
    assert torch.allclose(kernels.sum((1, 2)), torch.ones(2), atol=0.2)


def test_an_isotropic_blur_is_found_as_wide_as_it_is() -> None:
    kernel = gaussian(torch.eye(2) * 2.5, KERNEL_PX)
    picture = (reduce(dead_leaves(3, 720)[None], kernel[None], 2)[0] * 255).round() / 255
    (found,) = estimate([picture.clamp(0, 1)])
    # the soft edges of the discs are taken for blur as well: about 0.6
    assert all(2.5 < value < 3.9 for value in found.variances)


@pytest.mark.parametrize("picture", [torch.full((3, 200, 200), 0.5), torch.rand(3, 20, 20)])
def test_a_picture_that_tells_nothing_is_refused(picture: Tensor) -> None:
    with pytest.raises(UnsupportedInput):
        estimate([picture])


def test_a_kernel_of_scale_4_leaves_both_pictures_aligned() -> None:
    kernel = known_blur(0)[0]
    four = for_scale(kernel, 4)
    assert four.sum() == pytest.approx(1, abs=1e-5) and len(four) == 2 * KERNEL_PX - 1
    assert centre_of_mass(four) == pytest.approx((len(four) // 2 + 1.5,) * 2, abs=0.02)
    twice = reduce(reduce(dead_leaves(1, 256)[None], kernel[None], 2), kernel[None], 2)
    once = reduce(dead_leaves(1, 256)[None], four[None], 4)
    assert float((twice - once)[..., 8:-8, 8:-8].abs().max()) < 0.01


def test_a_widened_kernel_has_the_covariance_times_the_factor() -> None:
    matrix = torch.tensor([[3.0, 1.0], [1.0, 1.5]], dtype=torch.float64)
    wide = widened(gaussian(matrix, 17), 4 / 3, KERNEL_PX)
    assert torch.allclose(covariance(wide), matrix * 4 / 3, rtol=0.06, atol=0.03)
    assert centre_of_mass(wide) == pytest.approx((KERNEL_PX // 2 + 0.5,) * 2, abs=0.02)


def test_cleaning_and_centring_leave_a_small_kernel_with_its_mass_in_place() -> None:
    generator = torch.Generator().manual_seed(0)
    kernel = gaussian(torch.eye(2), 13).roll(1, 0) + 0.002 * torch.rand(13, 13, generator=generator)
    cleaned = clean(kernel)
    assert cleaned.sum() == pytest.approx(1, abs=1e-5) and int((cleaned > 0).sum()) <= 80
    moved = centred(cleaned)
    assert centre_of_mass(moved) == pytest.approx((len(moved) // 2 + 0.5,) * 2, abs=0.05)


def test_crops_are_drawn_where_edges_are() -> None:
    picture = torch.full((3, 160, 200), 0.5)
    picture[:, 60:100, 120:150] = 1.0
    corners = draw_corners(picture, OUTPUT_PX, 200, torch.Generator().manual_seed(0))
    assert bool((corners % 2 == 0).all()) and bool((corners >= 0).all())
    assert bool((corners <= torch.tensor([160 - OUTPUT_PX, 200 - OUTPUT_PX])).all())
    middle = corners + OUTPUT_PX // 2
    near = (middle[:, 0] > 40) & (middle[:, 0] < 120) & (middle[:, 1] > 100) & (middle[:, 1] < 170)
    assert near.float().mean() > 0.9


def test_tiles_have_the_variance_and_mean_of_their_noise() -> None:
    rng = np.random.default_rng(0)
    pixels = (rng.normal(100, 4, (64, 64, 1)).round().repeat(3, 2)).astype(np.uint8)
    (tile,) = tiles(pixels, 64, 64)
    assert (tile.top, tile.left) == (0, 0)
    assert tile.mean == pytest.approx(100, abs=0.3) and tile.variance == pytest.approx(16, rel=0.1)
    assert len(list(tiles(pixels, 32, 16))) == 9


def _save(path: Path, kernel: NDArray[Any], scale: int = 4) -> None:
    np.savez(path, kernel=kernel, scale=scale)


def test_a_pool_of_kernels_has_one_size_and_the_sum_1(tmp_path: Path) -> None:
    _save(tmp_path / "a.npz", np.ones((3, 5)))
    even = np.zeros((4, 4))
    even[2, 2] = 2.0
    _save(tmp_path / "b.npz", even)
    np.save(tmp_path / "c.npy", np.ones((3, 3)))
    pool = read_kernels(tmp_path, 4)
    assert pool.shape == (3, 5, 5) and torch.allclose(pool.sum((1, 2)), torch.ones(3))
    assert pool[1, 2, 2] == 1  # the place n // 2 is the middle
    assert pool[2, 1:4, 1:4].min() > 0 and pool[2].count_nonzero() == 9


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (lambda folder: None, ConfigError),
        (lambda folder: _save(folder / "a.npz", np.ones((3, 3)), 2), ConfigError),
        (lambda folder: _save(folder / "a.npz", np.zeros((3, 3))), UnreadableInput),
        (lambda folder: _save(folder / "a.npz", np.full((3, 3), np.nan)), UnreadableInput),
        (lambda folder: (folder / "a.npz").write_bytes(b"PK\x03\x04 no"), UnreadableInput),
        (lambda folder: np.save(folder / "a.npy", np.array([{}], dtype=object)), UnreadableInput),
    ],
)
def test_a_pool_that_cannot_be_used_is_named(
    spoil: Callable[[Path], object], error: type[Exception], tmp_path: Path
) -> None:
    spoil(tmp_path)
    with pytest.raises(error, match=str(tmp_path)):
        read_kernels(tmp_path, 4)


def test_an_empty_pool_of_noise_says_how_to_fill_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read_noise(tmp_path)
    assert "--max-variance" in str(caught.value.hint)
    cv2.imwrite(str(tmp_path / "a.png"), np.full((8, 9), 7, np.uint8))
    (patch,) = read_noise(tmp_path)
    assert patch.shape == (3, 8, 9) and patch.dtype == torch.uint8


def test_records_are_plain_json(photos: list[Tensor]) -> None:
    from realesr_train.data.kernels import _facts

    facts = json.loads(json.dumps(_facts(estimate(photos[:1])[0])))
    assert set(facts) == {"variances_px2", "angle_deg", "centre_px", "side_px"}


@pytest.mark.slow
def test_kernelgan_is_stable_over_all_its_steps(photos: list[Tensor]) -> None:
    _check(estimate(photos, method="gan"))
