"""Picture files in, enlarged picture files out: which file becomes which, and the run over all of them."""

import dataclasses
import os
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from realesr_cli.alpha import flatten, is_opaque
from realesr_cli.atomic import NAME_BYTES, output_error
from realesr_cli.errors import (
    DeviceUnavailable,
    DiskFull,
    ModelError,
    OutputError,
    OutputExists,
    RealesrError,
    UsageError,
)
from realesr_cli.faces.detect import facts
from realesr_cli.faces.enhance import FaceEnhancer, RestoredFace
from realesr_cli.image_formats import FORMATS, WRITABLE_SUFFIXES, check_can_hold, format_of, result_suffix
from realesr_cli.image_io import Image, Pixels, encode_image, read_image, write_image
from realesr_cli.options import InputOptions, OutputOptions, SizeOptions
from realesr_cli.pipeline import run_pipeline
from realesr_cli.reporting import Reporter
from realesr_cli.row_writers import ROW_WRITERS
from realesr_cli.upscaler import Upscaler

TargetSize = Callable[[int, int], tuple[int, int]]
"""(height, width) of a picture -> those of its result."""

HOPELESS = (UsageError, ModelError, DeviceUnavailable, DiskFull)
"""Errors that every further file would meet as well: no use in going on."""

STANDARD = Path("-")
"""Standard input as a source, standard output as a target."""


@dataclass(frozen=True, slots=True)
class ImageJob:
    """One picture to enlarge."""

    id: int
    source: Path
    target: Path
    suffix: str
    """Names the format of the result; `target` ends in it, unless that is standard output."""


def plan_jobs(
    inputs: Sequence[Path],
    output: Path | None,
    size: SizeOptions,
    native_scale: int,
    options: OutputOptions | None = None,
) -> tuple[ImageJob, ...]:
    """Which file becomes which; nothing is read or written.

    Without `output` a result lies beside its input as `<stem>_x4<suffix>`. `output` is a folder if it is one already,
    has no suffix, or if there are several inputs; `-` is standard output. Formats that realesr does not write become
    PNG, unless `options.format` names one.

    Raises: UsageError (two inputs with one target, a target that is an input, contradictions), UnsupportedInput.
    """
    options = options or OutputOptions()
    chosen = _chosen_suffix(options)
    if output == STANDARD:
        return (_job_to_stdout(inputs, chosen or ".png", options),)
    into_folder = output is not None and (output.is_dir() or len(inputs) > 1 or not output.suffix)
    if output is not None and into_folder and not output.is_dir() and (output.is_file() or output.suffix):
        raise UsageError(
            f"-o {output} is the name of a file, but {len(inputs)} results need a folder", hint="name a folder"
        )
    if output is None and STANDARD in inputs:
        raise UsageError("a picture from standard input needs -o", hint="-o large.png, or -o - for standard output")
    jobs = []
    for number, source in enumerate(inputs):
        suffix = chosen or result_suffix(source)
        stem = "stdin" if source == STANDARD else source.stem
        name = _name(stem, f"{size.suffix(native_scale)}{suffix}")
        target = output if output is not None and not into_folder else (output or source.parent) / name
        if chosen and target.suffix.lower() != chosen and format_of(target) != format_of(Path(name)):
            raise UsageError(f"--format {options.format} contradicts -o {target}", hint="give one of them")
        _check_loss(target, options)
        jobs.append(ImageJob(number, source, target, target.suffix))
    _refuse_collisions(jobs)
    return tuple(jobs)


def _chosen_suffix(options: OutputOptions) -> str | None:
    """The suffix of `--format`. Raises: UsageError."""
    if options.format is None:
        return None
    suffix = f".{options.format.lower().removeprefix('.')}"
    if suffix not in WRITABLE_SUFFIXES:
        names = ", ".join(kind.suffixes[0].removeprefix(".") for kind in FORMATS)
        raise UsageError(f"--format {options.format} is not one of {names}")
    return suffix


