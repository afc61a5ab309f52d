"""Which file becomes which: names of results, and collisions that are refused before any work."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from realesr_cli.atomic import NAME_BYTES
from realesr_cli.errors import UsageError
from realesr_cli.image_formats import FORMATS, WRITABLE_SUFFIXES, format_of, result_suffix
from realesr_cli.image_header import read_header
from realesr_cli.options import OutputOptions, SizeOptions
from realesr_cli.reporting import Reporter

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
    replaces: bool = False
    """The target may be there already and is replaced."""
    tree: Path = Path()
    """Where in the folder of all results the target lies; what else is made of the picture has the same place."""

    @property
    def named(self) -> Path:
        """The target, or a name for standard output that says its format."""
        return Path(f"stdout{self.suffix}") if self.target == STANDARD else self.target


def plan_jobs(
    inputs: Sequence[Path],
    output: Path | None,
    size: SizeOptions,
    native_scale: int,
    options: OutputOptions | None = None,
) -> tuple[ImageJob, ...]:
    """Which file becomes which; nothing is written, and nothing is read but the frames of GIF files counted.

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
        suffix = chosen or own_suffix(source)
        stem = "stdin" if source == STANDARD else source.stem
        name = file_name(stem, f"{size.suffix(native_scale)}{suffix}")
        target = output if output is not None and not into_folder else (output or source.parent) / name
        if chosen and target.suffix.lower() != chosen and format_of(target) != format_of(Path(name)):
            raise UsageError(f"--format {options.format} contradicts -o {target}", hint="give one of them")
        _check_loss(target, options)
        jobs.append(ImageJob(number, source, target, target.suffix))
    refuse_collisions(jobs)
    return tuple(jobs)


def suffix_for(source: Path, options: OutputOptions) -> str:
    """The suffix of the result of a file. Raises: UsageError (contradictions), UnsupportedInput."""
    suffix = _chosen_suffix(options) or own_suffix(source)
    _check_loss(Path(f"result{suffix}"), options)
    return suffix


def own_suffix(source: Path) -> str:
    """The suffix of a result whose format nobody chose."""
    if source.suffix.lower() != ".gif":
        return result_suffix(source)
    try:
        header = read_header(source.read_bytes())
    except OSError:
        header = None  # loading it will tell
    return result_suffix(source, animated=header is not None and header.frames > 1)


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


def file_name(stem: str, end: str) -> str:
    """`stem` + `end`, the stem cut where file systems would refuse the name."""
    room = NAME_BYTES - len(os.fsencode(end))
    return os.fsencode(stem)[:room].decode(errors="ignore") + end if len(os.fsencode(stem)) > room else stem + end


def refuse_collisions(jobs: Sequence[ImageJob]) -> None:
    """Raises: UsageError (two jobs with one target, a target that is a source)."""
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


def without_finished(jobs: Sequence[ImageJob], reporter: Reporter) -> tuple[ImageJob, ...]:
    """The jobs whose result is not there yet; a `skipped` event for each other one (`--skip-existing`)."""
    left = []
    for job in jobs:
        if job.target != STANDARD and job.target.is_file():
            reporter.emit("skipped", id=job.id, input=str(job.source), output=str(job.target))
        else:
            left.append(job)
    return tuple(left)
