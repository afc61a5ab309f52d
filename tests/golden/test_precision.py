"""bfloat16 with the official weights: how near it stays to float32, on every test photo."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from realesr_cli import DeviceOptions, Upscaler, load_model, read_image

Finder = Callable[[str], Path]

_EACH_DB, _MEAN_DB = 48, 52


@pytest.mark.parametrize(
    ("weights", "side"),
    [
        ("ncnn/realesr-animevideov3-x4.param", 96),
        ("ncnn/realesr-general-x4v3.param", 96),
        ("ncnn/realesr-general-wdn-x4v3.param", 96),
        ("ncnn/realesrgan-x4plus-anime.param", 64),
        ("realesrgan-x4plus.param", 48),
    ],
)
def test_low_precision_is_near_to_float32(weights: str, side: int, weights_file: Finder, data: Finder) -> None:
    model = load_model(weights_file(weights))
    exact = Upscaler(model, device=DeviceOptions(device="cpu", precision="fp32"))
    low = Upscaler(model, device=DeviceOptions(device="cpu", precision="bf16"))
    found = {}
    for path in sorted(data("eval/hr").glob("*.png")):
        pixels = read_image(path).pixels[..., :3]
        top, left = (pixels.shape[0] - side) // 2, (pixels.shape[1] - side) // 2
        crop = pixels[top : top + side, left : left + side]
        error = np.square(low(crop).astype(np.float64) - exact(crop)).mean()
        found[path.name] = 10 * np.log10(255**2 / error)
    print(
        f"{weights}: {min(found.values()):.1f} to {max(found.values()):.1f}, mean {np.mean(list(found.values())):.1f}"
    )
    assert len(found) >= 12
    assert min(found.values()) >= _EACH_DB, found
    assert np.mean(list(found.values())) >= _MEAN_DB, found
