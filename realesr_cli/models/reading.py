"""Weights files of every kind -> a flat dict of tensors. What a file is, its content says, never its suffix.

Nothing in a file is ever run: pickles are read with `weights_only=True`, whatever else they hold is refused.
"""

import hashlib
import json
import pickle
import re
import struct
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile, is_zipfile

import torch

from realesr_cli.errors import CorruptWeights, ModelNotFound, UsageError
from realesr_cli.models import ncnn
from realesr_cli.weights import recorded_sha256

# Keys under which trainers put the network, in order of preference: the running mean is what was published.
_CONTAINERS = (
    "params_ema", "params", "state_dict", "model_state_dict", "model", "generator", "net_g", "netG", "network",
)  # fmt: skip

SAID_BY_METADATA = ("activation", "scale", "output_range")
"""What no shape tells of a network, and its file's metadata may."""

# What torch.load raises for damaged files, found by cutting files and turning bits (tests/unit/test_reading.py).
_LOAD_ERRORS = (
    pickle.UnpicklingError, RuntimeError, OSError, EOFError, LookupError, ValueError, TypeError, AttributeError,
    AssertionError, ArithmeticError, MemoryError, ImportError, struct.error, BadZipFile,
)  # fmt: skip


_MOST_GROWTH = 10
"""How many times larger than its file a network may be; numbers that a training has made hardly pack at all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RawWeights:
    """The content of a weights file, before anybody asks which network it is."""

    tensors: dict[str, torch.Tensor]
    """On the CPU, in the dtype of the file; keys without container and without `module.`."""
    format: str
    """safetensors, torch, ncnn or blend."""
    metadata: dict[str, str]
    """The text fields of a safetensors file."""
    sha256: str
    """Of the file; of the `.bin` of an ncnn pair; of the recipe of a blend."""
    path: Path


def read_weights(path: Path) -> RawWeights:
    """The tensors of a `.safetensors`, torch or ncnn file.

    Raises: ModelNotFound (no such file), CorruptWeights (anything else that is wrong).
    """
    if path.is_dir():
        raise CorruptWeights(f"{path} is a folder, not a weights file", hint="name the file inside it", path=path)
    try:
        with path.open("rb") as file:
            head = file.read(1024)
            size = file.seek(0, 2)
    except FileNotFoundError as error:
        raise ModelNotFound(f"{path} does not exist", hint="check the path with -m", path=path) from error
    except OSError as error:
        raise CorruptWeights(
            f"cannot read {path}: {error.strerror}", hint="check its permissions", path=path
        ) from error

    metadata: dict[str, str] = {}
    hashed = path
    if head.startswith(ncnn.MAGIC.encode()) or (
        path.suffix == ".bin" and head[:4] in (b"\x47\x6b\x30\x01", b"\0\0\0\0")
    ):
        hashed = ncnn.find_pair(path)[1]
        tensors = {key: torch.from_numpy(array) for key, array in ncnn.read_ncnn(path).items()}
        kind = "ncnn"
    # before torch's: the length in front of a safetensors header may begin like a pickle
    elif head[8:9] == b"{" and int.from_bytes(head[:8], "little") < size:
        content, metadata = _safetensors_content(path)
        tensors, kind = _unwrapped(content, path), "safetensors"
    elif head.startswith((b"PK\x03\x04", b"\x80")):
        tensors, kind = _torch_tensors(path, size), "torch"
    else:
        raise CorruptWeights(f"{path} is not a weights file: {_what_else(head)}", hint=_cure(head), path=path)
    return RawWeights(tensors=tensors, format=kind, metadata=metadata, sha256=recorded_sha256(hashed), path=path)


def blend(a: RawWeights, b: RawWeights, weight: float) -> RawWeights:
    """Network interpolation: weight * a + (1 - weight) * b for every floating tensor, in float32; the rest is a's.

    Source: Wang et al., "Deep Network Interpolation for Continuous Imagery Effect Transition" (2019).

    Raises: UsageError when the two are not the same network.
    """
    names = f"{a.path.name} and {b.path.name}"
    hint = "only two trainings of one and the same network can be blended"
    if a.tensors.keys() != b.tensors.keys():
        key = min(a.tensors.keys() ^ b.tensors.keys())
        raise UsageError(f"{names} are different networks: only one of them has {key}", hint=hint)
    tensors = {}
    for key, first in a.tensors.items():
        second = b.tensors[key]
        if first.shape != second.shape:
            shapes = f"{tuple(first.shape)} and {tuple(second.shape)}"
            raise UsageError(f"{names} are different networks: {key} has the shapes {shapes}", hint=hint)
        tensors[key] = weight * first.float() + (1 - weight) * second.float() if first.is_floating_point() else first
    said = {}
    for key in SAID_BY_METADATA:
        values = sorted({raw.metadata[key] for raw in (a, b) if key in raw.metadata})
        if len(values) > 1:
            raise UsageError(f"{names} are different networks: {key} is {' and '.join(values)}", hint=hint)
        if values:
            said[key] = values[0]
    recipe = f"{weight!r} * {a.sha256} + {1 - weight!r} * {b.sha256}"
    return RawWeights(
        tensors=tensors,
        format="blend",
        metadata={**said, "blend": recipe},
        sha256=hashlib.sha256(recipe.encode()).hexdigest(),
        path=a.path,
    )


def safetensors_bytes(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file: the same tensors and text always give the same bytes.

    The library writes the text fields in an order that changes from run to run: one network would get many hashes.
    """
    from safetensors.torch import save

    data = save({key: tensor.contiguous() for key, tensor in tensors.items()}, dict(metadata))
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data[end:]


