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

# Errors that every further file would meet as well: the run stops at once.
_HOPELESS = (UsageError, ModelError, DeviceUnavailable, DiskFull)


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
    if output is not None and into_folder and output.is_file():
        raise UsageError(
            f"-o {output} is a file, but a folder is needed", hint="name a folder, or a file ending in .png"
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
    sources = {job.source.resolve(): job.source for job in jobs}
    seen: dict[Path, Path] = {}
    for job in jobs:
        place = job.target.resolve()
        if place in sources:
            raise UsageError(
                f"the result of {job.source} would replace the input {sources[place]}",
                hint="choose another name or folder with -o",
            )
        if place in seen:
            raise UsageError(
                f"{seen[place]} and {job.source} would both become {job.target}",
                hint="give them in two calls with different -o",
            )
        seen[place] = job.source


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

    `done` and `fail` are called for each job, in order. The run goes on after a failed file, but stops by raising at
    errors that all further files would meet: UsageError, ModelError, DeviceUnavailable, DiskFull.
    """
    started: dict[int, float] = {}

    def load(job: ImageJob) -> Image:
        _prepare_folder(job.target.parent)
        if job.target.exists() and not output.overwrite:
            raise OutputExists(
                f"{job.target} is already there",
                hint="--overwrite replaces it, -o names another place",
                path=job.target,
            )
        image = read_image(job.source)
        check_can_hold(job.target, alpha=image.pixels.shape[2] == 4)
        return image

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

    def on_error(job: ImageJob, error: RealesrError) -> None:
        if isinstance(error, _HOPELESS):
            raise error
        fail(job, error)

    run_pipeline(jobs, load=load, work=work, save=save, on_done=on_done, on_error=on_error)


def describe_jobs(jobs: Sequence[ImageJob], upscaler: Upscaler, *, size: SizeOptions, reporter: Reporter) -> None:
    """Emits for each job a `plan` event: sizes, tiles, memory and time. Nothing is written. Raises: UnreadableInput."""
    speed = upscaler.pixels_per_second()
    for job in jobs:
        pixels = read_image(job.source).pixels
        height, width = pixels.shape[:2]
        target = size.target(height, width, upscaler.model.scale)
        plan = upscaler.plan(height, width, target, bytes_per_value=pixels.dtype.itemsize)
        seconds = plan.computed_px / speed
        passes = f"{plan.passes} passes, " if plan.passes > 1 else ""
        reporter.emit(
            "plan",
            id=job.id,
            input=str(job.source),
            output=str(job.target),
            **dataclasses.asdict(plan),
            seconds=round(seconds, 1),
            text=f"{job.source} ({width}x{height}) -> {job.target} ({plan.width}x{plan.height}): {passes}{plan.tiles} "
            f"tile{'s' * (plan.tiles > 1)} of at most {plan.tile_width}x{plan.tile_height}, {plan.overhead:.2f} times "
            f"the work of one piece, {plan.memory_bytes / 2**20:,.0f} MiB, about {seconds:.1f} s",
        )


def _prepare_folder(folder: Path) -> None:
    """Makes the folder of a result, and finds out before the long work whether it can be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise output_error(error, folder) from error
    if not os.access(folder, os.W_OK):
        raise OutputError(f"the folder {folder} may not be written to", hint="choose another with -o", path=folder)
