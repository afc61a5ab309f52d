"""What only a CUDA device can show; everything here is skipped without one."""

import cv2
import numpy as np
import pytest
import torch
from networks import compact, rrdb

from realesr_cli import DeviceOptions, TileOptions, Upscaler
from realesr_cli.models.architectures import LoadedModel

pytestmark = pytest.mark.gpu
_CUDA = DeviceOptions(device="cuda")


@pytest.mark.parametrize("model", [compact(), rrdb()], ids=["compact", "rrdb"])
def test_cuda_in_half_precision_agrees_with_the_cpu(model: LoadedModel, rng: np.random.Generator) -> None:
    pixels = cv2.GaussianBlur(rng.integers(0, 256, (150, 170, 3), np.uint8), (0, 0), 2)
    exact = Upscaler(model, device=DeviceOptions(device="cpu", precision="fp32"))(pixels).astype(float)
    upscaler = Upscaler(model, device=_CUDA, tile=TileOptions(size=64))
    assert upscaler.choice.precision == "fp16"
    assert np.square(upscaler(pixels) - exact).mean() <= 255**2 / 10**5.5


def test_memory_that_is_really_full_is_survived(rng: np.random.Generator) -> None:
    pixels = rng.integers(0, 256, (600, 600, 3), np.uint8)
    model = rrdb()
    good = Upscaler(model, device=_CUDA)(pixels)
    free, total = torch.cuda.mem_get_info()
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(min(1.0, (total - free + 300 * 2**20) / total))
    try:
        result = Upscaler(model, device=_CUDA, tile=TileOptions(size=600))(pixels)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert np.abs(result.astype(int) - good.astype(int)).max() <= 1


def test_device_memory_is_freed(rng: np.random.Generator) -> None:
    before = torch.cuda.memory_allocated()
    with Upscaler(rrdb(), device=_CUDA) as upscaler:
        upscaler(rng.integers(0, 256, (64, 64, 3), np.uint8))
    assert torch.cuda.memory_allocated() == before