def _job_to_stdout(inputs: Sequence[Path], suffix: str, options: OutputOptions) -> ImageJob:
    if len(inputs) > 1:
        raise UsageError("-o - takes one picture, not several", hint="name a folder with -o")
    _check_loss(Path(f"stdout{suffix}"), options)
    return ImageJob(0, inputs[0], STANDARD, suffix)


def _check_loss(target: Path, options: OutputOptions) -> None:
    """Raises: UsageError (JPEG without loss), UnsupportedInput (a suffix that is not known)."""
    kind = format_of(target)
    if options.lossless and not kind.can_be_lossless:
        raise UsageError(f"--lossless: {target.suffix} always loses detail", hint="--format webp or png does not")


def _name(stem: str, end: str) -> str:
    """`stem` + `end`, the stem cut where file systems would refuse the name."""
    room = NAME_BYTES - len(os.fsencode(end))
    return os.fsencode(stem)[:room].decode(errors="ignore") + end if len(os.fsencode(stem)) > room else stem + end


def _refuse_collisions(jobs: Sequence[ImageJob]) -> None:
    sources = {_place(job.source): job.source for job in jobs if job.source != STANDARD}
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
    accept: InputOptions | None = None,
    faces: FaceEnhancer | None = None,
) -> None:
    """Enlarges every job's picture; reading and writing overlap with the network. `faces` restores those in it.

    `done` and `fail` are called for each job, in order. The run goes on after a failed file unless `fail` raises.
    """
    started: dict[int, float] = {}
    target_size = partial(size.target, native_scale=upscaler.model.scale)

    def load(job: ImageJob) -> Image:
        if job.target != STANDARD:
            _prepare_folder(job.target.parent)
        _check_target(job, output)
        return _load(job, target_size, output, accept or InputOptions(), reporter)

    def work(job: ImageJob, image: Image) -> Generator[Pixels, None, None]:
        height, width = image.pixels.shape[:2]
        started[job.id] = time.monotonic()
        reporter.emit("begin", id=job.id, input=str(job.source), width=width, height=height)
        size = target_size(height, width)
        bands = upscaler.bands(image.pixels, size=size, alpha_mode=output.alpha_mode, label=job.source.name)
        yield from bands if faces is None else _with_faces(bands, job, image.pixels, size, faces, output, reporter)

    def save(job: ImageJob, image: Image, bands: Iterator[Pixels]) -> tuple[int, int]:
        size = target_size(*image.pixels.shape[:2])
        rows = image.enlarged(*size, bands)
        how: dict[str, Any] = {"quality": output.quality, "lossless": output.lossless, "reporter": reporter}
        if job.target == STANDARD:
            sys.stdout.buffer.write(encode_image(Path(f"stdout{job.suffix}"), rows, **how))
            sys.stdout.buffer.flush()
        else:
            write_image(job.target, rows, overwrite=output.overwrite, **how)
        return size

    def on_done(job: ImageJob, size: tuple[int, int]) -> None:
        height, width = size
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


def _with_faces(
    bands: Iterator[Pixels],
    job: ImageJob,
    pixels: Pixels,
    size: tuple[int, int],
    faces: FaceEnhancer,
    output: OutputOptions,
    reporter: Reporter,
) -> Iterator[Pixels]:
    """The bands of a picture's enlargement to `size` with its faces restored."""
    found = faces.find(pixels)
    restored = faces.restore(pixels, found)
    reporter.emit("faces", id=job.id, input=str(job.source), faces=[facts(face) for face in found])
    if not restored:
        yield from bands
        return
    if faces.options.save_folder is not None:
        _save_faces(restored, faces.options.save_folder, job, pixels.dtype, output)
    paste = faces.pasting(restored, pixels.shape[:2], size)
    top = 0
    for band in bands:
        rows = band.copy()  # its memory may be the engine's
        paste(rows, top)
        yield rows
        top += len(rows)


