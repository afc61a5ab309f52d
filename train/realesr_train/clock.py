"""Where the time of a step goes, and how much memory it took."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Clock:
    """Seconds for each step, and those of them that were spent waiting for data, since the last reading."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._waited = 0.0
        self._steps = 0

    @contextmanager
    def step(self) -> Iterator[None]:
        """Around the wait for the data of a step."""
        started = time.perf_counter()
        yield
        self._waited += time.perf_counter() - started
        self._steps += 1

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """What happens inside is not part of a step."""
        started = time.perf_counter()
        yield
        self._start += time.perf_counter() - started

    def read(self) -> tuple[float, float]:
        """(seconds of a step, seconds of waiting in it), means since the last reading."""
        now, steps = time.perf_counter(), max(1, self._steps)
        result = (now - self._start) / steps, self._waited / steps
        self._start, self._waited, self._steps = now, 0.0, 0
        return result


def peak_memory_mib(device: torch.device) -> float:
    """The most that was in use: of the GPU's memory, or of the process's; 0 where nobody tells."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
