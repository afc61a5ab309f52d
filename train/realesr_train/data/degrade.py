"""Low-resolution picture files of clean ones: degraded with a record of every draw, or reduced as MATLAB does.

Traps: the number of a picture's sample is its place among the inputs, so the same list gives the same files. Sides that
are no multiple of the scale lose what is left over at the right and bottom. A picture takes about 100 bytes of memory
for each pixel of its largest step (one of 12 million pixels enlarged 1.5 times: 2.8 GB), and is refused beforehand
where they are not free.
"""

import json
import os
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from realesr_cli.atomic import output_error
from realesr_cli.errors import (
    DiskFull,
    OutOfMemory,
    OutputExists,
    RealesrError,
    UnreadableInput,
    UnsupportedInput,
    UsageError,
)
from realesr_cli.image_formats import FULL_COLOUR_SUFFIXES
from realesr_cli.image_io import Image, read_image, write_image
from realesr_cli.memory import free_memory_bytes, is_out_of_memory
from realesr_cli.reporting import Reporter, progress
from realesr_train.config import DegradationConfig
from realesr_train.degradation.draws import Draws
from realesr_train.degradation.replay import AnyDraws, from_json, to_json
from realesr_train.degradation.resize import imresize
from realesr_train.degradation.second_order import fit_crop
from realesr_train.degradation.shuffled import OPERATIONS
from realesr_train.degradations import apply, draw

RECORD = "draws.jsonl"
_SMALLER = "close other programs, or cut the picture into pieces"
_SHEET_SIDE = 4
_TILE_PX = 320
_LINE_PX = 18
_BYTES_A_PIXEL = 95
"""Measured: 96 to 97 for pictures of 6 million pixels, 86 where the first resize enlarges most."""

Done = Callable[[], None]
"""`done()` hears of each picture that was written."""

Fail = Callable[[int, Path, RealesrError], None]
"""`fail(id, path, error)` hears of each picture that failed."""


@dataclass(frozen=True, slots=True)
class Job:
    """One picture and the file that comes of it; `id` is its place among the inputs."""

    id: int
    source: Path
    target: Path


def plan(inputs: Sequence[Path], output: Path, suffix: str = ".png") -> list[Job]:
    """A file in `output` for each input; of a folder for each picture in it, at any depth, with its subfolder.

    Hidden files and folders are left out, and so is `output` where it lies inside an input: what an earlier run wrote
    there must not be degraded again.

    Raises: UnreadableInput (a folder without pictures), UsageError (two inputs for one file, or an input as target).
    """
    jobs = [
        Job(number, file, output / name.with_suffix(suffix))
        for number, (file, name) in enumerate(_pictures(inputs, output))
    ]
    sources = {job.source.resolve() for job in jobs}
    seen: dict[Path, Path] = {}
    for job in jobs:
        if job.target in seen:
            hint = "rename one of them, or give them in two runs"
            raise UsageError(f"{seen[job.target]} and {job.source} would both become {job.target}", hint=hint)
        if job.target.resolve() in sources:
            raise UsageError(f"{job.target} is one of the inputs", hint="choose another folder with -o")
        seen[job.target] = job.source
    return jobs


def unfinished(jobs: Sequence[Job], reporter: Reporter) -> list[Job]:
    """The jobs whose picture is not there yet; a `skipped` event for each other one."""
    left = []
    for job in jobs:
        if job.target.is_file():
            reporter.emit("skipped", id=job.id, input=str(job.source), output=str(job.target))
        else:
            left.append(job)
    return left


def _pictures(inputs: Sequence[Path], output: Path | None = None) -> list[tuple[Path, Path]]:
    """Each picture, and its name relative to the input that holds it. Raises: UnreadableInput."""
    pictures = []
    for path in inputs:
        if not path.is_dir():
            pictures.append((path, Path(path.name)))
            continue
        is_output_inside = output is not None and path.resolve() in output.resolve().parents
        found = []
        for file in sorted(path.rglob("*")):
            name = file.relative_to(path)
            is_hidden = any(part.startswith(".") for part in name.parts)
            if file.suffix.lower() not in FULL_COLOUR_SUFFIXES or is_hidden or not file.is_file():
                continue
            if not (is_output_inside and output is not None and file.resolve().is_relative_to(output.resolve())):
                found.append((file, name))
        if not found:
            raise UnreadableInput(f"{path} holds no pictures", hint=f"known are {', '.join(FULL_COLOUR_SUFFIXES)}")
        pictures += found
    return pictures


