"""Networks in ncnn's `.param` + `.bin` form -> arrays under the BasicSR key names of the published `.pth` files.

Only RRDBNet and SRVGGNetCompact are understood. The `.bin` has no names: its numbers follow the order of the lines of
the `.param`. Format and proof that this reading is right: docs/weights.md, section "The ncnn files".
"""

import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from realesr_cli.errors import CorruptWeights, ModelNotFound

Array = NDArray[Any]

MAGIC = "7767517"
"""First line of every `.param` file."""

FLOAT16_FLAG = 0x01306B47
FLOAT32_FLAG = 0
_KNOWN_LAYERS = frozenset((
    "Input", "Split", "Concat", "Convolution", "PReLU", "ReLU", "PixelShuffle", "Reorg",
    "Interp", "BinaryOp", "Eltwise",
))  # fmt: skip
_CURE = "fetch both files, .param and .bin, again from the same place; other networks: use their .pth or .safetensors"


@dataclass(frozen=True, slots=True)
class _Layer:
    kind: str
    parameters: dict[int, str]

    def integer(self, key: int, default: int) -> int:
        return int(self.parameters.get(key, default))


def find_pair(path: Path) -> tuple[Path, Path]:
    """The (`.param`, `.bin`) files that belong together, given either.

    One `.bin` may serve several graphs `NAME-x2.param`, `NAME-x3.param`, `NAME-x4.param`.

    Raises: ModelNotFound when one of the two is missing.
    """
    is_graph = path.suffix.lower() != ".bin"
    if is_graph:
        candidates = [path.with_suffix(".bin"), path.with_name(re.sub(r"-x[234]$", "", path.stem) + ".bin")]
    else:
        candidates = [path.with_suffix(".param")]
        candidates += [path.with_name(f"{path.stem}-x{scale}.param") for scale in (4, 2, 3)]
    for other in candidates:
        if path.is_file() and other.is_file():
            return (path, other) if is_graph else (other, path)
    missing = candidates[0] if path.is_file() else path
    raise ModelNotFound(
        f"{missing} does not exist",
        hint="an ncnn network is two files of one name, .param and .bin, in the same folder",
        path=missing,
    )


def read_ncnn(path: Path) -> dict[str, Array]:
    """The arrays of an ncnn network by BasicSR key; `path` is its `.param` or its `.bin`.

    See `parse_ncnn` for what comes back.

    Raises: ModelNotFound, CorruptWeights.
    """
    param, binary = find_pair(path)
    try:
        text, data = param.read_text("ascii"), binary.read_bytes()
    except UnicodeDecodeError as error:
        raise _corrupt(str(param), "not the text of an ncnn network") from error
    except OSError as error:
        raise CorruptWeights(
            f"cannot read {path}: {error.strerror}", hint="check its permissions", path=path
        ) from error
    return parse_ncnn(text, data, str(param))


def parse_ncnn(param_text: str, bin_bytes: bytes, name: str) -> dict[str, Array]:
    """The arrays by BasicSR key, in network order: weights (out, in, ky, kx) float16 or float32 as stored, biases and
    PReLU slopes (n,) float32.

    The graphs that end in a resize by 0.5 or 0.75 (realesr-animevideov3-x2, -x3) hold the x4 network and give that.

    Raises: CorruptWeights. `name` says in its message which file.
    """
    try:
        layers = _graph(param_text, name)
        stored = _stored(layers, bin_bytes, name)
        if any(layer.kind == "PixelShuffle" for layer in layers):
            return _compact_keys(stored)
        return _rrdb_keys(layers, stored, name)
    except (ValueError, OverflowError) as error:  # a number that is none, or absurd
        raise _corrupt(name, str(error)) from error


def _graph(text: str, name: str) -> list[_Layer]:
    lines = text.split("\n")
    if lines[0].strip() != MAGIC:
        raise _corrupt(name, "not the text of an ncnn network")
    layers = []
    for line in lines[2:]:
        fields = line.split()
        if not fields:
            continue
        if fields[0] not in _KNOWN_LAYERS:
            raise _corrupt(name, f"a layer of type {fields[0][:40]}, which no network of this family has")
        if len(fields) < 4:
            raise _corrupt(name, "a line is cut off")
        blobs = int(fields[2]) + int(fields[3])
        pairs = [field.partition("=") for field in fields[4 + blobs :]]
        layers.append(_Layer(fields[0], {int(key): value for key, _, value in pairs}))
        if fields[0] == "Reorg" and layers[-1].integer(1, 0) != 0:
            raise _corrupt(name, "pixels folded into channels in another order than torch's")
    counts = lines[1].split() if len(lines) > 1 else []
    if not counts or int(counts[0]) != len(layers):
        raise _corrupt(name, f"{len(layers)} layers instead of the {counts[0] if counts else '?'} announced")
    return layers


