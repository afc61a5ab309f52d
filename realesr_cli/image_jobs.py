"""Picture files in, enlarged picture files out: what is done to each, and the run over all of them."""

import dataclasses
import os
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby, zip_longest
from operator import itemgetter
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import torch

from realesr_cli.alpha import flatten, is_opaque
from realesr_cli.animation import Animation, bytes_at_once, encode_animation, read_animation, write_animation
from realesr_cli.atomic import output_error
from realesr_cli.errors import (
    DeviceUnavailable,
    DiskFull,
    ModelError,
    OutputError,
    OutputExists,
    RealesrError,
    UnsupportedInput,
    UsageError,
)
from realesr_cli.faces.enhance import FaceEnhancer
from realesr_cli.faces.frames import FrameFaces
from realesr_cli.image_formats import ANIMATED, check_can_hold, format_of
from realesr_cli.image_header import read_header
from realesr_cli.image_io import Image, Pixels, encode_image, load_bytes, read_image, write_image
from realesr_cli.kept_faces import check_faces, save_faces
from realesr_cli.memory import free_memory_bytes
from realesr_cli.naming import STANDARD, ImageJob
from realesr_cli.options import FaceOptions, InputOptions, OutputOptions, SizeOptions
from realesr_cli.pipeline import run_pipelines
from realesr_cli.reporting import Reporter
from realesr_cli.row_writers import ROW_WRITERS
from realesr_cli.upscaler import Upscaler

P = ParamSpec("P")
T = TypeVar("T")

# Small pictures are worked in groups of so many; reading their headers first must not cost what that gains.
_LARGEST_GROUP = 8
_SMALL_FILE_BYTES = 2**17
# Of free memory, what one animation may take that has to be there as a whole.
_MEMORY_SHARE = 0.5

HOPELESS = (UsageError, ModelError, DeviceUnavailable, DiskFull)
"""Errors that every further file would meet as well: no use in going on."""
_ALONE = nullcontext()


@dataclass(frozen=True, kw_only=True, slots=True)
class PictureOptions:
    """What is accepted, how large it becomes, how it is written, and which faces are restored."""

    size: SizeOptions = field(default_factory=SizeOptions)
    output: OutputOptions = field(default_factory=OutputOptions)
    accept: InputOptions = field(default_factory=InputOptions)
    faces: FaceOptions | None = None

    def target(self, shape: tuple[int, ...], native_scale: int) -> tuple[int, int]:
        """(height, width) of the result of a picture (H, W, C)."""
        return self.size.target(shape[0], shape[1], native_scale)


Group = tuple[ImageJob, ...]
Picture = Image | Animation
Loaded = Picture | RealesrError
_Part = tuple[int, Pixels]
"""The number of a job, and a band of its result."""


def load_picture(job: ImageJob, options: PictureOptions, native_scale: int, reporter: Reporter) -> Picture:
    """The picture or animation of a job, as it goes into the network. Makes the folder of the result.

    Raises: RealesrError, also where the result could not be written later.
    """
    if job.target != STANDARD:
        _prepare_folder(job.target.parent)
    return _loaded(job, options, native_scale, reporter)


def enlarge(
    upscaler: Upscaler, picture: Picture, options: PictureOptions, label: str, faces: FrameFaces | None = None
) -> Generator[Pixels, None, None]:
    """The result's rows in bands, from top to bottom, frame after frame. `faces` restores those in it.

    Raises: OutOfMemory, NonFiniteOutput, UsageError, UnreadableInput.
    """
    frames = [picture.pixels] if isinstance(picture, Image) else picture.frames()
    size = options.target(picture.shape, upscaler.model.scale)
    for pixels in frames:
        bands = upscaler.bands(pixels, size=size, alpha_mode=options.output.alpha_mode, label=label)
        yield from bands if faces is None else faces(bands, pixels, size)


