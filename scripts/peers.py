"""Other engines on the same weights and pixels, for bench_image.py: each is used where it is installed.

A path is a function (H, W, 3) uint8 -> (scale*H, scale*W, 3) uint8, the whole picture in one piece. The engines read
what `realesr models export` writes. FLOP count 2 x multiply-adds of convolutions.
"""

import importlib.util
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from realesr_cli import LoadedModel
from realesr_cli.models.export import SUFFIXES, ExportFormat, export_model

Run = Callable[[np.ndarray], np.ndarray]


def peer_paths(model: LoadedModel, folder: Path, threads: int) -> Iterator[tuple[str, Run]]:
    """(name, path) of every engine that is installed, at its default and, where it has one, its bf16 precision."""
    makers: dict[str, tuple[str, ExportFormat, Callable[[Path, int], Run]]] = {
        "ONNX Runtime fp32": ("onnxruntime", "onnx", _onnx_runtime),
        "OpenVINO bf16": ("openvino", "onnx", _openvino),
        "ncnn bf16": ("ncnn", "ncnn", _ncnn),
    }
    for name, (package, file_format, make) in makers.items():
        if importlib.util.find_spec(package):
            file = folder / f"model{SUFFIXES[file_format]}"
            yield name, make(export_model(model, file, file_format, overwrite=True), threads)


def _planes(pixels: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None], np.float32) / 255


def _bytes(planes: np.ndarray) -> np.ndarray:
    return np.round(planes.clip(0, 1) * 255).astype(np.uint8).transpose(1, 2, 0)


def _onnx_runtime(file: Path, threads: int) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return lambda pixels: _bytes(session.run(None, {"input": _planes(pixels)})[0][0])


def _openvino(file: Path, threads: int) -> Run:
    import openvino

    core = openvino.Core()
    settings = {"INFERENCE_PRECISION_HINT": "bf16", "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    request = core.compile_model(str(file), "CPU", settings).create_infer_request()
    return lambda pixels: _bytes(next(iter(request.infer({"input": _planes(pixels)}).values()))[0])


def _ncnn(file: Path, threads: int) -> Run:
    import ncnn

    net = ncnn.Net()
    net.opt.num_threads = threads
    net.opt.use_bf16_storage = True
    net.load_param(str(file))
    net.load_model(str(file.with_suffix(".bin")))

    def run(pixels: np.ndarray) -> np.ndarray:
        extractor = net.create_extractor()
        extractor.input("data", ncnn.Mat(_planes(pixels)[0]))
        return _bytes(np.array(extractor.extract("output")[1]))

    return run


def flops_per_pixel(model: LoadedModel) -> float:
    """FLOP of the convolutions for one input pixel."""
    counted = 0

    def count(layer: Any, inputs: Any, output: torch.Tensor) -> None:
        nonlocal counted
        counted += 2 * output[0, 0].numel() * layer.weight.numel()

    side = 16 * model.multiple_of
    hooks = [layer.register_forward_hook(count) for layer in model.network.modules() if isinstance(layer, nn.Conv2d)]
    with torch.inference_mode():
        model.network(torch.zeros(1, model.channels_in, side, side))
    for hook in hooks:
        hook.remove()
    return counted / side**2


def matmul_gflops(dtype: torch.dtype, device: torch.device) -> float:
    """The best of several large matrix products, in GFLOP/s: what the device can reach."""
    side = 8192 if device.type == "cuda" else 2048
    a, b = (torch.rand(side, side, device=device).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(8):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        started = time.perf_counter()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - started)
    return 2 * side**3 / best / 1e9
