"""Optimizers, and learning rates as a pure function of the step.

Steps count from 1. Nothing here depends on what ran before: a resumed run has the rate of the step it is in. Traps:
every optimizer is the fused one, because only that can skip a step on the device (steps.apply_update); a milestone m
acts from step m + 1 on, so one at the last step never acts.
"""

from collections.abc import Iterable, Sequence
from itertools import accumulate
from math import cos, pi
from typing import Literal

from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer

Schedule = Literal["constant", "multistep", "cosine"]


def make_optimizer(
    parameters: Iterable[Tensor],
    *,
    learning_rate: float,
    name: Literal["adam", "adamw", "sgd"] = "adam",
    betas: tuple[float, float] = (0.9, 0.99),
    weight_decay: float = 0.0,
    last: int = 0,
    last_share: float = 1.0,
) -> Optimizer:
    """A fused Adam, AdamW or SGD (with momentum betas[0]) over those `parameters` that require a gradient.

    The `last` ones of them learn with `last_share` of the rate.

    On a CPU fused is 2.3 times as fast as the plain loop and 7 times as fast as foreach (docs/performance.md).
    Source: Kingma and Ba 2014; Loshchilov and Hutter 2017; betas: training_spec section 9.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    end = len(trained) - last
    groups = [{"params": trained[:end], "share": 1.0}]
    if last:
        groups.append({"params": trained[end:], "share": last_share, "lr": last_share * learning_rate})
    if name == "sgd":
        return SGD(groups, lr=learning_rate, momentum=betas[0], weight_decay=weight_decay, fused=True)
    make = Adam if name == "adam" else AdamW
    return make(groups, lr=learning_rate, betas=betas, weight_decay=weight_decay, fused=True)


def set_learning_rate(optimizer: Optimizer, learning_rate: float) -> None:
    """The optimizer's next step uses `learning_rate`, times a group's `share` where it has one."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group.get("share", 1.0)


def learning_rate(
    step: int,
    *,
    base: float,
    schedule: Schedule = "constant",
    milestones: Sequence[int] = (),
    gamma: float = 0.5,
    restarts: Sequence[int] = (),
    restart_weights: Sequence[float] = (),
    periods: Sequence[int] = (),
    minimum: float = 1e-7,
    warmup: int = 0,
) -> float:
    """The rate that `step` (1, 2, ...) uses.

    multistep: base * gamma^(number of milestones < step); a milestone named twice counts twice. With `restarts`, the
    rate begins anew with base * weight after each of them.
    cosine: from base * weight down to `minimum` over each of `periods` in turn (`restart_weights`, default 1); after
    the last it stays at the minimum.
    warmup: the first `warmup` steps rise linearly, min(1, step / warmup) times the multistep rate, or times base.

    Raises: ValueError for a step below 1, a cosine without periods, or weights that do not fit their restarts.
    Source: training_spec section 11, with its defect D14 mended: the rate reaches the base after the warm-up.
    """
    if step < 1:
        raise ValueError(f"step {step}: steps count from 1")
    done = step - 1
    rise = min(1.0, step / warmup) if warmup > 0 else 1.0
    match schedule:
        case "constant":
            return base * rise
        case "multistep":
            return rise * _multistep(done, base, milestones, gamma, restarts, restart_weights)
        case "cosine":
            return rise * base if step < warmup else _cosine(done, base, periods, restart_weights, minimum)


def _multistep(
    done: int, base: float, milestones: Sequence[int], gamma: float, restarts: Sequence[int], weights: Sequence[float]
) -> float:
    if len(weights) != len(restarts):
        raise ValueError(f"restart_weights has {len(weights)} entries for {len(restarts)} restarts; give one for each")
    start, weight = max(((s, w) for s, w in zip(restarts, weights, strict=True) if s <= done), default=(-1, 1.0))
    return base * weight * gamma ** sum(start < milestone <= done for milestone in milestones)


def _cosine(done: int, base: float, periods: Sequence[int], weights: Sequence[float], minimum: float) -> float:
    """Source: Loshchilov and Hutter 2016, SGDR (arXiv:1608.03983), equation 5."""
    weights = weights or [1.0] * len(periods)
    if not periods or len(weights) != len(periods):
        raise ValueError(f"cosine with periods {list(periods)} and restart_weights {list(weights)}: give one for each")
    ends = list(accumulate(periods))
    done = min(done, ends[-1])
    number = next(i for i, end in enumerate(ends) if done <= end)
    start = ends[number] - periods[number]
    # in place of the first step of the next period the last of this one is run: the reference's choice
    return minimum + weights[number] * 0.5 * (base - minimum) * (1 + cos(pi * (done - start) / periods[number]))