def save_picture(
    job: ImageJob,
    picture: Picture,
    bands: Iterator[Pixels],
    options: PictureOptions,
    native_scale: int,
    reporter: Reporter,
    on_complete: Callable[[ImageJob, Path], None],
) -> tuple[int, int]:
    """Writes the result of a job, whole or not at all, and returns its (height, width). Raises: OutputError.

    `on_complete` is told the temporary file just before it gets its name, or `-` before standard output is written.
    """
    size, output = options.target(picture.shape, native_scale), options.output
    how: dict[str, Any] = {"quality": output.quality, "lossless": output.lossless, "reporter": reporter}
    to_file: dict[str, Any] = {"overwrite": output.overwrite or job.replaces, "on_complete": partial(on_complete, job)}
    if isinstance(picture, Image):
        rows = picture.enlarged(*size, bands)
        if job.target != STANDARD:
            write_image(job.target, rows, **how, **to_file)
            return size
        data = encode_image(job.named, rows, **how)
    else:
        clip = picture.enlarged(*size, bands)
        if job.target != STANDARD:
            write_animation(job.target, clip, **how, **to_file)
            return size
        data = encode_animation(job.named, clip, **how)
    on_complete(job, STANDARD)
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
    return size


def run_jobs(
    jobs: Iterable[ImageJob],
    upscalers: Sequence[Upscaler],
    options: PictureOptions,
    *,
    reporter: Reporter,
    fail: Callable[[ImageJob, RealesrError], None],
    done: Callable[[ImageJob], None],
    on_complete: Callable[[ImageJob, Path], None] = lambda job, path: None,
    faces: Sequence[FaceEnhancer] = (),
    turn: AbstractContextManager[Any] = _ALONE,
) -> None:
    """Enlarges every job's picture; reading and writing overlap with the network.

    Each of `upscalers` is a worker of its own, on its own device; all have one model. Each has one of `faces` if these
    are to be restored. `done` and `fail` are called for each job, in order, in the caller's thread. The run goes on
    after a failed file unless `fail` raises.
    `on_complete` is told the temporary file of each result just before it gets its name, in the thread that writes it.
    `turn` is entered for each picture's time in the network: by several calls that share one upscaler.
    """
    scale = upscalers[0].model.scale
    small_px = min(upscaler.small_px for upscaler in upscalers)

    def load(group: Group) -> list[Loaded]:
        return [_outcome(load_picture, job, options, scale, reporter) for job in group]

    def work(
        upscaler: Upscaler, enhancer: FaceEnhancer | None, group: Group, loaded: list[Loaded]
    ) -> Generator[_Part, None, None]:
        pictures = [
            (job, picture) for job, picture in zip(group, loaded, strict=True) if not isinstance(picture, RealesrError)
        ]
        for job, picture in pictures:
            started[job.id] = time.monotonic()
            height, width = picture.shape[:2]
            more = {} if isinstance(picture, Image) else {"frames": len(picture.timing.durations_ms)}
            reporter.emit("begin", id=job.id, input=str(job.source), width=width, height=height, **more)
            if enhancer is not None:
                found[job.id] = FrameFaces(enhancer)
        stills = [(job, picture) for job, picture in pictures if isinstance(picture, Image)]
        if len(stills) == len(pictures) > 1:
            for job, picture in stills:
                if enhancer is not None:  # here, before any result is written, all may still fail together
                    found[job.id].restore(picture.pixels)
            for job, picture, result in _worked_together(upscaler, stills, options):
                own = found.get(job.id)
                for band in [result] if own is None else own([result], picture.pixels, result.shape[:2]):
                    yield job.id, band
        else:
            for job, picture in pictures:
                for band in enlarge(upscaler, picture, options, job.source.name, found.get(job.id)):
                    yield job.id, band
        for job, picture in pictures if enhancer is not None else ():
            _tell_faces(found[job.id], job, picture, reporter)

    def complete(job: ImageJob, path: Path) -> None:
        if job.id in found and options.faces is not None and options.faces.save_folder is not None:
            overwrite = options.output.overwrite or job.replaces
            save_faces(found[job.id].pairs, options.faces.save_folder, _kept_as(job), overwrite=overwrite)
        on_complete(job, path)

    def save(group: Group, loaded: list[Loaded], parts: Iterator[_Part]) -> list[tuple[int, int] | RealesrError]:
        by_job = groupby(parts, key=itemgetter(0))
        outcomes: list[tuple[int, int] | RealesrError] = []
        for job, picture in zip(group, loaded, strict=True):
            if isinstance(picture, RealesrError):
                outcomes.append(picture)
                continue
            _, own = next(by_job)
            bands = (band for _, band in own)
            outcomes.append(_outcome(save_picture, job, picture, bands, options, scale, reporter, complete))
        return outcomes

    def on_done(group: Group, outcomes: list[tuple[int, int] | RealesrError]) -> None:
        for job, outcome in zip(group, outcomes, strict=True):
            began = started.pop(job.id, time.monotonic())
            found.pop(job.id, None)
            if isinstance(outcome, RealesrError):
                fail(job, outcome)
                continue
            height, width = outcome
            reporter.emit(
                "done",
                id=job.id,
                input=str(job.source),
                output=str(job.target),
                width=width,
                height=height,
                seconds=round(time.monotonic() - began, 3),
            )
            done(job)

    def on_error(group: Group, error: RealesrError) -> None:
        for job in group:
            fail(job, error)

    started: dict[int, float] = {}
    found: dict[int, FrameFaces] = {}
    run_pipelines(
        _groups(jobs, small_px),
        load=load,
        work=[partial(_in_turn, turn, partial(work, *worker)) for worker in zip_longest(upscalers, faces)],
        save=save,
        on_done=on_done,
        on_error=on_error,
    )


