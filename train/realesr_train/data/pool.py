"""A store of past training pairs, which mixes pictures of many batches into each one that is trained on.

Traps: the store holds 8-bit values. A low-resolution input always is 8-bit exact, so nothing is lost; a target that is
not (sharpened before it comes here, or made by a teacher) comes back rounded to k/255.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

Pictures = dict[str, Tensor]
"""By name, `lq`, `gt` and what else belongs to them: float (N, C, H, W) in [0, 1], one N."""


def draw_slots(size: int, count: int, *, seed: int, step: int) -> Tensor:
    """`count` different places of a pool of `size` for this step: min(count, size) of them, int64 (n,), on the CPU, a
    function of run seed and step alone (neither negative)."""
    # The last number tells this stream of the run apart from any other that is made of (seed, step).
    generator = np.random.default_rng((seed, step, 0x706F6F6C))
    return torch.from_numpy(generator.permutation(size)[:count])


class PairPool:
    """At most `size` pairs with all that belongs to them, uint8 on the device of the batches; memory is taken by the
    first batch.

    With `reuse` = 1 each pair is trained on once: when it is new, or when it comes back out of the pool. With more it
    stays, and is trained on about `reuse` times before a new one takes its place: pictures that are dear to make, by
    the degradation and a teacher's network, last so much longer.

    Raises: ValueError, if `size` or `reuse` is below 1.
    Source: Real-ESRGAN (arXiv 2107.10833), section 4.1; training specification, section 6, D24 in section 15.
    """

    def __init__(self, size: int, reuse: int = 1) -> None:
        for name, value in (("size", size), ("reuse", reuse)):
            if value < 1:
                raise ValueError(f"{name}: {value}; it is at least 1")
        self.size = size
        self.reuse = reuse
        self._filled = 0
        self._stored: Pictures | None = None

    def exchange(self, new: Mapping[str, Tensor], *, seed: int, step: int) -> Pictures:
        """`reuse` times as many pairs as the N that are `new`, to train on, with the same names and on the same device.

        With `reuse` = 1 these are the new ones while the pool is filling, afterwards as many random ones of the past,
        whose places the new ones take. With more, new ones always go into the pool, and random ones of all that are
        there come back, copies if there are too few. N need not divide the size: of the batch that fills the pool only
        as many pairs are stored as fit, and of a batch larger than the pool the last pairs pass through (`reuse` = 1)
        or are dropped. The host does not wait for the device.

        Raises: ValueError naming the picture, if the shapes do not fit together or to those stored.
        """
        count = _count(new)
        if self.reuse == 1:
            return self._exchange(new, draw_slots(self.size, count, seed=seed, step=step))
        stored = self._storage(new)
        self._replace(new, draw_slots(self.size, count, seed=seed, step=step))
        # no step of the exchange has a negative number
        drawn = draw_slots(self._filled, count * self.reuse, seed=seed, step=2**62 + step)
        chosen = drawn.repeat(-(-count * self.reuse // len(drawn)))[: count * self.reuse]
        return {name: _taken(store, chosen, new[name].dtype) for name, store in stored.items()}

    def _exchange(self, new: Mapping[str, Tensor], slots: Tensor) -> Pictures:
        stored = self._storage(new)
        if self._filled < self.size:
            self._replace(new, slots)
            return dict(new)
        old = {name: _taken(store, slots, new[name].dtype) for name, store in stored.items()}
        self._replace(new, slots)
        rest = {name: batch[len(slots) :] for name, batch in new.items()}
        return {name: torch.cat((old[name], rest[name])) if len(rest[name]) else old[name] for name in old}

    def _replace(self, new: Mapping[str, Tensor], slots: Tensor) -> None:
        """Stores what is new: at the end while there is room, at `slots` of a full pool."""
        stored = self._storage(new)
        if self._filled < self.size:
            end = min(self._filled + _count(new), self.size)
            for name, store in stored.items():
                store[self._filled : end] = _to_bytes(new[name][: end - self._filled])
            self._filled = end
            return
        for name, store in stored.items():
            places = slots.to(store.device, non_blocking=True)
            store.index_copy_(0, places, _to_bytes(new[name][: len(slots)]))

    def _storage(self, new: Mapping[str, Tensor]) -> Pictures:
        """The stores, made or moved to the batch's device where they are not there yet."""
        if self._stored is None:
            self._stored = {name: _empty(self.size, batch) for name, batch in new.items()}
        if self._stored.keys() != new.keys():
            raise ValueError(f"new: {sorted(new)} in a pool of {sorted(self._stored)}; keep to the same pictures")
        for name, batch in new.items():
            if self._stored[name].shape[1:] != batch.shape[1:]:
                there = tuple(self._stored[name].shape[1:])
                raise ValueError(f"{name}: pairs of {tuple(batch.shape[1:])} in a pool of {there}; keep one size")
            self._stored[name] = self._stored[name].to(batch.device)
        return self._stored

    def state(self) -> Pictures:
        """What a checkpoint has to keep: uint8 under the pictures' names, copies on the CPU; nothing before the first
        batch."""
        if self._stored is None:
            return {}
        return {name: store[: self._filled].to("cpu", copy=True) for name, store in self._stored.items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Puts back what `state` gave.

        Raises: ValueError, if it is not a state or holds more pairs than this pool.
        """
        if not state:
            self._filled, self._stored = 0, None
            return
        if not {"lq", "gt"} <= state.keys() or any(
            store.dtype != torch.uint8 or store.ndim != 4 for store in state.values()
        ):
            raise ValueError(f"state: {sorted(state)}; give uint8 (n, C, H, W) under `lq`, `gt` and what belongs to it")
        counts = {name: len(store) for name, store in state.items()}
        filled = counts["lq"]
        if len(set(counts.values())) > 1 or filled > self.size:
            held = ", ".join(f"{number} of {name}" for name, number in counts.items())
            raise ValueError(f"state: {held} for a pool of {self.size}; keep the pool's size when resuming")
        self._filled = filled
        self._stored = {name: _empty(self.size, store) for name, store in state.items()}
        for name, store in self._stored.items():
            store[:filled] = state[name]


def _count(new: Mapping[str, Tensor]) -> int:
    count = len(new["lq"])
    for name, batch in new.items():
        if batch.ndim != 4 or len(batch) != count:
            raise ValueError(f"{name}: {tuple(batch.shape)} beside {count} of lq; give (N, C, H, W) with one N")
    return count


def _taken(store: Tensor, slots: Tensor, dtype: torch.dtype) -> Tensor:
    return store.index_select(0, slots.to(store.device, non_blocking=True)).to(dtype).div_(255)


def _to_bytes(batch: Tensor) -> Tensor:
    return (batch.detach() * 255).round_().clamp_(0, 255).to(torch.uint8)


def _empty(size: int, like: Tensor) -> Tensor:
    return torch.zeros((size, *like.shape[1:]), dtype=torch.uint8, device=like.device)
