"""`realesr directory`: a folder of pictures, enlarged into another."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from realesr_cli.atomic import remove_leftovers
from realesr_cli.cli import flags
from realesr_cli.cli.faces import face_options_of
from realesr_cli.cli.pictures import WithoutParts, count_failure, fit_box, on_cluster, upscalers
from realesr_cli.cli.run import Run, running
from realesr_cli.errors import RealesrError, UnreadableInput, UsageError
from realesr_cli.options import (
    MAX_PIXELS,
    AlphaMode,
    DeviceOptions,
    InputOptions,
    OutputOptions,
    Precision,
    SizeOptions,
    TileOptions,
    parse_colour,
)
from realesr_cli.reporting import progress
from realesr_cli.tree import TreeOptions, parse_shard

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from realesr_cli.directory import Books, Folder
    from realesr_cli.image_jobs import PictureOptions
    from realesr_cli.models.architectures import LoadedModel
    from realesr_cli.naming import ImageJob
    from realesr_cli.pages.contact import ContactPage
    from realesr_cli.upscaler import Upscaler

_MOST_FAILURES_SHOWN = 100


def directory(
    folder: Annotated[Path, typer.Argument(help="Folder of pictures.", metavar="FOLDER")],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Folder of the results, with the same tree and names.")
    ],
    include: Annotated[
        list[str] | None,
        typer.Option("--include", help="Take only names or paths that fit, e.g. '*.jpg'; may be repeated."),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option("--exclude", help="Leave out names, paths or folders that fit; may be repeated."),
    ] = None,
    recursive: Annotated[
        bool, typer.Option("--recursive/--no-recursive", help="Folders in the folder as well.")
    ] = True,
    list_file: Annotated[
        Path | None, typer.Option("--list", help="Take the files that this file names, one a line; - is stdin.")
    ] = None,
    rename: Annotated[
        bool, typer.Option("--rename", help="Call results that would have one name a.jpg.webp and a.png.webp.")
    ] = False,
    shard: Annotated[
        str | None, typer.Option("--shard", help="Only the I-th of N parts, for several machines.", metavar="I/N")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Wait for pictures that arrive, until Ctrl-C.")] = False,
    watch_idle: Annotated[
        float | None, typer.Option("--watch-idle", help="Watch, until nothing has come for so many seconds.")
    ] = None,
    move_failed: Annotated[
        Path | None, typer.Option("--move-failed", help="Move files that cannot be read or used into this folder.")
    ] = None,
    sheet: Annotated[
        Path | None, typer.Option("--sheet", help="Write a page that shows all files before and after: NAME.html.")
    ] = None,
    model: flags.Model = "auto",
    scale: flags.Scale = None,
    width: flags.Width = None,
    height: flags.Height = None,
    fit: flags.Fit = None,
    denoise: flags.Denoise = None,
    blend: flags.Blend = None,
    tta: flags.Tta = False,
    keep_colours: flags.KeepColours = False,
    device: Annotated[
        str, typer.Option("--device", help="auto, cpu, cuda, cuda:N, mps or xpu; several as cuda:0,cuda:1.")
    ] = "auto",
    cluster: flags.Cluster = None,
    precision: flags.Precision = "auto",
    threads: flags.Threads = None,
    tile: flags.Tile = None,
    format: flags.Format = None,
    quality: flags.Quality = None,
    lossless: flags.Lossless = False,
    strip: flags.Strip = False,
    background: flags.Background = None,
    alpha_mode: flags.Alpha = "model",
    face_enhance: flags.FaceEnhance = False,
    face_strength: flags.FaceStrength = None,
    face_model: flags.FaceModel = None,
    only_center_face: flags.OnlyCenterFace = False,
    face_min_size: flags.FaceMinSize = None,
    face_threshold: flags.FaceThreshold = None,
    save_faces: flags.SaveFaces = None,
    accept_license: flags.AcceptLicense = False,
    max_pixels: flags.MaxPixels = MAX_PIXELS,
    overwrite: flags.Overwrite = False,
    skip_existing: Annotated[
        bool,
        typer.Option(
            "--skip-existing",
            help="Make results again only where source, model or options have changed; leave others alone.",
        ),
    ] = False,
    fail_fast: flags.FailFast = False,
    dry_run: flags.DryRun = False,
    offline: flags.Offline = False,
    json: flags.Json = False,
    quiet: flags.Quiet = False,
    verbose: flags.Verbose = False,
) -> None:
    """Enlarge all pictures of a folder. An interrupted run goes on where it stopped."""
    with running(
        "directory", json=json, quiet=quiet, verbose=verbose, model=model, device=device, precision=precision, tile=tile
    ) as run:
        run.reporter = WithoutParts(run.reporter)
        watching = watch or watch_idle is not None
        if watching and (dry_run or list_file is not None):
            raise UsageError(f"--watch and {'--dry-run' if dry_run else '--list'} exclude each other")
        if sheet is not None and (sheet.suffix.lower() not in (".html", ".htm") or dry_run):
            raise UsageError(
                "--sheet shows results, and --dry-run makes none" if dry_run else f"--sheet {sheet} must end in .html"
            )
        if watch_idle is not None and not 0 < watch_idle < 1e9:
            raise UsageError(f"--watch-idle must be a number of seconds above 0, not {watch_idle:g}")
        devices = [
            DeviceOptions(device=name, precision=cast(Precision, precision), threads=threads)
            for name in device.split(",")
        ]
        tile_options = TileOptions(size=tile, self_ensemble=tta, keep_colours=keep_colours)
        size = SizeOptions(scale=scale, width=width, height=height, fit=fit_box(fit))
        output_options = OutputOptions(
            overwrite=overwrite,
            skip_existing=skip_existing,
            format=format,
            quality=quality,
            lossless=lossless,
            strip=strip,
            background=None if background is None else parse_colour(background),
            alpha_mode=cast(AlphaMode, alpha_mode),
        )
        face_options = face_options_of(
            face_enhance,
            strength=face_strength,
            model=face_model,
            only_center_face=only_center_face or None,
            min_size_px=face_min_size,
            threshold=face_threshold,
            save_folder=save_faces,
            accept_licence=accept_license or None,
        )
        accept = InputOptions(max_pixels=max_pixels)
        tree = TreeOptions(recursive=recursive, include=tuple(include or ()), exclude=tuple(exclude or ()))
        part = None if shard is None else parse_shard(shard)
        listed = None if list_file is None else _lines(list_file)

        from realesr_cli.directory import Books, Folder, arrivals, pixel_settings, plan_directory
        from realesr_cli.image_jobs import PictureOptions, describe_jobs

        options = PictureOptions(size=size, output=output_options, accept=accept, faces=face_options)
        place = Folder(
            root=folder,
            output=output,
            tree=tree,
            listed=listed,
            shard=part,
            rename=rename,
            move_failed=move_failed,
            save_faces=save_faces,
        )
        tally = _Tally(run, place, fail_fast=fail_fast, dry_run=dry_run)
        planned = [] if watching else plan_directory(place, options, tally.unreadable)
        if not planned and not watching:
            run.reporter.emit("note", message=f"no pictures in {folder}" + (f" for --shard {shard}" if shard else ""))
            return
        workers = _here if cluster is None else partial(_there, cluster)
        with (
            _sheet(sheet, folder) as tally.sheet,
            workers(
                place,
                options,
                tally,
                run,
                devices,
                model=model,
                tile=tile_options,
                denoise=denoise,
                blend=blend,
                offline=offline,
                dry_run=dry_run,
            ) as hands,
        ):
            if hands is None:
                return
            settings = pixel_settings(hands.model, options, tile_options, devices[0], hands.face_settings)
            books = Books(place, options, settings, hands.model.scale, run.reporter)
            batches = arrivals(place, options, idle_s=watch_idle, failed=tally.failed) if watching else iter([planned])
            for jobs in batches:
                due = books.due(jobs, skipped=tally.skipped, failed=tally.failed)
                if dry_run and hands.upscaler is not None:
                    describe_jobs(due, hands.upscaler, options, reporter=run.reporter, fail=tally.failed)
                    continue
                remove_leftovers(job.target for job in due)
                with progress(run.reporter, len(due), "files", label=folder.name) as tally.advance:
                    hands.run(due, books)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Hands:
    """Who does the work: networks on devices of this machine, or workers of a cluster."""

    model: "LoadedModel"
    face_settings: dict[str, Any] | None
    run: "Callable[[Sequence[ImageJob], Books], None]"
    upscaler: "Upscaler | None" = None


@contextmanager
def _here(
    folder: "Folder",
    options: "PictureOptions",
    tally: "_Tally",
    run: Run,
    devices: Sequence[DeviceOptions],
    *,
    model: str,
    tile: TileOptions,
    dry_run: bool,
    **flags: Any,
) -> "Iterator[_Hands | None]":
    """Yields None where the model is not at hand and `dry_run` forbids to fetch it."""
    from realesr_cli.image_jobs import run_jobs

    with upscalers(model, devices, tile, run, faces=options.faces, dry_run=dry_run, **flags) as (ready, faces):

        def work(due: "Sequence[ImageJob]", books: "Books") -> None:
            run_jobs(
                due,
                ready,
                options,
                reporter=run.reporter,
                fail=tally.failed,
                done=tally.done,
                on_complete=books.complete,
                faces=faces,
            )

        if not ready:
            yield None
            return
        restoring = faces[0].settings() if faces else None
        yield _Hands(model=ready[0].model, face_settings=restoring, run=work, upscaler=ready[0])


@contextmanager
def _there(
    cluster: str,
    folder: "Folder",
    options: "PictureOptions",
    tally: "_Tally",
    run: Run,
    devices: Sequence[DeviceOptions],
    *,
    model: str,
    tile: TileOptions,
    dry_run: bool,
    **flags: Any,
) -> "Iterator[_Hands | None]":
    """As `_here`; raises UsageError for what speaks of this machine only."""
    if dry_run or len(devices) > 1:
        flag = "--dry-run" if dry_run else "--device with several names"
        raise UsageError(f"{flag} speaks of this machine, --cluster of others", hint="leave out one of them")
    from realesr_cli.cluster_jobs import run_jobs
    from realesr_cli.faces.enhance import face_settings

    with (
        on_cluster(cluster, model, devices[0], tile, run, faces=options.faces, **flags) as (loaded, hire),
        hire(inputs=[folder.root], outputs=[folder.output]) as workers,
    ):

        def work(due: "Sequence[ImageJob]", books: "Books") -> None:
            if due:
                run_jobs(workers, due, options, books, reporter=run.reporter, fail=tally.failed, done=tally.done)

        restoring = None
        if options.faces is not None and loaded.restorer is not None:
            restoring = face_settings(loaded.restorer, options.faces)
        yield _Hands(model=loaded.model, face_settings=restoring, run=work)


class _Tally:
    """Counts what became of each file, and says it."""

    def __init__(self, run: Run, folder: "Folder", *, fail_fast: bool, dry_run: bool) -> None:
        self._run = run
        self._folder = folder
        self._fail_fast = fail_fast
        self._dry_run = dry_run
        self._failures: list[dict[str, str]] = []
        run.summary["failures"] = self._failures
        self.advance: Callable[[float], None] = lambda count: None
        self.sheet: ContactPage | None = None

    def done(self, job: "ImageJob") -> None:
        self._run.summary["done"] += 1
        self.advance(1)
        self._show(job.source, job.target, "")

    def skipped(self, job: "ImageJob", reason: str) -> None:
        self._run.summary["skipped"] += 1
        self._run.reporter.emit("skipped", id=job.id, input=str(job.source), output=str(job.target), reason=reason)
        self._show(job.source, job.target, f"skipped: {reason}")

    def failed(self, job: "ImageJob", error: RealesrError) -> None:
        self.advance(1)
        self._count(job.source, error, job.id)

    def unreadable(self, path: Path, error: UnreadableInput) -> None:
        """A folder or a link that leads to no file."""
        self._count(path, error, None)

    def _count(self, source: Path, error: RealesrError, id: int | None) -> None:
        from realesr_cli.directory import move_failed
        from realesr_cli.image_jobs import HOPELESS

        if len(self._failures) < _MOST_FAILURES_SHOWN:
            self._failures.append({"input": str(source), "message": error.message})
        self._show(source, None, error.message)
        hopeless = isinstance(error, HOPELESS)
        count_failure(self._run, error, source=source, alone=hopeless, stop=hopeless, id=id)
        if not self._dry_run:
            move_failed(self._folder, source, error, self._run.reporter)
        if self._fail_fast:
            raise typer.Exit(self._run.exit_status)

    def _show(self, source: Path, result: Path | None, note: str) -> None:
        if self.sheet is not None:
            self.sheet.add(source, result, note)


def _sheet(target: Path | None, folder: Path) -> "AbstractContextManager[ContactPage | None]":
    """The page of `--sheet`, replacing that of an earlier run."""
    if target is None:
        return nullcontext()
    from realesr_cli.pages.contact import ContactPage

    return ContactPage(target, title=f"{folder.resolve().name} enlarged", overwrite=True)


def _lines(path: Path) -> tuple[str, ...]:
    """The lines of a list of files. Raises: UnreadableInput."""
    try:
        text = sys.stdin.read() if path == Path("-") else path.read_text(encoding="utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise UnreadableInput(f"cannot read the list {path}: {error.strerror or error}", path=path) from error
    return tuple(text.split("\n"))  # not splitlines(), which also splits at signs that names may hold
