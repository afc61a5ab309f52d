"""`realesr image`: one or more picture files, enlarged."""

import os
from pathlib import Path
from typing import Annotated, cast

import typer

from realesr_cli import auto, catalog, weights
from realesr_cli.cli import flags
from realesr_cli.cli.faces import face_options_of, not_cached_for_faces
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
        list[Path],
        typer.Argument(
            help="Picture files (no folders): JPEG, PNG, WebP, TIFF, AVIF, ...; - is stdin.", metavar="INPUT"
        ),
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
        float | None, typer.Option("--denoise", help="From 0, keep grain, to 1, remove it; with realesr-general-x4v3.")
    ] = None,
    tta: Annotated[
        bool, typer.Option("--tta", help="Mean over 8 turned and mirrored runs: a bit better, 8 times slower.")
    ] = False,
    keep_colours: flags.KeepColours = False,
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
    face_enhance: flags.FaceEnhance = False,
    face_strength: flags.FaceStrength = None,
    face_model: flags.FaceModel = None,
    only_center_face: flags.OnlyCenterFace = False,
    face_min_size: flags.FaceMinSize = None,
    face_threshold: flags.FaceThreshold = None,
    save_faces: flags.SaveFaces = None,
    accept_license: flags.AcceptLicense = False,
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
        tile_options = TileOptions(size=tile, self_ensemble=tta, keep_colours=keep_colours)
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
        face_options = face_options_of(
            face_enhance,
            strength=face_strength,
            model=face_model,
            only_center_face=only_center_face or None,
            min_size_px=face_min_size,
            threshold=face_threshold,
            save_folder=save_faces,
        )
        if json and output == STANDARD:
            raise UsageError("--json and -o - both write to stdout", hint="give -o a file")
        sources = _present(inputs, run, fail_fast)

        from realesr_cli.device import find_device
        from realesr_cli.faces.enhance import FaceEnhancer, load_parts
        from realesr_cli.image_jobs import HOPELESS, ImageJob, describe_jobs, plan_jobs, run_jobs, without_finished
        from realesr_cli.models.architectures import load_model
        from realesr_cli.upscaler import Upscaler

        model, reason = _chosen_model(model, denoise, find_device(device).type, run, dry_run=dry_run, offline=offline)

        def fail(job: ImageJob, error: RealesrError) -> None:
            alone = len(inputs) == 1 or isinstance(error, HOPELESS)
            stop = fail_fast or isinstance(error, HOPELESS)
            _count_failure(run, error, source=job.source, alone=alone, stop=stop, id=job.id)

        def done(job: ImageJob) -> None:
            run.summary["done"] += 1

        if dry_run and (missing := _not_cached(model, denoise) + not_cached_for_faces(face_options)):
            _announce_download(missing, run)
            return
        scale = _known_scale(model)
        if skip_existing and scale is not None:  # the results' names are known before anything is loaded
            jobs = plan_jobs(sources, output, size, scale, output_options)
            if all(job.target.is_file() for job in jobs):
                without_finished(jobs, run.reporter)
                run.summary["skipped"] = len(jobs)
                return
        parts = None
        if face_options is not None and not dry_run:
            parts = load_parts(face_options, offline=offline, accept_licence=accept_license, reporter=run.reporter)
        loaded = load_model(model, strength=denoise, offline=offline, reporter=run.reporter)
        jobs = plan_jobs(sources, output, size, loaded.scale, output_options)
        if skip_existing:
            planned = len(jobs)
            jobs = without_finished(jobs, run.reporter)
            run.summary["skipped"] = planned - len(jobs)
        with Upscaler(loaded, device=device_options, tile=tile_options, reporter=run.reporter) as upscaler:
            upscaler.announce(reason)
            faces = None
            if face_options is not None and parts is not None:
                faces = FaceEnhancer(
                    *parts, options=face_options, device=device_options, enlarge=upscaler, reporter=run.reporter
                )
                run.reporter.emit("restorer", **faces.facts())
            if dry_run:
                describe_jobs(
                    jobs,
                    upscaler,
                    size=size,
                    output=output_options,
                    accept=accept,
                    reporter=run.reporter,
                    fail=fail,
                )
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
                    faces=faces,
                )


def _chosen_model(
    model: str, denoise: float | None, device_type: str, run: Run, *, dry_run: bool, offline: bool
) -> tuple[str, str]:
    """The model that `-m` means, and why if that was not said."""
    if model != "auto":
        return model, ""
    if denoise is not None:
        return "realesr-general-x4v3", ""
    if dry_run:
        return auto.likely_model(device_type, offline=offline), ""
    return auto.choose_model(device_type, offline=offline, reporter=run.reporter)


def _present(inputs: list[Path], run: Run, fail_fast: bool) -> list[Path]:
    """The inputs that are files, each once; the others are reported, before anything slow begins."""
    present = []
    for path in dict.fromkeys(inputs):
        # Path.is_file raises where a name is too long for the disk
        if path == STANDARD or os.path.isfile(path):  # noqa: PTH113
            present.append(path)
            continue
        is_folder = os.path.isdir(path)  # noqa: PTH112
        what, hint = ("is a folder", "name the pictures in it") if is_folder else ("does not exist", None)
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


def _known_scale(model: str) -> int | None:
    """The scale of a model of the catalogue; None for files and for names of the user's own."""
    try:
        return None if weights.is_file(model) else catalog.find(model).scale
    except ModelNotFound:
        return None


def _not_cached(model: str, denoise: float | None) -> list[catalog.CatalogEntry]:
    """The catalogue's entries that would have to be fetched first: of the model, and of its twin for --denoise."""
    if weights.is_file(model):
        return []
    try:
        entry = catalog.find(model)
    except ModelNotFound:
        return []  # a name of the user's own, or one that nobody knows: loading it will tell
    wanted = [entry]
    if denoise is not None and entry.companion is not None:
        wanted.append(catalog.find(entry.companion))
    return [entry for entry in wanted if not weights.is_cached(entry.name)]


def _announce_download(missing: list[catalog.CatalogEntry], run: Run) -> None:
    for entry in missing:
        size = f"{entry.size_bytes / 1e6:.1f} MB" if entry.size_bytes else "of unknown size"
        run.reporter.emit(
            "plan",
            model=entry.name,
            scale=entry.scale,
            download_bytes=entry.size_bytes,
            text=f"would first fetch {entry.name} (x{entry.scale}, {size}); "
            f"after `realesr models download {entry.name}`, --dry-run shows tiles, memory and time",
        )


def _box(text: str | None) -> tuple[int, int] | None:
    """(width, height) of `--fit 3840x2160`."""
    if text is None:
        return None
    width, _, height = text.lower().partition("x")
    if not (text.isascii() and width.isdigit() and height.isdigit()):
        raise UsageError(f"--fit {text} is not a size", hint="write width x height, e.g. --fit 3840x2160")
    return int(width), int(height)
