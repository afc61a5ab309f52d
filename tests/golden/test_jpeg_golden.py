"""The default JPEG against the codec itself, the legacy one against the original simulator."""

from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch

from realesr_train.degradation.jpeg import jpeg

Bytes = npt.NDArray[np.uint8]


class Finder(Protocol):
    def __call__(self, name: str) -> Path: ...


def _tensor(pixels: Bytes) -> torch.Tensor:
    return torch.from_numpy(pixels.astype(np.float32) / np.float32(255))


def _levels(pixels: torch.Tensor) -> npt.NDArray[np.float32]:
    return (pixels * 255).round().numpy()


def _codec(pixels: Bytes, quality: int) -> Bytes:
    """(3, H, W) RGB through OpenCV's encoder and decoder (libjpeg-turbo, 4:2:0)."""
    bgr = np.ascontiguousarray(pixels.transpose(1, 2, 0)[:, :, ::-1])
    done, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert done
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert decoded is not None
    return np.asarray(decoded, dtype=np.uint8)[:, :, ::-1].transpose(2, 0, 1)


@pytest.fixture(scope="module")
def codec_data(golden: Finder) -> dict[str, npt.NDArray[np.generic]]:
    return dict(np.load(golden("jpeg_libjpeg.npz")))


@pytest.fixture(scope="module")
def legacy_data(golden: Finder) -> dict[str, npt.NDArray[np.generic]]:
    return dict(np.load(golden("jpeg_legacy.npz")))


@pytest.mark.parametrize("index", range(5))
def test_small_pictures_equal_the_stored_ones_of_libjpeg(codec_data: dict[str, Bytes], index: int) -> None:
    qualities, picture = codec_data["qualities"], codec_data[f"img_{index}"]
    batch = _tensor(picture).expand(len(qualities), -1, -1, -1)
    result = jpeg(batch, torch.from_numpy(qualities.astype(np.float32)))
    # Other builds of libjpeg may differ by single levels; against this one not a value differs.
    assert np.array_equal(_levels(result), codec_data[f"out_{index}"])


def test_large_pictures_differ_from_the_installed_codec_by_next_to_nothing(codec_data: dict[str, Bytes]) -> None:
    pictures = codec_data["big_img"]
    for quality in (1, 5, 10, 23, 30, 49, 50, 51, 75, 90, 95, 100):
        result = _levels(jpeg(_tensor(pictures), torch.full((4,), float(quality))))
        real = np.stack([_codec(picture, quality) for picture in pictures])
        assert np.abs(result - real).mean() < 0.01, quality


def test_a_picture_of_odd_size_is_coded_as_libjpeg_does_to_its_last_row_and_column(
    codec_data: dict[str, Bytes],
) -> None:
    picture = codec_data["odd_img"]
    for k, quality in enumerate(codec_data["qualities"]):
        result = _levels(jpeg(_tensor(picture), torch.tensor([float(quality)])))[0]
        error = np.abs(result - picture[0])
        inside = np.zeros(error.shape, dtype=bool)
        inside[:, :112, :112] = True
        assert error[~inside].mean() == pytest.approx(codec_data["odd_err_libjpeg_border"][k], abs=0.02), quality
        assert error[inside].mean() == pytest.approx(codec_data["odd_err_libjpeg_inside"][k], abs=0.02), quality


def test_any_picture_in_a_ragged_batch_is_coded_as_the_installed_codec_does(rng: np.random.Generator) -> None:
    count, canvas = 24, 50
    sizes = np.stack((rng.integers(1, canvas + 1, count), rng.integers(5, canvas + 1, count)), 1)
    qualities = rng.integers(1, 101, count)
    noise = rng.integers(0, 256, (count, 3, canvas, canvas), dtype=np.uint8)
    stripes = noise // 128 * 255
    ramps = (
        np.add.outer(np.arange(canvas), np.arange(canvas)).astype(np.uint8)
        * np.arange(1, 4, dtype=np.uint8)[:, None, None]
    )
    for pictures in (noise, stripes, np.broadcast_to(ramps, noise.shape)):
        result = _levels(
            jpeg(_tensor(pictures), torch.from_numpy(qualities.astype(np.float32)), torch.from_numpy(sizes))
        )
        for k, ((height, width), quality) in enumerate(zip(sizes, qualities, strict=True)):
            real = _codec(pictures[k, :, :height, :width], int(quality))
            assert np.abs(result[k, :, :height, :width] - real).mean() < 0.01, (height, width, quality)


@pytest.mark.parametrize("index", range(5))
def test_legacy_equals_the_original_simulator(legacy_data: dict[str, npt.NDArray[np.float32]], index: int) -> None:
    qualities = torch.from_numpy(legacy_data["qualities"])
    picture = _tensor(legacy_data[f"img_{index}"].astype(np.uint8))
    result = jpeg(picture.expand(len(qualities), -1, -1, -1), qualities, legacy=True)
    _assert_equal(result, legacy_data[f"out_{index}"])


def test_legacy_takes_real_qualities_per_picture_and_leaves_them_as_they_were(
    legacy_data: dict[str, npt.NDArray[np.float32]],
) -> None:
    quality = torch.from_numpy(legacy_data["batch_quality"].copy())
    result = jpeg(_tensor(legacy_data["batch_img"].astype(np.uint8)), quality, legacy=True)
    _assert_equal(result, legacy_data["batch_out"])
    assert np.array_equal(quality.numpy(), legacy_data["batch_quality"])


@pytest.mark.parametrize("quality", ["10", "30", "50", "72.3", "95"])
def test_differentiable_legacy_has_the_original_values(
    legacy_data: dict[str, npt.NDArray[np.float32]], quality: str
) -> None:
    picture = _tensor(legacy_data["img_0"].astype(np.uint8))
    result = jpeg(picture, torch.tensor([float(quality)]), legacy=True, differentiable=True)
    _assert_equal(result, legacy_data[f"diff_out_0_q{quality}"])


def _assert_equal(result: torch.Tensor, original: npt.NDArray[np.float32]) -> None:
    """A coefficient on a rounding tie may fall on the other side."""
    difference = np.abs(result.numpy() - original)
    assert np.mean(difference <= 1e-5) >= 0.999
    assert difference.mean() <= 1e-4
