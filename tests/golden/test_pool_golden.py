"""The pair pool against the calls of the original queue."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from realesr_train.data import pool as pool_module
from realesr_train.data.pool import PairPool


def test_swapping_slots_gives_what_permuting_the_whole_queue_gives(
    golden: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = np.load(golden("pool.npz"))
    size, batch = int(data["queue_size"]), int(data["batch"])
    # The stored values are no 8-bit values; rounding them commutes with moving them about.
    inputs, targets, out_inputs, out_targets, final_inputs, final_targets = (
        torch.from_numpy(data[name]).mul(255).round().div(255)
        for name in ("in_lq", "in_gt", "out_lq", "out_gt", "final_queue_lq", "final_queue_gt")
    )
    places = np.arange(size)  # of the queue's entries, in our pool, which does not move them
    perms = iter(data["perms"])
    pool = PairPool(size)
    for step, permuted in enumerate(data["permuted"]):
        if permuted:
            places = places[next(perms)]
        slots = torch.from_numpy(places[:batch].copy())
        monkeypatch.setattr(pool_module, "draw_slots", lambda *_, slots=slots, **__: slots)
        result = pool.exchange({"lq": inputs[step], "gt": targets[step]}, seed=0, step=step)
        assert torch.equal(result["lq"], out_inputs[step]), step
        assert torch.equal(result["gt"], out_targets[step]), step
    state = pool.state()
    order = torch.from_numpy(places)
    assert torch.equal(state["lq"][order], (final_inputs * 255).round().to(torch.uint8))
    assert torch.equal(state["gt"][order], (final_targets * 255).round().to(torch.uint8))
