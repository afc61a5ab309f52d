"""One training step of either stage: pictures in, networks changed, losses out.

`pixel_step` is stage 1, `gan_step` stage 2; both are made of the same parts: `generator_losses` and
`discriminator_losses` compute with a graph, `apply_update` turns gradients into weights. No counters, no logging, no
moves between devices; everything given back is a detached float32 tensor on the device, and nothing here waits for the
device: read the values when they are logged.

Traps:
* A step whose loss or gradient is not finite is skipped on the device: weights, moments and their step count, and the
  average stay as they were, and `skipped_g` or `skipped_d` is 1. Sum these flags to count. With a GradScaler the
  first few steps are skipped while it finds its scale.
* A step takes a *sequence* of micro-batches and makes one update with the mean over all their pictures. Relativistic
  losses and batch normalisation see one micro-batch at a time, so there 4 x 2 pictures are not exactly 8.
* The caller sets train mode, memory format, and learning rates. Networks may be wrapped in DistributedDataParallel;
  gradients are then exchanged once, in the last micro-batch. A discriminator with batch normalisation
  runs twice before its backward pass, so its wrapper must leave buffers alone in forward (`forward_sync_buffers=False`,
  before torch 2.13 `broadcast_buffers=False`), or the game be `joint`.

Source: training_spec sections 8 to 10.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from realesr_train.ema import Ema
from realesr_train.losses.adversarial import (
    Kind,
    discriminator_loss,
    generator_loss,
    relativistic_discriminator_losses,
    relativistic_generator_loss,
)

Target = Literal["gt", "gt_usm", "teacher"]
_RESERVED = ("adversarial", "d_real", "d_fake", "logit_real", "logit_fake")


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """Pictures of one micro-batch, (N, 3, h, w) and (N, 3, scale*h, scale*w) RGB in [0, 1], on the device."""

    lq: Tensor
    gt: Tensor
    gt_usm: Tensor | None = None
    """The sharpened target."""
    teacher: Tensor | None = None
    """A larger network's output for `lq`, without a graph, for distillation."""

    def target(self, name: Target) -> Tensor:
        """Raises: ValueError when the batch was made without it."""
        picture: Tensor | None = getattr(self, name)
        if picture is None:
            raise ValueError(f"the batch has no {name}, but a loss has it as its target")
        return picture


@dataclass(frozen=True, kw_only=True, slots=True)
class Term:
    """One part of the generator's loss: weight * loss(output, target)."""

    name: str
    """Its key among the losses that a step gives back."""
    weight: float
    loss: Callable[[Tensor, Tensor], Tensor]
    target: Target = "gt"

    def __post_init__(self) -> None:
        if self.name in _RESERVED:
            raise ValueError(f"a term cannot be named {self.name}: a step gives back something else by this name")


@dataclass(frozen=True, kw_only=True, slots=True)
class Adversarial:
    """The game between the networks. `weight` applies to the generator only."""

    weight: float = 0.1
    kind: Kind = "vanilla"
    target: Target = "gt"
    """What the discriminator sees as real; unsharpened in Real-ESRGAN, where the other losses pull to `gt_usm`."""
    relativistic: bool = False
    """Relativistic average, as in ESRGAN."""
    joint: bool = False
    """Real and fake go through the discriminator in one pass: 9 % faster (docs/performance.md), but spectral
    normalisation advances once instead of twice, and batch normalisation mixes the two."""
    real_label: float | None = None
    fake_label: float | None = None
    """Smoothed labels, for the discriminator only and not for relativistic losses."""

    def __post_init__(self) -> None:
        if self.relativistic and (self.real_label, self.fake_label) != (None, None):
            raise ValueError("relativistic losses take no real_label or fake_label; leave them out")


@dataclass(frozen=True, kw_only=True, slots=True)
class Update:
    """How a network's gradients become new weights."""

    optimizer: Optimizer
    """A fused one (optim.make_optimizer)."""
    clip_norm: float | None = None
    """Gradients with a larger norm over all parameters are scaled down to it."""
    scaler: torch.amp.GradScaler | None = None
    """For float16. Networks may share one."""

    def __post_init__(self) -> None:
        if not getattr(self.optimizer, "_step_supports_amp_scaling", False):
            name = type(self.optimizer).__name__
            raise ValueError(f"{name} cannot skip a step on the device; make it with fused=True")


