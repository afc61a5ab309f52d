"""PSNR, SSIM and NIQE against the numbers of the published programs, and what they do at their limits."""

import hashlib
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from realesr_train.metrics.niqe import PRISTINE, niqe
from realesr_train.metrics.psnr_ssim import psnr, psnr_batch, ssim, ssim_batch, to_luma

Finder = Callable[[str], Path]
Numbers = dict[str, npt.NDArray[np.float64]]
CASES = pytest.mark.parametrize(("border", "luma"), [(0, False), (0, True), (4, False), (4, True)])


@pytest.fixture(scope="module")
def numbers(golden: Finder) -> Numbers:
    return dict(np.load(golden("metrics.npz")))


@pytest.fixture(scope="module")
def pairs(numbers: Numbers) -> list[tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]]:
    return list(zip(numbers["a_rgb"].astype(np.uint8), numbers["b_rgb"].astype(np.uint8), strict=True))


def _tensor(pixels: npt.NDArray[np.float64]) -> torch.Tensor:
    return torch.from_numpy(pixels.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255))


@CASES
def test_psnr_and_ssim_of_arrays_are_the_published_ones(
    numbers: Numbers, pairs: list[tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]], border: int, luma: bool
) -> None:
    case = f"crop{border}_y{int(luma)}"
    found = [psnr(a, b, border=border, luma=luma) for a, b in pairs]
    assert found == pytest.approx(numbers[f"psnr_{case}"], abs=1e-5)
    found = [ssim(a, b, border=border, luma=luma) for a, b in pairs]
    assert found == pytest.approx(numbers[f"ssim_{case}"], abs=1e-7)


@pytest.mark.parametrize(("border", "luma"), [(0, False), (4, True)])
def test_psnr_and_ssim_of_tensors_are_the_published_ones(numbers: Numbers, border: int, luma: bool) -> None:
    a, b = _tensor(numbers["a_rgb"]), _tensor(numbers["b_rgb"])
    case = f"pt_crop{border}_y{int(luma)}"
    found = psnr_batch(a, b, border=border, luma=luma)
    assert found.numpy() == pytest.approx(numbers[f"psnr_{case}"], abs=1e-6)
    found = ssim_batch(a, b, border=border, luma=luma)
    assert found.numpy() == pytest.approx(numbers[f"ssim_{case}"], abs=1e-7)


def test_luma_is_the_published_one(numbers: Numbers) -> None:
    found = to_luma(_tensor(numbers["a_rgb"][:1]).double() * 255)[0, 0]
    assert found.numpy() == pytest.approx(numbers["y_channel_a0"], abs=2e-5)


def test_the_statistics_of_niqe_are_the_published_ones() -> None:
    published = "2a7c182a68c9e7f1b2e2e5ec723279d6f65d912b6fcaf37eb2bf03d7367c4296"
    assert hashlib.sha256(PRISTINE.read_bytes()).hexdigest() == published


@pytest.mark.parametrize("index", [0, 1, 2])
def test_niqe_is_the_published_one(numbers: Numbers, index: int) -> None:
    pixels = numbers[f"niqe_rgb_{index}"].astype(np.uint8)
    grey = np.round(pixels @ np.array([0.299, 0.587, 0.114])).astype(np.uint8)[:, :, None]
    of_luma, of_grey, within_border = numbers["niqe_values"][index]
    assert niqe(pixels) == pytest.approx(of_luma, abs=0.01)
    assert niqe(grey) == pytest.approx(of_grey, abs=0.01)
    if math.isnan(within_border):
        with pytest.warns(RuntimeWarning, match="1 blocks of 96x96 pixels"):
            assert math.isnan(niqe(pixels, border=4))
    else:
        assert niqe(pixels, border=4) == pytest.approx(within_border, abs=0.01)


def test_niqe_leaves_out_flat_blocks_and_is_unknown_where_no_other_ones_are(numbers: Numbers) -> None:
    pixels = numbers["niqe_rgb_1"].astype(np.uint8).copy()
    whole = niqe(pixels)
    pixels[:96, :96] = 128
    some_flat = niqe(pixels)
    assert math.isfinite(some_flat) and some_flat != whole
    pixels[:192, :192] = 128
    pixels[:, 192:] = 60
    with pytest.warns(RuntimeWarning, match="0 blocks that are not flat"):
        assert math.isnan(niqe(pixels))


