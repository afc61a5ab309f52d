"""What must hold for every size: geometry of tiles, and the path of a picture from 1 x 1 up.

The examples are the same in every run (`derandomize`), so a failure is one for everybody.
"""

from itertools import pairwise
from typing import Any

import cv2
import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from networks import compact, nearest, rrdb
from realesr_cli import DeviceOptions, TileOptions, Upscaler
from realesr_cli.options import SizeOptions
from realesr_cli.resize import reduce
from realesr_cli.tiling import Box, plan_tiles, split_tile

_FP32 = DeviceOptions(device="cpu", precision="fp32")
_ALWAYS = settings(derandomize=True, deadline=None, database=None)
_SIDE = st.integers(1, 2000)
_COMPACT, _RRDB = compact(), rrdb(unshuffle=2)


@st.composite
def _cuts(draw: st.DrawFn) -> dict[str, Any]:
    align = draw(st.sampled_from((1, 2, 4)))
    return {
        "height": align * draw(_SIDE),
        "width": align * draw(_SIDE),
        "size": (draw(st.integers(40, 700)), draw(st.integers(40, 700))),  # smaller ones would be thousands of tiles
        "pad": draw(st.integers(0, 100)),
        "align": align,
    }


@settings(_ALWAYS, max_examples=300)
@given(_cuts())
def test_tiles_form_a_grid_that_covers_any_picture_once(cut: dict[str, Any]) -> None:
    tiles = plan_tiles(**cut)
    rows = sorted({(tile.kept.top, tile.kept.bottom) for tile in tiles})
    columns = sorted({(tile.kept.left, tile.kept.right) for tile in tiles})
    for spans, length in ((rows, cut["height"]), (columns, cut["width"])):
        assert spans[0][0] == 0
        assert spans[-1][1] == length
        assert all(first[1] == second[0] for first, second in pairwise(spans))
        assert all(start < stop for start, stop in spans)
    assert [tile.kept for tile in tiles] == [
        Box(top, left, bottom, right) for top, bottom in rows for left, right in columns
    ]
    assert len({(tile.source.height, tile.source.width) for tile in tiles}) == 1


@settings(_ALWAYS, max_examples=150)
@given(_cuts())
def test_every_tile_sees_its_context_or_the_border(cut: dict[str, Any]) -> None:
    height, width, pad, align = cut["height"], cut["width"], cut["pad"], cut["align"]
    tiles = plan_tiles(**cut)
    halves = [half for tile in tiles for half in split_tile(tile, height, width, pad=pad, align=align)]
    for tile in (*tiles, *(half for half in halves if half.kept.area)):
        source, kept = tile.source, tile.kept
        assert 0 <= source.top <= kept.top < kept.bottom <= source.bottom <= height
        assert 0 <= source.left <= kept.left < kept.right <= source.right <= width
        assert source.top == 0 or kept.top - source.top >= pad
        assert source.left == 0 or kept.left - source.left >= pad
        assert source.bottom == height or source.bottom - kept.bottom >= pad
        assert source.right == width or source.right - kept.right >= pad
        assert all(place % align == 0 for place in (source.top, source.left, source.bottom, source.right))


@settings(_ALWAYS, max_examples=40)
@given(
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    channels=st.sampled_from((1, 3, 4)),
    dtype=st.sampled_from((np.uint8, np.uint16)),
    tile=st.integers(16, 60),
    scale=st.sampled_from((0.3, 1, 1.5, 2, 2.7, 4, 5)),
    seed=st.integers(0, 2**31),
)
def test_any_picture_comes_out_in_the_size_asked_for(
    height: int, width: int, channels: int, dtype: Any, tile: int, scale: float, seed: int
) -> None:
    """Through a network that repeats pixels the result is known: the mean over what each pixel covers."""
    pixels = np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, (height, width, channels), dtype)
    upscaler = Upscaler(nearest(), device=_FP32, tile=TileOptions(size=tile))
    size = SizeOptions(scale=scale).target(height, width, 2)
    result = upscaler(pixels, scale=scale)
    assert (result.shape, result.dtype) == ((*size, channels), pixels.dtype)
    opaque = pixels[..., 3:].min(initial=np.iinfo(dtype).max) == np.iinfo(dtype).max
    if channels != 4 or opaque:  # colours under alpha 0 are replaced, and alpha is held between its neighbours
        large, factor = pixels, 1
        while factor * height < size[0] or factor * width < size[1] or factor == 1:
            large, factor = large.repeat(2, 0).repeat(2, 1), factor * 2
        expected = cv2.resize(large.astype(np.float64), size[::-1], interpolation=cv2.INTER_AREA)
        assert np.abs(result.reshape(expected.shape) - expected).max() <= (1 if dtype == np.uint8 else 2)


@settings(_ALWAYS, max_examples=10)
@given(height=st.integers(1, 70), width=st.integers(1, 70), tile=st.integers(16, 40), seed=st.integers(0, 2**31))
def test_tiles_of_any_size_change_nothing(height: int, width: int, tile: int, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    for model in (_COMPACT, _RRDB):
        whole = Upscaler(model, device=_FP32, tile=TileOptions(size=200))(pixels)
        tiled = Upscaler(model, device=_FP32, tile=TileOptions(size=tile))(pixels)
        assert np.abs(whole.astype(int) - tiled.astype(int)).max() <= 1


@settings(_ALWAYS, max_examples=60)
@given(
    source=st.tuples(st.integers(1, 300), st.integers(1, 40)),
    shrink=st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)),
    cuts=st.lists(st.integers(1, 299), max_size=5),
    seed=st.integers(0, 2**31),
)
def test_a_reduction_does_not_depend_on_bands(
    source: tuple[int, int], shrink: tuple[float, float], cuts: list[int], seed: int
) -> None:
    pixels = np.random.default_rng(seed).integers(0, 65536, (*source, 3), np.uint16)
    target = (max(1, int(source[0] * shrink[0])), max(1, int(source[1] * shrink[1])))
    bands = [band for band in np.split(pixels, sorted({cut for cut in cuts if cut < source[0]})) if len(band)]
    joined = np.concatenate(list(reduce(bands, source, target, np.dtype(np.uint16))))
    exact = cv2.resize(pixels.astype(np.float64), target[::-1], interpolation=cv2.INTER_AREA).reshape(*target, 3)
    assert joined.shape == exact.shape
    assert np.abs(joined - exact).max() <= 1.1  # rounded after each of the two directions


def test_a_single_pixel_passes_every_network() -> None:
    for model in (_COMPACT, _RRDB):
        result = Upscaler(model, device=_FP32)(np.full((1, 1, 3), 77, np.uint8))
        assert result.shape == (model.scale, model.scale, 3)
        assert torch.is_inference_mode_enabled() is False