def degrade_files(
    jobs: Sequence[Job],
    output: Path,
    config: DegradationConfig,
    *,
    scale: int,
    seed: int,
    replay: Path | None,
    overwrite: bool,
    resume: bool,
    reporter: Reporter,
    done: Done,
    fail: Fail,
) -> None:
    """Writes the degraded picture of each job, and its line of `draws.jsonl`.

    Picture number i is degraded as sample i of `seed`, or by its line in the file `replay`, which then decides all:
    the configuration, scale and seed are not looked at. `resume` adds to a `draws.jsonl` that is there, `overwrite`
    replaces it. A line is on the disk before its picture is, so that an interrupted run leaves no picture without.

    Raises: OutputExists, DiskFull, UsageError (`replay` cannot be used).
    """
    path = output / RECORD
    if path.exists() and not (overwrite or resume):
        hint = "--overwrite replaces it and the pictures, --skip-existing goes on where a run was interrupted"
        raise OutputExists(f"{path} is already there", hint=hint, path=path)
    known = None if replay is None else _read_record(replay)

    def degrade(job: Job) -> NDArray[Any]:
        pixels, _ = read_rgb(job.source, reporter)
        name = job.target.relative_to(output).as_posix()
        if known is None:
            pixels = _cut(pixels, scale, job.source, reporter)
            height, width = pixels.shape[1:]
            draws = draw(config, scale=scale, seed=seed, samples=torch.tensor([job.id]), height=height, width=width)
        elif name in known:
            draws = known[name]
            pixels = _cut(pixels, draws.scale, job.source, reporter)
        else:
            raise UnsupportedInput(f"{job.source}: {replay} has no line for {name}", path=job.source)
        _check_memory(draws, job.source)
        try:
            lq = apply(pixels[None], draws)
        except ValueError as error:
            raise UnsupportedInput(f"{job.source}: its line in {replay} does not fit: {error}") from error
        record.add({"input": str(job.source), "output": name, "draws": to_json(draws, 0)})
        return _to_bytes(lq[0])

    with closing(_Record(path, resume=resume)) as record:
        _run(jobs, degrade, overwrite=overwrite, reporter=reporter, done=done, fail=fail)


class _Record:
    """Lines of JSON, each on the disk when `add` returns; an older file is replaced by the first line, not before."""

    def __init__(self, path: Path, *, resume: bool) -> None:
        self._path, self._resume = path, resume
        self._file: BinaryIO | None = None

    def add(self, line: dict[str, Any]) -> None:
        """Raises: DiskFull, OutputError."""
        try:
            if self._file is None:
                self._file = self._opened()
            self._file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise output_error(error, self._path) from error

    def _opened(self) -> BinaryIO:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if not (self._resume and self._path.exists()):
            return self._path.open("wb")
        file = self._path.open("rb+")
        file.truncate(file.read().rfind(b"\n") + 1)  # half a line, of a run that was killed, has no picture
        file.seek(0, os.SEEK_END)
        return file

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def reduce_files(
    jobs: Sequence[Job], *, scale: int, overwrite: bool, reporter: Reporter, done: Done, fail: Fail
) -> None:
    """Writes each picture 1/scale as large, as `reduced` makes it. Raises: DiskFull."""

    def reduce(job: Job) -> NDArray[Any]:
        pixels, white = read_rgb(job.source, reporter)
        return _to_bytes(reduced(_cut(pixels, scale, job.source, reporter), scale, white))

    _run(jobs, reduce, overwrite=overwrite, reporter=reporter, done=done, fail=fail)


