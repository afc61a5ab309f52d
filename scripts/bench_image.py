"""How fast pictures are enlarged, against the plain way of running the same network.

    python scripts/bench_image.py PICTURE... -m MODEL... [--rounds 5] [--threads 1] [--device cpu] [--json]

Paths alternate in one process: "plain" is the network as published, float32, NCHW, whole picture; "realesr" is what
the program does by itself; "literal" is the published network cast as a whole to realesr's low-precision format,
channels_last; then, with --peers, ONNX Runtime, OpenVINO and ncnn where they are installed (peers.py).
Figures are medians over the rounds; ratios are medians of the rounds' ratios, so that a machine that changes its speed
does not matter. The share of the peak is of a large matrix product in the same number format, timed in the same run.
Memory is what one run adds to the peak of a fresh process (on CUDA: of the device's allocations), median of three.
"""

import argparse
import copy
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peers import Run, flops_per_pixel, matmul_gflops, peer_paths
from torch.nn import functional as F

from realesr_cli import DeviceOptions, LoadedModel, Upscaler, load_model, read_image, write_image
from realesr_cli.process import restart_with_settings


def peak_memory_mib(path: str, model: str, picture: Path, arguments: argparse.Namespace) -> float:
    """Growth of a process's peak memory by one run, in MiB (on CUDA: of the device's allocations); the median of three,
    for where the C library puts a map, and so what it can reuse, differs from one process to the next."""
    command = [sys.executable, __file__, str(picture), "-m", model, "--device", arguments.device, "--memory-of", path]
    if arguments.threads:
        command += ["--threads", str(arguments.threads)]
    return statistics.median(
        float(subprocess.run(command, check=True, capture_output=True, text=True).stdout) for _ in range(3)
    )


def measure_memory(arguments: argparse.Namespace) -> None:
    model = load_model(arguments.model[0])
    upscaler = Upscaler(model, device=DeviceOptions(device=arguments.device, threads=arguments.threads))
    device = upscaler.choice.device
    path = upscaler if arguments.memory_of == "realesr" else plain_path(model, device)
    pixels = read_image(arguments.pictures[0]).pixels[..., :3]
    path(pixels[:32, :32])  # kernels, weights
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        path(pixels)
        print((torch.cuda.max_memory_allocated(device) - before) / 2**20)
    else:
        Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far (Linux)
        before = resident_kib("VmRSS")
        path(pixels)
        print((resident_kib("VmHWM") - before) / 2**10)


