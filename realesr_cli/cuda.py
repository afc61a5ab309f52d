"""What keeps a CUDA device busy: transfers beside the computation, and kernel launches that are recorded once."""

from collections.abc import Callable
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

# Recording costs about as much as two runs, so it begins with the third batch of one shape.
_RUNS_BEFORE_RECORDING = 2
# The same kernels in the same order give the same numbers; another algorithm would differ by the format's rounding.
_TOLERANCE = 1e-2


class Transfers:
    """Copies between page-locked host memory and the device, on streams of their own."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._up = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._down = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def upload(self, array: NDArray[Any]) -> Tensor:
        """The array on the device; work that is issued from now on waits for it, the host does not."""
        with torch.cuda.stream(self._up):
            x = torch.from_numpy(array).pin_memory().to(self._device, non_blocking=True)
        computing = torch.cuda.current_stream(self._device)
        computing.wait_stream(self._up)
        x.record_stream(computing)
        return x

    def download(self, x: Tensor) -> Callable[[], NDArray[Any]]:
        """Starts to fetch x once it is computed; the call of the result waits for it."""
        self._down.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._down):
            host = torch.empty(x.shape, dtype=x.dtype, pin_memory=True)
            host.copy_(x, non_blocking=True)
            x.record_stream(self._down)
            arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            arrived.record(self._down)

        def wait() -> NDArray[Any]:
            arrived.synchronize()
            array: NDArray[Any] = host.numpy()
            return array

        return wait


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