def generator_is_due(step: int, *, every: int = 1, after: int = 0) -> bool:
    """Whether the generator is updated in `step` (1, 2, ...): every n-th step, once `after` steps are over.

    The reference calls these net_d_iters and net_d_init_iters. Source: training_spec section 10.
    """
    return step % every == 0 and step > after


def generator_losses(
    output: Tensor,
    batch: Batch,
    terms: Sequence[Term],
    *,
    discriminator: nn.Module | None = None,
    adversarial: Adversarial | None = None,
) -> dict[str, Tensor]:
    """Every term, weighted, with its graph; "adversarial" is added when a discriminator and its game are given.

    Raises: ValueError for two terms of one name, or a target that the batch lacks.
    """
    losses: dict[str, Tensor] = {}
    for term in terms:
        if term.name in losses:
            raise ValueError(f"two terms are named {term.name}; give each its own name")
        losses[term.name] = term.weight * term.loss(output, batch.target(term.target))
    if discriminator is not None and adversarial is not None:
        if adversarial.relativistic:
            with torch.no_grad():
                real_logits = discriminator(batch.target(adversarial.target))
            loss = relativistic_generator_loss(real_logits, discriminator(output), kind=adversarial.kind)
        else:
            loss = generator_loss(discriminator(output), kind=adversarial.kind)
        losses["adversarial"] = adversarial.weight * loss
    return losses


def discriminator_losses(
    discriminator: nn.Module, real: Tensor, fake: Tensor, adversarial: Adversarial
) -> dict[str, Tensor]:
    """ "d_real" and "d_fake" with their graph, and the mean logits "logit_real" and "logit_fake" without."""
    fake = fake.detach()
    if adversarial.joint:
        real_logits, fake_logits = discriminator(torch.cat((real, fake.to(real.dtype)))).split((len(real), len(fake)))
    else:
        real_logits, fake_logits = discriminator(real), discriminator(fake)
    kind = adversarial.kind
    if adversarial.relativistic:
        d_real, d_fake = relativistic_discriminator_losses(real_logits, fake_logits, kind=kind)
    else:
        d_real = discriminator_loss(real_logits, real=True, kind=kind, label=adversarial.real_label)
        d_fake = discriminator_loss(fake_logits, real=False, kind=kind, label=adversarial.fake_label)
    return {
        "d_real": d_real,
        "d_fake": d_fake,
        "logit_real": real_logits.detach().float().mean(),
        "logit_fake": fake_logits.detach().float().mean(),
    }


def apply_update(update: Update) -> tuple[Tensor, Tensor]:
    """One optimizer step, or none where a gradient is not finite: the gradient's norm before clipping, and the flag.

    The norm is over all parameters of the optimizer; the flag is 1.0 where the step was skipped. Both are 0-d float32.
    The decision is made on the device: a fused optimizer looks at its attribute `found_inf` when its kernel runs, which
    is how torch's GradScaler skips steps. In a distributed run all ranks have the same gradients, so they decide alike.
    """
    optimizer: Any = update.optimizer
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if update.scaler is not None:
        update.scaler.unscale_(optimizer)
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if update.clip_norm is not None:
        torch.nn.utils.clip_grads_with_norm_(parameters, update.clip_norm, norm)
    skipped = (~norm.isfinite()).float()
    optimizer.found_inf = skipped
    try:
        optimizer.step()
    finally:
        del optimizer.found_inf
    if update.scaler is not None:
        update.scaler.update()
    return norm, skipped


def pixel_step(
    network: nn.Module,
    batches: Sequence[Batch],
    terms: Sequence[Term],
    update: Update,
    *,
    ema: Ema | None = None,
    autocast: torch.dtype | None = None,
) -> dict[str, Tensor]:
    """Stage 1: one update of `network` on the mean loss over all pictures of `batches`, then of the average.

    Gives the terms (weighted, before the update), `gradient_norm_g` and `skipped_g`. `autocast` is the precision of the
    networks, bfloat16 or float16 (with a scaler); losses are float32.
    """
    losses, _ = _generator_phase(network, batches, terms, update, autocast)
    losses["gradient_norm_g"], losses["skipped_g"] = apply_update(update)
    if ema is not None:
        ema.update(_bare(network), skipped=losses["skipped_g"])
    return losses


