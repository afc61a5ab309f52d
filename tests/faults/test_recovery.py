"""Full memory and numbers that are none, in the middle of a picture: the result is right or there is an error."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from networks import Nearest, compact, nearest
from realesr_cli import DeviceOptions, TileOptions, Upscaler
from realesr_cli.errors import NonFiniteOutput, OutOfMemory
from realesr_cli.models.architectures import LoadedModel
from recording import Events

_FP32 = DeviceOptions(device="cpu", precision="fp32")


class Spoiled:
    """Makes a network's calls fail where `fails(number of the call, input)` says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fails: Callable[[int, Tensor], bool], how: object) -> None:
        self.inputs: list[tuple[int, ...]] = []
        original = Nearest.forward

        def forward(network: Nearest, x: Tensor) -> Tensor:
            self.inputs.append(tuple(x.shape))
            if not fails(len(self.inputs), x):
                return original(network, x)
            if isinstance(how, BaseException):
                raise how
            return original(network, x) * float(str(how))

        monkeypatch.setattr(Nearest, "forward", forward)


_OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to ..."),
    MemoryError(),
]


@pytest.mark.parametrize("error", _OUT_OF_MEMORY, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("at", [1, 3, 6])
def test_out_of_memory_at_any_tile_gives_the_right_picture(
    error: BaseException, at: int, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    pixels = rng.integers(0, 256, (300, 200, 3), np.uint8)
    spoiled = Spoiled(monkeypatch, lambda call, x: call == at, error)
    upscaler = Upscaler(nearest(), device=_FP32, tile=TileOptions(size=100))
    np.testing.assert_array_equal(upscaler(pixels), pixels.repeat(2, 0).repeat(2, 1))
    failed = spoiled.inputs[at - 1]
    later = spoiled.inputs[at:]
    assert max(shape[2] * shape[3] for shape in later) < failed[2] * failed[3]
    assert len(spoiled.inputs) > 6


@pytest.mark.parametrize("at", [1, 2, 3, 4, 6])
def test_a_batch_that_fails_beside_another_gives_the_right_picture(
    at: int, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    """On a GPU one batch is computed while the one before is unpacked; here that is played on the CPU."""
    pixels = rng.integers(0, 256, (300, 200, 3), np.uint8)
    amounts: list[float] = []
    Spoiled(monkeypatch, lambda call, x: call == at, MemoryError())
    upscaler = Upscaler(nearest(), device=_FP32, tile=TileOptions(size=50, pad_px=5))
    upscaler._engine._ahead, upscaler._engine._largest_batch = 1, 2
    tiles = upscaler._engine.plan(300, 200)
    bands = upscaler._engine.bands(pixels, tiles, np.dtype(np.uint8), precise=False, advance=amounts.append)
    np.testing.assert_array_equal(np.concatenate(list(bands)), pixels.repeat(2, 0).repeat(2, 1))
    assert sum(amounts) == pytest.approx(300 * 200)


def test_two_batches_that_never_fit_together_run_one_by_one(
    monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    pixels = rng.integers(0, 256, (300, 200, 3), np.uint8)
    upscaler = Upscaler(nearest(), device=_FP32, tile=TileOptions(size=100))
    upscaler._engine._ahead = 1
    inference = upscaler._engine._inference
    original, running = inference.start, 0

    def start(*args: Any, **kwargs: Any) -> Callable[[], list[Any]]:
        nonlocal running
        if running:
            running = 0
            raise MemoryError
        running += 1
        result = original(*args, **kwargs)

        def finish() -> list[Any]:
            nonlocal running
            running = 0
            return result()

        return finish

    monkeypatch.setattr(inference, "start", start)
    np.testing.assert_array_equal(upscaler(pixels), pixels.repeat(2, 0).repeat(2, 1))
    assert upscaler._engine._ahead == 0
    assert upscaler._engine._largest_window_px is None  # nothing was too large by itself


def test_out_of_memory_is_remembered_for_the_next_picture(
    monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    pixels = rng.integers(0, 256, (200, 200, 3), np.uint8)
    spoiled = Spoiled(monkeypatch, lambda call, x: x.shape[2] * x.shape[3] > 150 * 150, MemoryError())
    upscaler = Upscaler(nearest(), device=_FP32)
    for _ in range(2):
        np.testing.assert_array_equal(upscaler(pixels), pixels.repeat(2, 0).repeat(2, 1))
    tried = [shape for shape in spoiled.inputs if shape[2] * shape[3] > 150 * 150]
    assert len(tried) == 1


def test_memory_that_never_suffices_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    Spoiled(monkeypatch, lambda call, x: True, MemoryError())
    with pytest.raises(OutOfMemory, match="not enough memory on cpu"):
        Upscaler(nearest(), device=_FP32)(np.zeros((300, 300, 3), np.uint8))


def test_other_errors_of_the_network_are_not_taken_for_full_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    Spoiled(monkeypatch, lambda call, x: call == 1, RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes do not match"):
        Upscaler(nearest(), device=_FP32)(np.zeros((30, 30, 3), np.uint8))


def _overflowing_in(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch, tiles: set[int]) -> LoadedModel:
    """A compact network whose last layer gives infinity in `dtype`, for the calls in `tiles`."""
    from realesr_cli.models.compact import SRVGGNetCompact

    original = SRVGGNetCompact.residual
    calls = 0

    def residual(network: SRVGGNetCompact, x: Tensor) -> Tensor:
        nonlocal calls
        y = original(network, x)
        if network.body[-1].weight.dtype == dtype:
            calls += 1
            if calls in tiles:
                y[..., 5, 5] = float("inf")
        return y

    monkeypatch.setattr(SRVGGNetCompact, "residual", residual)
    return compact()


@pytest.mark.parametrize("tile", [1, 3])
def test_a_tile_that_overflows_is_computed_again_in_float32(
    tile: int, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator, events: Events
) -> None:
    pixels = rng.integers(0, 256, (64, 64, 3), np.uint8)
    options = TileOptions(size=16)
    good = Upscaler(compact(), device=DeviceOptions(device="cpu", precision="bf16"), tile=options)(pixels)
    model = _overflowing_in(torch.bfloat16, monkeypatch, {tile, tile + 1})
    low = DeviceOptions(device="cpu", precision="bf16")
    result = Upscaler(model, device=low, tile=options, reporter=events)(pixels)
    assert np.abs(result.astype(int) - good.astype(int)).max() <= 4  # fp32 against bf16
    warnings = events.of("warning")
    assert [warning["code"] for warning in warnings] == ["overflow"]  # one a run, not one a tile


def test_numbers_that_are_none_in_float32_are_an_error_not_a_black_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    Spoiled(monkeypatch, lambda call, x: call == 2, "nan")
    with pytest.raises(NonFiniteOutput, match="not numbers"):
        Upscaler(nearest(), device=_FP32, tile=TileOptions(size=16))(np.full((64, 64, 3), 9, np.uint8))


def test_auto_precision_leaves_a_network_that_overflows_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("realesr_cli.device.precision_gain", lambda *how: 5.0)
    assert Upscaler(compact(), device=DeviceOptions(device="cpu")).choice.precision == "bf16"
    model = _overflowing_in(torch.bfloat16, monkeypatch, set(range(1, 100)))
    choice = Upscaler(model, device=DeviceOptions(device="cpu")).choice
    assert choice.precision == "fp32"
    assert "wrong values" in choice.reason


@pytest.mark.parametrize("shape", [(40, 40, 1), (40, 40, 4)], ids=["grey", "alpha"])
def test_overflow_is_noticed_in_grey_and_alpha(
    shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator, events: Events
) -> None:
    """The clamp before the turn to grey must not hide infinity as white."""
    pixels = rng.integers(1, 255, shape, np.uint8)
    low = DeviceOptions(device="cpu", precision="bf16")
    good = Upscaler(compact(), device=low)(pixels)
    model = _overflowing_in(torch.bfloat16, monkeypatch, set(range(1, 100)))
    result = Upscaler(model, device=low, reporter=events)(pixels)
    assert np.abs(result.astype(int) - good.astype(int)).max() <= 6
    assert len(events.of("warning")) == 1


def test_progress_never_exceeds_the_work(
    monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator, events: Events
) -> None:
    monkeypatch.setattr("realesr_cli.reporting._PROGRESS_INTERVAL_S", 0.0)
    model = _overflowing_in(torch.bfloat16, monkeypatch, {2, 3})
    low = DeviceOptions(device="cpu", precision="bf16")
    Upscaler(model, device=low, tile=TileOptions(size=16), reporter=events)(rng.integers(0, 256, (64, 64, 3), np.uint8))
    done = [event["done"] for event in events.of("progress")]
    assert done == sorted(done)
    assert done[-1] == pytest.approx(64 * 64)
    assert len(done) > 10


def test_memory_full_while_the_network_moves_to_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object, **how: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("realesr_cli.inference.fast_copy", full)
    monkeypatch.setattr("realesr_cli.device.fast_copy", full)
    monkeypatch.setattr("realesr_cli.device.precision_gain", lambda *how: 5.0)
    upscaler = Upscaler(compact(), device=DeviceOptions(device="cpu"))
    with pytest.raises(OutOfMemory):
        upscaler(np.zeros((40, 40, 3), np.uint8))


def test_recovery_ends_for_networks_of_coarse_alignment(monkeypatch: pytest.MonkeyPatch) -> None:
    Spoiled(monkeypatch, lambda call, x: True, MemoryError())
    with pytest.raises(OutOfMemory):
        Upscaler(nearest(multiple_of=64), device=_FP32)(np.zeros((300, 300, 3), np.uint8))


def test_batches_fit_into_the_memory_that_is_free(monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    """On a GPU tiles run in batches; memory-sized tiles must then run one by one."""
    from realesr_cli import engine

    free = 4_000_000
    monkeypatch.setattr(engine, "free_memory_bytes", lambda device: free)
    spoiled = Spoiled(monkeypatch, lambda call, x: False, MemoryError())
    pixels = rng.integers(0, 256, (400, 400, 3), np.uint8)
    upscaler = Upscaler(nearest(), device=_FP32)
    upscaler._engine._largest_batch = 8  # as on a GPU
    np.testing.assert_array_equal(upscaler(pixels), pixels.repeat(2, 0).repeat(2, 1))
    per_px = upscaler._engine.window_bytes(1)
    assert len(spoiled.inputs) > 1
    assert max(n * h * w for n, _, h, w in spoiled.inputs) * per_px <= free
    # and that was about this picture: later ones may run in batches again
    spoiled.inputs.clear()
    few = Upscaler(nearest(), device=_FP32, tile=TileOptions(size=32))
    few._engine._largest_batch = 8
    free = 20_000_000
    few(pixels[:300, :300])
    first = max(n for n, *_ in spoiled.inputs)
    free = 10_000
    few(pixels[:100, :100])
    free = 20_000_000
    spoiled.inputs.clear()
    few(pixels[:300, :300])
    assert max(n for n, *_ in spoiled.inputs) == first == 8


def test_a_network_for_one_channel_is_planned_for_three(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Upscaler(compact(channels=1), device=_FP32)._engine
    assert engine.window_bytes(1000, channels=3) > 2 * engine.window_bytes(1000, channels=1)
    half = Upscaler(compact(), device=DeviceOptions(device="cpu", precision="bf16"))._engine
    assert half.window_bytes(1000, precise=True) > half.window_bytes(1000)
