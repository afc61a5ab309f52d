"""Wall time of `realesr directory` over the time of the network alone, beside the plain loop.

    python scripts/bench_directory.py PHOTO... [-m MODEL] [--count 32] [--side 256] [--format jpg] [--threads 2]
                                      [--rounds 3] [--device cpu] [--json]

The photos, cut to --side pixels, are written --count times into a folder. Then, in turn in one process: "network", the
decoded pictures through the loaded network and nothing else; "plain", read, network, write, one after the other, with
the same functions; "directory", the run over the folder with its journal. All start with a loaded, warm model. Figures
are medians over the rounds; ratios are medians of the rounds' ratios. "waits" is the share of the directory's wall time
in which the network has nothing to do, which a busy machine does not change much.
"""

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from realesr_cli import DeviceOptions, Image, TileOptions, Upscaler, load_model, read_image, write_image
from realesr_cli.directory import Books, Folder, pixel_settings, plan_directory
from realesr_cli.image_jobs import PictureOptions, run_jobs
from realesr_cli.options import OutputOptions
from realesr_cli.reporting import NULL


def fail(*arguments: object) -> None:
    raise SystemExit(f"failed: {arguments}")


def make_folder(root: Path, photos: list[Path], count: int, side: int, suffix: str) -> None:
    """Different parts of the photos, of one size."""
    rng = np.random.default_rng(0)
    pictures = [read_image(photo).pixels[..., :3] for photo in photos]
    root.mkdir()
    for number in range(count):
        pixels = pictures[number % len(pictures)]
        top, left = (int(rng.integers(0, max(1, length - side + 1))) for length in pixels.shape[:2])
        part = np.ascontiguousarray(pixels[top : top + side, left : left + side])
        write_image(root / f"{number:03}.{suffix}", Image(pixels=part))


def directory(root: Path, out: Path, upscaler: Any, suffix: str) -> None:
    options = PictureOptions(output=OutputOptions(format=suffix))
    folder = Folder(root=root, output=out)
    jobs = plan_directory(folder, options, fail)
    settings = pixel_settings(upscaler.model, options, TileOptions(), DeviceOptions())
    books = Books(folder, options, settings, upscaler.model.scale, NULL)
    due = books.due(jobs, skipped=fail, failed=fail)
    run_jobs(due, [upscaler], options, reporter=NULL, fail=fail, done=lambda job: None, on_complete=books.complete)


class Watched:
    """An upscaler whose time at work is counted."""

    def __init__(self, upscaler: Upscaler) -> None:
        self.model, self.small_px, self.busy_s = upscaler.model, upscaler.small_px, 0.0
        self._upscaler = upscaler

    def bands(self, *arguments: Any, **options: Any) -> Iterator[Any]:
        bands = self._upscaler.bands(*arguments, **options)
        started = time.perf_counter()
        for band in bands:
            self.busy_s += time.perf_counter() - started
            yield band
            started = time.perf_counter()
        self.busy_s += time.perf_counter() - started

    def batch(self, *arguments: Any, **options: Any) -> list[Any]:
        started = time.perf_counter()
        results = self._upscaler.batch(*arguments, **options)
        self.busy_s += time.perf_counter() - started
        return results


def plain(root: Path, out: Path, upscaler: Upscaler) -> None:
    out.mkdir()
    for source in sorted(root.iterdir()):
        image = read_image(source)
        write_image(out / source.name, image.replace(upscaler(image.pixels)))


def timed(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", nargs="+", type=Path)
    parser.add_argument("-m", "--model", default="realesr-animevideov3")
    parser.add_argument("--count", type=int, default=32)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--format", default="jpg")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()

    device = DeviceOptions(device=arguments.device, threads=arguments.threads)
    upscaler = Upscaler(load_model(arguments.model), device=device)
    watched, waits = Watched(upscaler), []
    times: dict[str, list[float]] = {"network": [], "plain": [], "directory": []}
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "in"
        make_folder(root, arguments.photos, arguments.count, arguments.side, arguments.format)
        pictures = [read_image(path).pixels for path in sorted(root.iterdir())]
        out = Path(scratch) / "out"
        runs: dict[str, Callable[[], object]] = {
            "network": lambda: [upscaler(pixels) for pixels in pictures],
            "plain": lambda: plain(root, out, upscaler),
            "directory": lambda: directory(root, out, watched, arguments.format),
        }
        upscaler(pictures[0])
        for number in range(arguments.rounds):
            names = list(runs)
            for name in names[number % 3 :] + names[: number % 3]:  # each has its turn at being first
                shutil.rmtree(out, ignore_errors=True)
                watched.busy_s = 0.0
                times[name].append(timed(runs[name]))
                if name == "directory":
                    waits.append(1 - watched.busy_s / times[name][-1])
    over = {
        name: statistics.median(wall / network for wall, network in zip(times[name], times["network"], strict=True))
        for name in ("plain", "directory")
    }
    result = {
        "model": upscaler.model.name,
        "pictures": arguments.count,
        "side": arguments.side,
        "format": arguments.format,
        "threads": torch.get_num_threads(),
        "seconds": {name: round(statistics.median(values), 3) for name, values in times.items()},
        "over_network": {name: round(value, 3) for name, value in over.items()},
        "waits": round(statistics.median(waits), 3),
    }
    if arguments.json:
        json.dump(result, sys.stdout)
        print()
        return
    print(f"{arguments.count} pictures of {arguments.side}x{arguments.side}, {arguments.format}, {result['model']}")
    for name, seconds in result["seconds"].items():
        ratio = f"{over[name]:.2f} times the network" if name in over else ""
        print(f"{name:10} {seconds:8.2f} s  {ratio}")
    print(f"the network waits for {result['waits']:.1%} of the directory's time")


if __name__ == "__main__":
    main()
