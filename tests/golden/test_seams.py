"""With the official weights, tiles change no 8-bit value by more than one level."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from realesr_cli import DeviceOptions, TileOptions, Upscaler, load_model, read_image

Finder = Callable[[str], Path]
_FP32 = DeviceOptions(device="cpu", precision="fp32")
# aerial needs the most context of all pictures tried (docs/performance.md)
_PICTURES = {"aerial": "eval/hr/coast_aerial.png", "comic": "eval/hr/comic.png", "writing": "eval/hr/handwritten.png"}


_LARGE = ("realesrgan-x4plus.param", "ncnn/realesrgan-x4plus-anime.param")
_SMALL = ("ncnn/realesr-general-x4v3.param", "realesr-animevideov3.pth")


@pytest.mark.parametrize(
    ("weights", "picture"),
    [
        *[pytest.param(name, picture, marks=pytest.mark.slow) for name in _LARGE for picture in ("comic", "writing")],
        *[(name, "aerial") for name in _LARGE],
        *[(name, picture) for name in _SMALL for picture in _PICTURES],
    ],
)
def test_tiles_do_not_show(weights: str, picture: str, weights_file: Finder, data: Finder) -> None:
    model = load_model(weights_file(weights))
    pixels = read_image(data(_PICTURES[picture])).pixels
    strip = np.ascontiguousarray(pixels[240:304, 150:438])
    tiled = Upscaler(model, device=_FP32, tile=TileOptions(size=32))
    assert tiled.plan(strip, (256, 1152)).tiles > 1
    difference = np.abs(tiled(strip).astype(int) - Upscaler(model, device=_FP32)(strip).astype(int))
    assert difference.max() <= 1
    if model.pad_px == model.radius_px:  # exact but for the order of summation
        assert (difference > 0).mean() < 1e-4


def test_flat_sky_above_a_horizon(weights_file: Finder) -> None:
    model = load_model(weights_file("realesrgan-x4plus.param"))
    sky = np.empty((48, 288, 3), np.uint8)
    sky[:] = (160, 200, 235)
    sky[:, 150:] = (90, 60, 40)
    tiled = Upscaler(model, device=_FP32, tile=TileOptions(size=32))(sky)
    assert np.abs(tiled.astype(int) - Upscaler(model, device=_FP32)(sky).astype(int)).max() <= 1
