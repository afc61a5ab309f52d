"""Hours of mixed work in one process: do memory, file handles, threads and temporary files stay where they were?

    python scripts/soak.py MINUTES [--seed 0] [--device cpu] [--every 60] [--json]

Rounds follow each other until the time is over. Each makes new files in a scratch folder and takes them through the
program's own functions with a tiny network, loaded anew from its file: pictures of all formats, sizes and depths, with
and without alpha, animated and broken (`realesr image`); a folder, twice, so that the second run finds its journal
(`realesr directory`); clips of several kinds, one of them cut off (`realesr video`). Device, number format, tiles and
threads change from round to round. Between two rounds, so with nothing at work, a sample is taken every `--every`
seconds, the first after a warm-up of 32 rounds.

The verdict is that of the slope of the resident memory over time (least squares, with its standard error): above
1 MiB a minute, by more than twice the error, is a leak. Handles, threads and temporary files may not rise at all.
The status is 0 if nothing leaks, else 1. Linux only (/proc).
"""

import argparse
import gc
import json
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from fractions import Fraction
from itertools import count, islice
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from realesr_cli import DeviceOptions, Image, SizeOptions, TileOptions, Upscaler, VideoOptions
from realesr_cli.directory import Books, Folder, pixel_settings, plan_directory
from realesr_cli.errors import RealesrError
from realesr_cli.image_formats import WRITABLE_SUFFIXES
from realesr_cli.image_io import encode_image
from realesr_cli.image_jobs import PictureOptions, run_jobs
from realesr_cli.models.compact import SRVGGNetCompact
from realesr_cli.naming import plan_jobs
from realesr_cli.options import OutputOptions
from realesr_cli.process import restart_with_settings
from realesr_cli.video import jobs as films

LIMIT_MIB_PER_MINUTE = 1.0
_PICTURES = 12
_SIDES_PX = (1, 7, 33, 64, 96)
_CLIPS = (
    (".mp4", "libx264", "yuv420p"), (".mkv", "libx265", "yuv420p10le"), (".mov", "libx264", "yuv444p"),
    (".webm", "libvpx-vp9", "yuv420p"), (".avi", "mjpeg", "yuvj420p"),
)  # fmt: skip
_CLIP_FRAMES = 60
_KINDS: tuple[tuple[DeviceOptions, TileOptions], ...] = (
    (DeviceOptions(threads=1), TileOptions()),
    (DeviceOptions(precision="fp32", threads=1), TileOptions(size=32)),
    (DeviceOptions(precision="bf16", threads=1), TileOptions(keep_colours=True)),
    (DeviceOptions(threads=1), TileOptions(self_ensemble=True)),
)
# all threads, which on pictures so small mostly wait for each other
_DEFAULTS_EVERY = 16
_WARM_UP = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """What the process holds between two rounds."""

    minute: float
    rounds: int
    resident_mib: float
    handles: int
    threads: int
    temporary_files: int


