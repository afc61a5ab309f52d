"""What only a CUDA device can show; everything here is skipped without one."""

from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch

from clips import write_clip
from networks import compact, nearest, rrdb
from realesr_cli import DeviceOptions, TileOptions, Upscaler, VideoOptions, upscale_video
from realesr_cli.cuda import Recorder
from realesr_cli.models.architectures import LoadedModel
from realesr_cli.transfers import transfers
from realesr_cli.video.colour import Colour, from_rgb, to_rgb
from realesr_cli.video.frames import pixel_format, planes_of

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


@pytest.mark.parametrize("name", ["yuv420p", "yuv420p10le", "yuv422p12le", "yuv444p16le", "gray", "gbrp10le"])
def test_colours_are_converted_there_as_on_the_cpu(name: str, rng: np.random.Generator) -> None:
    form = pixel_format(name)
    colour = Colour(matrix="bt709" if form.chroma != "rgb" else "identity", full_range=form.chroma == "rgb")
    codes = [
        torch.from_numpy(rng.integers(0, 1 << form.bit_depth, form.shape(index, 130, 170)).astype(np.int32))
        for index in range(form.planes)
    ]
    rgb = to_rgb(codes, form, colour)
    there = to_rgb([plane.cuda() for plane in codes], form, colour)
    assert torch.allclose(there.cpu(), rgb, atol=1e-6)
    for ours, theirs in zip(from_rgb(rgb, form, colour), from_rgb(there, form, colour), strict=True):
        assert ours.dtype == theirs.dtype
        assert np.abs(ours.numpy().astype(int) - theirs.cpu().numpy().astype(int)).max() <= 1


@pytest.mark.parametrize("pixels", ["yuv420p", "yuv420p10le", "yuv444p"])
@pytest.mark.parametrize("still", [True, False])
def test_films_are_those_of_the_cpu(pixels: str, still: bool, tmp_path: Path) -> None:
    """Planes cross, eight frames at once; a network that repeats pixels shows every code that went astray."""
    source = write_clip(
        tmp_path / "a.mkv", count=21, encoder="ffv1", pixel_format=pixels, tick=Fraction(1, 1000), still=still,
        noise=not still,
    )  # fmt: skip
    decoded = []
    for device in (_CUDA, DeviceOptions(device="cpu", precision="fp32")):
        target = tmp_path / f"{device.device}.mkv"
        with Upscaler(nearest(), device=device) as upscaler:
            result = upscale_video(source, target, upscaler, options=VideoOptions(codec="ffv1", segment_frames=5))
        assert (result.frames, result.differences) == (21, ())
        with av.open(str(target)) as container:
            decoded.append([[p.astype(int) for p in planes_of(frame)] for frame in container.decode(video=0)])
    for there, here in zip(*decoded, strict=True):
        assert max(np.abs(a - b).max() for a, b in zip(there, here, strict=True)) <= 1
