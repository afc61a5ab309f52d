"""Picture files in, enlarged picture files out: which file becomes which, and the run over all of them."""

import dataclasses
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from realesr_cli.atomic import output_error
from realesr_cli.errors import (
    DeviceUnavailable,
    DiskFull,
    ModelError,
    OutputError,
    OutputExists,
    RealesrError,
    UsageError,
)
from realesr_cli.image_io import WRITABLE_SUFFIXES, Image, check_can_hold, read_image, write_image
from realesr_cli.options import OutputOptions, SizeOptions
from realesr_cli.pipeline import run_pipeline
from realesr_cli.reporting import Reporter
from realesr_cli.upscaler import Upscaler

HOPELESS = (UsageError, ModelError, DeviceUnavailable, DiskFull)
"""Errors that every further file would meet as well: no use in going on."""


@dataclass(frozen=True, slots=True)
class ImageJob:
    """One picture to enlarge."""

    id: int
    source: Path
    target: Path


def plan_jobs(
    inputs: Sequence[Path], output: Path | None, size: SizeOptions, native_scale: int
) -> tuple[ImageJob, ...]:
    """Which file becomes which; nothing is read or written.

    Without `output` a result lies beside its input as `<stem>_x4<suffix>`. `output` is a folder if it is one already,
    has no suffix, or if there are several inputs. Formats that realesr does not write become PNG.

    Raises: UsageError (two inputs with one target, or a target that is an input), UnsupportedInput.
    """
    into_folder = output is not None and (output.is_dir() or len(inputs) > 1 or not output.suffix)
    if output is not None and into_folder and not output.is_dir() and (output.is_file() or output.suffix):
        raise UsageError(
            f"-o {output} is the name of a file, but {len(inputs)} results need a folder", hint="name a folder"
        )
    jobs = []
    for number, source in enumerate(inputs):
        suffix = source.suffix if source.suffix.lower() in WRITABLE_SUFFIXES else ".png"
        name = f"{source.stem}{size.suffix(native_scale)}{suffix}"
        target = output if output is not None and not into_folder else (output or source.parent) / name
        check_can_hold(target)
        jobs.append(ImageJob(number, source, target))
    _refuse_collisions(jobs)
    return tuple(jobs)


def _refuse_collisions(jobs: Sequence[ImageJob]) -> None:
    sources = {_place(job.source): job.source for job in jobs}
    seen: dict[Path | tuple[int, int], Path] = {}
    for job in jobs:
        place = _place(job.target)
        if place in sources:
            raise UsageError(
                f"the result of {job.source} would replace the input {sources[place]}",
                hint="name a folder with -o, or leave earlier results out of the inputs",
            )
        if place in seen:
            raise UsageError(
                f"{seen[place]} and {job.source} would both become {job.target}",
                hint="give them in two calls with different -o",
            )
        seen[place] = job.source


def _place(path: Path) -> Path | tuple[int, int]:
    """The same for all names of one file: links, and on some disks other upper and lower case."""
    try:
        status = path.stat()
    except OSError:
        return path.resolve()
    return status.st_dev, status.st_ino


def run_jobs(
    jobs: Sequence[ImageJob],
    upscaler: Upscaler,
    *,
    size: SizeOptions,
    output: OutputOptions,
    reporter: Reporter,
    fail: Callable[[ImageJob, RealesrError], None],
    done: Callable[[ImageJob], None],
) -> None:
    """Enlarges every job's picture; reading and writing overlap with the network.

    `done` and `fail` are called for each job, in order. The run goes on after a failed file unless `fail` raises.
    """
    started: dict[int, float] = {}

    def load(job: ImageJob) -> Image:
        _prepare_folder(job.target.parent)
        _check_target(job, output)
        return _load(job)

    def work(job: ImageJob, image: Image) -> Image:
        height, width = image.pixels.shape[:2]
        started[job.id] = time.monotonic()
        reporter.emit("begin", id=job.id, input=str(job.source), width=width, height=height)
        target = size.target(height, width, upscaler.model.scale)
        return image.replace(upscaler(image.pixels, size=target, label=job.source.name))

    def save(job: ImageJob, image: Image) -> Image:
        write_image(job.target, image, overwrite=output.overwrite)
        return image

    def on_done(job: ImageJob, image: Image) -> None:
        height, width = image.pixels.shape[:2]
        reporter.emit(
            "done",
            id=job.id,
            input=str(job.source),
            output=str(job.target),
            width=width,
            height=height,
            seconds=round(time.monotonic() - started[job.id], 3),
        )
        done(job)

    run_pipeline(jobs, load=load, work=work, save=save, on_done=on_done, on_error=fail)


def describe_jobs(
    jobs: Sequence[ImageJob],
    upscaler: Upscaler,
    *,
    size: SizeOptions,
    output: OutputOptions,
    reporter: Reporter,
    fail: Callable[[ImageJob, RealesrError], None],
) -> None:
    """Emits for each job a `plan` event with sizes, tiles, memory and time. Nothing is written.

    What `run_jobs` would refuse is refused here too: `fail` is called for it.
    """
    for job in jobs:
        try:
            _check_target(job, output)
            pixels = _load(job).pixels
            height, width = pixels.shape[:2]
            plan = upscaler.plan(pixels, size.target(height, width, upscaler.model.scale))
        except RealesrError as error:
            fail(job, error)
            continue
        reporter.emit(
            "plan",
            id=job.id,
            input=str(job.source),
            output=str(job.target),
            **dataclasses.asdict(plan),
            text=f"{job.source} ({width}x{height}) -> {job.target} ({plan.width}x{plan.height}): "
            + (f"{plan.passes} passes, " if plan.passes > 1 else "")
            + (f"{plan.tiles} tiles" if plan.tiles > 1 else "in one piece")
            + (f" of {plan.tile_width}x{plan.tile_height} pixels with their context" if plan.tiles > 1 else "")
            + f" (work x{plan.overhead:.2f}), {plan.memory_bytes / 2**20:,.0f} MiB, about {_duration(plan.seconds)}",
        )


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _load(job: ImageJob) -> Image:
    image = read_image(job.source)
    check_can_hold(job.target, alpha=image.pixels.shape[2] == 4)
    return image


def _check_target(job: ImageJob, output: OutputOptions) -> None:
    """Raises OutputExists where a result lies already, and OutputError where a folder does."""
    if job.target.is_dir():
        raise OutputError(f"{job.target} is a folder", hint="name another file with -o", path=job.target)
    if (job.target.exists() or job.target.is_symlink()) and not output.overwrite:
        raise OutputExists(
            f"{job.target} is already there", hint="--overwrite replaces it, -o names another place", path=job.target
        )


def _prepare_folder(folder: Path) -> None:
    """Makes the folder of a result, and finds out before the long work whether it can be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise output_error(error, folder) from error
    if not os.access(folder, os.W_OK):
        raise OutputError(f"the folder {folder} may not be written to", hint="choose another with -o", path=folder)
