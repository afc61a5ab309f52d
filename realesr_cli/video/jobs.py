"""Which film becomes which file, what a run would take (`--dry-run`), and one frame or raw frames instead of a film."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np

from realesr_cli.errors import OutputExists, UnreadableInput, UnsupportedInput, UsageError
from realesr_cli.image_io import Image, write_image
from realesr_cli.options import SizeOptions, VideoOptions
from realesr_cli.reporting import Reporter, progress
from realesr_cli.upscaler import Upscaler
from realesr_cli.video.convert import to_pixels
from realesr_cli.video.probe import VideoInfo, probe
from realesr_cli.video.reader import Frame, FrameReader
from realesr_cli.video.streams import VIDEO_SUFFIXES, result_suffix
from realesr_cli.video.upscale import Film, plan_film, stream_frames, upright

_CHROMA_NAMES = {"yuv420p": "420jpeg", "yuv422p": "422", "yuv444p": "444", "gray": "mono"}
_DEEP_CHROMA_NAMES = {"yuv420p10le": "420p10", "yuv422p10le": "422p10", "yuv444p10le": "444p10"}


@dataclass(frozen=True, slots=True)
class VideoJob:
    """One film to enlarge."""

    id: int
    source: Path
    target: Path


def plan_jobs(
    inputs: Sequence[Path], output: Path | None, size: SizeOptions, native_scale: int, options: VideoOptions
) -> tuple[VideoJob, ...]:
    """Which file becomes which. `output` is a folder if it is one already, has no film's suffix, or for several inputs.

    Raises: UsageError (two inputs with one target, a target that is an input).
    """
    into_folder = output is not None and (
        output.is_dir() or len(inputs) > 1 or output.suffix.lower() not in VIDEO_SUFFIXES
    )
    if output is not None and into_folder and output.suffix.lower() in VIDEO_SUFFIXES and not output.is_dir():
        raise UsageError(f"-o {output} is the name of a file, but {len(inputs)} results need a folder")
    jobs = []
    for number, source in enumerate(inputs):
        if output is not None and not into_folder:
            target = output
        else:
            stem = f"{source.stem}{size.suffix(native_scale)}"
            target = (output or source.parent) / f"{stem}{_suffix(source, options)}"
        jobs.append(VideoJob(number, source, target))
    sources = {source.resolve(): source for source in inputs}
    seen: dict[Path, Path] = {}
    for job in jobs:
        place = job.target.resolve()
        if place in sources:
            raise UsageError(
                f"the result of {job.source} would replace the input {sources[place]}", hint="name a folder with -o"
            )
        if place in seen:
            raise UsageError(f"{seen[place]} and {job.source} would both become {job.target}", hint="use two calls")
        seen[place] = job.source
    return tuple(jobs)


def _suffix(source: Path, options: VideoOptions) -> str:
    try:
        return result_suffix(probe(source), options)
    except (UnreadableInput, UnsupportedInput):
        return source.suffix  # it fails by itself when its turn comes


def describe(film: Film, upscaler: Upscaler, reporter: Reporter, id: int) -> None:
    """Emits a `plan` event: sizes, encoder, streams, memory, and the time of the network alone."""
    info, encoding = film.info, film.encoding
    grey = np.random.default_rng(0).integers(0, 256, (info.height, info.width, 3), np.uint8)
    plan = upscaler.plan(grey, film.size)
    seconds = None if film.frames is None else plan.seconds * film.frames
    frames = "an unknown number of frames" if film.frames is None else f"about {film.frames} frames"
    streams = [f"{stream} copied" for stream in film.streams.copied]
    streams += [f"{stream} -> {encoder}" for stream, encoder in film.streams.converted]
    streams += [f"{stream} left out" for stream in film.streams.dropped]
    reporter.emit(
        "plan",
        id=id,
        input=str(info.path),
        output=str(film.target),
        width=encoding.width,
        height=encoding.height,
        frames=film.frames,
        encoder=encoding.encoder,
        pixel_format=encoding.pixel_format,
        seconds=seconds,
        memory_bytes=plan.memory_bytes,
        text=f"{info.path} ({info.width}x{info.height}) -> {film.target} ({encoding.width}x{encoding.height}, "
        f"{encoding.encoder}, {encoding.pixel_format}): {frames}, {plan.memory_bytes / 2**20:,.0f} MiB"
        + ("" if seconds is None else f", about {_duration(seconds)} if every frame differs")
        + "".join(f"\n  {line}" for line in streams),
    )


def write_frame(
    source: Path,
    at_s: Fraction,
    target: Path,
    upscaler: Upscaler,
    *,
    size: SizeOptions,
    options: VideoOptions,
    reporter: Reporter,
) -> None:
    """Enlarges the frame that is shown at `at_s` and writes it as a picture, turned upright.

    Raises: UsageError (beyond the end), OutputExists, and what reading, upscaling and writing raise.
    """
    if target.exists() and not options.overwrite:
        raise OutputExists(f"{target} is already there", hint="--overwrite replaces it", path=target)
    info = probe(source)
    reader = FrameReader(info, VideoOptions(deinterlace=options.deinterlace, hwaccel=options.hwaccel), reporter)
    tick = int((info.start + at_s) / reader.time_base)
    shown: Frame | None = None
    # one tick before the time, so that the place is sought for; the frame shown then may be older
    for frame in reader.frames(near=tick):
        if frame.pts > tick and shown is not None:
            break
        shown = frame
    if shown is None or (shown.pts < tick and info.ends_at is not None and info.start + at_s >= info.ends_at):
        raise UsageError(f"--frame {float(at_s):g} is beyond the end of {source}")
    height, width = size.target(info.height, info.width, upscaler.model.scale)
    pixels = upscaler(to_pixels(shown.image, *film_colour(info)), size=(height, width), label=source.name)
    write_image(target, Image(pixels=upright(pixels, info.display_matrix)), overwrite=options.overwrite)
    reporter.emit(
        "done", id=0, input=str(source), output=str(target), width=pixels.shape[1], height=pixels.shape[0], seconds=0.0
    )
