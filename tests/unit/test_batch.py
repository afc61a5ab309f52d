"""Small pictures run together are what they are alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from networks import Nearest, compact, nearest, rrdb
from realesr_cli import DeviceOptions, Image, TileOptions, Upscaler, write_image
from realesr_cli.image_jobs import PictureOptions, run_jobs
from realesr_cli.models.architectures import LoadedModel
from realesr_cli.naming import ImageJob
from recording import Events

_FP32 = DeviceOptions(device="cpu", precision="fp32")


def _pictures(rng: np.random.Generator, count: int, shape: tuple[int, ...], dtype: Any = np.uint8) -> list[Any]:
    return [rng.integers(0, np.iinfo(dtype).max + 1, shape, dtype) for _ in range(count)]


@pytest.mark.parametrize(
    ("model", "size_factor"), [(compact(), 1), (compact(), 0.7), (rrdb(unshuffle=2), 1), (compact(channels=1), 1)]
)
@pytest.mark.parametrize("shape", [(16, 20), (9, 31, 3), (20, 20, 4)])
def test_a_batch_gives_what_single_calls_give(
    model: LoadedModel, shape: tuple[int, ...], size_factor: float, rng: np.random.Generator
) -> None:
    upscaler = Upscaler(model, device=_FP32)
    size = tuple(round(side * model.scale * size_factor) for side in shape[:2])
    for dtype in (np.uint8, np.uint16):
        pictures = _pictures(rng, 5, shape, dtype)
        if shape[-1] == 4:
            pictures[1][..., 3] = np.iinfo(dtype).max  # opaque, grey and half hidden ones among others
            pictures[2][..., :3] = pictures[2][..., :1]
            pictures[3][:10, :, 3] = 0
        elif shape[-1] == 3:
            pictures[3][...] = pictures[3][..., :1]
        together = upscaler.batch(pictures, size=(size[0], size[1]))
        for alone, result in zip(pictures, together, strict=True):
            expected = upscaler(alone, size=(size[0], size[1]))
            assert (result.shape, result.dtype) == (expected.shape, expected.dtype)
            tolerance = 1 if dtype == np.uint8 else 40  # of 65535: the order of sums
            assert np.abs(result.astype(int) - expected).max() <= tolerance


def test_alpha_may_be_resized_instead(rng: np.random.Generator) -> None:
    upscaler = Upscaler(compact(), device=_FP32)
    pictures = _pictures(rng, 3, (12, 12, 4))
    for alone, result in zip(pictures, upscaler.batch(pictures, size=(48, 48), alpha_mode="resize"), strict=True):
        np.testing.assert_array_equal(result[..., 3], upscaler(alone, size=(48, 48), alpha_mode="resize")[..., 3])


class _Calls:
    """The shapes that a network is given; the first calls may fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fails: Callable[[Tensor], bool] = lambda x: False) -> None:
        self.shapes: list[tuple[int, ...]] = []
        original = Nearest.forward

        def forward(network: Nearest, x: Tensor) -> Tensor:
            self.shapes.append(tuple(x.shape))
            if fails(x):
                raise torch.OutOfMemoryError("out of memory")
            return original(network, x)

        monkeypatch.setattr(Nearest, "forward", forward)


def test_pictures_that_do_not_fit_together_run_alone(monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    calls = _Calls(monkeypatch, lambda x: len(x) > 1)
    pictures = _pictures(rng, 4, (16, 16, 3))
    results = Upscaler(nearest(), device=_FP32).batch(pictures, size=(32, 32))
    for alone, result in zip(pictures, results, strict=True):
        np.testing.assert_array_equal(result, alone.repeat(2, 0).repeat(2, 1))
    assert [shape[0] for shape in calls.shapes] == [4, 1, 1, 1, 1]


def test_large_pictures_and_tiles_that_were_asked_for_are_no_batch(
    monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    calls = _Calls(monkeypatch)
    Upscaler(nearest(), device=_FP32).batch(_pictures(rng, 2, (120, 120, 3)), size=(240, 240))
    Upscaler(nearest(), device=_FP32, tile=TileOptions(size=64)).batch(_pictures(rng, 2, (16, 16, 3)), size=(32, 32))
    assert {shape[0] for shape in calls.shapes} == {1}


def test_a_run_puts_small_files_of_one_size_that_follow_each_other_together(
    monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator, tmp_path: Path, events: Events
) -> None:
    calls = _Calls(monkeypatch)
    sides = [16] * 11 + [18] + [16, 16] + [200] + [16]
    jobs = []
    for number, side in enumerate(sides):
        source = tmp_path / f"{number:02}.png"
        write_image(source, Image(pixels=rng.integers(0, 256, (side, 16, 3), np.uint8)))
        jobs.append(ImageJob(number, source, tmp_path / "out" / source.name, ".png"))
    damaged = bytearray(jobs[4].source.read_bytes())
    damaged[len(damaged) // 2] ^= 0xFF
    jobs[4].source.write_bytes(damaged)  # its size can still be read
    failed: list[int] = []
    done: list[int] = []
    run_jobs(
        jobs,
        [Upscaler(nearest(), device=_FP32)],
        PictureOptions(),
        reporter=events,
        fail=lambda job, error: failed.append(job.id),
        done=lambda job: done.append(job.id),
    )
    assert failed == [4] and done == [number for number in range(len(sides)) if number != 4]
    assert [(shape[0], shape[2]) for shape in calls.shapes] == [(7, 16), (3, 16), (1, 18), (2, 16), (1, 200), (1, 16)]
    assert [event["id"] for event in events.of("done")] == done