def _torch_tensors(path: Path, size: int) -> dict[str, torch.Tensor]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a TorchScript archive is refused below; torch warns about it before
            with path.open("rb") as file:  # a path that ends in .safetensors would be read as that
                if is_zipfile(file):
                    with ZipFile(file) as archive:
                        _check_growth(path, size, sum(member.file_size for member in archive.infolist()))
                file.seek(0)
                content = torch.load(file, map_location="cpu", weights_only=True)
        tensors = _unwrapped(content, path)
        # a tensor may repeat the few numbers that it has
        _check_growth(path, size, sum(value.numel() * value.element_size() for value in tensors.values()))
    except _LOAD_ERRORS as error:
        asked = re.search(r"GLOBAL (\S+)|global (\S+)|Unsupported class (\S+)", str(error))
        if asked is not None:
            cause = f"it would run code when read ({next(filter(None, asked.groups()))})"
            hint = "nothing was run; ask its author for a .safetensors file or a plain state dict"
        else:
            cause, hint = "it is damaged or cut off", _FETCH_AGAIN
        raise CorruptWeights(f"cannot read {path}: {cause}", hint=hint, path=path) from error
    return tensors


def _check_growth(path: Path, size: int, grown: int) -> None:
    """Raises: CorruptWeights for a file that would fill the memory with what it does not hold."""
    if grown > _MOST_GROWTH * size:
        raise CorruptWeights(
            f"cannot read {path}: its {size:,} bytes would become {grown:,}", hint=_FETCH_AGAIN, path=path
        )


def _safetensors_content(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        # read, not mapped: a mapped file that is replaced or shortened later takes the process with it
        data = path.read_bytes()
        tensors = load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise CorruptWeights(f"cannot read {path}: it is damaged or cut off", hint=_FETCH_AGAIN, path=path) from error
    return tensors, header.get("__metadata__") or {}


def _unwrapped(content: object, path: Path) -> dict[str, torch.Tensor]:
    """The state dict inside `content`: out of its container, tensors only, without the prefix of DataParallel."""
    container: Any = content
    for _ in range(4):  # a pickled dict may contain itself
        if isinstance(container, Mapping):
            container = next((container[k] for k in _CONTAINERS if isinstance(container.get(k), Mapping)), container)
    if not isinstance(container, Mapping):
        raise CorruptWeights(
            f"{path} holds no network: it is one {type(container).__name__}", hint=_NO_NETWORK, path=path
        )
    tensors = {
        key: value.detach() for key, value in container.items() if isinstance(key, str) and torch.is_tensor(value)
    }
    if not tensors:
        keys = ", ".join(str(key)[:40] for key in list(container)[:3]) or "nothing"
        raise CorruptWeights(f"{path} holds no network: no tensors, only {keys}", hint=_NO_NETWORK, path=path)
    while all(key.startswith("module.") for key in tensors):
        tensors = {key.removeprefix("module."): value for key, value in tensors.items()}
    return tensors


_FETCH_AGAIN = "fetch it again; for a published model: `realesr models download NAME`"
_NO_NETWORK = "save the network's state_dict(), e.g. torch.save(network.state_dict(), FILE)"


def _what_else(head: bytes) -> str:
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not head:
        return "it is empty"
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "it looks like a web page"
    if start.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer, not the file itself"
    if start.startswith(b"\x89hdf"):
        return "it is an HDF5 file"
    if not any(byte < 9 or 13 < byte < 32 for byte in head):
        return "it looks like a text file"
    return "its content is of no known kind"


def _cure(head: bytes) -> str:
    if _what_else(head).endswith("web page"):
        return "the download was blocked or needs a login; fetch it again with `realesr models download NAME`"
    return "give a .safetensors, .pth or ncnn file; `realesr models list` shows the names that need no file"
