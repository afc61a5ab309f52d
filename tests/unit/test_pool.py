"""What the pair pool promises: which pairs come out, when, and after a restart."""

import collections

import pytest
import torch

from realesr_train.data.pool import PairPool, draw_slots


def _batch(first: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pairs with numbers first, first + 1, ... (below 65536) in their pixels, input and target."""
    numbers = torch.arange(first, first + count)
    digits = torch.stack((numbers // 256, numbers % 256, 7 * numbers % 256), 1).float() / 255
    pixels = digits[:, :, None, None]
    return pixels.expand(-1, -1, 2, 3).clone(), pixels.expand(-1, -1, 4, 6).clone()


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
        lq, gt = pool.exchange(*_batch(first, batch), seed=1, step=step)
        out = _numbers(lq)
        assert len(out) == batch and out == _numbers(gt)
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
    pool.exchange(levels, between, seed=0, step=0)
    lq, gt = pool.exchange(levels * 0, between * 0, seed=0, step=1)
    assert torch.equal(lq, levels)
    assert torch.equal(gt, (between * 255).round() / 255)


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
        whole.exchange(*_batch(4 * step, 4), seed=3, step=step)
    resumed = PairPool(10)
    state = whole.state()
    resumed.load_state(state)
    for step in range(steps_before, steps_before + 6):
        expected = whole.exchange(*_batch(4 * step, 4), seed=3, step=step)
        result = resumed.exchange(*_batch(4 * step, 4), seed=3, step=step)
        assert torch.equal(result[0], expected[0]) and torch.equal(result[1], expected[1])


def test_a_state_is_a_copy_of_eight_bits_a_value_and_only_of_what_is_stored() -> None:
    pool = PairPool(10)
    assert pool.state() == {}
    pool.exchange(*_batch(0, 4), seed=0, step=0)
    state = pool.state()
    assert {name: (tuple(store.shape), store.dtype) for name, store in state.items()} == {
        "lq": ((4, 3, 2, 3), torch.uint8),
        "gt": ((4, 3, 4, 6), torch.uint8),
    }
    kept = state["lq"].clone()
    for step in range(1, 9):
        pool.exchange(*_batch(4 * step, 4), seed=0, step=step)
    assert torch.equal(state["lq"], kept)
    pool.load_state({})
    assert pool.state() == {}


def test_the_batch_that_was_given_is_not_changed_later() -> None:
    pool = PairPool(4)
    batches = [_batch(4 * step, 4) for step in range(4)]
    results = [pool.exchange(lq.clone(), gt.clone(), seed=0, step=step) for step, (lq, gt) in enumerate(batches)]
    assert torch.equal(results[0][0], batches[0][0])
    assert _numbers(results[1][0]) != _numbers(batches[1][0])


def test_a_wrong_argument_is_named() -> None:
    with pytest.raises(ValueError, match=r"^size: "):
        PairPool(0)
    pool = PairPool(4)
    lq, gt = _batch(0, 2)
    with pytest.raises(ValueError, match=r"^gt: "):
        pool.exchange(lq, gt[:1], seed=0, step=0)
    with pytest.raises(ValueError, match=r"^gt: "):
        pool.exchange(lq[0], gt[0], seed=0, step=0)
    pool.exchange(lq, gt, seed=0, step=0)
    with pytest.raises(ValueError, match=r"^gt: .* keep one size"):
        pool.exchange(lq, gt[:, :, :2], seed=0, step=1)
    with pytest.raises(ValueError, match=r"^lq: .* keep one size"):
        pool.exchange(lq[:, :, :1], gt, seed=0, step=1)
    state = pool.state()
    with pytest.raises(ValueError, match=r"^state: 2 inputs .* pool of 1;"):
        PairPool(1).load_state(state)
    with pytest.raises(ValueError, match=r"^state: 2 inputs and 1 targets"):
        pool.load_state({"lq": state["lq"], "gt": state["gt"][:1]})
    for wrong in ({"lq": state["lq"]}, {**state, "gt": state["gt"].float()}):
        with pytest.raises(ValueError, match=r"^state: .* give uint8"):
            pool.load_state(wrong)


@pytest.mark.gpu
def test_the_pool_stays_on_the_device_of_its_batches_without_waiting() -> None:
    pool, twin = PairPool(4), PairPool(4)
    for step in range(4):
        lq, gt = _batch(2 * step, 2)
        on_gpu = lq.cuda(), gt.cuda()
        torch.cuda.set_sync_debug_mode("error")
        try:
            result = pool.exchange(*on_gpu, seed=0, step=step)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        expected = twin.exchange(lq, gt, seed=0, step=step)
        assert result[0].is_cuda and torch.equal(result[0].cpu(), expected[0])
