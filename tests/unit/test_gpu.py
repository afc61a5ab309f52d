"""What only a CUDA device can show; everything here is skipped without one."""

import cv2
import numpy as np
import pytest
import torch

from networks import compact, rrdb
from realesr_cli import DeviceOptions, TileOptions, Upscaler
from realesr_cli.cuda import Recorder
from realesr_cli.models.architectures import LoadedModel
from realesr_cli.transfers import transfers

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


@pytest.mark.parametrize("model", [compact(), rrdb()], ids=["compact", "rrdb"])
def test_recorded_launches_give_the_same_picture(model: LoadedModel, rng: np.random.Generator) -> None:
    """Many tiles of one shape are run as a CUDA graph; the first ones, and those of another shape, are not."""
    pixels = rng.integers(0, 256, (700, 900, 3), np.uint8)
    many = Upscaler(model, device=_CUDA, tile=TileOptions(size=64))
    many._engine._largest_batch = 2
    first, second = many(pixels), many(pixels)
    recorder = many._engine._inference._recorder
    assert recorder._works
    assert recorder._graph is not None
    plain = Upscaler(model, device=_CUDA, tile=TileOptions(size=64))
    plain._engine._inference._recorder._works = False
    expected = plain(pixels)
    for result in (first, second):
        assert np.abs(result.astype(int) - expected.astype(int)).max() <= 1
    other = rng.integers(0, 256, (90, 80, 3), np.uint8)
    assert np.abs(many(other).astype(int) - plain(other).astype(int)).max() <= 1


def test_what_cannot_be_recorded_is_run_as_it_is() -> None:
    recorder = Recorder()
    x = torch.rand(2, 3, 8, 8, device="cuda")

    def waits(x: torch.Tensor) -> torch.Tensor:
        return x * float(x.sum())

    for _ in range(5):
        assert torch.equal(recorder(waits, x), waits(x))
    assert not recorder._works


def test_transfers_bring_everything_both_ways(rng: np.random.Generator) -> None:
    way = transfers(torch.device("cuda"))
    waiting = []
    for _ in range(20):
        array = rng.integers(0, 256, (3, 500, 700), np.uint8)
        waiting.append((array, way.download(255 - way.upload(array))))
    for array, wait in waiting:
        assert np.array_equal(wait(), 255 - array)