class Tally:
    """Counts what is done, and keeps no event."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def emit(self, event: str, **fields: Any) -> None:
        if event == "done":
            self.counts["clips" if "differences" in fields else "pictures"] += 1
            self.counts["frames"] += fields.get("frames", 0)
            self.counts["result_px"] += fields["width"] * fields["height"] * fields.get("frames", 1)

    def fail(self, job: Any, error: RealesrError) -> None:
        if job.source.stem.startswith("broken"):
            self.counts["refused"] += 1
        else:
            raise error


def some_pixels(rng: np.random.Generator, channels: int, deep: bool) -> NDArray[Any]:
    height, width = (int(rng.choice(_SIDES_PX)) for _ in range(2))
    ramp = np.linspace(0, 255, height * width * channels).reshape(height, width, channels)
    pixels = (ramp + rng.integers(0, 32, ramp.shape)).clip(0, 255).astype(np.uint8)
    return pixels.astype(np.uint16) * 257 if deep else pixels


def write_pictures(folder: Path, rng: np.random.Generator) -> list[Path]:
    """Pictures of random formats, and what each format can hold of depth and alpha; two of them are broken."""
    folder.mkdir(parents=True)
    written = []
    for number in range(_PICTURES):
        suffix = str(rng.choice(sorted(set(WRITABLE_SUFFIXES) - {".gif"})))
        path = folder / f"{number:02}{suffix}"
        pixels = some_pixels(rng, int(rng.choice((1, 3, 4))), bool(rng.integers(2)))
        try:
            data = encode_image(path, Image(pixels=pixels))
        except RealesrError:  # a format without alpha, or one that begins at larger sizes
            path = path.with_suffix(".png")
            data = encode_image(path, Image(pixels=pixels))
        if number >= _PICTURES - 2:
            path = path.with_stem(f"broken{number}")
            data = data[: int(rng.integers(0, 30))]
        path.write_bytes(data)
        written.append(path)
    animation = cv2.Animation()
    animation.frames = [np.full((24, 40, 4), 255 - 60 * i, np.uint8) for i in range(3)]
    animation.durations = np.full(3, 100, np.int32)
    for suffix in (".gif", ".webp", ".png"):
        written.append(folder / f"animated{suffix}")
        written[-1].write_bytes(cv2.imencodeanimation(suffix, animation)[1].tobytes())
    return written


def write_clip(path: Path, encoder: str, pixel_format: str, rng: np.random.Generator) -> Path:
    """A square that moves; with sound, and at a variable rate in Matroska."""
    path.parent.mkdir(exist_ok=True)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(encoder, rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, pixel_format
        stream.codec_context.time_base = Fraction(1, 25 if path.suffix == ".avi" else 1000)
        stream.options = {"preset": "ultrafast"} if encoder.startswith("libx26") else {}
        if encoder == "libx265":
            stream.options = {**stream.options, "x265-params": "log-level=none"}
        sound: Any = container.add_stream("aac", rate=48000) if path.suffix in (".mp4", ".mkv") else None
        for number in range(_CLIP_FRAMES):
            pixels = np.full((48, 64, 3), 90, np.uint8)
            pixels[8:20, number % 50 : number % 50 + 12] = rng.integers(0, 255, 3)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format=pixel_format)
            late = 20 * (number % 3) if path.suffix == ".mkv" else 0
            frame.pts = number if path.suffix == ".avi" else 40 * number + late
            frame.time_base = stream.codec_context.time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if sound is not None:
            silence = av.AudioFrame.from_ndarray(
                np.zeros((1, 1920 * _CLIP_FRAMES), np.float32), format="fltp", layout="mono"
            )
            silence.sample_rate, silence.pts = 48000, 0
            container.mux(sound.encode(silence))
            container.mux(sound.encode(None))
    return path


def enlarge_pictures(place: Path, upscaler: Upscaler, tally: Tally, rng: np.random.Generator) -> None:
    options = PictureOptions(size=SizeOptions(scale=float(rng.choice((2, 2.5, 4)))))
    sources = write_pictures(place / "pictures", rng)
    jobs = plan_jobs(sources, place / "out", options.size, upscaler.model.scale)
    run_jobs(jobs, [upscaler], options, reporter=tally, fail=tally.fail, done=lambda job: None)


def enlarge_folder(
    place: Path, upscaler: Upscaler, tally: Tally, rng: np.random.Generator, device: DeviceOptions, tile: TileOptions
) -> None:
    """Twice: at the second time all but the broken files are finished."""
    options = PictureOptions(output=OutputOptions(format="png", overwrite=False))
    write_pictures(place / "tree" / "a", rng)
    write_pictures(place / "tree" / "b", rng)
    folder = Folder(root=place / "tree", output=place / "mirror", rename=True)
    settings = pixel_settings(upscaler.model, options, tile, device)
    for _ in range(2):
        jobs = plan_directory(folder, options, lambda path, error: None)
        books = Books(folder, options, settings, upscaler.model.scale, tally)
        due = books.due(jobs, skipped=lambda job, reason: None, failed=tally.fail)
        run_jobs(
            due,
            [upscaler],
            options,
            reporter=tally,
            fail=tally.fail,
            done=lambda job: None,
            on_complete=books.complete,
        )


def enlarge_clips(place: Path, upscaler: Upscaler, tally: Tally, rng: np.random.Generator) -> None:
    kinds = rng.permutation(len(_CLIPS))[:3]
    sources = [write_clip(place / "clips" / f"{i}{_CLIPS[i][0]}", *_CLIPS[i][1:], rng) for i in kinds]
    broken = place / "clips" / "broken.mp4"
    whole = sources[0].read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    size, options = SizeOptions(), VideoOptions(preset="ultrafast", codec="h264", on_unsupported="drop")
    jobs = films.plan_jobs([*sources, broken], place / "films", size, upscaler.model.scale, options)
    jobs = tuple(films.VideoJob(job.id, job.source, job.target.with_suffix(".mkv")) for job in jobs)
    films.run_jobs(jobs, upscaler, size=size, options=options, reporter=tally, fail=tally.fail)


def one_round(number: int, scratch: Path, model: Path, tally: Tally, device: str, seed: int) -> None:
    rng = np.random.default_rng((seed, number))
    options, tile = _KINDS[number % len(_KINDS)] if number % _DEFAULTS_EVERY else (DeviceOptions(), TileOptions())
    if device != "cpu":
        options = DeviceOptions(device=device, precision=options.precision)
    place = scratch / f"round{number}"
    try:
        with Upscaler(model, device=options, tile=tile) as upscaler:
            enlarge_pictures(place, upscaler, tally, rng)
            enlarge_folder(place, upscaler, tally, rng, options, tile)
            enlarge_clips(place, upscaler, tally, rng)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def sample(started: float, rounds: int, scratch: Path) -> Sample:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return Sample(
        minute=round((time.monotonic() - started) / 60, 2),
        rounds=rounds,
        resident_mib=round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 1),
        handles=len(os.listdir("/proc/self/fd")),  # noqa: PTH208
        threads=len(os.listdir("/proc/self/task")),  # noqa: PTH208
        temporary_files=sum(1 for _ in scratch.rglob("*")),
    )


def slope(samples: list[Sample]) -> tuple[float, float]:
    """MiB a minute of the resident memory by least squares, and the standard error of it."""
    x = np.array([one.minute for one in samples])
    y = np.array([one.resident_mib for one in samples])
    spread = float(((x - x.mean()) ** 2).sum())
    rise = float(((x - x.mean()) * (y - y.mean())).sum()) / spread
    rest = y - y.mean() - rise * (x - x.mean())
    return rise, float(np.sqrt((rest**2).sum() / max(1, len(x) - 2) / spread))


def verdict(samples: list[Sample]) -> list[str]:
    """What leaks, in words; empty if nothing does."""
    rise, error = slope(samples)
    leaks = [f"memory rises by {rise:.2f} MiB a minute"] if rise - 2 * error > LIMIT_MIB_PER_MINUTE else []
    for name in ("handles", "threads", "temporary_files"):
        first, most = getattr(samples[0], name), max(getattr(one, name) for one in samples)
        if most > first:
            leaks.append(f"{name.replace('_', ' ')} rose from {first} to {most}")
    return leaks


def soak(minutes: float, every_s: float, seed: int, device: str) -> Iterator[tuple[Sample, Counter[str]]]:
    """Samples as they are taken, the first one after the warm-up, each with what has been done until then."""
    tally = Tally()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        scratch = Path(folder)
        model = scratch / "tiny.safetensors"
        torch.manual_seed(0)
        save_file(SRVGGNetCompact(channels=3, width=8, depth=3, scale=4).state_dict(), model)
        temporary = scratch / "tmp"
        temporary.mkdir()
        before, tempfile.tempdir = tempfile.tempdir, str(temporary)
        try:
            rounds = count()
            for number in islice(rounds, _WARM_UP):
                one_round(number, scratch, model, tally, device, seed)
            started = time.monotonic()
            yield sample(started, _WARM_UP, scratch), tally.counts
            last = started
            for number in rounds:
                one_round(number, scratch, model, tally, device, seed)
                now = time.monotonic()
                if now - last >= every_s or now - started >= 60 * minutes:
                    last = now
                    yield sample(started, number + 1, scratch), tally.counts
                if now - started >= 60 * minutes:
                    return
        finally:
            tempfile.tempdir = before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("minutes", type=float)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--every", type=float, default=60.0, metavar="SECONDS")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()

    samples: list[Sample] = []
    done: Counter[str] = Counter()
    if not arguments.json:
        print("minute  rounds  resident MiB  handles  threads  files")
    for one, counts in soak(arguments.minutes, arguments.every, arguments.seed, arguments.device):
        samples.append(one)
        done = counts
        if not arguments.json:
            print(
                f"{one.minute:6.1f}  {one.rounds:6}  {one.resident_mib:12.1f}  {one.handles:7}  {one.threads:7}"
                f"  {one.temporary_files:5}",
                flush=True,
            )
    leaks, (rise, error) = verdict(samples), slope(samples)
    if arguments.json:
        facts = {"done": done, "leaks": leaks, "mib_per_minute": round(rise, 4), "standard_error": round(error, 4)}
        json.dump({**facts, "samples": [asdict(one) for one in samples]}, sys.stdout)
        print()
    else:
        print(", ".join(f"{number:,} {name}" for name, number in done.items()))
        print(f"memory: {rise:+.3f} MiB a minute, standard error {error:.3f}, limit {LIMIT_MIB_PER_MINUTE:g}")
        print(f"LEAKS: {'; '.join(leaks)}" if leaks else "nothing leaks")
    sys.exit(1 if leaks else 0)


if __name__ == "__main__":
    restart_with_settings()  # as `realesr directory` does
    main()
