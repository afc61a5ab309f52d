"""How fast films are converted between YUV and RGB, against FFmpeg's libswscale.

    python scripts/bench_colour.py [--height 1080] [--threads 1] [--rounds 15] [--device cpu] [--json]

The paths take turns in one process. "exact" is realesr's conversion of tensors, "swscale" its use of libswscale, which
is told everything, for arrays of 8 bits, on one thread; "PyAV" is `VideoFrame.reformat` by itself, which repeats
chroma, "PyAV, all flags" with accurate_rnd, full_chroma_int, full_chroma_inp, bitexact and bilinear. Milliseconds are
medians over the rounds; ratios are medians of the rounds' ratios to "exact" of the same direction.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import av
import numpy as np
import torch
from av.video.reformatter import Interpolation, VideoReformatter

from realesr_cli.memory import keep_freed_memory
from realesr_cli.video.colour import Colour, from_rgb, to_rgb
from realesr_cli.video.frames import frame_of, pixel_format
from realesr_cli.video.swscale import Swscale, is_exact

_EXACT = (
    Interpolation.BILINEAR
    | Interpolation.ACCURATE_RND
    | Interpolation.FULL_CHR_H_INT
    | Interpolation.FULL_CHR_H_INP
    | Interpolation.BITEXACT
)


def paths(name: str, height: int, width: int, device: str, threads: int) -> dict[str, Callable[[], Any]]:
    form, colour = pixel_format(name), Colour(matrix="bt709", full_range=False)
    rng = np.random.default_rng(0)
    dtype = np.uint8 if form.bit_depth == 8 else np.uint16
    planes = [
        (rng.integers(40, 200, form.shape(index, height, width)) << (form.bit_depth - 8)).astype(dtype)
        for index in range(3)
    ]
    pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
    tensors = [torch.from_numpy(plane).to(device) for plane in planes]
    picture = torch.from_numpy(pixels).to(device).permute(2, 0, 1)
    values = picture.float().div(255).contiguous()
    yuv, rgb = frame_of(planes, name), av.VideoFrame.from_ndarray(pixels, format="rgb24")
    fast = Swscale(colour)
    tools = iter([VideoReformatter() for _ in range(4)])

    def reformat(frame: av.VideoFrame, target: str, interpolation: Interpolation) -> Callable[[], Any]:
        tool, (source_range, target_range) = next(tools), (1, 2) if target == "rgb24" else (2, 1)
        return lambda: tool.reformat(
            frame, format=target, src_colorspace=1, dst_colorspace=1, interpolation=interpolation,
            src_color_range=source_range, dst_color_range=target_range, threads=threads,
        )  # fmt: skip

    found = {
        "to RGB: exact": lambda: to_rgb(tensors, form, colour),
        "to RGB: exact, bf16": lambda: to_rgb(tensors, form, colour, dtype=torch.bfloat16),
        "to RGB: PyAV, all flags": reformat(yuv, "rgb24", _EXACT),
        "to RGB: PyAV": reformat(yuv, "rgb24", Interpolation.BILINEAR),
        "from RGB: exact": lambda: from_rgb(values, form, colour),
        "from RGB: exact, of bytes": lambda: from_rgb(picture, form, colour),
        "from RGB: PyAV, all flags": reformat(rgb, name, _EXACT),
        "from RGB: PyAV": reformat(rgb, name, Interpolation.BILINEAR),
    }
    if device != "cpu":
        return {key: path for key, path in found.items() if "exact" in key}
    if is_exact(name, height, width, colour):
        found["to RGB: swscale"] = lambda: fast.to_rgb(yuv)
        found["from RGB: swscale"] = lambda: fast.from_rgb(pixels, name)
    return found


def bench(name: str, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    height, width = arguments.height, round(arguments.height * 16 / 18) * 2
    runs = paths(name, height, width, arguments.device, arguments.threads)
    seconds: dict[str, list[float]] = {key: [] for key in runs}
    for index in range(arguments.rounds + 1):
        for key, run in runs.items():
            started = time.perf_counter()
            run()
            if arguments.device != "cpu":
                torch.cuda.synchronize(arguments.device)
            if index > 0:  # the first round takes memory and makes tables
                seconds[key].append(time.perf_counter() - started)
    rows = []
    for key, took in seconds.items():
        ours = seconds[f"{key.split(':')[0]}: exact"]
        rows.append(
            {
                "format": name,
                "path": key,
                "size": f"{width}x{height}",
                "ms": statistics.median(took) * 1e3,
                "over_exact": statistics.median(a / b for a, b in zip(took, ours, strict=True)),
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--height", type=int, default=1080)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()  # as the engine does
    rows = [row for name in ("yuv420p", "yuv420p10le", "yuv444p") for row in bench(name, arguments)]
    if arguments.json:
        print(json.dumps({"torch": torch.__version__, "threads": arguments.threads, "rows": rows}))
        return
    for row in rows:
        print("{format:12} {size}  {path:26} {ms:8.2f} ms   {over_exact:5.2f} of exact".format_map(row))


if __name__ == "__main__":
    main()
