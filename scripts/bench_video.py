"""Frames a second of `upscale_video`, beside what its parts take alone and beside a plain loop; memory by length.

    python scripts/bench_video.py CLIP -m realesr-animevideov3 --rounds 5 [--frames 48] [--device cuda] [--json]
    python scripts/bench_video.py --memory [--json]

Parts: the network alone (its frames already decoded and converted), and decoding, conversion and encoding alone (the
network replaced by repeating pixels). The plain loop takes one frame after the other through RGB24 of libswscale. All
run in turn in one process, on the same threads; medians count. On a GPU, where frames cross as planes, the network
alone is given pictures that are on the device already. "cores" is processor time over wall time: how many were busy.

`--memory` upscales clips of 10 and of 60 seconds, of 25 frames each and made for it, in a process each, and compares
their largest resident sets.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from realesr_cli import DeviceOptions, SizeOptions, Upscaler, VideoOptions, upscale_video
from realesr_cli.process import restart_with_settings
from realesr_cli.video.convert import to_pixels
from realesr_cli.video.frames import planes_of
from realesr_cli.video.probe import probe


class _Repeating:
    """An upscaler whose network is nothing, so that the rest of the work shows."""

    def __init__(self, upscaler: Upscaler) -> None:
        self._upscaler = upscaler

    def __getattr__(self, name: str) -> Any:
        return getattr(self._upscaler, name)

    def frame(self, pixels: Any, **options: Any) -> Any:
        scale = self._upscaler.model.scale
        return cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST)

    def tensors(self, pictures: Sequence[Tensor], **options: Any) -> list[Tensor]:
        scale = float(self._upscaler.model.scale)
        return [F.interpolate(picture[None], scale_factor=scale)[0] for picture in pictures]


def _plain(source: Path, target: Path, upscaler: Upscaler, frames: int, preset: str) -> None:
    with av.open(str(source)) as reading, av.open(str(target), "w") as writing:
        stream: Any = None
        for index, frame in enumerate(reading.decode(video=0)):
            if index == frames:
                break
            large = upscaler(frame.to_ndarray(format="rgb24"))
            if stream is None:
                stream = writing.add_stream("libx264", rate=25, options={"crf": "17", "preset": preset})
                stream.height, stream.width = large.shape[:2]
                stream.pix_fmt = "yuv420p"
            writing.mux(stream.encode(av.VideoFrame.from_ndarray(large, format="rgb24")))
        writing.mux(stream.encode(None))


def _network(upscaler: Upscaler, pictures: list[Any]) -> Callable[[], object]:
    """The network alone, on pictures where it takes them from."""
    device = upscaler.choice.device
    if device.type != "cuda":
        return lambda: [upscaler.frame(picture) for picture in pictures]
    on_device = [torch.from_numpy(picture).to(device).permute(2, 0, 1).float() / 255 for picture in pictures]
    at_once = upscaler.frames_at_once(*pictures[0].shape[:2], deep=False)

    def run() -> None:
        for first in range(0, len(on_device), at_once):
            upscaler.tensors(on_device[first : first + at_once], deep=False)
        torch.cuda.synchronize(device)

    return run


def _seconds(work: Callable[[], object]) -> tuple[float, float]:
    """(wall time, processor time of all threads)."""
    started, used = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - started, time.process_time() - used


def _rates(arguments: argparse.Namespace) -> dict[str, Any]:
    info = probe(arguments.clip)
    end = arguments.frames / info.frame_rate
    options = VideoOptions(end=end, preset=arguments.preset, codec="h264", overwrite=True)
    device = DeviceOptions(device=arguments.device, threads=arguments.threads)
    with tempfile.TemporaryDirectory() as folder, Upscaler(arguments.model, device=device) as upscaler:
        target = Path(folder) / "result.mkv"
        with av.open(str(arguments.clip)) as container:
            pictures = [
                to_pixels(planes_of(frame), frame.format.name, info.colour)
                for frame, _ in zip(container.decode(video=0), range(arguments.frames), strict=False)
            ]
        parts: dict[str, Callable[[], object]] = {
            "whole": lambda: upscale_video(arguments.clip, target, upscaler, options=options),
            "network": _network(upscaler, pictures),
            "rest": lambda: upscale_video(arguments.clip, target, _Repeating(upscaler), options=options),  # type: ignore[arg-type]
            "plain": lambda: _plain(arguments.clip, target, upscaler, len(pictures), arguments.preset),
        }
        parts["network"]()
        spared = upscale_video(arguments.clip, target, upscaler, options=options).spared
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in parts}
        for _ in range(arguments.rounds):
            for name, work in parts.items():
                times[name].append(_seconds(work))
    wall, used = ({name: statistics.median(t[i] for t in values) for name, values in times.items()} for i in range(2))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # overlapping hides the smaller part only where there are cores for it; no way of working is faster than this
    least = max(wall["network"], wall["rest"], (used["network"] + used["rest"]) / cores)
    return {
        "clip": arguments.clip.name,
        "frames": len(pictures),
        "device": str(upscaler.choice.device),
        "frames_per_s": {name: round(len(pictures) / value, 3) for name, value in wall.items()},
        "cores": {name: round(used[name] / value, 2) for name, value in wall.items()},
        "network_share": round(wall["network"] / wall["whole"], 3),
        "over_the_larger_part": round(wall["whole"] / max(wall["network"], wall["rest"]), 3),
        "over_the_least_possible": round(wall["whole"] / least, 3),
        "processor_time_over_that_of_the_parts": round(used["whole"] / (used["network"] + used["rest"]), 3),
        "plain_over_whole": round(wall["plain"] / wall["whole"], 3),
        "spared": round(spared, 3),
    }


def _memory(arguments: argparse.Namespace) -> dict[str, float]:
    """Largest resident set in MiB by length in seconds."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for length_s in (10, 60):
            clip = Path(folder) / f"{length_s}.mkv"
            _write_noise(clip, length_s)
            command = [sys.executable, __file__, clip, "-m", arguments.model, "--only-memory"]
            out = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True).stdout
            found[f"{length_s} s"] = float(out)
    return found


def _write_noise(path: Path, length_s: int) -> None:
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for _ in range(25 * length_s):
            frame = av.VideoFrame.from_ndarray(rng.integers(0, 256, (48, 64, 3), np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _only_memory(arguments: argparse.Namespace) -> None:
    with Upscaler(arguments.model, device=DeviceOptions(device="cpu", threads=1)) as upscaler:
        target = arguments.clip.with_suffix(".out.mkv")
        upscale_video(
            arguments.clip, target, upscaler, size=SizeOptions(scale=2), options=VideoOptions(preset="ultrafast")
        )
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clip", type=Path, nargs="?")
    parser.add_argument("-m", "--model", default="realesr-lite-x4")
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--preset", default="veryfast")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--only-memory", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.only_memory:
        _only_memory(arguments)
        return
    if arguments.clip is None and not arguments.memory:
        parser.error("name a CLIP, or ask for --memory")
    result: dict[str, Any] = {} if arguments.clip is None else _rates(arguments)
    if arguments.memory:
        result["resident_mib"] = _memory(arguments)
    if arguments.json:
        print(json.dumps(result))
    else:
        for key, value in result.items():
            print(f"{key}: {value}")


if __name__ == "__main__":
    restart_with_settings(many_sizes=False)  # as the program does
    main()
