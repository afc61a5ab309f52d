"""Maps in overlapping windows, of sizes that convolutions are fast with, and the same numbers as without
(models/windows.py)."""

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from networks import compact, rrdb
from realesr_cli import DeviceOptions, Upscaler
from realesr_cli.models import rrdb as rrdb_module
from realesr_cli.models import windows as windows_module
from realesr_cli.models.architectures import LoadedModel
from realesr_cli.models.windows import Axis, Windows, plan_windows, taken
from realesr_cli.options import TileOptions

_FAST = {*range(112, 127), *range(224, 255)}
_MAPS = st.tuples(st.integers(1, 900), st.integers(1, 2100))


def meta(height: int, width: int) -> Tensor:
    """Maps without numbers, on the device that bfloat16 counts on."""
    return torch.empty((1, 1, 1, 1)).expand(1, 1, height, width)


@given(_MAPS, st.integers(1, 6), st.sampled_from([1, 2, 4, 8]), st.sampled_from([126, 254]))
def test_every_pixel_is_the_share_of_one_window_that_knows_it(
    size: tuple[int, int], reach: int, growth: int, widest: int
) -> None:
    with torch.inference_mode():
        windows = plan_windows(
            meta(*size), torch.bfloat16, reach=reach, px=0, fast_px=2**14, growth=growth, widest=widest
        )
    for axis, length in zip((windows._rows, windows._columns), size, strict=True):
        slices, shares = axis.slices(), axis.shares()
        assert [*range(length)] == [pixel for share in shares for pixel in range(share.start, share.stop)]
        for part, share in zip(slices, shares, strict=True):
            assert 0 <= part.start <= part.stop <= length
            assert share.start - part.start >= windows.reach or part.start == 0 == share.start
            assert part.stop - share.stop >= windows.reach or part.stop == length == share.stop
        assert all(overlap >= 2 * windows.reach for overlap in axis.overlaps)
        # what a border is refreshed from must itself be far enough from the other border
        assert all(second - first >= windows.reach for first, second in pairwise(axis.starts))


@pytest.mark.parametrize("width", range(255, 2100, 7))
def test_no_map_is_wider_than_convolutions_are_fast_with(width: int) -> None:
    with torch.inference_mode():
        windows = plan_windows(meta(300, width), torch.bfloat16, reach=2, most_reach=4, px=0, fast_px=2**16)
    columns = windows._columns
    assert columns.size <= 254
    # what is computed twice must be worth it
    assert columns.count * columns.size < (1.4 if columns.size in _FAST else 1.1) * width
    assert windows.reach in (2, 3, 4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_where_widths_do_not_matter_windows_are_as_wide_as_the_maps(dtype: torch.dtype) -> None:
    with torch.inference_mode():
        windows = plan_windows(meta(900, 1000), dtype, reach=2, px=250_000, fast_px=100)
    assert (windows._columns.count, windows._rows.count) == (1, 4)


def test_while_gradients_are_recorded_there_is_one_window() -> None:
    assert len(plan_windows(meta(900, 1000), torch.bfloat16, reach=2, px=100, fast_px=100)) == 1


@pytest.mark.parametrize("reach", [1, 3])
def test_refreshed_windows_give_the_values_of_the_whole_maps(reach: int) -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(2, 2, 3, padding=1).double() for _ in range(4 * reach)]
    maps = torch.rand(2, 2, 40, 53, dtype=torch.float64)
    with torch.inference_mode():
        windows = Windows(Axis(40, 3, 19), Axis(53, 4, 20), reach)
        parts = list(windows.cut(maps))
        assert len(parts) == len(windows) == 12
        for index, layer in enumerate(layers, 1):
            parts = [layer(part) for part in parts]
            maps = layer(maps)
            if index % reach == 0:
                windows.refresh(parts)
        joined = windows.joined(taken(parts), lambda part: F.interpolate(part, scale_factor=2))
        assert parts == []
        torch.testing.assert_close(joined, F.interpolate(maps, scale_factor=2), rtol=0, atol=1e-12)
        stale = windows.joined(windows.cut(maps), lambda part: part)
    assert torch.equal(stale, maps)


def small_windows(monkeypatch: pytest.MonkeyPatch, *, widths: bool = True) -> list[Windows]:
    """Makes windows of 24 to 30 columns, or of a few whole rows where `widths` do not matter, and tells which ones."""
    made: list[Windows] = []
    original = plan_windows

    def planned(maps: Tensor, dtype: torch.dtype, **numbers: Any) -> Windows:
        made.append(original(maps, dtype, **{**numbers, "fast_px": 500, "px": 1500}))
        return made[-1]

    monkeypatch.setattr(windows_module, "_FAST_PX", (range(24, 31), range(24, 31)))
    monkeypatch.setattr(windows_module, "widths_matter", lambda dtype, device: widths)
    for user in ("compact", "rrdb"):
        monkeypatch.setattr(f"realesr_cli.models.{user}.plan_windows", planned)
    return made


