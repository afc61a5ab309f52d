"""Arrays to a device and back; on CUDA beside the computation, from and to page-locked memory."""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from numpy.typing import NDArray
from torch import Tensor


class Transfers(Protocol):
    """From and to one device. Trap: on a CPU both ends share their memory."""

    def upload(self, array: NDArray[Any]) -> Tensor:
        """The array on the device; work that is issued from now on waits for it."""

    def download(self, x: Tensor) -> Callable[[], NDArray[Any]]:
        """Starts to fetch x once it is computed; the call of the result waits for it."""


def transfers(device: torch.device) -> Transfers:
    """The way to `device` and back."""
    return _Streams(device) if device.type == "cuda" else _Plain(device)


class _Plain:
    def __init__(self, device: torch.device) -> None:
        self._device = device

    def upload(self, array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(array).to(self._device)

    def download(self, x: Tensor) -> Callable[[], NDArray[Any]]:
        array: NDArray[Any] = x.cpu().numpy()
        return lambda: array


class _Streams:
    """On streams of their own; the host waits for nothing but for what it has asked for."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._up = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._down = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def upload(self, array: NDArray[Any]) -> Tensor:
        with torch.cuda.stream(self._up):
            x = torch.from_numpy(array).pin_memory().to(self._device, non_blocking=True)
        computing = torch.cuda.current_stream(self._device)
        computing.wait_stream(self._up)
        x.record_stream(computing)
        return x

    def download(self, x: Tensor) -> Callable[[], NDArray[Any]]:
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