def test_niqe_looks_at_whole_blocks_from_the_upper_left_only(numbers: Numbers) -> None:
    pixels = numbers["niqe_rgb_1"].astype(np.uint8)  # 200x300
    assert niqe(pixels) == niqe(pixels[:192, :288])
    assert niqe(pixels) != niqe(pixels[8:, 12:])
    assert niqe(pixels, border=2) == niqe(pixels[2:-2, 2:-2])


def test_noise_makes_a_picture_less_natural(numbers: Numbers, rng: np.random.Generator) -> None:
    pixels = numbers["niqe_rgb_0"].astype(np.uint8)
    noisy = np.clip(pixels + rng.normal(0, 40, pixels.shape), 0, 255).astype(np.uint8)
    assert niqe(noisy) > niqe(pixels) + 1


def test_equal_pictures_are_infinitely_far_from_differing_as_arrays_and_80_db_as_tensors(numbers: Numbers) -> None:
    array = numbers["a_rgb"][0].astype(np.uint8)
    assert psnr(array, array) == math.inf
    assert ssim(array, array) == pytest.approx(1, abs=1e-12)
    batch = _tensor(numbers["a_rgb"])
    assert psnr_batch(batch, batch).tolist() == pytest.approx([80.0] * 4)
    assert ssim_batch(batch, batch).tolist() == pytest.approx([1.0] * 4)


def test_one_level_everywhere_is_48_db() -> None:
    dark = np.zeros((12, 12, 3), dtype=np.uint8)
    assert psnr(dark, dark + np.uint8(1)) == pytest.approx(20 * math.log10(255))
    grey = dark[:, :, :1]
    assert psnr(grey, grey + np.uint8(1)) == pytest.approx(20 * math.log10(255))


def test_the_border_is_left_out(rng: np.random.Generator) -> None:
    a = rng.integers(0, 256, (20, 17, 3), dtype=np.uint8)
    b = a.copy()
    b[:3], b[-3:], b[:, :3], b[:, -3:] = 0, 255, 0, 255
    assert psnr(a, b, border=3) == math.inf and ssim(a, b, border=3) == pytest.approx(1)
    assert psnr(a, b, border=2) < 40 and ssim(a, b, border=2) < 0.999


_ARRAY = np.zeros((20, 16, 3), dtype=np.uint8)


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_a_wrong_array_is_named(metric: Callable[..., float]) -> None:
    with pytest.raises(ValueError, match=r"^a, b: .* one size"):
        metric(_ARRAY, _ARRAY[:-1])
    with pytest.raises(ValueError, match=r"^a, b: float32 .* uint8"):
        metric(_ARRAY, _ARRAY.astype(np.float32))
    with pytest.raises(ValueError, match=r"^a, b: .* \(H, W, C\)"):
        metric(_ARRAY[:, :, 0], _ARRAY[:, :, 0])
    for border in (-1, 8):
        with pytest.raises(ValueError, match=rf"^border: {border} "):
            metric(_ARRAY, _ARRAY, border=border)
    with pytest.raises(ValueError, match=r"^luma: 1 channels"):
        metric(_ARRAY[:, :, :1], _ARRAY[:, :, :1], luma=True)


@pytest.mark.parametrize("metric", [psnr_batch, ssim_batch])
def test_a_wrong_tensor_is_named(metric: Callable[..., torch.Tensor]) -> None:
    batch = torch.zeros(2, 3, 16, 16)
    with pytest.raises(ValueError, match=r"^a, b: .* one size"):
        metric(batch, batch[:1])
    for wrong in (batch[0], batch.to(torch.uint8)):
        with pytest.raises(ValueError, match=r"^a, b: .* float tensors"):
            metric(wrong, wrong)


def test_a_picture_too_small_for_ssim_and_a_wrong_one_for_niqe_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^a, b: 10x16 .* at least 11x11"):
        ssim(_ARRAY[:10], _ARRAY[:10])
    for wrong in (_ARRAY[:, :, :2], _ARRAY.astype(np.float32), _ARRAY[:, :, 0]):
        with pytest.raises(ValueError, match=r"^pixels: "):
            niqe(wrong, tmp_path)
    with pytest.raises(ValueError, match=r"^border: "):
        niqe(_ARRAY, tmp_path, border=-1)
