"""Sizes and the checks of options."""

import pytest

from realesr_cli.errors import UsageError
from realesr_cli.options import DeviceOptions, SizeOptions, TileOptions


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (SizeOptions(), (400, 800)),
        (SizeOptions(scale=1.15), (115, 230)),  # int() would give 114
        (SizeOptions(scale=2.5), (250, 500)),
        (SizeOptions(scale=0.5), (50, 100)),
        (SizeOptions(width=333), (167, 333)),
        (SizeOptions(height=333), (333, 666)),
        (SizeOptions(fit=(3840, 2160)), (1920, 3840)),
        (SizeOptions(fit=(100, 1000)), (50, 100)),
    ],
)
def test_target_size(size: SizeOptions, expected: tuple[int, int]) -> None:
    assert size.target(100, 200, 4) == expected


def test_target_size_rounds_halves_up_and_is_never_zero() -> None:
    assert SizeOptions(scale=0.5).target(3, 1, 4) == (2, 1)
    assert SizeOptions(scale=0.01).target(3, 5, 4) == (1, 1)


def test_suffixes_tell_results_apart() -> None:
    sizes = [
        SizeOptions(),
        SizeOptions(scale=2.5),
        SizeOptions(width=9),
        SizeOptions(height=9),
        SizeOptions(fit=(8, 9)),
    ]
    assert [size.suffix(4) for size in sizes] == ["_x4", "_x2.5", "_w9", "_h9", "_fit8x9"]


@pytest.mark.parametrize(
    "fields",
    [{"scale": 2.0, "width": 3}, {"scale": 0.0}, {"scale": -1.0}, {"scale": 1e9}, {"width": 0}, {"fit": (0, 5)}],
)
def test_impossible_sizes_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        SizeOptions(**fields)  # type: ignore[arg-type]


def test_impossible_device_and_tile_options_are_refused() -> None:
    with pytest.raises(UsageError, match="fp8"):
        DeviceOptions(precision="fp8")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="threads"):
        DeviceOptions(threads=0)
    with pytest.raises(UsageError, match="tile"):
        TileOptions(size=3)
