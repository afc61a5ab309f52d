"""One process for each device, all with the same weights and the same state; a run on one device is the case size = 1.

The launcher (torchrun, or processes.py for `--devices N`) says in the environment who a process is: RANK,
WORLD_SIZE, LOCAL_RANK. Every rank holds the same pool and reads its own share of each batch, so that the state of rank
0 is the state of the run, and a run may go on with another number of devices.
"""

import inspect
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn
from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from realesr_cli.device import find_device
from realesr_cli.errors import DeviceUnavailable, UsageError
from realesr_train.processes import is_launched


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
    store = _fresh(next(rendezvous("env://", rank, size))[0], rank, size)
    backend = "nccl" if chosen.type == "cuda" else "gloo"
    torch.distributed.init_process_group(backend, store=store, rank=rank, world_size=size)
    try:
        yield World(rank=rank, size=size, device=chosen)
    finally:
        torch.distributed.destroy_process_group()


def _fresh(store: Store, rank: int, size: int) -> Store:
    """A part of `store` for those alone who start together now.

    When torchrun starts processes again it gives them the store of those before (torch 2.13), with the addresses of
    processes that are gone. So each rank asks rank 0 for a new part by a name of its own, until it has taken it.
    """
    name = uuid.uuid4().hex
    if rank:
        store.set(f"asks/{rank}", name)
        part = store.get(f"part/{name}").decode()
        store.set(f"taken/{part}/{rank}", "")
        return PrefixStore(part, store)
    waiting = set(range(1, size))
    while waiting:
        for other in waiting:
            if store.check([f"asks/{other}"]):  # perhaps of one that is gone
                store.set(f"part/{store.get(f'asks/{other}').decode()}", name)
        time.sleep(0.02)
        waiting = {other for other in waiting if not store.check([f"taken/{name}/{other}"])}
    return PrefixStore(name, store)


def wrap(network: nn.Module, world: World, *, always_alike: bool) -> nn.Module:
    """The network, its gradients averaged over all ranks in backward passes; alone it stays as it is.

    `always_alike`: each backward pass exchanges the same gradients. Traps: said of a discriminator, which is frozen
    while the generator learns, it makes torch leave gradients of some layers unaveraged, without a word. With several
    micro-batches, of which only the last exchanges, torch 2.13 fails in the first step; if that one exchanges all of
    them it works, but sums in another order, and a run that goes on would no longer be the uninterrupted one.
    Buffers are left alone in forward: those of spectral normalisation are the same on all ranks anyway. Batch
    normalisation works with the statistics of a rank's own pictures; the running ones become the mean over all ranks
    after each pass, so that all ranks, and the average of the weights, hold the same.
    """
    if world.size == 1:
        return network
    statistics = _running_statistics(network)
    if statistics:
        network.register_forward_hook(lambda module, _, __: _share_statistics(module, statistics, world))
    known = inspect.signature(DistributedDataParallel.__init__).parameters  # torch 2.13 renamed the option
    buffers = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    options: dict[str, Any] = {buffers: False}
    if world.device.type == "cuda":
        options["device_ids"] = [world.device.index]
    return DistributedDataParallel(network, static_graph=always_alike, gradient_as_bucket_view=True, **options)


def _running_statistics(network: nn.Module) -> list[Tensor]:
    layers = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    return [one for layer in layers for one in (layer.running_mean, layer.running_var) if one is not None]


def _share_statistics(network: nn.Module, statistics: list[Tensor], world: World) -> None:
    if not network.training:
        return
    shared = torch.split(mean(torch.cat(statistics), world), [len(one) for one in statistics])
    for one, value in zip(statistics, shared, strict=True):
        one.data.copy_(value)  # without .data, the backward pass would think that its own copy has changed


def share(tensor: Tensor, world: World, parts: int) -> Tensor:
    """This rank's pictures of a whole step's: its share of each of the `parts` micro-batches, one after the other.

    So a micro-batch, all ranks together, is the same pictures for any number of ranks, as sampler.py numbers them.
    """
    if world.size == 1:
        return tensor
    tensor = tensor.contiguous()
    return tensor.view(parts, world.size, -1, *tensor.shape[1:])[:, world.rank].flatten(0, 1)


def gather(tensor: Tensor, world: World, parts: int) -> Tensor:
    """A whole step's pictures of the ranks' shares, which have one shape: what `share` undoes."""
    if world.size == 1:
        return tensor
    tensor = tensor.contiguous()
    shares = [torch.empty_like(tensor) for _ in range(world.size)]
    torch.distributed.all_gather(shares, tensor)
    return torch.stack([one.view(parts, -1, *one.shape[1:]) for one in shares], 1).flatten(0, 2)


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
