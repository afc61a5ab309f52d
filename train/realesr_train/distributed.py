"""One process for each device, all with the same weights and the same state; a run on one device is the case size = 1.

The launcher (torchrun, or `start_processes` for `--devices N`) says in the environment who a process is: RANK,
WORLD_SIZE, LOCAL_RANK. Every rank holds the same pool and reads its own share of each batch, so that the state of rank
0 is the state of the run, and a run may go on with another number of devices.
"""

import inspect
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from realesr_cli.device import find_device
from realesr_cli.errors import DeviceUnavailable, UsageError

_GRACE_S = 20.0


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """Who this process is among those that train together."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and talks."""
        return self.rank == 0


def is_launched() -> bool:
    """Whether a launcher started this process as one of several."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


@contextmanager
def joined(device: str) -> Iterator[World]:
    """This process as one of the world that its launcher made, or alone; `device` as in `[run]`.

    Raises: DeviceUnavailable, UsageError.
    """
    if not is_launched():
        yield World(rank=0, size=1, device=find_device(device))
        return
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    chosen = find_device(device)
    if chosen.type == "cuda":
        local = int(os.environ.get("LOCAL_RANK", rank))
        if local >= torch.cuda.device_count():
            raise DeviceUnavailable(
                f"process {local + 1} has no GPU: this machine has {torch.cuda.device_count()}",
                hint="start as many processes as there are GPUs",
            )
        chosen = torch.device("cuda", local)
        torch.cuda.set_device(chosen)
    elif chosen.type != "cpu":
        raise UsageError(f"several processes cannot train on {chosen.type}", hint="use --devices 1")
    torch.distributed.init_process_group("nccl" if chosen.type == "cuda" else "gloo", rank=rank, world_size=size)
    try:
        yield World(rank=rank, size=size, device=chosen)
    finally:
        torch.distributed.destroy_process_group()


def wrap(network: nn.Module, world: World) -> nn.Module:
    """The network, its gradients averaged over all ranks in backward passes; alone it stays as it is.

    Buffers are left alone in forward: those of spectral normalisation are the same on all ranks anyway.
    """
    if world.size == 1:
        return network
    known = inspect.signature(DistributedDataParallel.__init__).parameters  # torch 2.13 renamed the option
    buffers = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    options: dict[str, Any] = {buffers: False}
    if world.device.type == "cuda":
        options["device_ids"] = [world.device.index]
    return DistributedDataParallel(network, static_graph=True, gradient_as_bucket_view=True, **options)


def share(tensor: Tensor, world: World) -> Tensor:
    """This rank's part of the first axis of a tensor that all ranks hold."""
    return tensor if world.size == 1 else tensor.chunk(world.size)[world.rank]


def gather(tensor: Tensor, world: World) -> Tensor:
    """The tensors of all ranks, of one shape, along the first axis in the order of ranks."""
    if world.size == 1:
        return tensor
    parts = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(world.size)]
    torch.distributed.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)


def mean(values: Tensor, world: World) -> Tensor:
    """The mean over all ranks."""
    if world.size > 1:
        torch.distributed.all_reduce(values)
        values /= world.size
    return values


def barrier(world: World) -> None:
    """Waits for all ranks."""
    if world.size > 1:
        torch.distributed.barrier()


def start_processes(arguments: Sequence[str], count: int) -> int:
    """Runs `realesr ARGUMENTS` in `count` processes that train together: the exit status of the first that fails, or 0.

    Rank 0 has this process's stdin, stdout and stderr, the others only its stderr. Ctrl-C reaches all of them; once
    one has ended with an error, the others have 20 seconds.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    world = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}
    processes = []
    with _patient():
        for rank in range(count):
            environment = {**os.environ, **world, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            command = [sys.executable, "-m", "realesr_cli", *arguments]
            output = None if rank == 0 else subprocess.DEVNULL
            processes.append(subprocess.Popen(command, env=environment, stdout=output))
        try:
            return _wait(processes)
        finally:
            for process in processes:
                if process.poll() is None:
                    process.kill()
                process.wait()


@contextmanager
def _patient() -> Iterator[None]:
    """Ctrl-C is for the processes, which write a checkpoint; this one waits for them."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _wait(processes: Sequence[subprocess.Popen[bytes]]) -> int:
    status, ends = 0, float("inf")
    while True:
        codes = [process.poll() for process in processes]
        failed = next((code for code in codes if code), 0)
        if failed and not status:
            status, ends = failed, time.monotonic() + _GRACE_S
        if all(code is not None for code in codes) or codes[0] is not None or time.monotonic() > ends:
            return codes[0] or status
        time.sleep(0.05)
