"""A store of past training pairs, which mixes pictures of many batches into each one that is trained on.

Traps: the store holds 8-bit values. A low-resolution input always is 8-bit exact, so nothing is lost; a target that is
not (sharpened before it comes here) comes back rounded to k/255, once the pool is full.
"""

import numpy as np
import torch
from torch import Tensor


def draw_slots(size: int, count: int, *, seed: int, step: int) -> Tensor:
    """The places of a full pool of `size` to exchange in this step: min(count, size) different ones, int64 (n,), on
    the CPU, a function of run seed and step alone (neither negative)."""
    # The last number tells this stream of the run apart from any other that is made of (seed, step).
    generator = np.random.default_rng((seed, step, 0x706F6F6C))
    return torch.from_numpy(generator.permutation(size)[:count])


class PairPool:
    """At most `size` pairs (input, target), uint8 on the device of the batches; memory is taken by the first batch.

    Raises: ValueError, if `size` is below 1.
    Source: Real-ESRGAN (arXiv 2107.10833), section 4.1; training specification, section 6, D24 in section 15.
    """

    def __init__(self, size: int) -> None:
        if size < 1:
            raise ValueError(f"size: {size}; a pool holds at least one pair")
        self.size = size
        self._filled = 0
        self._stored: tuple[Tensor, Tensor] | None = None

    def exchange(self, lq: Tensor, gt: Tensor, *, seed: int, step: int) -> tuple[Tensor, Tensor]:
        """The pairs to train on: the new ones while the pool is filling, afterwards as many random ones of the past,
        whose places the new ones take.

        `lq` (N, C, h, w) and `gt` (N, C, H, W) are float in [0, 1]; so is the result, on the same device. N need not
        divide the size: of the batch that fills the pool only as many pairs are stored as fit, and of a batch larger
        than the pool the last pairs pass through. The host does not wait for the device.

        Raises: ValueError naming the argument, if the shapes do not fit together or to those stored.
        """
        return self._exchange(lq, gt, draw_slots(self.size, len(lq), seed=seed, step=step))

    def _exchange(self, lq: Tensor, gt: Tensor, slots: Tensor) -> tuple[Tensor, Tensor]:
        if lq.ndim != 4 or gt.ndim != 4 or len(lq) != len(gt):
            raise ValueError(f"gt: {tuple(gt.shape)} for lq {tuple(lq.shape)}; give (N, C, H, W) with one N")
        stored = self._storage(lq, gt)
        if self._filled < self.size:
            end = min(self._filled + len(lq), self.size)
            for store, batch in zip(stored, (lq, gt), strict=True):
                store[self._filled : end] = _to_bytes(batch[: end - self._filled])
            self._filled = end
            return lq, gt
        slots = slots.to(lq.device, non_blocking=True)
        old_lq, old_gt = (_swap(store, batch, slots) for store, batch in zip(stored, (lq, gt), strict=True))
        return old_lq, old_gt

    def _storage(self, lq: Tensor, gt: Tensor) -> tuple[Tensor, Tensor]:
        """The two stores, made or moved to the batch's device where they are not there yet."""
        if self._stored is None:
            self._stored = _empty(self.size, lq), _empty(self.size, gt)
        for name, store, batch in zip(("lq", "gt"), self._stored, (lq, gt), strict=True):
            if store.shape[1:] != batch.shape[1:]:
                raise ValueError(
                    f"{name}: pairs of {tuple(batch.shape[1:])} in a pool of {tuple(store.shape[1:])}; keep one size"
                )
        stored_lq, stored_gt = self._stored
        self._stored = stored_lq.to(lq.device), stored_gt.to(gt.device)
        return self._stored

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint has to keep: `lq` and `gt`, uint8, copies on the CPU; nothing before the first batch."""
        if self._stored is None:
            return {}
        return {
            name: store[: self._filled].to("cpu", copy=True)
            for name, store in zip(("lq", "gt"), self._stored, strict=True)
        }

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Puts back what `state` gave.

        Raises: ValueError, if it is not a state or holds more pairs than this pool.
        """
        if not state:
            self._filled, self._stored = 0, None
            return
        if state.keys() != {"lq", "gt"} or any(
            store.dtype != torch.uint8 or store.ndim != 4 for store in state.values()
        ):
            raise ValueError(f"state: {sorted(state)}; give uint8 (n, C, H, W) under `lq` and `gt`")
        filled = len(state["lq"])
        if len(state["gt"]) != filled or filled > self.size:
            raise ValueError(
                f"state: {filled} inputs and {len(state['gt'])} targets for a pool of {self.size};"
                " keep the pool's size when resuming"
            )
        self._filled = filled
        self._stored = _empty(self.size, state["lq"]), _empty(self.size, state["gt"])
        for name, store in zip(("lq", "gt"), self._stored, strict=True):
            store[:filled] = state[name]


def _swap(store: Tensor, batch: Tensor, slots: Tensor) -> Tensor:
    """Old pairs of these slots, which take the batch's; pairs without a slot pass through."""
    old = store.index_select(0, slots).to(batch.dtype).div_(255)
    store.index_copy_(0, slots, _to_bytes(batch[: len(slots)]))
    return old if len(slots) == len(batch) else torch.cat((old, batch[len(slots) :]))


def _to_bytes(batch: Tensor) -> Tensor:
    return (batch.detach() * 255).round_().clamp_(0, 255).to(torch.uint8)


def _empty(size: int, like: Tensor) -> Tensor:
    return torch.zeros((size, *like.shape[1:]), dtype=torch.uint8, device=like.device)