def reduced(pixels: Tensor, scale: int, white: float = 255) -> Tensor:
    """(3, H, W) in [0, 1], whose sides are multiples of `scale`, reduced as MATLAB's `imresize` of the bytes would.

    MATLAB rounds to the input's whole numbers between rows and columns too: on Set5 without that a tenth of the values
    differ by one from the published files, with it one in three thousand. `white` is the largest of these numbers.
    """
    planes = pixels[None].double()
    height, width = (side // scale for side in pixels.shape[1:])
    for size in ((height, pixels.shape[2]), (height, width)):
        planes = (imresize(planes, size=size) * white + 0.5).floor().clamp(0, white) / white
    return planes[0]


def contact_sheet(
    inputs: Sequence[Path],
    target: Path,
    config: DegradationConfig,
    *,
    scale: int,
    seed: int,
    overwrite: bool,
    reporter: Reporter,
) -> None:
    """Writes a labelled grid of 16 degradations of the middle of the first picture, enlarged back without smoothing.

    Raises: RealesrError of reading or writing.
    """
    source = _pictures(inputs)[0][0]
    side = _TILE_PX // scale * scale
    pixels = fit_crop(read_rgb(source, reporter)[0], side)
    top, left = (pixels.shape[1] - side) // 2, (pixels.shape[2] - side) // 2
    hr = pixels[:, top : top + side, left : left + side].expand(_SHEET_SIDE**2, -1, -1, -1)
    draws = draw(config, scale=scale, seed=seed, samples=torch.arange(len(hr)), height=side, width=side)
    tiles = []
    for i, lq in enumerate(apply(hr.contiguous(), draws)):
        large = np.repeat(np.repeat(_to_bytes(lq), scale, axis=0), scale, axis=1)
        tiles.append(np.concatenate((large, _label(describe(draws, i), side))))
    rows = [np.concatenate(tiles[i : i + _SHEET_SIDE], axis=1) for i in range(0, len(tiles), _SHEET_SIDE)]
    write_image(target, Image(pixels=np.concatenate(rows)), overwrite=overwrite, reporter=reporter)


def describe(draws: AnyDraws, i: int) -> list[str]:
    """Image i's draws in a few short lines for people."""
    plain = to_json(draws, i)
    if not isinstance(draws, Draws):
        return _describe_other(plain)
    passes, final = plain["passes"], plain["final"]

    def blur(one: dict[str, Any]) -> str:
        if one["family"] == "impulse":
            return "none"
        if one["family"] == "sinc":
            return f"sinc {one['size_px']}px w {one['omega']:.2f}"
        sigma = f"{one['sigma_x']:.2f}" + (f"x{one['sigma_y']:.2f}" if one["family"].endswith("aniso") else "")
        beta = f" b {one['beta']:.2f}" if one["beta"] else ""
        return f"{one['family'].replace('generalized', 'gen')} {one['size_px']}px s {sigma}{beta}"

    def noise(one: dict[str, Any]) -> str:
        unit = "" if one["kind"] == "poisson" else "/255"
        return f"{one['kind']} {one['strength']:.2f}{unit}" + (" grey" if one["grey"] else "")

    def resize(one: dict[str, Any]) -> str:
        return f"x{one['factor']:.2f} {one['mode']}"

    qualities = [f"{one['quality']:.0f}" for one in passes[:-1]] + [f"{final['quality']:.0f}"]
    order = "sinc, jpeg" if final["jpeg_last"] else "jpeg, sinc"
    return [
        f"sample {plain['samples']}, seed {plain['seed']}, {plain['jpeg_model']} jpeg",
        *(f"blur {number} {blur(one['blur'])}" for number, one in enumerate(passes, 1)),
        "resize " + " | ".join(resize(one["resize"]) for one in passes) + f" | {final['resize']['mode']}",
        "noise " + " | ".join(noise(one["noise"]) for one in passes),
        f"jpeg {' | '.join(qualities)}   end {blur(final['sinc'])}; {order}",
    ]


def _describe_other(plain: dict[str, Any]) -> list[str]:
    head = f"sample {plain['samples']}, seed {plain['seed']}"
    if plain["kind"] == "realsr":
        kernel = plain["kernel"] if plain["kernel"] >= 0 else "bicubic"
        return [head, f"kernel {kernel}", f"noise {plain['noise'] if plain['noise'] >= 0 else 'none'}"]
    names = [OPERATIONS[number] for number in plain["order"]]
    if not plain["compressed"]:
        names.remove("jpeg")
    blurs = [f"{one['size_px']}px {one['sigma_x']:.1f}x{one['sigma_y']:.1f}" for one in plain["blurs"]]
    return [
        head + (", halved first" if plain["halved"] else ""),
        " ".join(names),
        f"blur {' | '.join(blurs)}",
        f"noise {plain['colour']}   jpeg {plain['quality']:.0f} | {plain['last_quality']:.0f}",
    ]


def _label(lines: list[str], width: int) -> NDArray[np.uint8]:
    """(h, width, 3) white on black."""
    strip = np.zeros((_LINE_PX * len(lines) + 8, width, 3), np.uint8)
    for number, line in enumerate(lines):
        place = (4, _LINE_PX * (number + 1) - 4)
        cv2.putText(strip, line, place, cv2.FONT_HERSHEY_SIMPLEX, 0.4, (255, 255, 255), 1, cv2.LINE_AA)
    return strip


def _run(
    jobs: Sequence[Job],
    work: Callable[[Job], NDArray[Any]],
    *,
    overwrite: bool,
    reporter: Reporter,
    done: Done,
    fail: Fail,
) -> None:
    """Writes what `work` gives for each job. A failure is reported and the run goes on, except for a full disk."""
    with progress(reporter, len(jobs), "files") as advance:
        for job in jobs:
            started = time.monotonic()
            try:
                if job.target.exists() and not overwrite:
                    hint = "--overwrite replaces it, --skip-existing leaves it alone"
                    raise OutputExists(f"{job.target} is already there", hint=hint)
                pixels = _within_memory(work, job)
                make_folder(job.target.parent)
                write_image(job.target, Image(pixels=pixels), overwrite=overwrite, reporter=reporter)
            except DiskFull:
                raise
            except RealesrError as error:
                fail(job.id, job.source, error)
            else:
                height, width = pixels.shape[:2]
                reporter.emit(
                    "done",
                    id=job.id,
                    input=str(job.source),
                    output=str(job.target),
                    width=width,
                    height=height,
                    seconds=round(time.monotonic() - started, 3),
                )
                done()
            advance(1)


def _check_memory(draws: AnyDraws, path: Path) -> None:
    """Raises: OutOfMemory (the chain will not fit)."""
    passes = draws.passes if isinstance(draws, Draws) else ()
    sizes_px = [draws.height * draws.width, *(int(one.resize.target[0].prod()) for one in passes)]
    needed, free = _BYTES_A_PIXEL * max(sizes_px), free_memory_bytes(torch.device("cpu"))
    if needed > free:
        raise OutOfMemory(
            f"{path}: degrading {draws.width}x{draws.height} pixels needs {needed / 2**30:.1f} GiB of memory; "
            f"{free / 2**30:.1f} free",
            hint=_SMALLER,
            path=path,
        )


def _within_memory(work: Callable[[Job], NDArray[Any]], job: Job) -> NDArray[Any]:
    """What `work` gives. Raises: OutOfMemory, and what `work` raises."""
    try:
        return work(job)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(f"not enough memory for {job.source}", hint=_SMALLER, path=job.source) from error


def make_folder(folder: Path) -> None:
    """Raises: OutputError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise output_error(error, folder) from error


def read_rgb(path: Path, reporter: Reporter) -> tuple[Tensor, float]:
    """(3, H, W) float32 in [0, 1], grey in three channels and without alpha, and the file's white: 255 or 65535."""
    pixels = read_image(path, reporter=reporter).pixels
    if pixels.shape[2] == 4:
        reporter.emit("warning", code="alpha", message=f"{path}: transparency is left out", hint=None)
        pixels = pixels[..., :3]
    white = float(np.iinfo(pixels.dtype).max)
    planes = torch.from_numpy(pixels.astype(np.float32)).permute(2, 0, 1) / white
    return planes.expand(3, -1, -1).contiguous(), white


def _cut(pixels: Tensor, scale: int, path: Path, reporter: Reporter) -> Tensor:
    """Without what is left over of a multiple of the scale. Raises: UnsupportedInput (nothing is left)."""
    height, width = (side // scale * scale for side in pixels.shape[1:])
    if not height or not width:
        size = f"{pixels.shape[2]}x{pixels.shape[1]}"
        raise UnsupportedInput(f"{path} has {size} pixels, less than the scale, {scale}", path=path)
    if (height, width) != pixels.shape[1:]:
        reporter.emit("note", message=f"{path}: cut to {width}x{height}, multiples of {scale}")
    return pixels[:, :height, :width].contiguous()


def _to_bytes(pixels: Tensor) -> NDArray[Any]:
    """(H, W, 3) uint8 of (3, H, W)."""
    result: NDArray[Any] = (pixels * 255).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
    return result


def _read_record(path: Path) -> dict[str, AnyDraws]:
    """The draws in a `draws.jsonl`, by output name. Raises: UsageError."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path}: {error}", path=path) from error
    draws = {}
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            draws[record["output"]] = from_json([record["draws"]])
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(f"{path}, line {number}: {error}", path=path) from error
    return draws
