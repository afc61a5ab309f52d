"""The meter: means of what was finite, and how long a row of skipped steps was."""

import math

import pytest
import torch

from realesr_train.distributed import World, gather, share
from realesr_train.meter import Meter

ALONE = World(rank=0, size=1, device=torch.device("cpu"))


def _step(meter: Meter, skipped: int, **losses: float) -> None:
    meter.add(
        {**{name: torch.tensor(value) for name, value in losses.items()}, "skipped_g": torch.tensor(float(skipped))}
    )


def test_means_are_over_the_steps_that_had_a_value_and_a_finite_one() -> None:
    meter = Meter(ALONE.device)
    _step(meter, 0, pixel=1.0, d=2.0)
    _step(meter, 1, pixel=math.nan, d=4.0)
    _step(meter, 0, d=math.inf)
    means, skipped, _ = meter.read(ALONE)
    assert means == pytest.approx({"pixel": 1.0, "d": 3.0}) and skipped == 1
    _step(meter, 1, pixel=math.nan)
    means, skipped, _ = meter.read(ALONE)
    assert math.isnan(means["pixel"]) and skipped == 1


def test_the_longest_row_counts_also_if_it_ended_before_the_reading_or_began_before_the_last() -> None:
    meter = Meter(ALONE.device)
    for flag in (1, 1, 1, 0, 1, 0):
        _step(meter, flag, x=1.0)
    assert meter.read(ALONE)[1:] == (4, 3)
    for flag in (0, 1, 1):
        _step(meter, flag, x=1.0)
    assert meter.read(ALONE)[1:] == (2, 2)
    for flag in (1, 1):
        _step(meter, flag, x=1.0)
    assert meter.read(ALONE)[1:] == (2, 4)
    _step(meter, 0, x=1.0)
    assert meter.read(ALONE)[1:] == (0, 4)
    _step(meter, 0, x=1.0)
    assert meter.read(ALONE)[1:] == (0, 0)


def test_a_step_in_which_either_network_was_skipped_counts() -> None:
    meter = Meter(ALONE.device)
    meter.add({"x": torch.tensor(1.0), "skipped_g": torch.tensor(0.0), "skipped_d": torch.tensor(1.0)})
    assert meter.read(ALONE)[1] == 1


def test_ranks_share_out_each_micro_batch() -> None:
    numbers = torch.arange(12)
    worlds = [World(rank=rank, size=3, device=ALONE.device) for rank in range(3)]
    assert [share(numbers, world, 2).tolist() for world in worlds] == [[0, 1, 6, 7], [2, 3, 8, 9], [4, 5, 10, 11]]
    assert torch.equal(gather(numbers, ALONE, 2), numbers) and torch.equal(share(numbers, ALONE, 2), numbers)
