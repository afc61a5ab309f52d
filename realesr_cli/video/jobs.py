"""Which film becomes which file, what a run would take (`--dry-run`), and one frame or raw frames instead of a film."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import av
import numpy as np

from realesr_cli.atomic import output_error
from realesr_cli.errors import (
    DeviceUnavailable,
    DiskFull,
    ModelError,
    OutputExists,
    RealesrError,
    UnreadableInput,
    UnsupportedInput,
    UsageError,
)
from realesr_cli.faces.enhance import FaceEnhancer
from realesr_cli.faces.frames import FrameFaces
from realesr_cli.image_io import Image, write_image
from realesr_cli.options import SizeOptions, VideoOptions
from realesr_cli.reporting import Reporter, progress
from realesr_cli.upscaler import Upscaler
from realesr_cli.video.convert import to_pixels
from realesr_cli.video.film import Film, plan_film
from realesr_cli.video.frames import pixel_format, planes_of
from realesr_cli.video.probe import probe
from realesr_cli.video.reader import Frame, FrameReader
from realesr_cli.video.stream import stream_frames, upright
from realesr_cli.video.streams import VIDEO_SUFFIXES, result_suffix
from realesr_cli.video.upscale import Farm, check_kept_faces, keep_faces, upscale_video

HOPELESS = (ModelError, DeviceUnavailable, DiskFull)
"""Errors that every further film would meet as well: no use in going on."""

_Y4M_CHROMA = {
    "yuv420p": "420mpeg2",
    "yuv422p": "422",
    "yuv444p": "444",
    "yuv420p10le": "420p10",
    "yuv422p10le": "422p10",
    "yuv444p10le": "444p10",
}


@dataclass(frozen=True, slots=True)
class VideoJob:
    """One film to enlarge."""

    id: int
    source: Path
    target: Path


def plan_jobs(
    inputs: Sequence[Path], output: Path | None, size: SizeOptions, native_scale: int, options: VideoOptions
) -> tuple[VideoJob, ...]:
    """Which file becomes which. `output` is a folder if it is one already, has no suffix, or for several inputs.

    Raises: UsageError (two inputs with one target, a target that is an input).
    """
    into_folder = output is not None and (output.is_dir() or len(inputs) > 1 or not output.suffix)
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


def without_finished(
    jobs: Sequence[VideoJob], options: VideoOptions, reporter: Reporter
) -> tuple[tuple[VideoJob, ...], tuple[VideoJob, ...]]:
    """(jobs to do, jobs whose result is there already): all are to do unless `options.skip_existing`."""
    skipped = tuple(job for job in jobs if options.skip_existing and job.target.is_file())
    for job in skipped:
        reporter.emit("skipped", id=job.id, input=str(job.source), output=str(job.target))
    return tuple(job for job in jobs if job not in skipped), skipped


def run_jobs(
    jobs: Sequence[VideoJob],
    upscaler: Upscaler,
    *,
    size: SizeOptions,
    options: VideoOptions,
    reporter: Reporter,
    fail: Callable[[VideoJob, RealesrError], None],
    faces: FaceEnhancer | None = None,
    farm: Farm | None = None,
) -> tuple[int, int]:
    """(films written, those of them that differ from their source). `fail` is called for each that was not written.

    `farm` makes their pieces elsewhere.
    """
    done = differing = 0
    for job in jobs:
        try:
            _prepare_folder(job.target.parent)
            result = upscale_video(
                job.source,
                job.target,
                upscaler,
                size=size,
                options=options,
                reporter=reporter,
                id=job.id,
                faces=faces,
                farm=farm,
            )
        except RealesrError as error:
            fail(job, error)
        else:
            done += 1
            differing += bool(result.differences)
    return done, differing


def describe_jobs(
    jobs: Sequence[VideoJob],
    upscaler: Upscaler,
    *,
    size: SizeOptions,
    options: VideoOptions,
    reporter: Reporter,
    fail: Callable[[VideoJob, RealesrError], None],
    faces: FaceEnhancer | None = None,
) -> tuple[int, int]:
    """Says of each film what `run_jobs` would do, and refuses what that would refuse. Nothing is written."""
    for job in jobs:
        try:
            film = plan_film(job.source, job.target, upscaler, size=size, options=options, reporter=reporter)
            check_kept_faces(film.target, faces, options)
            _describe(film, upscaler, reporter, job.id)
        except RealesrError as error:
            fail(job, error)
    return 0, 0


def _prepare_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise output_error(error, folder) from error


def _describe(film: Film, upscaler: Upscaler, reporter: Reporter, id: int) -> None:
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
    faces: FaceEnhancer | None = None,
) -> None:
    """Enlarges the frame that is shown at `at_s` and writes it as a picture, turned upright.

    Raises: UsageError (beyond the end), OutputExists, and what reading, upscaling and writing raise.
    """
    if target.exists() and not options.overwrite:
        raise OutputExists(f"{target} is already there", hint="--overwrite replaces it", path=target)
    check_kept_faces(target, faces, options)
    info = probe(source)
    upscaler.check_memory(info.height, info.width, size.target(info.height, info.width, upscaler.model.scale))
    started = time.monotonic()
    frame = FrameReader(info, _reading(options), reporter).frame_at(info.start + at_s)
    if frame is None:
        raise UsageError(f"--frame {float(at_s):g} is beyond the end of {source}")
    pixels = to_pixels(planes_of(frame.image), info.pixel_format, info.colour)
    pixels = upright(pixels, info.display_matrix)
    height, width = size.target(pixels.shape[0], pixels.shape[1], upscaler.model.scale)
    result = upscaler(pixels, size=(height, width), label=source.name)
    if faces is not None:
        found = FrameFaces(faces)
        (result,) = found([result], pixels, (height, width))
        reporter.emit("faces", id=0, input=str(source), **found.facts())
        keep_faces(target, found, options)
    write_image(target, Image(pixels=result), overwrite=options.overwrite)
    reporter.emit(
        "done",
        id=0,
        input=str(source),
        output=str(target),
        width=width,
        height=height,
        seconds=round(time.monotonic() - started, 3),
    )


def pipe_frames(
    source: Path,
    upscaler: Upscaler,
    stream: BinaryIO,
    *,
    size: SizeOptions,
    options: VideoOptions,
    reporter: Reporter,
    faces: FaceEnhancer | None = None,
) -> None:
    """Writes the enlarged film to `stream` as raw frames with YUV4MPEG2 headers, which other tools read from a pipe.

    That format has one rate for all frames: use `options.fps` for films without a constant one.
    Raises: as `upscale_video`.
    """
    ffv1 = dataclasses.replace(options, codec="ffv1", encoder=None, crf=None, preset=None, encoder_options=())
    raw = dataclasses.replace(ffv1, pixel_format=options.pixel_format or _piped_format(probe(source).pixel_format))
    film = plan_film(source, source.with_name(f"{source.name}.piped.mkv"), upscaler, size=size, options=raw,
                     reporter=_WithoutStreams(reporter))  # fmt: skip
    sink = _Y4m(film, stream)
    frames = FrameReader(film.info, options, reporter).frames()
    found = None if faces is None else FrameFaces(faces)
    check_kept_faces(source, faces, options)
    with progress(reporter, film.frames, "frames", id=0, label=source.name) as advance:
        stream_frames(film, frames, upscaler, sink, on_frame=lambda spared: advance(1), faces=found)
    if found is not None:
        reporter.emit("frame_faces", id=0, input=str(source), **found.frame_facts())
        keep_faces(source, found, options)
    if sink.is_variable:
        reporter.emit(
            "warning",
            code="times",
            message=f"{source} has no constant frame rate, and raw frames have no times: sound will not fit",
            hint="--fps RATE makes it constant",
        )
    stream.flush()


class _WithoutStreams:
    """A reporter for raw frames, of which nobody expects that they bring sound along."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter

    def emit(self, event: str, **fields: Any) -> None:
        if fields.get("code") != "streams":
            self._reporter.emit(event, **fields)


