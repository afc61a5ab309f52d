"""A trained generator -> `model.safetensors`, which `realesr image -m` and any program with safetensors can read.

The file says what it is and where it comes from. A network that was started or taught by other weights is a derivative
of them: name them in the metadata.
"""

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from realesr_cli.atomic import replacing
from realesr_cli.errors import OutputError, UsageError
from realesr_cli.models.architectures import LoadedModel, build_model, load_model
from realesr_cli.models.export import describe, export_model
from realesr_cli.models.reading import SAID_BY_METADATA, RawWeights

_TOLERANCE = 1e-6
_PROBE_PX = 24


def training_facts(
    *,
    recipe: str,
    steps: int,
    pictures: int,
    metrics: Mapping[str, float],
    config: str,
    licence: str,
    start: str = "random",
    teachers: Sequence[str] = (),
) -> dict[str, str]:
    """Metadata of a training: `config` is the resolved configuration's text, of which the SHA-256 is kept."""
    return {
        "recipe": recipe,
        "steps": str(steps),
        "pictures": str(pictures),
        "metrics": json.dumps({name: round(value, 4) for name, value in metrics.items()}),
        "config_sha256": hashlib.sha256(config.encode()).hexdigest(),
        "licence": licence,
        "start": start,
        "teachers": ", ".join(teachers) or "none",
    }


def export_run(network: nn.Module, target: Path, *, name: str, metadata: Mapping[str, str], half: bool = False) -> Path:
    """Writes the network (the average's, usually) as safetensors over an older `target`, and gives `target`.

    Name, architecture, scale and hyper-parameters are added to `metadata`. `half` stores float16, half the size. The
    file is read back, built, and must give what the network gives (what it gives with rounded weights, if `half`),
    before it gets its name; the network is left as it is.

    Raises: UnknownArchitecture, UsageError (weights too large for float16), OutputError (read back differently).
    """
    stored = copy.deepcopy(network).cpu().float().eval().requires_grad_(False)
    stored.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # as it is read back; channels_last rounds otherwise
    if half:
        stored.half()
        broken = next((key for key, value in stored.state_dict().items() if not bool(value.isfinite().all())), None)
        if broken is not None:
            raise UsageError(f"{broken} is too large for float16 or not finite", hint="store float32")
    with replacing(target) as temporary:
        export_model(replace(loaded_model(stored, name), metadata=metadata), temporary, "safetensors", overwrite=True)
        _compare(stored.float(), load_model(temporary), target)
    return target


def loaded_model(network: nn.Module, name: str) -> LoadedModel:
    """A `LoadedModel` around `network` itself, for our own architectures.

    Raises: UnknownArchitecture, CorruptWeights.
    """
    architecture = type(network).__name__
    scale = getattr(network, "scale", 1)
    bare = LoadedModel(
        network=network, name=name, architecture=architecture, scale=scale, channels_in=3, channels_out=3
    )
    said = {key: value for key, value in describe(bare).items() if key in SAID_BY_METADATA}
    raw = RawWeights(
        tensors=dict(network.state_dict()), format="network", metadata=said, sha256="", path=Path(f"the network {name}")
    )
    return replace(build_model(raw, name), network=network)


def _compare(network: nn.Module, read: LoadedModel, target: Path) -> None:
    """Raises: OutputError when the network that was read gives another picture."""
    generator = torch.Generator().manual_seed(0)
    side = _PROBE_PX * read.multiple_of
    picture = torch.rand(1, read.channels_in, side, side, generator=generator)
    with torch.no_grad():
        difference = float((network(picture) - read.network(picture)).abs().max())
    if not difference <= _TOLERANCE:  # also for NaN
        raise OutputError(
            f"what was written for {target} gives another picture (by {difference:.2g})",
            hint="check the disk; a network with NaN in its weights cannot be exported",
        )
