"""Pictures of the data set -> pairs to train on: degraded on the device, one step ahead of the network.

The pairs of a step follow from seed and step alone. The pool, which has a memory, is the trainer's: what is made ahead
here must not be in a checkpoint.
"""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TypeVar

import torch
from torch import Tensor

from realesr_train.degradation.filters import sharpen
from realesr_train.degradation.second_order import paired_crop
from realesr_train.degradations import apply, draw
from realesr_train.train_config import TrainConfig

Item = TypeVar("Item")
Pairs = tuple[Tensor, Tensor]
"""lq (N, 3, h, w) and gt (N, 3, scale*h, scale*w), float32 in [0, 1] on the device."""


def pairs(config: TrainConfig, pictures: Iterator[Mapping[str, Tensor]], device: torch.device) -> Iterator[Pairs]:
    """The pairs of each step, made of `data.accumulate` batches of `pictures`, as data/loading.py gives them, while the
    caller trains on those of the last.

    On a GPU by a stream of its own, on a CPU by a thread. Close it: it ends the thread, and `pictures`.
    """

    def make() -> Pairs:
        rows = [next(pictures) for _ in range(config.data.accumulate)]
        batch = {name: torch.cat([row[name] for row in rows]) for name in rows[0]} if len(rows) > 1 else rows[0]
        return make_pairs(config, batch, device)

    with closing(pictures):  # type: ignore[type-var]
        yield from _on_stream(make, device) if device.type == "cuda" else _in_thread(make)


@torch.no_grad()
def make_pairs(config: TrainConfig, batch: Mapping[str, Tensor], device: torch.device) -> Pairs:
    """`hr` (N, 3, H, W) uint8 with the numbers of its `samples` degraded and cut to the patch; of paired pictures, `lq`
    and `gt` as they are. With `data.sharpen_target` the target is the sharpened picture.

    Source: training_spec section 5; section 14 and D15 for paired pictures.
    """
    if config.is_paired:
        lq, gt = _moved(batch["lq"], device), _moved(batch["gt"], device)
        return lq, sharpen(gt) if config.data.sharpen_target else gt
    hr = _moved(batch["hr"], device)
    draws = draw(
        config.degradation,
        scale=config.scale,
        seed=config.run.seed,
        samples=batch["samples"],
        height=hr.shape[2],
        width=hr.shape[3],
        crop_px=config.data.patch_px,
    )
    lq = apply(hr, draws)
    # the crop comes after the sharpening: no reflected border is inside
    return paired_crop(lq, sharpen(hr) if config.data.sharpen_target else hr, draws)


def _moved(pixels: Tensor, device: torch.device) -> Tensor:
    return pixels.to(device, non_blocking=True).float().div_(255)


def _in_thread(make: Callable[[], Item]) -> Iterator[Item]:
    with ThreadPoolExecutor(1, "realesr-feed") as worker:
        waiting = worker.submit(make)
        while True:
            item = waiting.result()
            waiting = worker.submit(make)
            yield item


def _on_stream(make: Callable[[], Pairs], device: torch.device) -> Iterator[Pairs]:
    """Trap: memory of one stream that another reads must be told so (`record_stream`), or it is reused too early."""
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def launch() -> tuple[Pairs, torch.cuda.Event]:
        with torch.cuda.stream(stream):
            return make(), stream.record_event()

    waiting, ready = launch()
    while True:
        current, event = waiting, ready
        waiting, ready = launch()
        used_by = torch.cuda.current_stream(device)
        used_by.wait_event(event)
        for tensor in current:
            tensor.record_stream(used_by)
        yield current
