"""What keeps a CUDA device busy: kernel launches that are recorded once."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# Recording costs about as much as two runs, so it begins with the third batch of one shape.
_RUNS_BEFORE_RECORDING = 2
# The same kernels in the same order give the same numbers; another algorithm would differ by the format's rounding.
_TOLERANCE = 1e-2


class Recorder:
    """Runs a function of one tensor; after some runs with one shape, as a CUDA graph: one launch instead of hundreds.

    The result of a run lasts until the next one. Where recording fails, or gives other numbers, nothing is recorded.
    """

    def __init__(self) -> None:
        self._key: tuple[Any, ...] = ()
        self._runs = 0
        self._graph: _Graph | None = None
        self._works = True

    def __call__(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """`function(x)`. The function must always be the same for one dtype and shape of its result, and never wait."""
        key = (getattr(function, "__self__", None), x.shape, x.stride())
        if key != self._key:
            self.forget()
            self._key = key
        if self._graph is not None:
            return self._graph(x)
        y = function(x)
        self._runs += 1
        if self._works and self._runs > _RUNS_BEFORE_RECORDING:
            self._graph = self._recorded(function, x, y)
        return y

    def forget(self) -> None:
        """Frees what a recorded graph holds."""
        self._key, self._runs, self._graph = (), 0, None

    def _recorded(self, function: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> "_Graph | None":
        try:
            graph = _Graph(function, x)
            if torch.allclose(graph(x).float(), y.float(), rtol=0, atol=_TOLERANCE):
                return graph
        except RuntimeError:  # no memory for a second set of maps, or an operation that cannot be recorded
            torch.cuda.synchronize(x.device)
            torch.cuda.empty_cache()
        self._works = False
        return None


class _Graph:
    def __init__(self, function: Callable[[Tensor], Tensor], x: Tensor) -> None:
        self._x = x.clone(memory_format=torch.preserve_format)
        self._graph = torch.cuda.CUDAGraph()
        stream = torch.cuda.Stream(x.device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(x.device))
        with torch.cuda.stream(stream):
            function(self._x)  # libraries set themselves up for this stream, which cannot be recorded
        torch.cuda.current_stream(x.device).wait_stream(stream)
        # other threads may meanwhile do what they like on their own devices
        with torch.cuda.graph(self._graph, stream=stream, capture_error_mode="thread_local"):
            self._y = function(self._x)

    def __call__(self, x: Tensor) -> Tensor:
        self._x.copy_(x)
        self._graph.replay()
        return self._y