@pytest.mark.parametrize("shape", [(2, 3, 70, 88), (1, 3, 24, 62), (1, 3, 62, 24)])
def test_compact_networks_in_windows_give_the_same_values(
    shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    network, x = compact(depth=11).network.double(), torch.rand(*shape, dtype=torch.float64)
    whole = network(x).detach()  # with gradients nothing is cut
    made = small_windows(monkeypatch)
    with torch.inference_mode():
        result = network(x)
    assert len(made[0]) > 1
    torch.testing.assert_close(result, whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize("narrow", [True, False], ids=["narrow", "whole rows"])
@pytest.mark.parametrize(("ups", "unshuffle"), [(2, 1), (1, 1), (3, 1), (2, 2)])
def test_rrdbnet_in_windows_gives_the_same_values(
    ups: int, unshuffle: int, narrow: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    network = rrdb_module.RRDBNet(width=8, blocks=2, growth=4, up_steps=ups, unshuffle=unshuffle).double()
    for parameter in network.parameters():
        parameter.data *= 3  # so that every layer counts
    x = torch.rand(2, 3, 70 * unshuffle, 82 * unshuffle, dtype=torch.float64)
    whole = network(x).detach()
    made, widths = small_windows(monkeypatch, widths=narrow), set()
    network.body[0].rdb1.conv1.register_forward_pre_hook(lambda layer, inputs: widths.add(inputs[0].shape[3]))
    with torch.inference_mode():
        result = network(x)
    trunk, tail = made
    assert min(len(trunk), len(tail)) > (4 if narrow else 1)
    assert max(widths) <= 30 if narrow else widths == {82}
    torch.testing.assert_close(result, whole, rtol=0, atol=1e-12 * float(whole.abs().max()))


@pytest.mark.parametrize("self_ensemble", [False, True])
@pytest.mark.parametrize("shape", [(30, 300), (300, 30), (24, 256)])
@pytest.mark.parametrize("model", [compact(), rrdb(), rrdb(unshuffle=2)], ids=["compact", "rrdb", "rrdb, folded"])
def test_pictures_in_bfloat16_are_the_same(
    model: LoadedModel, shape: tuple[int, int], self_ensemble: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = np.random.default_rng(5).integers(0, 256, (*shape, 3), np.uint8)
    device, tile = DeviceOptions(device="cpu", precision="bf16"), TileOptions(self_ensemble=self_ensemble)
    with Upscaler(model, device=device, tile=tile) as upscaler:
        result = upscaler(pixels)
    monkeypatch.setattr(windows_module, "widths_matter", lambda dtype, device: False)
    with Upscaler(model, device=device, tile=tile) as upscaler:
        expected = upscaler(pixels)
    difference = np.abs(result.astype(int) - expected)
    assert difference.max() <= 1  # kernels of other widths may order a sum otherwise
    assert (difference > 0).mean() < 0.01


def test_threads_may_share_a_network() -> None:
    model, random = compact(depth=12), np.random.default_rng(5)
    pictures = [random.integers(0, 256, (40, width, 3), np.uint8) for width in (258, 400, 300, 511) * 4]
    with Upscaler(model, device=DeviceOptions(device="cpu", precision="bf16")) as upscaler:
        expected = [upscaler(pixels) for pixels in pictures]
        with ThreadPoolExecutor(4) as pool:
            results = list(pool.map(upscaler, pictures))
    for result, alone in zip(results, expected, strict=True):
        np.testing.assert_array_equal(result, alone)


@pytest.mark.parametrize("model", [compact(depth=12), rrdb(blocks=6)], ids=["compact", "rrdb"])
def test_progress_in_windows_ends_where_the_picture_ends(model: LoadedModel) -> None:
    seen: list[float] = []
    pixels = np.zeros((400, 600, 3), np.uint8)
    with Upscaler(model, device=DeviceOptions(device="cpu", precision="bf16")) as upscaler:
        tiles = upscaler._engine.plan(*pixels.shape[:2])
        list(upscaler._engine.bands(pixels, tiles, np.dtype(np.uint8), precise=False, advance=seen.append))
    assert sum(seen) == pytest.approx(400 * 600)
    assert min(seen) >= 0
    assert len([amount for amount in seen if amount > 0]) > 4 * len(tiles)
