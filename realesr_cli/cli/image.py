"""`realesr image`: one or more picture files, enlarged."""

from pathlib import Path
from typing import Annotated, cast

import typer

from realesr_cli.cli import flags
from realesr_cli.cli.faces import face_options_of
from realesr_cli.cli.pictures import count_failure, fit_box, known_scale, present_inputs, upscalers
from realesr_cli.cli.run import running
from realesr_cli.errors import RealesrError, UsageError
from realesr_cli.naming import STANDARD, ImageJob, plan_jobs, without_finished
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
    width: flags.Width = None,
    height: flags.Height = None,
    fit: flags.Fit = None,
    denoise: flags.Denoise = None,
    blend: flags.Blend = None,
    tta: flags.Tta = False,
    keep_colours: flags.KeepColours = False,
    device: flags.Device = "auto",
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
        size = SizeOptions(scale=scale, width=width, height=height, fit=fit_box(fit))
        device_options = DeviceOptions(device=device, precision=cast(Precision, precision), threads=threads)
        tile_options = TileOptions(size=tile, self_ensemble=tta, keep_colours=keep_colours)
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
        if json and output == STANDARD:
            raise UsageError("--json and -o - both write to stdout", hint="give -o a file")
        sources = present_inputs(
            inputs, run, folder_hint="`realesr directory {} -o ...` takes folders", fail_fast=fail_fast, piped=True
        )

        from realesr_cli.image_jobs import HOPELESS, PictureOptions, describe_jobs, run_jobs

        accept = InputOptions(max_pixels=max_pixels)
        options = PictureOptions(size=size, output=output_options, accept=accept, faces=face_options)

        def fail(job: ImageJob, error: RealesrError) -> None:
            alone = len(inputs) == 1 or isinstance(error, HOPELESS)
            stop = fail_fast or isinstance(error, HOPELESS)
            count_failure(run, error, source=job.source, alone=alone, stop=stop, id=job.id)

        def done(job: ImageJob) -> None:
            run.summary["done"] += 1

        scale = known_scale(model)
        # where the scale is known, so are the results' names, before anything is loaded
        if skip_existing and not dry_run and scale is not None:
            jobs = plan_jobs(sources, output, size, scale, output_options)
            if all(job.target.is_file() for job in jobs):
                without_finished(jobs, run.reporter)
                run.summary["skipped"] = len(jobs)
                return
        with upscalers(
            model,
            [device_options],
            tile_options,
            run,
            denoise=denoise,
            blend=blend,
            faces=face_options,
            offline=offline,
            dry_run=dry_run,
        ) as (ready, faces):
            if not ready:
                return
            jobs = plan_jobs(sources, output, size, ready[0].model.scale, output_options)
            if skip_existing:
                planned = len(jobs)
                jobs = without_finished(jobs, run.reporter)
                run.summary["skipped"] = planned - len(jobs)
            if dry_run:
                describe_jobs(jobs, ready[0], options, reporter=run.reporter, fail=fail)
            else:
                run_jobs(jobs, ready, options, reporter=run.reporter, fail=fail, done=done, faces=faces)