class _Y4m:
    """Raw frames with a line of text before each. Source: yuv4mpeg(5) of the MJPEG tools."""

    def __init__(self, film: Film, stream: BinaryIO) -> None:
        encoding = film.encoding
        self._stream = stream
        self._last: Frame | None = None
        self._step: int | None = None
        self.is_variable = False
        aspect = encoding.sample_aspect or Fraction(1)
        colours = "FULL" if encoding.colour.full_range else "LIMITED"
        header = (
            f"YUV4MPEG2 W{encoding.width} H{encoding.height} F{encoding.frame_rate.numerator}:"
            f"{encoding.frame_rate.denominator} Ip A{aspect.numerator}:{aspect.denominator} "
            f"C{_Y4M_CHROMA[encoding.pixel_format]} XCOLORRANGE={colours}\n"
        )
        self._write(header.encode("ascii"))

    def write(self, image: av.VideoFrame, frame: Frame, faces: list[Any]) -> None:
        if self._last is not None:
            step = frame.pts - self._last.pts
            self.is_variable |= self._step is not None and abs(step - self._step) > max(1, self._step // 20)
            self._step = self._step or step
        self._last = frame
        self._write(b"FRAME\n")
        for plane in planes_of(image):
            self._write(np.ascontiguousarray(plane).tobytes())

    def _write(self, data: bytes) -> None:
        self._stream.write(data)


def _piped_format(source: str) -> str:
    """What of the formats that have a name there holds all of the source."""
    form = pixel_format(source)
    chroma = form.chroma if form.chroma in ("420", "422", "444") else "444"
    return f"yuv{chroma}p" + ("10le" if form.bit_depth > 8 else "")


def _reading(options: VideoOptions) -> VideoOptions:
    """Only what says how frames are read."""
    return VideoOptions(deinterlace=options.deinterlace, hwaccel=options.hwaccel)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
