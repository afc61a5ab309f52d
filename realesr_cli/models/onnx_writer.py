"""Nodes -> the bytes of an ONNX file, without any further package.

An ONNX file is a protocol buffer, and this one needs a dozen of its messages: numbered fields, each an integer, a float
or bytes. The numbers are those of onnx.proto (github.com/onnx/onnx). Operator set 13 and IR version 7 are from 2020, so
that old runtimes read it as well.
"""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from realesr_cli.models.graph import (
    INPUT,
    OUTPUT,
    Add,
    Concat,
    Convolution,
    Node,
    PixelShuffle,
    PixelUnshuffle,
    PReLU,
    Resize,
)

_IR_VERSION, _OPERATOR_SET = 7, 13
_FLOAT32 = 1
_RESIZE: dict[str, dict[str, "_Attribute"]] = {
    "nearest": {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
    "bilinear": {"mode": "linear", "coordinate_transformation_mode": "half_pixel"},
    "bicubic": {"mode": "cubic", "coordinate_transformation_mode": "half_pixel", "cubic_coeff_a": -0.75},
}

_Attribute = int | float | str | list[int]
_Value = int | float | str | bytes


@dataclass(frozen=True, slots=True)
class _Step:
    """One ONNX operator; an input is the name of a blob or a constant."""

    kind: str
    inputs: tuple[str | Tensor, ...]
    output: str
    attributes: dict[str, _Attribute] = field(default_factory=dict)


def onnx_bytes(nodes: list[Node], *, name: str, channels: tuple[int, int], metadata: Mapping[str, str]) -> bytes:
    """The file: input `input` (batch, channels[0], height, width) -> output `output` (batch, channels[1], ...), float32
    in [0, 1], the output not clamped; batch, height and width are free.
    """
    layers: list[bytes] = []
    constants: list[bytes] = []
    for step in (step for node in nodes for step in _steps(node)):
        names = [value if isinstance(value, str) else f"{step.output}.{i}" for i, value in enumerate(step.inputs)]
        constants += [
            _tensor(name, value) for name, value in zip(names, step.inputs, strict=True) if isinstance(value, Tensor)
        ]
        layers.append(
            _message(
                *((1, name) for name in names),
                (2, step.output),
                (3, step.output),
                (4, step.kind),
                *((5, _attribute(key, value)) for key, value in step.attributes.items()),
            )
        )
    graph = _message(
        *((1, layer) for layer in layers),
        (2, name),
        *((5, constant) for constant in constants),
        (11, _blob(INPUT, ("batch", channels[0], "height", "width"))),
        (12, _blob(OUTPUT, ("batch", channels[1], "height_out", "width_out"))),
    )
    return _message(
        (1, _IR_VERSION),
        (2, "realesr"),
        (7, graph),
        (8, _message((1, ""), (2, _OPERATOR_SET))),
        *((14, _message((1, key), (2, text))) for key, text in sorted(metadata.items())),
    )


def _steps(node: Node) -> Iterator[_Step]:
    output = node.output
    match node.operation:
        case Convolution(weight=weight, bias=bias, slope=slope):
            kernel = weight.shape[2]
            attributes: dict[str, _Attribute] = {"kernel_shape": [kernel] * 2, "pads": [kernel // 2] * 4}
            linear = output if slope is None else f"{output}_linear"
            yield _Step("Conv", (*node.inputs, weight, bias), linear, attributes)
            if slope is not None:
                kind, extra = ("LeakyRelu", {"alpha": slope}) if slope else ("Relu", {})
                yield _Step(kind, (linear,), output, {**extra})
        case PReLU(slopes):
            yield _Step("PRelu", (*node.inputs, slopes.view(-1, 1, 1)), output)
        case Concat():
            yield _Step("Concat", node.inputs, output, {"axis": 1})
        case Add(1.0):
            yield _Step("Add", node.inputs, output)
        case Add(gain):
            first, second = node.inputs
            yield _Step("Mul", (first, torch.tensor(gain)), f"{output}_scaled")
            yield _Step("Add", (f"{output}_scaled", second), output)
        case PixelShuffle(factor):
            yield _Step("DepthToSpace", node.inputs, output, {"blocksize": factor, "mode": "CRD"})
        case PixelUnshuffle(factor, channels):
            # by a convolution that picks one number for each channel: SpaceToDepth has another order of channels, and
            # OpenVINO 2026.4.1 gives wrong results where a Gather puts it right in front of a Conv
            count = channels * factor**2
            pick = torch.eye(count).view(count, channels, factor, factor)
            yield _Step("Conv", (*node.inputs, pick), output, {"kernel_shape": [factor] * 2, "strides": [factor] * 2})
        case Resize(mode, factor):
            scales = torch.tensor([1.0, 1.0, factor, factor])
            yield _Step("Resize", (*node.inputs, "", scales), output, _RESIZE[mode])


def _attribute(name: str, value: _Attribute) -> bytes:
    match value:
        case float():
            return _message((1, name), (2, value), (20, 1))
        case int():
            return _message((1, name), (3, value), (20, 2))
        case str():
            return _message((1, name), (4, value), (20, 3))
        case list():
            return _message((1, name), *((8, item) for item in value), (20, 7))


def _tensor(name: str, tensor: Tensor) -> bytes:
    data = tensor.detach().numpy().astype("<f4", copy=False).tobytes()
    return _message(*((1, size) for size in tensor.shape), (2, _FLOAT32), (8, name), (9, data))


def _blob(name: str, shape: tuple[int | str, ...]) -> bytes:
    """ValueInfoProto of a float32 blob; a size that is a name is free."""
    sizes = (_message((1, size) if isinstance(size, int) else (2, size)) for size in shape)
    tensor_type = _message((1, _FLOAT32), (2, _message(*((1, size) for size in sizes))))
    return _message((1, name), (2, _message((1, tensor_type))))


def _message(*fields: tuple[int, _Value]) -> bytes:
    """Fields (number, value) in protobuf's wire format; a message inside is its bytes."""
    parts: list[bytes] = []
    for number, value in fields:
        match value:
            case float():
                parts += (_varint(number << 3 | 5), struct.pack("<f", value))
            case int():
                parts += (_varint(number << 3), _varint(value))
            case _:
                data = value.encode() if isinstance(value, str) else value
                parts += (_varint(number << 3 | 2), _varint(len(data)), data)
    return b"".join(parts)


def _varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first; the top bit says that more follow. `number` >= 0."""
    low = bytearray()
    while number > 0x7F:
        low.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*low, number))
