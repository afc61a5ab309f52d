"""What the pair pool promises: which pairs come out, when, and after a restart."""

import collections

import pytest
import torch

from realesr_train.data.pool import PairPool, draw_slots


def _batch(first: int, count: int) -> dict[str, torch.Tensor]:
    """Pairs with numbers first, first + 1, ... (below 65536) in their pixels, input and target."""
    numbers = torch.arange(first, first + count)
    digits = torch.stack((numbers // 256, numbers % 256, 7 * numbers % 256), 1).float() / 255
    pixels = digits[:, :, None, None]
    return {"lq": pixels.expand(-1, -1, 2, 3).clone(), "gt": pixels.expand(-1, -1, 4, 6).clone()}


def _numbers(pixels: torch.Tensor) -> list[int]:
    digits = (pixels[:, :2, 0, 0] * 255).round().long()
    return (digits[:, 0] * 256 + digits[:, 1]).tolist()


@pytest.mark.parametrize(("size", "batch"), [(8, 2), (10, 4), (3, 3), (1, 1), (180, 12), (5, 7), (7, 1)])
def test_every_pair_is_trained_on_when_new_or_waits_in_the_pool(size: int, batch: int) -> None:
    pool = PairPool(size)
    waiting: set[int] = set()
    for step in range(4 * size // batch + 20):
        first = step * batch
        new = set(range(first, first + batch))
        pairs = pool.exchange(_batch(first, batch), seed=1, step=step)
        out = _numbers(pairs["lq"])
        assert len(out) == batch and out == _numbers(pairs["gt"])
        if len(waiting) < size:
            assert set(out) == new and out == sorted(out)
            waiting |= set(sorted(new)[: size - len(waiting)])
        else:
            came_back = set(out) & waiting
            assert len(set(out)) == batch and len(came_back) == min(batch, size)
            assert set(out) <= waiting | new
            waiting = waiting - came_back | (new - set(out))
        assert set(_numbers(pool.state()["lq"].float() / 255)) == waiting


def test_a_stored_eight_bit_value_comes_back_to_the_last_bit_and_any_other_one_rounded() -> None:
    pool = PairPool(1)
    levels = (torch.arange(256.0) / 255).view(1, 1, 16, 16)
    between = levels.flip(3) * 0.97 + 0.011
    pool.exchange({"lq": levels, "gt": between}, seed=0, step=0)
    pairs = pool.exchange({"lq": levels * 0, "gt": between * 0}, seed=0, step=1)
    assert torch.equal(pairs["lq"], levels)
    assert torch.equal(pairs["gt"], (between * 255).round() / 255)


def test_slots_differ_from_each_other_and_depend_on_seed_and_step_alone() -> None:
    for size, count in ((8, 3), (180, 12), (5, 5), (4, 9)):
        for step in range(30):
            slots = draw_slots(size, count, seed=5, step=step)
            assert slots.dtype == torch.int64 and slots.device.type == "cpu"
            assert len(set(slots.tolist())) == len(slots) == min(size, count)
            assert slots.min() >= 0 and slots.max() < size
    first = draw_slots(180, 12, seed=5, step=9)
    torch.manual_seed(0)
    assert torch.equal(draw_slots(180, 12, seed=5, step=9), first)
    assert not torch.equal(draw_slots(180, 12, seed=5, step=10), first)
    assert not torch.equal(draw_slots(180, 12, seed=6, step=9), first)
    assert not torch.equal(draw_slots(180, 12, seed=9, step=5), draw_slots(180, 12, seed=5, step=9))


def test_every_slot_is_drawn_about_equally_often() -> None:
    counts = collections.Counter(slot for step in range(3000) for slot in draw_slots(20, 5, seed=2, step=step).tolist())
    assert len(counts) == 20
    # 750 expected with a standard deviation of 24.
    assert all(abs(count - 750) < 5 * 24 for count in counts.values())


@pytest.mark.parametrize("steps_before", [0, 1, 2, 3, 6])
def test_a_resumed_pool_goes_on_as_the_one_that_was_saved(steps_before: int) -> None:
    whole = PairPool(10)
    for step in range(steps_before):
        whole.exchange(_batch(4 * step, 4), seed=3, step=step)
    resumed = PairPool(10)
    state = whole.state()
    resumed.load_state(state)
    for step in range(steps_before, steps_before + 6):
        expected = whole.exchange(_batch(4 * step, 4), seed=3, step=step)
        result = resumed.exchange(_batch(4 * step, 4), seed=3, step=step)
        assert all(torch.equal(result[name], expected[name]) for name in ("lq", "gt"))


def test_a_state_is_a_copy_of_eight_bits_a_value_and_only_of_what_is_stored() -> None:
    pool = PairPool(10)
    assert pool.state() == {}
    pool.exchange(_batch(0, 4), seed=0, step=0)
    state = pool.state()
    assert {name: (tuple(store.shape), store.dtype) for name, store in state.items()} == {
        "lq": ((4, 3, 2, 3), torch.uint8),
        "gt": ((4, 3, 4, 6), torch.uint8),
    }
    kept = state["lq"].clone()
    for step in range(1, 9):
        pool.exchange(_batch(4 * step, 4), seed=0, step=step)
    assert torch.equal(state["lq"], kept)
    pool.load_state({})
    assert pool.state() == {}


def test_the_batch_that_was_given_is_not_changed_later() -> None:
    pool = PairPool(4)
    batches = [_batch(4 * step, 4) for step in range(4)]
    given = [{name: one.clone() for name, one in batch.items()} for batch in batches]
    results = [pool.exchange(batch, seed=0, step=step) for step, batch in enumerate(given)]
    assert torch.equal(results[0]["lq"], batches[0]["lq"]) and torch.equal(given[1]["lq"], batches[1]["lq"])
    assert _numbers(results[1]["lq"]) != _numbers(batches[1]["lq"])


def test_a_wrong_argument_is_named() -> None:
    with pytest.raises(ValueError, match=r"^size: "):
        PairPool(0)
    with pytest.raises(ValueError, match=r"^reuse: "):
        PairPool(4, 0)
    pool = PairPool(4)
    lq, gt = _batch(0, 2).values()
    with pytest.raises(ValueError, match=r"^gt: "):
        pool.exchange({"lq": lq, "gt": gt[:1]}, seed=0, step=0)
    with pytest.raises(ValueError, match=r"^lq: "):
        pool.exchange({"lq": lq[0], "gt": gt[0]}, seed=0, step=0)
    pool.exchange({"lq": lq, "gt": gt}, seed=0, step=0)
    with pytest.raises(ValueError, match=r"^gt: .* keep one size"):
        pool.exchange({"lq": lq, "gt": gt[:, :, :2]}, seed=0, step=1)
    with pytest.raises(ValueError, match=r"^lq: .* keep one size"):
        pool.exchange({"lq": lq[:, :, :1], "gt": gt}, seed=0, step=1)
    with pytest.raises(ValueError, match=r"^new: .* keep to the same pictures"):
        pool.exchange({"lq": lq, "gt": gt, "teacher": gt}, seed=0, step=1)
    state = pool.state()
    with pytest.raises(ValueError, match=r"^state: 2 of lq, 2 of gt for a pool of 1;"):
        PairPool(1).load_state(state)
    with pytest.raises(ValueError, match=r"^state: 2 of lq, 1 of gt"):
        pool.load_state({"lq": state["lq"], "gt": state["gt"][:1]})
    for wrong in ({"lq": state["lq"]}, {**state, "gt": state["gt"].float()}):
        with pytest.raises(ValueError, match=r"^state: .* give uint8"):
            pool.load_state(wrong)


@pytest.mark.parametrize(("size", "new", "reuse"), [(64, 2, 4), (12, 3, 3), (40, 4, 2)])
def test_a_pool_that_reuses_gives_each_pair_about_so_often_and_only_what_is_there(
    size: int, new: int, reuse: int
) -> None:
    pool = PairPool(size, reuse)
    counts: collections.Counter[int] = collections.Counter()
    steps = 40 * size // new
    for step in range(steps):
        pairs = pool.exchange(_batch(step * new, new), seed=1, step=step)
        out = _numbers(pairs["lq"])
        assert len(out) == new * reuse and out == _numbers(pairs["gt"])
        there = set(_numbers(pool.state()["lq"].float() / 255))
        assert set(range(step * new, (step + 1) * new)) <= there and set(out) <= there
        if len(there) >= len(out):
            assert len(set(out)) == len(out)
        counts.update(out)
    # pairs of the middle of the run: the last ones are not used up yet, the first ones are used more
    middle = [counts[number] for number in range(10 * size, 30 * size)]
    assert sum(middle) / len(middle) == pytest.approx(reuse, rel=0.06)


def test_a_pool_that_reuses_goes_on_where_it_was_saved_with_all_that_belongs_to_a_pair() -> None:
    def batch(step: int) -> dict[str, torch.Tensor]:
        pairs = _batch(2 * step, 2)
        return {**pairs, "teacher": pairs["gt"].flip(1)}

    whole, resumed = PairPool(12, 3), PairPool(12, 3)
    for step in range(9):
        whole.exchange(batch(step), seed=3, step=step)
    resumed.load_state(whole.state())
    for step in range(9, 15):
        expected, result = (pool.exchange(batch(step), seed=3, step=step) for pool in (whole, resumed))
        assert expected.keys() == result.keys() == {"lq", "gt", "teacher"}
        assert all(torch.equal(result[name], expected[name]) for name in expected)
        assert torch.equal(result["teacher"], result["gt"].flip(1))


@pytest.mark.gpu
def test_the_pool_stays_on_the_device_of_its_batches_without_waiting() -> None:
    pool, twin = PairPool(4), PairPool(4)
    for step in range(4):
        batch = _batch(2 * step, 2)
        on_gpu = {name: one.cuda() for name, one in batch.items()}
        torch.cuda.set_sync_debug_mode("error")
        try:
            result = pool.exchange(on_gpu, seed=0, step=step)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        expected = twin.exchange(batch, seed=0, step=step)
        assert result["lq"].is_cuda and torch.equal(result["lq"].cpu(), expected["lq"])
