"""Means of what the steps give back, gathered on the device and read when they are logged."""

from collections.abc import Mapping

import torch
from torch import Tensor

from realesr_train.distributed import World, mean

_FLAGS = ("skipped_g", "skipped_d")


class Meter:
    """Sums since the last reading, and how many steps in a row were skipped."""

    def __init__(self, device: torch.device) -> None:
        self._sums: dict[tuple[str, ...], Tensor] = {}
        zeros = {"dtype": torch.float32, "device": device}
        self._skipped = torch.zeros((), **zeros)  # type: ignore[call-overload]
        self._row = torch.zeros((), **zeros)  # type: ignore[call-overload]
        self._longest = torch.zeros((), **zeros)  # type: ignore[call-overload]

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Takes what a step gave back; values that are not finite are left out of the means."""
        names = tuple(name for name in values if name not in _FLAGS)
        stacked = torch.stack([values[name].float() for name in names])
        finite = stacked.isfinite()
        parts = torch.stack((stacked.masked_fill(~finite, 0), finite.float()))
        self._sums[names] = self._sums[names] + parts if names in self._sums else parts
        flags = [values[name].float() for name in _FLAGS if name in values]
        skipped = torch.stack(flags).amax()
        self._skipped += skipped
        self._row = (self._row + skipped) * skipped
        self._longest = torch.maximum(self._longest, self._row)

    def read(self, world: World) -> tuple[dict[str, float], int, int]:
        """(means over steps and ranks, skipped steps, most skipped steps in a row) since the last reading.

        A value that never was finite is NaN. The row goes on over readings. This waits for the device.
        """
        facts = torch.stack((self._skipped, self._longest))
        keys = list(self._sums)
        flat = torch.cat([mean(self._sums[names].flatten(), world) for names in keys] + [facts]).tolist()
        totals: dict[str, list[float]] = {}
        position = 0
        for names in keys:
            for offset, name in enumerate(names):
                total = totals.setdefault(name, [0.0, 0.0])
                total[0] += flat[position + offset]
                total[1] += flat[position + len(names) + offset]
            position += 2 * len(names)
        self._sums.clear()
        self._skipped.zero_()
        self._longest.copy_(self._row)
        means = {name: value / count if count else float("nan") for name, (value, count) in totals.items()}
        return means, int(flat[-2]), int(flat[-1])
