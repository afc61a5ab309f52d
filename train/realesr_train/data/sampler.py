"""The infinite stream of samples: which numbers belong to a step, and which picture a number means.

Nothing is stored: a step's numbers follow from the step, a number's picture from the number, so a run resumes by going
on at its step, and ranks, workers and micro-batches only share out the same numbers.
"""

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from realesr_train.degradation.counter import keys, uniform

# streams of counter.keys; the degradation has 16 for each of at most 16 passes
_ORDER_STREAM, _CROP_STREAM = 1000, 1001


def global_samples(step: int, batch: int, rank: int = 0, world: int = 1, accumulate: int = 1) -> NDArray[np.int64]:
    """(accumulate, batch / (world accumulate)) int64: the numbers of this rank's samples in step 0, 1, ..., one row
    for each micro-batch.

    `batch` counts the samples of a whole step, of all ranks and micro-batches: step n has the numbers n batch to
    (n + 1) batch - 1, however they are shared out.

    Raises: ValueError naming the argument.
    """
    if step < 0 or batch < 1 or world < 1 or accumulate < 1 or not 0 <= rank < world:
        raise ValueError(f"step {step}, batch {batch}, rank {rank} of {world}, accumulate {accumulate}: out of range")
    if batch % (world * accumulate):
        raise ValueError(
            f"batch: {batch} samples do not divide among {world} ranks and {accumulate} micro-batches;"
            f" give a multiple of {world * accumulate}"
        )
    numbers = np.arange(step * batch, (step + 1) * batch, dtype=np.int64)
    return numbers.reshape(accumulate, world, -1)[:, rank].copy()


def picture_of(seed: int, sample: int, count: int) -> int:
    """Which of `count` pictures sample 0, 1, ... shows: each run of `count` samples, an epoch, has each picture once,
    in an order of its own."""
    epoch, position = divmod(sample, count)
    return int(_order(seed, epoch, count)[position])


@lru_cache(maxsize=8)  # an epoch and the next, of a few sources
def _order(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    numbers = uniform(keys(seed, torch.tensor([epoch]), _ORDER_STREAM), count)[0]
    order: NDArray[np.int64] = torch.argsort(numbers, stable=True).numpy()
    return order


def crop_draws(seed: int, sample: int, attempt: int) -> list[float]:
    """Five numbers, uniform in [0, 1), for how this sample is cut out at this attempt (0, 1, ...) to get it."""
    numbers = uniform(keys(seed, torch.tensor([sample]), _CROP_STREAM), 5 * (attempt + 1))
    drawn: list[float] = numbers[0, -5:].tolist()
    return drawn