def _stored(layers: list[_Layer], data: bytes, name: str) -> list[tuple[_Layer, list[Array]]]:
    """Each layer that has numbers or is an activation, with its arrays; checks that all of `data` is used."""
    offset = 0

    def take(count: int, dtype: str) -> Array:
        nonlocal offset
        size = count * np.dtype(dtype).itemsize
        if count < 0 or offset + size > len(data):
            raise _corrupt(name, f"its .bin is cut off at {len(data)} bytes")
        array = np.frombuffer(data, dtype, count, offset).copy()
        offset += size
        return array

    found: list[tuple[_Layer, list[Array]]] = []
    for layer in layers:
        if layer.kind == "Convolution":
            outputs, kernel, numbers = layer.integer(0, 0), layer.integer(1, 0), layer.integer(6, 0)
            inputs, rest = divmod(numbers, max(1, outputs * kernel * kernel))
            if rest or min(outputs, kernel, inputs) < 1 or {layer.integer(2, 1), layer.integer(3, 1)} != {1}:
                raise _corrupt(name, f"a convolution of {numbers} weights that no network of this family has")
            flag = struct.unpack("<I", take(4, "u1").tobytes())[0]
            if flag not in (FLOAT16_FLAG, FLOAT32_FLAG):
                raise _corrupt(name, f"weights in a form that is not float16 or float32 (flag {flag:#010x})")
            weight = take(numbers, "<f2" if flag == FLOAT16_FLAG else "<f4").reshape(outputs, inputs, kernel, kernel)
            offset += -offset % 4
            arrays = [weight, take(outputs, "<f4")] if layer.integer(5, 0) else [weight]
            found.append((layer, arrays))
        elif layer.kind == "PReLU":
            found.append((layer, [take(layer.integer(0, 0), "<f4")]))
        elif layer.kind == "ReLU":
            found.append((layer, []))
    if offset != len(data):
        raise _corrupt(name, f"its .bin has {len(data)} bytes instead of {offset}")
    return found


def _compact_keys(stored: list[tuple[_Layer, list[Array]]]) -> dict[str, Array]:
    """SRVGGNetCompact: one counter over convolutions and activations, fused ones included."""
    tensors: dict[str, Array] = {}
    index = 0
    for layer, arrays in stored:
        tensors |= {f"body.{index}.{part}": array for part, array in zip(("weight", "bias"), arrays, strict=False)}
        index += 2 if layer.integer(9, 0) and layer.kind == "Convolution" else 1
    return tensors


def _rrdb_keys(layers: list[_Layer], stored: list[tuple[_Layer, list[Array]]], name: str) -> dict[str, Array]:
    """RRDBNet: 15 convolutions for each block, between conv_first and conv_body, conv_up1.., conv_hr, conv_last."""
    stages = sum(layer.kind == "Interp" for layer in layers)
    blocks, rest = divmod(len(stored) - 4 - stages, 15)
    if rest or blocks < 1 or any(layer.kind != "Convolution" for layer, _ in stored):
        raise _corrupt(name, "neither an RRDBNet nor an SRVGGNetCompact")
    names = ["conv_first"]
    names += [f"body.{b}.rdb{r}.conv{c}" for b in range(blocks) for r in (1, 2, 3) for c in (1, 2, 3, 4, 5)]
    names += ["conv_body", *(f"conv_up{stage + 1}" for stage in range(stages)), "conv_hr", "conv_last"]
    features, growth = stored[0][1][0].shape[0], stored[1][1][0].shape[0]
    for key, (_, arrays) in zip(names, stored, strict=True):
        step = int(key[-1]) if ".rdb" in key else 0
        inputs = features + (step - 1) * growth if step else features
        outputs = growth if step in (1, 2, 3, 4) else features
        expected = (arrays[0].shape[0] if key == "conv_last" else outputs, inputs)
        if key != "conv_first" and arrays[0].shape[:2] != expected:
            raise _corrupt(name, f"neither an RRDBNet nor an SRVGGNetCompact ({key} has shape {arrays[0].shape})")
    return {
        f"{key}.{part}": array
        for key, (_, arrays) in zip(names, stored, strict=True)
        for part, array in zip(("weight", "bias"), arrays, strict=False)
    }


def _corrupt(name: str, cause: str) -> CorruptWeights:
    return CorruptWeights(f"{name} is not a usable ncnn network: {cause}", hint=_CURE, path=Path(name))
