"""The stream of samples: every number once, every picture once an epoch, nothing but the step to remember."""

import collections

import numpy as np
import pytest
from realesr_train.data.sampler import crop_draws, global_samples, picture_of


@pytest.mark.parametrize(("world", "accumulate"), [(1, 1), (2, 1), (4, 3), (1, 6), (12, 1)])
def test_a_step_has_the_same_samples_however_they_are_shared_out(world: int, accumulate: int) -> None:
    for step in (0, 1, 7, 10**12):
        parts = [global_samples(step, 12, rank, world, accumulate) for rank in range(world)]
        assert {part.shape for part in parts} == {(accumulate, 12 // world // accumulate)}
        assert {part.dtype for part in parts} == {np.dtype(np.int64)}
        numbers = sorted(int(number) for part in parts for number in part.flat)
        assert numbers == list(range(step * 12, step * 12 + 12))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((0, 12, 0, 5, 1), "multiple of 5"),
        ((0, 12, 0, 2, 4), "multiple of 8"),
        ((-1, 12, 0, 1, 1), "step -1"),
        ((0, 0, 0, 1, 1), "batch 0"),
        ((0, 12, 2, 2, 1), "rank 2 of 2"),
        ((0, 12, 0, 1, 0), "accumulate 0"),
    ],
)
def test_a_share_that_does_not_exist_is_refused(arguments: tuple[int, ...], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        global_samples(*arguments)


@pytest.mark.parametrize("count", [1, 2, 7, 194])
def test_an_epoch_has_every_picture_once_in_an_order_of_its_own(count: int) -> None:
    epochs = [[picture_of(3, epoch * count + i, count) for i in range(count)] for epoch in range(6)]
    assert all(sorted(order) == list(range(count)) for order in epochs)
    if count > 5:
        assert len({tuple(order) for order in epochs}) == 6
        assert [picture_of(4, i, count) for i in range(count)] != epochs[0]
    # any sample alone, long after
    assert picture_of(3, 2 * count + count // 2, count) == epochs[2][count // 2]


def test_all_orders_are_about_equally_likely() -> None:
    orders = collections.Counter(tuple(picture_of(1, 4 * epoch + i, 4) for i in range(4)) for epoch in range(4800))
    assert len(orders) == 24
    chi_square = sum((seen - 200) ** 2 / 200 for seen in orders.values())
    assert chi_square < 49.7  # 23 degrees of freedom, p = 0.001


def test_the_draws_of_a_crop_are_uniform_and_new_for_each_attempt() -> None:
    draws = np.array([crop_draws(7, sample, 0) for sample in range(4000)])
    assert draws.shape == (4000, 5) and draws.min() >= 0 and draws.max() < 1
    for column in draws.T:
        seen = np.histogram(column, bins=20, range=(0, 1))[0]
        assert ((seen - 200) ** 2 / 200).sum() < 43.8  # 19 degrees of freedom, p = 0.001
    assert np.abs(np.corrcoef(draws.T) - np.eye(5)).max() < 0.06
    tries = {tuple(crop_draws(7, sample, attempt)) for sample in range(20) for attempt in range(5)}
    assert len(tries) == 100
    assert crop_draws(7, 5, 3) == crop_draws(7, 5, 3) != crop_draws(8, 5, 3)
