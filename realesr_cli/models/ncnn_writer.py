"""Nodes -> ncnn's `.param` text and `.bin` numbers, as realesrgan-ncnn-vulkan and Upscayl expect them.

A network read from a published pair is written with the same bytes in its `.bin`. Format: docs/weights.md, section
"The ncnn files"; reading is in ncnn.py.
"""

import struct
from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from realesr_cli.models.graph import (
    INPUT,
    Add,
    Concat,
    Convolution,
    Node,
    Operation,
    PixelShuffle,
    PixelUnshuffle,
    PReLU,
    Resize,
)
from realesr_cli.models.ncnn import FLOAT16_FLAG, FLOAT32_FLAG, MAGIC

_INTERP = {"nearest": 1, "bilinear": 2, "bicubic": 3}


def ncnn_files(nodes: list[Node]) -> tuple[str, bytes]:
    """The (`.param`, `.bin`) of a graph: input blob `data`, output blob `output`, weights in float16, biases and
    slopes in float32.
    """
    consumers = Counter(name for node in nodes for name in node.inputs)
    unused = {INPUT: ["data"]}  # blob -> names under which it can still be taken, each once
    lines: list[str] = []
    numbers: list[bytes] = []
    blobs = 0

    def layer(kind: str, inputs: list[str], outputs: list[str], parameters: str = "") -> None:
        nonlocal blobs
        blobs += len(outputs)
        names = " ".join((*inputs, *outputs))
        name = f"{kind.lower()}_{len(lines)}"
        lines.append(f"{kind:<12} {name:<16} {len(inputs)} {len(outputs)} {names} {parameters}".rstrip())

    def split(blob: str) -> None:
        """A layer's result may go to one layer only; what several need is multiplied by a layer of its own."""
        if consumers[blob] > 1:
            source = unused[blob]
            unused[blob] = [f"{source[0]}_splitncnn_{index}" for index in range(consumers[blob])]
            layer("Split", source, unused[blob])

    layer("Input", [], ["data"])
    split(INPUT)
    for node in nodes:
        kind, parameters, data = _layer(node.operation)
        layer(kind, [unused[name].pop() for name in node.inputs], [node.output], parameters)
        numbers.append(data)
        unused[node.output] = [node.output]
        split(node.output)
    return f"{MAGIC}\n{len(lines)} {blobs}\n" + "\n".join(lines) + "\n", b"".join(numbers)


def _layer(operation: Operation) -> tuple[str, str, bytes]:
    """(type, parameters, numbers) of a layer."""
    parameters, data = "", b""
    match operation:
        case Convolution(weight=weight, bias=bias, slope=slope):
            kind, kernel = "Convolution", weight.shape[2]
            parameters = f"0={weight.shape[0]} 1={kernel} 4={kernel // 2} 5=1 6={weight.numel()}"
            if slope is not None:
                parameters += f" 9=2 -23310=1,{slope:e}" if slope else " 9=1"
            data = _weights(weight) + _float32(bias)
        case PReLU(slopes):
            kind, parameters, data = "PReLU", f"0={slopes.numel()}", _float32(slopes)
        case Concat():
            kind = "Concat"
        case Add(1.0):
            kind = "BinaryOp"
        case Add(gain):
            kind, parameters = "Eltwise", f"0=1 -23301=2,{gain:e},{1:e}"
        case PixelShuffle(factor):
            kind, parameters = "PixelShuffle", f"0={factor}"
        case PixelUnshuffle(factor, _):
            kind, parameters = "Reorg", f"0={factor}"
        case Resize(mode, factor):
            kind, parameters = "Interp", f"0={_INTERP[mode]} 1={factor:e} 2={factor:e}"
    return kind, parameters, data


def stored(weight: Tensor) -> NDArray[Any]:
    """A convolution's weights as the file holds them: float16, unless a number is too large for it."""
    numbers = weight.detach().numpy()
    with np.errstate(over="ignore"):
        half = numbers.astype("<f2")
    return half if np.isfinite(half).all() else numbers.astype("<f4")


def _weights(weight: Tensor) -> bytes:
    """With the word in front that says which type they have, and zeros up to a multiple of four bytes."""
    numbers = stored(weight)
    flag = FLOAT16_FLAG if numbers.itemsize == 2 else FLOAT32_FLAG
    return struct.pack("<I", flag) + numbers.tobytes() + bytes(-numbers.nbytes % 4)


def _float32(values: Tensor) -> bytes:
    return values.detach().numpy().astype("<f4").tobytes()