def gan_step(
    network: nn.Module,
    discriminator: nn.Module,
    batches: Sequence[Batch],
    terms: Sequence[Term],
    adversarial: Adversarial,
    update: Update,
    discriminator_update: Update,
    *,
    update_generator: bool = True,
    ema: Ema | None = None,
    autocast: torch.dtype | None = None,
) -> dict[str, Tensor]:
    """Stage 2: one update of `network` against the frozen `discriminator`, then one of the discriminator, then EMA.

    The discriminator learns from the output of before the generator's update. Without `update_generator` only the
    discriminator and the average move. Gives the terms and "adversarial" (weighted), `d_real`, `d_fake`, `logit_real`,
    `logit_fake`, and `gradient_norm_*` and `skipped_*` of g and d; those of g are missing where it was not updated.
    """
    skipped: Tensor | None = None
    if update_generator:
        with _frozen(discriminator):
            losses, outputs = _generator_phase(
                network, batches, terms, update, autocast, discriminator=discriminator, adversarial=adversarial
            )
        losses["gradient_norm_g"], losses["skipped_g"] = apply_update(update)
        skipped = losses["skipped_g"]
    else:
        losses = {}
        with torch.no_grad():
            outputs = [_forward(network, batch.lq, autocast) for batch in batches]

    discriminator_update.optimizer.zero_grad(set_to_none=True)
    pictures = sum(len(batch.lq) for batch in batches)
    for number, (batch, output) in enumerate(zip(batches, outputs, strict=True), 1):
        share = len(batch.lq) / pictures
        with _exchange(discriminator, number == len(batches)):
            with _precision(batch.lq, autocast):
                parts = discriminator_losses(discriminator, batch.target(adversarial.target), output, adversarial)
            _backward(parts["d_real"] + parts["d_fake"], share, discriminator_update.scaler)
        _add(losses, parts, share)
    losses["gradient_norm_d"], losses["skipped_d"] = apply_update(discriminator_update)
    if ema is not None:
        ema.update(_bare(network), skipped=skipped)
    return losses


def _generator_phase(
    network: nn.Module,
    batches: Sequence[Batch],
    terms: Sequence[Term],
    update: Update,
    autocast: torch.dtype | None,
    **game: Any,
) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Gradients of the whole effective batch in the generator: mean losses, and its outputs without their graph."""
    update.optimizer.zero_grad(set_to_none=True)
    pictures = sum(len(batch.lq) for batch in batches)
    losses: dict[str, Tensor] = {}
    outputs = []
    for number, batch in enumerate(batches, 1):
        share = len(batch.lq) / pictures
        with _exchange(network, number == len(batches)):
            with _precision(batch.lq, autocast):
                output: Tensor = network(batch.lq)
                parts = generator_losses(output, batch, terms, **game)
            _backward(torch.stack(tuple(parts.values())).sum(), share, update.scaler)
        _add(losses, parts, share)
        outputs.append(output.detach())
    return losses, outputs


def _forward(network: nn.Module, lq: Tensor, autocast: torch.dtype | None) -> Tensor:
    with _precision(lq, autocast):
        output: Tensor = network(lq)
    return output


def _backward(loss: Tensor, share: float, scaler: torch.amp.GradScaler | None) -> None:
    """Adds share * gradient of `loss`; gradients that are all NaN if `loss` is not finite.

    A loss can be NaN and its gradient finite: the sign of NaN in L1's is 0. Told through the gradients, every rank of a
    distributed run learns of it.
    """
    # of the unscaled loss: the scaled one may overflow although nothing is wrong
    finite = loss.detach().isfinite()
    if scaler is not None:
        loss = scaler.scale(loss)
    factor = torch.full_like(loss, share)
    torch.autograd.backward(loss, factor.masked_fill(~finite, float("nan")))


def _add(losses: dict[str, Tensor], parts: dict[str, Tensor], share: float) -> None:
    for name, value in parts.items():
        part = share * value.detach()
        losses[name] = losses[name] + part if name in losses else part


def _precision(picture: Tensor, dtype: torch.dtype | None) -> AbstractContextManager[Any]:
    return nullcontext() if dtype is None else torch.autocast(picture.device.type, dtype=dtype)


def _exchange(network: nn.Module, now: bool) -> AbstractContextManager[Any]:
    """Gradients are exchanged between ranks only in the last of several backward passes."""
    return network.no_sync() if isinstance(network, DistributedDataParallel) and not now else nullcontext()


def _bare(network: nn.Module) -> nn.Module:
    return network.module if isinstance(network, DistributedDataParallel) else network


@contextmanager
def _frozen(network: nn.Module) -> Iterator[None]:
    """No gradients to the weights of `network`, but through it to its input."""
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