def _in_turn(
    turn: AbstractContextManager[Any],
    work: Callable[[Group, list[Loaded]], Generator[_Part, None, None]],
    group: Group,
    loaded: list[Loaded],
) -> Generator[_Part, None, None]:
    with turn:
        yield from work(group, loaded)


def _groups(jobs: Iterable[ImageJob], small_px: int) -> Iterator[Group]:
    """The jobs, those together that follow each other and whose pictures are small and of one size."""
    group: list[ImageJob] = []
    shape: tuple[int, int] | None = None
    for job in jobs:
        now = _small_shape(job, small_px)
        if group and (now is None or now != shape or len(group) == _LARGEST_GROUP):
            yield tuple(group)
            group = []
        group.append(job)
        shape = now
        if now is None:
            yield tuple(group)
            group = []
    if group:
        yield tuple(group)


def _small_shape(job: ImageJob, small_px: int) -> tuple[int, int] | None:
    """(height, width) as the file says, if that is small; nothing but small files is read for it."""
    if STANDARD in (job.source, job.target):
        return None
    try:
        data = job.source.read_bytes() if job.source.stat().st_size <= _SMALL_FILE_BYTES else b""
    except OSError:
        return None  # loading it will tell
    header = read_header(data) if data else None
    if header is None or header.frames > 1 or header.height * header.width > small_px:
        return None
    return header.height, header.width


def _worked_together(
    upscaler: Upscaler, pictures: Sequence[tuple[ImageJob, Image]], options: PictureOptions
) -> Iterator[tuple[ImageJob, Image, Pixels]]:
    """The results of several pictures, those that follow each other and are alike as one batch."""
    for _, alike in groupby(pictures, key=lambda pair: (pair[1].pixels.shape, pair[1].pixels.dtype)):
        group = list(alike)
        size = options.target(group[0][1].shape, upscaler.model.scale)
        results = upscaler.batch([image.pixels for _, image in group], size=size, alpha_mode=options.output.alpha_mode)
        for (job, image), result in zip(group, results, strict=True):
            yield job, image, result


def _outcome(function: Callable[P, T], *arguments: P.args, **keywords: P.kwargs) -> T | RealesrError:
    """What a function returns, or the error that it raises."""
    try:
        return function(*arguments, **keywords)
    except RealesrError as error:
        return error


def _loaded(job: ImageJob, options: PictureOptions, native_scale: int, reporter: Reporter) -> Picture:
    _check_target(job, options)
    is_piped, output = job.source == STANDARD, options.output
    name = "standard input" if is_piped else str(job.source)
    data = sys.stdin.buffer.read() if is_piped else load_bytes(job.source)[1]
    kind = format_of(job.named)
    limits: dict[str, Any] = {"name": name, "max_pixels": options.accept.max_pixels, "reporter": reporter}
    animation = read_animation(data, **limits) if kind.name in ANIMATED else None
    picture: Picture
    if animation is not None:
        picture = animation if output.background is None else animation.on(output.background)
    else:
        picture = read_image(data, **limits)
        if picture.pixels.shape[2] == 4:
            # before the network: it then sees the edges that will be seen, and has half the work
            if output.background is not None:
                picture = picture.replace(flatten(picture.pixels, output.background))
            elif not kind.alpha and is_opaque(picture.pixels):
                picture = picture.replace(picture.pixels[..., :3])
    if output.strip:
        picture = dataclasses.replace(picture, metadata=picture.metadata.colours_only())
    size = options.target(picture.shape, native_scale)
    check_can_hold(job.named, picture.shape[2], size)
    if isinstance(picture, Animation):
        needed = bytes_at_once(job.named, (*size, picture.shape[2]), len(picture.timing.durations_ms))
        if needed > free_memory_bytes(torch.device("cpu")) * _MEMORY_SHARE:
            raise UnsupportedInput(
                f"{job.named} would need {needed / 2**30:.1f} GiB: AVIF takes all frames at once",
                hint="write a .webp instead, with -o or --format",
                path=job.target,
            )
    return picture


