"""Distillation: one or two trained networks as one function that makes targets."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from realesr_cli import weights
from realesr_cli.errors import UsageError
from realesr_cli.models.architectures import LoadedModel, build_model, load_model
from realesr_cli.models.reading import blend as blend_weights
from realesr_cli.models.reading import read_weights
from realesr_cli.reporting import NULL, Reporter

Teacher = Callable[[Tensor], Tensor]


def make_teacher(
    names: Sequence[str | Path],
    *,
    scale: int,
    blend: float = 0.5,
    mix: Literal["weights", "outputs"] = "weights",
    device: torch.device | str = "cpu",
    autocast: torch.dtype | None = None,
    offline: bool = False,
    reporter: Reporter = NULL,
) -> Teacher:
    """`teacher(lq)`: (N, 3, h, w) float32 in [0, 1] on `device` -> (N, 3, scale*h, scale*w) float32, the target.

    One or two catalogue names or files. Of two, `blend` is the share of the first: of its weights (network
    interpolation, one pass; the two must be trainings of one network), or of its output (two passes, any networks).
    Frozen, in eval mode, without a graph. The output is clamped to [0, 1], because a picture cannot hold more, and not
    rounded. `autocast` (bfloat16, float16) is the precision on a device that gains from it.

    Raises: UsageError (not one or two, another scale, not for RGB, weights that do not blend), and what `load_model`
        raises.
    Source: Wang et al., "Deep Network Interpolation for Continuous Imagery Effect Transition" (2019).
    """
    if not 1 <= len(names) <= 2:
        raise UsageError(f"{len(names)} teachers; give one, or two to blend", hint='teacher = ["realesr-general-x4v3"]')
    if not 0 <= blend <= 1:
        raise UsageError(f"blend = {blend:g} must be from 0 to 1")
    models: list[LoadedModel]
    if len(names) == 2 and mix == "weights":
        first, second = (read_weights(weights.resolve(name, offline=offline, reporter=reporter)) for name in names)
        models = [build_model(blend_weights(first, second, blend), " + ".join(map(str, names)), reporter=reporter)]
    else:
        models = [load_model(name, offline=offline, reporter=reporter) for name in names]
    for model in models:
        if model.scale != scale:
            raise UsageError(f"teacher {model.name} enlarges x{model.scale}, the network x{scale}")
        if (model.channels_in, model.channels_out) != (3, 3):
            raise UsageError(f"teacher {model.name} is for {model.channels_in} channels, not for RGB")
    device = torch.device(device)
    shares = [blend, 1 - blend] if len(models) == 2 else [1.0]
    networks = [model.network.to(device) for model in models]
    needed = max(model.multiple_of for model in models)

    @torch.no_grad()
    def teacher(lq: Tensor) -> Tensor:
        if lq.shape[2] % needed or lq.shape[3] % needed:
            raise ValueError(f"lq: {tuple(lq.shape)}; the teacher takes sides that are multiples of {needed}")
        with nullcontext() if autocast is None else torch.autocast(device.type, dtype=autocast):
            results = [_run(network, lq) for network in networks]
        mixed = torch.stack([share * result for share, result in zip(shares, results, strict=True)]).sum(0)
        return mixed.clamp(0, 1)

    return teacher


def _run(network: nn.Module, lq: Tensor) -> Tensor:
    result: Tensor = network(lq)
    return result.float()
