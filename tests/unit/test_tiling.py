"""Geometry of tiles: exact cover, one shape, enough context, aligned."""

import random

import pytest

from realesr_cli.tiling import Tile, plan_tiles, split_tile


def _cases(count: int) -> list[tuple[int, int, int, int, int]]:
    draw = random.Random(7)
    cases = [(1, 1, 16, 8, 1), (4, 4, 16, 0, 4), (512, 512, 128, 34, 1), (3000, 4000, 400, 96, 1), (17, 900, 16, 3, 1)]
    for _ in range(count):
        align = draw.choice((1, 2, 4))
        height, width = (align * draw.randint(1, 400) for _ in range(2))
        cases.append((height, width, draw.randint(1, 300), draw.randint(0, 60), align))
    return cases


def _check_tile(tile: Tile, height: int, width: int, pad: int, align: int) -> None:
    source, kept = tile.source, tile.kept
    assert 0 <= source.top <= kept.top < kept.bottom <= source.bottom <= height
    assert 0 <= source.left <= kept.left < kept.right <= source.right <= width
    assert kept.top - source.top >= pad or source.top == 0
    assert source.bottom - kept.bottom >= pad or source.bottom == height
    assert kept.left - source.left >= pad or source.left == 0
    assert source.right - kept.right >= pad or source.right == width
    for place in (source.top, source.left, source.bottom, source.right):
        assert place % align == 0


@pytest.mark.parametrize(("height", "width", "size", "pad", "align"), _cases(300))
def test_tiles_cover_the_picture_once_with_context(height: int, width: int, size: int, pad: int, align: int) -> None:
    tiles = plan_tiles(height, width, size=size, pad=pad, align=align)
    covered = bytearray(height * width)
    for tile in tiles:
        _check_tile(tile, height, width, pad, align)
        for row in range(tile.kept.top, tile.kept.bottom):
            span = slice(row * width + tile.kept.left, row * width + tile.kept.right)
            assert not any(covered[span])
            covered[span] = b"\1" * tile.kept.width
    assert all(covered)
    assert len({(tile.source.height, tile.source.width) for tile in tiles}) == 1


def test_tiles_are_even() -> None:
    """No slivers: 1000 pixels in tiles of at most 300 are four pieces of about 250, not three and a rest of 100."""
    heights = [tile.kept.height for tile in plan_tiles(1000, 100, size=300, pad=0)]
    assert heights == [250, 250, 250, 250]


def test_a_tile_is_never_larger_than_asked() -> None:
    for height, width, size, pad, align in _cases(100):
        side = max(align, size // align * align) + 2 * (-(-pad // align) * align)
        tiles = plan_tiles(height, width, size=size, pad=pad, align=align)
        assert max(max(tile.source.height, tile.source.width) for tile in tiles) <= side


def test_halves_of_a_tile_cover_it_and_have_context() -> None:
    for height, width, size, pad, align in _cases(100):
        for tile in plan_tiles(height, width, size=size, pad=pad, align=align)[:4]:
            if max(tile.kept.height, tile.kept.width) < 2 * align:
                continue
            first, second = split_tile(tile, height, width, pad=pad, align=align)
            assert first.kept.area + second.kept.area == tile.kept.area
            for half in (first, second):
                _check_tile(half, height, width, pad, align)