def describe_jobs(
    jobs: Iterable[ImageJob],
    upscaler: Upscaler,
    options: PictureOptions,
    *,
    reporter: Reporter,
    fail: Callable[[ImageJob, RealesrError], None],
) -> None:
    """Emits for each job a `plan` event with sizes, tiles, memory and time. Nothing is written.

    What `run_jobs` would refuse is refused here too: `fail` is called for it.
    """
    scale = upscaler.model.scale
    for job in jobs:
        try:
            picture = _loaded(job, options, scale, reporter)
            frames = 1 if isinstance(picture, Image) else len(picture.timing.durations_ms)
            pixels = picture.pixels if isinstance(picture, Image) else next(picture.frames())
            height, width = pixels.shape[:2]
            kind = format_of(job.named)
            plan = upscaler.plan(
                pixels,
                options.target(pixels.shape, scale),
                alpha_mode=options.output.alpha_mode,
                whole=kind.name not in ROW_WRITERS,
                queued=True,
            )
            encoder_bytes = kind.encoder_bytes_per_px * plan.height * plan.width
            plan = dataclasses.replace(plan, memory_bytes=plan.memory_bytes + encoder_bytes)
        except RealesrError as error:
            fail(job, error)
            continue
        reporter.emit(
            "plan",
            id=job.id,
            input=str(job.source),
            output=str(job.target),
            frames=frames,
            **dataclasses.asdict(dataclasses.replace(plan, seconds=plan.seconds * frames)),
            text=f"{job.source} ({width}x{height}) -> {job.target} ({plan.width}x{plan.height}): "
            + (f"{frames} frames, each " if frames > 1 else "")
            + (f"{plan.passes} passes, " if plan.passes > 1 else "")
            + (f"{plan.tiles} tiles" if plan.tiles > 1 else "in one piece")
            + (f" of {plan.tile_width}x{plan.tile_height} pixels with their context" if plan.tiles > 1 else "")
            + f" (work x{plan.overhead:.2f}), {plan.memory_bytes / 2**20:,.0f} MiB, "
            + f"about {_duration(plan.seconds * frames)}",
        )


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _check_target(job: ImageJob, options: PictureOptions) -> None:
    """Raises OutputExists where a result lies already, and OutputError where a folder does."""
    output = options.output
    if options.faces is not None and options.faces.save_folder is not None:
        check_faces(options.faces.save_folder, _kept_as(job), overwrite=output.overwrite or job.replaces)
    if job.target == STANDARD:
        return
    if job.target.is_dir():
        raise OutputError(f"{job.target} is a folder", hint="name another file with -o", path=job.target)
    if (job.target.exists() or job.target.is_symlink()) and not (output.overwrite or job.replaces):
        raise OutputExists(
            f"{job.target} is already there",
            hint="--overwrite replaces it, --skip-existing leaves it, -o names another place",
            path=job.target,
        )


def _tell_faces(faces: FrameFaces, job: ImageJob, picture: Picture, reporter: Reporter) -> None:
    if isinstance(picture, Image):
        reporter.emit("faces", id=job.id, input=str(job.source), **faces.facts())
    else:
        reporter.emit("frame_faces", id=job.id, input=str(job.source), **faces.frame_facts())


def _kept_as(job: ImageJob) -> Path:
    return job.tree / job.named.name


def _prepare_folder(folder: Path) -> None:
    """Makes the folder of a result, and finds out before the long work whether it can be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise output_error(error, folder) from error
    if not os.access(folder, os.W_OK):
        raise OutputError(f"the folder {folder} may not be written to", hint="choose another with -o", path=folder)
