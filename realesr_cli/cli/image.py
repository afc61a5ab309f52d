"""`realesr image`: one or more picture files, enlarged."""

from pathlib import Path
from typing import Annotated, cast

import typer

from realesr_cli import auto, catalog, weights
from realesr_cli.cli import flags
from realesr_cli.cli.run import Run, report_failure, running
from realesr_cli.errors import ModelNotFound, RealesrError, UnreadableInput, UsageError
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

STANDARD = Path("-")


def image(
    inputs: Annotated[
        list[Path], typer.Argument(help="Picture files: JPEG, PNG, WebP, ...; - is stdin.", metavar="INPUT")
    ],
    output: flags.Output = None,
    model: flags.Model = "auto",
    scale: flags.Scale = None,
    width: Annotated[int | None, typer.Option("--width", help="Width of the result; the height follows.")] = None,
    height: Annotated[int | None, typer.Option("--height", help="Height of the result; the width follows.")] = None,
    fit: Annotated[
        str | None, typer.Option("--fit", help="Largest result that fits into this box.", metavar="WxH")
    ] = None,
    denoise: Annotated[
        float | None, typer.Option("--denoise", help="0 keeps grain, 1 removes it; for realesr-general-x4v3.")
    ] = None,
    tta: Annotated[
        bool, typer.Option("--tta", help="Mean over 8 turned and mirrored runs: slower, a bit better.")
    ] = False,
    device: flags.Device = "auto",
    precision: flags.Precision = "auto",
    threads: flags.Threads = None,
    tile: flags.Tile = None,
    format: Annotated[
        str | None, typer.Option("--format", help="png, jpg, webp, tif, avif, ...; default: as the input.")
    ] = None,
    quality: Annotated[
        int | None, typer.Option("--quality", help="1 to 100, for formats that lose detail; default: 95.")
    ] = None,
    lossless: Annotated[bool, typer.Option("--lossless", help="WebP, AVIF and JPEG 2000 without loss.")] = False,
    strip: Annotated[
        bool,
        typer.Option("--strip", help="Leave out EXIF, XMP, resolution, texts; not the profile: colours would change."),
    ] = False,
    background: Annotated[
        str | None,
        typer.Option("--background", help="Lay transparent pictures on white, black or #rrggbb.", metavar="COLOUR"),
    ] = None,
    alpha_mode: Annotated[
        str, typer.Option("--alpha-mode", help="Alpha through the network (model) or bicubic (resize).")
    ] = "model",
    max_pixels: Annotated[
        int, typer.Option("--max-pixels", help="Refuse pictures that claim to have more pixels.")
    ] = MAX_PIXELS,
    overwrite: flags.Overwrite = False,
    skip_existing: flags.SkipExisting = False,
    fail_fast: flags.FailFast = False,
    dry_run: flags.DryRun = False,
    offline: flags.Offline = False,
    json: flags.Json = False,
    quiet: flags.Quiet = False,
    verbose: flags.Verbose = False,
) -> None:
    """Enlarge pictures. The result lies beside its input as NAME_x4.jpg, unless -o says otherwise."""
    with running(
        "image", json=json, quiet=quiet, verbose=verbose, model=model, device=device, precision=precision, tile=tile
    ) as run:
        size = SizeOptions(scale=scale, width=width, height=height, fit=_box(fit))
        device_options = DeviceOptions(device=device, precision=cast(Precision, precision), threads=threads)
        tile_options = TileOptions(size=tile, self_ensemble=tta)
        accept = InputOptions(max_pixels=max_pixels)
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
        if json and output == STANDARD:
            raise UsageError("--json and -o - both write to stdout", hint="give -o a file")
        sources = _present(inputs, run, fail_fast)

        from realesr_cli.device import find_device
        from realesr_cli.image_jobs import ImageJob, describe_jobs, plan_jobs, run_jobs, without_finished
        from realesr_cli.models.architectures import load_model
        from realesr_cli.upscaler import Upscaler

        device_type = find_device(device).type
        reason = ""
        if model == "auto" and denoise is not None:
            model = "realesr-general-x4v3"
        elif model == "auto" and dry_run:
            model = auto.preferred_model(device_type)
        elif model == "auto":
            model, reason = auto.choose_model(device_type, offline=offline, reporter=run.reporter)
        if dry_run and (missing := _not_cached(model)):
            _announce_download(missing, run)
            return
        loaded = load_model(model, strength=denoise, offline=offline, reporter=run.reporter)
        jobs = plan_jobs(sources, output, size, loaded.scale, output_options)
        if skip_existing:
            planned = len(jobs)
            jobs = without_finished(jobs, run.reporter)
            run.summary["skipped"] = planned - len(jobs)

        def fail(job: ImageJob, error: RealesrError) -> None:
            _count_failure(run, error, source=job.source, alone=len(inputs) == 1, stop=fail_fast, id=job.id)

        def done(job: ImageJob) -> None:
            run.summary["done"] += 1

        with Upscaler(loaded, device=device_options, tile=tile_options, reporter=run.reporter) as upscaler:
            run.reporter.emit(
                "model",
                name=loaded.name,
                architecture=loaded.architecture,
                scale=loaded.scale,
                sha256=loaded.sha256,
                device=str(upscaler.choice.device),
                precision=upscaler.choice.precision,
                reason="; ".join(filter(None, (reason, upscaler.choice.reason))),
            )
            if dry_run:
                describe_jobs(jobs, upscaler, size=size, reporter=run.reporter, output=output_options, accept=accept)
            else:
                run_jobs(
                    jobs,
                    upscaler,
                    size=size,
                    output=output_options,
                    accept=accept,
                    reporter=run.reporter,
                    fail=fail,
                    done=done,
                )