def resident_kib(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def plain_path(model: LoadedModel, device: torch.device) -> Run:
    """float32, NCHW: the network as any script would run it."""
    return literal_path(model, device, torch.float32, torch.contiguous_format)


def literal_path(
    model: LoadedModel, device: torch.device, dtype: torch.dtype, memory_format: torch.memory_format
) -> Run:
    """The whole network and the whole picture cast to `dtype`, with the operations as the papers write them."""
    network = copy.deepcopy(model.network).to(device, dtype).to(memory_format=memory_format)
    forward = literal_rrdb if model.architecture == "RRDBNet" else literal_compact

    def run(pixels: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            x = torch.from_numpy(pixels).to(device).permute(2, 0, 1)[None].float() / 255
            x = x.to(dtype).contiguous(memory_format=memory_format)
            y = forward(network, x).float().clamp(0, 1).mul(255).round().byte()
            return y[0].permute(1, 2, 0).contiguous().cpu().numpy()

    return run


def literal_compact(network: Any, x: torch.Tensor) -> torch.Tensor:
    features = x
    for layer in network.body:
        features = layer(features)
    base = F.interpolate(x, scale_factor=network.scale, mode="nearest")
    return F.pixel_shuffle(features, network.scale) + base


def literal_rrdb(network: Any, x: torch.Tensor) -> torch.Tensor:
    def dense(block: Any, x: torch.Tensor) -> torch.Tensor:
        known = [x]
        for conv in (block.conv1, block.conv2, block.conv3, block.conv4):
            known.append(F.leaky_relu(conv(torch.cat(known, 1)), 0.2))
        return block.conv5(torch.cat(known, 1)) * 0.2 + x

    if network.unshuffle > 1:
        x = F.pixel_unshuffle(x, network.unshuffle)
    features = first = network.conv_first(x)
    for block in network.body:
        features = dense(block.rdb3, dense(block.rdb2, dense(block.rdb1, features))) * 0.2 + features
    features = first + network.conv_body(features)
    for name in network.up_names:
        doubled = F.interpolate(features, scale_factor=2, mode="nearest")
        features = F.leaky_relu(getattr(network, name)(doubled), 0.2)
    return network.conv_last(F.leaky_relu(network.conv_hr(features), 0.2))


def timed(run: Callable[[], Any], device: torch.device) -> tuple[float, Any]:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    result = run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started, result


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    error = float(np.square(a.astype(np.float64) - b).mean())
    return float("inf") if error == 0 else 10 * np.log10(255**2 / error)


def bench(model_name: str, picture: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    model = load_model(model_name)
    upscaler = Upscaler(model, device=DeviceOptions(device=arguments.device, threads=arguments.threads))
    device = upscaler.choice.device
    decode_s, image = timed(lambda: read_image(picture), torch.device("cpu"))
    pixels = image.pixels[..., :3]
    plan = upscaler.plan(pixels, (pixels.shape[0] * model.scale, pixels.shape[1] * model.scale))
    paths: dict[str, Run] = {"plain": plain_path(model, device), "realesr": upscaler}
    if upscaler.choice.dtype != torch.float32:
        paths["literal"] = literal_path(model, device, upscaler.choice.dtype, torch.channels_last)
    seconds: dict[str, list[float]] = {}
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        if arguments.peers:
            paths |= peer_paths(model, Path(folder), torch.get_num_threads())
        for index in range(arguments.rounds + 1):
            # each round begins with another one: what runs before leaves its traces in caches and memory
            turn = index % len(paths)
            for name, path in [*paths.items()][turn:] + [*paths.items()][:turn]:
                took, results[name] = timed(lambda path=path: path(pixels), device)
                if index > 0:  # the first round compiles kernels
                    seconds.setdefault(name, []).append(took)
        encode_s, _ = timed(
            lambda: write_image(Path(folder) / "out.png", image.replace(results["realesr"])), torch.device("cpu")
        )
    peaks = {dtype: matmul_gflops(dtype, device) for dtype in (torch.float32, upscaler.choice.dtype)}
    megapixels = results["realesr"].shape[0] * results["realesr"].shape[1] / 1e6
    gflop = flops_per_pixel(model) * pixels.shape[0] * pixels.shape[1] / 1e9
    ours_mib = peak_memory_mib("realesr", model_name, picture, arguments)
    return {
        "model": model.name,
        "picture": picture.name,
        "size": f"{pixels.shape[1]}x{pixels.shape[0]}",
        "precision": upscaler.choice.precision,
        "matmul_gflops": {str(dtype).removeprefix("torch."): peak for dtype, peak in peaks.items()},
        "paths": {
            name: {
                "mp_per_s": megapixels / statistics.median(took),
                "gflops": gflop / statistics.median(took),
                "peak_share": gflop
                / statistics.median(took)
                / peaks[torch.float32 if "fp32" in name or name == "plain" else upscaler.choice.dtype],
                # above 1: realesr is faster
                "realesr_is_faster_by": statistics.median(
                    other / ours for other, ours in zip(took, seconds["realesr"], strict=True)
                ),
                "psnr_db": psnr(results["plain"], results[name]),
            }
            for name, took in seconds.items()
        },
        "plain_memory_mib": peak_memory_mib("plain", model_name, picture, arguments),
        "realesr_memory_mib": ours_mib,
        # what --dry-run says, over what then happened
        "estimated_time_ratio": plan.seconds / statistics.median(seconds["realesr"]),
        "estimated_memory_ratio": plan.memory_bytes / 2**20 / max(1.0, ours_mib),
        "decode_ms": decode_s * 1e3,
        "encode_png_ms": encode_s * 1e3,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pictures", nargs="+", type=Path)
    parser.add_argument("-m", "--model", action="append", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--peers", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--memory-of", choices=("plain", "realesr"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory_of:
        measure_memory(arguments)
        return
    rows = [bench(model, picture, arguments) for model in arguments.model for picture in arguments.pictures]
    if arguments.json:
        machine = {"machine": platform.platform(), "torch": torch.__version__, "threads": torch.get_num_threads()}
        print(json.dumps({**machine, "rows": rows}))
        return
    for row in rows:
        print(
            "{model}, {picture} ({size}), {precision}: memory {plain_memory_mib:.0f} -> {realesr_memory_mib:.0f} MiB; "
            "estimates x{estimated_time_ratio:.2f} time, x{estimated_memory_ratio:.2f} memory; "
            "decode {decode_ms:.0f} ms, encode PNG {encode_png_ms:.0f} ms".format_map(row)
        )
        for name, figures in row["paths"].items():
            print(
                f"    {name:18} "
                "{mp_per_s:8.3f} MP/s {gflops:8.0f} GFLOP/s ({peak_share:4.0%} of a matrix product)   "
                "realesr is {realesr_is_faster_by:5.2f}x as fast   {psnr_db:5.1f} dB".format_map(figures)
            )


if __name__ == "__main__":
    restart_with_settings()  # as the program does
    main()
