"""Real pictures through the official weights: the original program's results, within rounding of the weights."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from realesr_cli import DeviceOptions, Upscaler, load_model, read_image
from realesr_cli.models.architectures import LoadedModel, build_model
from realesr_cli.models.reading import blend, read_weights

Finder = Callable[[str], Path]

_FILES = {
    "x4plus": "realesrgan-x4plus.param",
    "x4plus-anime": "ncnn/realesrgan-x4plus-anime.param",
    "general-x4v3": "ncnn/realesr-general-x4v3.param",
    "general-dn0.5": "ncnn/realesr-general-x4v3.param",
    "animevideov3": "realesr-animevideov3.pth",
}
_PAIRS = [
    ("photo", "x4plus"),
    ("photo", "general-x4v3"),
    ("photo", "general-dn0.5"),
    ("photo", "animevideov3"),
    ("drawing", "x4plus"),
    ("drawing", "x4plus-anime"),
    ("drawing", "animevideov3"),
    ("tree16", "x4plus"),
    ("tree16", "general-x4v3"),
    ("wolf_gray", "x4plus"),
    ("wolf_gray", "general-x4v3"),
]


def _official(name: str, weights_file: Finder) -> LoadedModel:
    if name != "general-dn0.5":
        return load_model(weights_file(_FILES[name]))
    strong = read_weights(weights_file("ncnn/realesr-general-x4v3.param"))
    weak = read_weights(weights_file("ncnn/realesr-general-wdn-x4v3.param"))
    return build_model(blend(strong, weak, 0.5), name)


@pytest.mark.parametrize(("picture", "model"), _PAIRS)
def test_equals_the_official_picture(picture: str, model: str, golden: Finder, weights_file: Finder) -> None:
    upscaler = Upscaler(_official(model, weights_file), device=DeviceOptions(device="cpu", precision="fp32"))
    source = read_image(golden(f"official/{picture}.png"))
    expected = read_image(golden(f"official/{picture}__{model}.png")).pixels
    result = upscaler(source.pixels)
    assert (result.shape, result.dtype) == (expected.shape, expected.dtype)
    levels = 257 if result.dtype == np.uint16 else 1
    error = np.abs(result.astype(int) - expected.astype(int)) / levels
    assert error.max() <= 1, f"{error.max()}"
    assert error.mean() <= 0.01, f"{error.mean()}"