def _present(inputs: list[Path], run: Run, fail_fast: bool) -> list[Path]:
    """The inputs that are files, each once; the others are reported, before anything slow begins."""
    present = []
    for path in dict.fromkeys(inputs):
        if path.is_file() or path == STANDARD:
            present.append(path)
            continue
        what, hint = ("is a folder", f"name its files: {path}/*.jpg") if path.is_dir() else ("does not exist", None)
        error = UnreadableInput(f"{path} {what}", hint=hint, path=path)
        _count_failure(run, error, source=path, alone=len(inputs) == 1, stop=fail_fast)
    if not present:
        raise typer.Exit(run.exit_status)
    return present


def _count_failure(
    run: Run, error: RealesrError, *, source: Path, alone: bool, stop: bool, id: int | None = None
) -> None:
    """One input decides the exit status by its own error; of several, status 1 says that some failed."""
    report_failure(run.reporter, error, id=id, source=source)
    run.summary["failed"] += 1
    run.exit_status = error.exit_status if alone else 1
    if stop:
        raise typer.Exit(run.exit_status)


def _not_cached(model: str) -> catalog.CatalogEntry | None:
    """The catalogue's entry of a model that would have to be fetched first."""
    if Path(model).exists() or weights.is_cached(model):
        return None
    try:
        return catalog.find(model)
    except ModelNotFound:
        return None  # loading it will say so


def _announce_download(entry: catalog.CatalogEntry, run: Run) -> None:
    size = f"{entry.size_bytes / 1e6:.1f} MB" if entry.size_bytes else "of unknown size"
    run.reporter.emit(
        "plan",
        model=entry.name,
        scale=entry.scale,
        download_bytes=entry.size_bytes,
        text=f"would first fetch {entry.name} (x{entry.scale}, {size}); "
        f"`realesr models download {entry.name}` does, then --dry-run shows tiles, memory and time",
    )


def _box(text: str | None) -> tuple[int, int] | None:
    """(width, height) of `--fit 3840x2160`."""
    if text is None:
        return None
    width, _, height = text.lower().partition("x")
    if not (width.isdigit() and height.isdigit()):
        raise UsageError(f"--fit {text} is not a size", hint="write width x height, e.g. --fit 3840x2160")
    return int(width), int(height)
