"""Checkpoints: a folder `step-00005000` that appears whole or not at all, and is checked before it is believed.

It holds one safetensors file for each group of tensors (model, ema, optimizers, pool, ...) and `state.json`: the plain
facts, and the SHA-256 of each file. Nothing in it is ever run when read. `latest` is a text file for people; loading
looks at the folders. Trap: an optimizer's moments must come back in the memory format of their weights, because fused
optimizers walk through both as they lie in memory.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from realesr_cli.atomic import output_error, replacing, replacing_folder
from realesr_cli.errors import CorruptWeights
from realesr_cli.models.reading import safetensors_bytes
from realesr_cli.reporting import Reporter

VERSION = 1
_FACTS = "state.json"
_NAME = re.compile(r"step-(\d{8,})")

Tensors = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """All that a run needs to go on: `groups` of named tensors, each a file, and `facts` that JSON can hold."""

    step: int
    groups: Mapping[str, Tensors]
    facts: Mapping[str, Any] = field(default_factory=dict)


def save(run_folder: Path, checkpoint: Checkpoint, *, keep_last: int, keep_every: int = 0) -> tuple[Path, int]:
    """Writes `checkpoints/step-...` and removes older ones that need not be kept: its path, and its size in bytes.

    The newest `keep_last` are kept, and those whose step is a multiple of `keep_every`, if that is not 0.

    Raises: DiskFull, OutputError; all older checkpoints are still there then.
    """
    folder = run_folder / "checkpoints"
    path = folder / f"step-{checkpoint.step:08d}"
    for begun in folder.glob(".step-*"):  # by a process that was killed: there is one writer at a time
        shutil.rmtree(begun, ignore_errors=True)
    sizes = 0
    with replacing_folder(path) as temporary:
        hashes = {}
        for name, tensors in checkpoint.groups.items():
            if not tensors:
                continue  # the library cannot write a file of none
            data = safetensors_bytes({key: tensor.detach().cpu() for key, tensor in tensors.items()}, {})
            hashes[f"{name}.safetensors"] = hashlib.sha256(data).hexdigest()
            (temporary / f"{name}.safetensors").write_bytes(data)
            sizes += len(data)
        facts = {
            "version": VERSION,
            "step": checkpoint.step,
            "groups": list(checkpoint.groups),
            "sha256": hashes,
            "facts": dict(checkpoint.facts),
        }
        text = json.dumps(facts, indent=2)
        (temporary / _FACTS).write_text(text, encoding="utf-8")
        sizes += len(text)
    with replacing(folder / "latest") as file:
        file.write_text(f"{path.name}\n", encoding="utf-8")
    _remove_old(run_folder, checkpoint.step, keep_last, keep_every)
    return path, sizes


def folders(run_folder: Path) -> list[tuple[int, Path]]:
    """(step, folder) of every checkpoint of a run, the newest first."""
    found = [
        (int(match[1]), path)
        for path in (run_folder / "checkpoints").glob("step-*")
        if (match := _NAME.fullmatch(path.name)) and path.is_dir()
    ]
    return sorted(found, reverse=True)


def load(folder: Path) -> Checkpoint:
    """The checkpoint in `folder`, tensors on the CPU, every file verified.

    Raises: CorruptWeights.
    """
    from safetensors.torch import load as from_bytes

    try:
        state = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
        if state["version"] != VERSION:
            raise CorruptWeights(f"{folder} was written by another version of realesr", path=folder)
        groups: dict[str, Tensors] = {name: {} for name in state["groups"]}
        for name, expected in state["sha256"].items():
            data = (folder / name).read_bytes()
            if hashlib.sha256(data).hexdigest() != expected:
                raise CorruptWeights(f"{folder / name} is not what was written", path=folder / name)
            groups[name.removesuffix(".safetensors")] = from_bytes(data)
        return Checkpoint(step=int(state["step"]), groups=groups, facts=state["facts"])
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise CorruptWeights(f"{folder} cannot be read: {error}", path=folder) from error


def latest(run_folder: Path, reporter: Reporter) -> Checkpoint | None:
    """The newest checkpoint that is intact, None if there never was one; damaged ones are reported and passed over.

    Raises: CorruptWeights, if there are some and all of them are damaged.
    """
    known = folders(run_folder)
    for _, folder in known:
        try:
            return load(folder)
        except CorruptWeights as error:
            reporter.emit(
                "warning",
                code="checkpoint",
                message=f"{error.message}; the checkpoint before it is taken",
                hint="checkpoint.keep_last decides how many there are",
            )
    if known:
        raise CorruptWeights(
            f"all checkpoints in {run_folder / 'checkpoints'} are damaged",
            hint="remove that folder to begin anew, or choose another one with -o",
            path=run_folder,
        )
    return None


def optimizer_tensors(optimizer: Optimizer) -> Tensors:
    """The state of an optimizer by the number of the parameter and the name of the moment, like `12.exp_avg`."""
    state = optimizer.state_dict()["state"]
    return {
        f"{number}.{name}": value
        for number, moments in state.items()
        for name, value in moments.items()
        if value is not None  # SGD without momentum
    }


def load_optimizer(optimizer: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Puts back what `optimizer_tensors` gave, on the device and in the memory format of the parameters.

    Raises: CorruptWeights, if it does not fit.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        number, _, name = key.partition(".")
        if not number.isdigit() or int(number) >= len(parameters):
            raise CorruptWeights(f"the optimizer has no parameter {number}")
        parameter = parameters[int(number)]
        if value.ndim == 0:  # the count of steps
            moment = value.to(parameter.device, copy=True)
        elif value.shape != parameter.shape:
            raise CorruptWeights(f"the moment {key} is {tuple(value.shape)}, its weight {tuple(parameter.shape)}")
        else:
            moment = torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)
        state.setdefault(int(number), {})[name] = moment
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _remove_old(run_folder: Path, newest: int, keep_last: int, keep_every: int) -> None:
    """A folder is renamed before it is emptied, so that no half of one is ever found."""
    known = [(step, path) for step, path in folders(run_folder) if step <= newest]
    for step, path in known[keep_last:]:
        if keep_every and step % keep_every == 0:
            continue
        doomed = path.with_name(f".{path.name}.removed")
        try:
            shutil.rmtree(doomed, ignore_errors=True)
            path.replace(doomed)
            shutil.rmtree(doomed)
        except OSError as error:
            raise output_error(error, path) from error