def _save_faces(
    restored: Sequence[RestoredFace], folder: Path, job: ImageJob, dtype: np.dtype[Any], output: OutputOptions
) -> None:
    """Writes NAME_face1.png, ...: before on the left, after on the right. Raises: OutputError."""
    _prepare_folder(folder)
    stem = "stdout" if job.target == STANDARD else job.target.stem
    for number, face in enumerate(restored, 1):
        pair = np.concatenate((face.before, face.after), axis=1)
        pixels = pair if dtype == np.uint16 else ((pair.astype(np.uint32) + 128) // 257).astype(np.uint8)
        write_image(folder / _name(stem, f"_face{number}.png"), Image(pixels=pixels), overwrite=output.overwrite)


def without_finished(jobs: Sequence[ImageJob], reporter: Reporter) -> tuple[ImageJob, ...]:
    """The jobs whose result is not there yet; a `skipped` event for each other one (`--skip-existing`)."""
    left = []
    for job in jobs:
        if job.target != STANDARD and job.target.is_file():
            reporter.emit("skipped", id=job.id, input=str(job.source), output=str(job.target))
        else:
            left.append(job)
    return tuple(left)


def _load(
    job: ImageJob, target_size: TargetSize, output: OutputOptions, accept: InputOptions, reporter: Reporter
) -> Image:
    """The picture of a job, as it goes into the network; refused here if its result could not be written later."""
    is_piped = job.source == STANDARD
    image = read_image(
        sys.stdin.buffer.read() if is_piped else job.source,
        name="standard input" if is_piped else None,
        max_pixels=accept.max_pixels,
        reporter=reporter,
    )
    path = Path(f"stdout{job.suffix}") if job.target == STANDARD else job.target
    if image.pixels.shape[2] == 4:
        # before the network: it then sees the edges that will be seen, and has half the work
        if output.background is not None:
            image = image.replace(flatten(image.pixels, output.background))
        elif not format_of(path).alpha and is_opaque(image.pixels):
            image = image.replace(image.pixels[..., :3])
    if output.strip:
        image = dataclasses.replace(image, metadata=image.metadata.colours_only())
    height, width, channels = image.pixels.shape
    check_can_hold(path, channels, target_size(height, width))
    return image


def describe_jobs(
    jobs: Sequence[ImageJob],
    upscaler: Upscaler,
    *,
    size: SizeOptions,
    output: OutputOptions,
    reporter: Reporter,
    fail: Callable[[ImageJob, RealesrError], None],
    accept: InputOptions | None = None,
) -> None:
    """Emits for each job a `plan` event with sizes, tiles, memory and time. Nothing is written.

    What `run_jobs` would refuse is refused here too: `fail` is called for it.
    """
    target_size = partial(size.target, native_scale=upscaler.model.scale)
    for job in jobs:
        try:
            _check_target(job, output)
            pixels = _load(job, target_size, output, accept or InputOptions(), reporter).pixels
            height, width = pixels.shape[:2]
            kept_whole = format_of(Path(f"stdout{job.suffix}")).name not in ROW_WRITERS
            plan = upscaler.plan(pixels, target_size(height, width), alpha_mode=output.alpha_mode, whole=kept_whole)
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


def _check_target(job: ImageJob, output: OutputOptions) -> None:
    """Raises OutputExists where a result lies already, and OutputError where a folder does."""
    if job.target == STANDARD:
        return
    if job.target.is_dir():
        raise OutputError(f"{job.target} is a folder", hint="name another file with -o", path=job.target)
    if (job.target.exists() or job.target.is_symlink()) and not output.overwrite:
        raise OutputExists(
            f"{job.target} is already there",
            hint="--overwrite replaces it, --skip-existing leaves it, -o names another place",
            path=job.target,
        )


def _prepare_folder(folder: Path) -> None:
    """Makes the folder of a result, and finds out before the long work whether it can be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise output_error(error, folder) from error
    if not os.access(folder, os.W_OK):
        raise OutputError(f"the folder {folder} may not be written to", hint="choose another with -o", path=folder)
