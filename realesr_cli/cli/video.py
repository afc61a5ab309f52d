"""`realesr video`: films, enlarged."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from realesr_cli.cli import flags
from realesr_cli.cli.faces import face_options_of
from realesr_cli.cli.pictures import (
    WithoutParts,
    count_failure,
    fit_box,
    known_scale,
    on_cluster,
    present_inputs,
    upscalers,
)
from realesr_cli.cli.run import Run, running
from realesr_cli.errors import RealesrError, UsageError
from realesr_cli.options import (
    DeviceOptions,
    OnUnsupported,
    Precision,
    SizeOptions,
    TileOptions,
    VideoCodec,
    VideoOptions,
    parse_pair,
    parse_rate,
    parse_time,
)

if TYPE_CHECKING:
    from realesr_cli.ready import Loaded
    from realesr_cli.video.jobs import VideoJob


def video(
    inputs: Annotated[
        list[Path], typer.Argument(help="Film files: MP4, MKV, MOV, WebM, TS, AVI, ...", metavar="INPUT")
    ],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="File (.mp4 .mkv .mov .webm .ts) or folder; default: beside the input."),
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
    device: flags.Device = "auto",
    cluster: flags.Cluster = None,
    precision: flags.Precision = "auto",
    threads: flags.Threads = None,
    tile: flags.Tile = None,
    codec: Annotated[
        str | None, typer.Option("--codec", help="h264, hevc, av1, prores or ffv1; default: by container and depth.")
    ] = None,
    crf: Annotated[
        float | None, typer.Option("--crf", help="Quality on the encoder's scale, lower is better; default: 17 to 24.")
    ] = None,
    preset: Annotated[str | None, typer.Option("--preset", help="The encoder's word for its speed, e.g. slow.")] = None,
    encoder: Annotated[
        str | None, typer.Option("--encoder", help="FFmpeg's name, e.g. hevc_nvenc; software where it does not work.")
    ] = None,
    encoder_option: Annotated[
        list[str] | None, typer.Option("--encoder-option", help="Passed on to the encoder.", metavar="KEY=VALUE")
    ] = None,
    pix_fmt: Annotated[
        str | None, typer.Option("--pix-fmt", help="E.g. yuv420p10le; default: depth and chroma of the source.")
    ] = None,
    hwaccel: Annotated[
        str | None, typer.Option("--hwaccel", help="Decode on cuda, vaapi, qsv, videotoolbox, ...; else the CPU.")
    ] = None,
    fps: Annotated[
        str | None, typer.Option("--fps", help="Constant frame rate; default: each frame at its own time.")
    ] = None,
    start: Annotated[str | None, typer.Option("--start", help="Begin here: seconds, or h:mm:ss.")] = None,
    end: Annotated[str | None, typer.Option("--end", help="End here.")] = None,
    preview: Annotated[
        float | None, typer.Option("--preview", help="Only so many seconds from the middle.", metavar="SECONDS")
    ] = None,
    frame: Annotated[
        tuple[str, Path] | None,
        typer.Option("--frame", help="Only the frame at TIME, as a picture.", metavar="TIME PICTURE"),
    ] = None,
    pipe: Annotated[bool, typer.Option("--pipe", help="Raw frames (YUV4MPEG2) to stdout, for other tools.")] = False,
    deinterlace: Annotated[
        str, typer.Option("--deinterlace", help="auto (where the film says so), off, or an FFmpeg filter.")
    ] = "auto",
    on_unsupported: Annotated[
        str,
        typer.Option("--on-unsupported", help="Streams that the container cannot hold: error, drop or transcode."),
    ] = "error",
    face_enhance: flags.FaceEnhance = False,
    face_strength: flags.FaceStrength = None,
    face_model: flags.FaceModel = None,
    only_center_face: flags.OnlyCenterFace = False,
    face_min_size: flags.FaceMinSize = None,
    face_threshold: flags.FaceThreshold = None,
    save_faces: flags.SaveFaces = None,
    accept_license: flags.AcceptLicense = False,
    no_resume: Annotated[
        bool, typer.Option("--no-resume", help="One pass, of which a killed run leaves nothing.")
    ] = False,
    overwrite: flags.Overwrite = False,
    skip_existing: flags.SkipExisting = False,
    fail_fast: flags.FailFast = False,
    dry_run: flags.DryRun = False,
    offline: flags.Offline = False,
    json: flags.Json = False,
    quiet: flags.Quiet = False,
    verbose: flags.Verbose = False,
) -> None:
    """Enlarge films. Sound, subtitles and all else are kept, and a killed run goes on with the same command."""
    with running(
        "video", json=json, quiet=quiet, verbose=verbose, model=model, device=device, precision=precision, tile=tile
    ) as run:
        size = SizeOptions(scale=scale, width=width, height=height, fit=fit_box(fit))
        device_options = DeviceOptions(device=device, precision=cast(Precision, precision), threads=threads)
        tile_options = TileOptions(size=tile, self_ensemble=tta, keep_colours=keep_colours)
        options = VideoOptions(
            overwrite=overwrite,
            skip_existing=skip_existing,
            codec=cast("VideoCodec | None", codec),
            encoder=encoder,
            crf=crf,
            preset=preset,
            encoder_options=tuple(map(parse_pair, encoder_option or ())),
            pixel_format=pix_fmt,
            hwaccel=hwaccel,
            fps=None if fps is None else parse_rate(fps),
            start=None if start is None else parse_time(start),
            end=None if end is None else parse_time(end),
            preview_s=None if preview is None else parse_time(f"{preview:f}"),
            deinterlace=deinterlace,
            on_unsupported=cast(OnUnsupported, on_unsupported),
            resume=not no_resume,
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
        frame_s = None if frame is None else parse_time(frame[0])
        _check_kinds(inputs, output, frame, pipe=pipe, json=json)
        if cluster is not None:
            _check_cluster(
                {"--frame": frame, "--pipe": pipe, "--dry-run": dry_run, "--no-resume": no_resume},
                faces=face_enhance,
            )
        sources = present_inputs(inputs, run, folder_hint="name the films in it", fail_fast=fail_fast)
        if frame is None:
            run.reporter = WithoutParts(run.reporter)

        from realesr_cli.video import jobs

        native_scale = known_scale(model)
        if skip_existing and native_scale is not None and frame is None and not pipe:
            planned = jobs.plan_jobs(sources, output, size, native_scale, options)
            if all(job.target.is_file() for job in planned):
                run.summary["skipped"] = len(jobs.without_finished(planned, options, run.reporter)[1])
                return

        def fail(job: jobs.VideoJob, error: RealesrError) -> None:
            stop = fail_fast or isinstance(error, jobs.HOPELESS)
            alone = len(inputs) == 1 or isinstance(error, jobs.HOPELESS)
            count_failure(run, error, source=job.source, alone=alone, stop=stop, id=job.id)

        if cluster is not None:
            with on_cluster(
                cluster,
                model,
                device_options,
                tile_options,
                run,
                denoise=denoise,
                blend=blend,
                faces=None,
                offline=offline,
                for_films=True,
            ) as (loaded, hire):
                planned = jobs.plan_jobs(sources, output, size, loaded.model.scale, options)
                planned, skipped = jobs.without_finished(planned, options, run.reporter)
                run.summary["skipped"] = len(skipped)
                if planned:
                    run.summary["done"], differing = _farmed(
                        planned, loaded, hire, tile_options, run, size=size, options=options, fail=fail
                    )
                    run.exit_status = run.exit_status or int(bool(differing))
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
            for_films=True,
        ) as (ready, enhancers):
            if not ready:
                return
            (upscaler,), faces = ready, enhancers[0] if enhancers else None
            if frame is not None and frame_s is not None:
                jobs.write_frame(
                    sources[0],
                    frame_s,
                    frame[1],
                    upscaler,
                    size=size,
                    options=options,
                    reporter=run.reporter,
                    faces=faces,
                )
                run.summary["done"] = 1
                return
            if pipe:
                jobs.pipe_frames(
                    sources[0],
                    upscaler,
                    sys.stdout.buffer,
                    size=size,
                    options=options,
                    reporter=run.reporter,
                    faces=faces,
                )
                run.summary["done"] = 1
                return

            planned = jobs.plan_jobs(sources, output, size, upscaler.model.scale, options)
            planned, skipped = jobs.without_finished(planned, options, run.reporter)
            run.summary["skipped"] = len(skipped)
            run_films = jobs.describe_jobs if dry_run else jobs.run_jobs
            done, differing = run_films(
                planned, upscaler, size=size, options=options, reporter=run.reporter, fail=fail, faces=faces
            )
            run.summary["done"] = done
            if differing:
                run.exit_status = 1


def _farmed(
    planned: "Sequence[VideoJob]",
    loaded: "Loaded",
    hire: Callable[..., Any],
    tile: TileOptions,
    run: Run,
    *,
    size: SizeOptions,
    options: VideoOptions,
    fail: "Callable[[VideoJob, RealesrError], None]",
) -> tuple[int, int]:
    """(films made on a cluster, those of them that differ from their source)."""
    from realesr_cli.cluster_jobs import farm
    from realesr_cli.upscaler import Upscaler
    from realesr_cli.video import jobs

    folders = dict.fromkeys(job.target.parent for job in planned)
    with hire(inputs=[job.source for job in planned], outputs=folders) as workers:
        # it computes nothing: it knows sizes, and what the work of an earlier run must agree with
        precision = cast(Precision, workers.first().precision)
        with Upscaler(loaded.model, device=DeviceOptions(device="cpu", precision=precision), tile=tile) as planner:
            pieces = farm(workers, options, run.reporter)
            return jobs.run_jobs(
                planned, planner, size=size, options=options, reporter=run.reporter, fail=fail, farm=pieces
            )


def _check_cluster(given: dict[str, object], *, faces: bool) -> None:
    """Raises: UsageError where --cluster contradicts the rest."""
    if faces:
        raise UsageError(
            "--cluster cuts films into pieces, and --face-enhance follows faces from each piece into the next",
            hint="leave out one of them",
        )
    wrong = next((flag for flag, value in given.items() if value), None)
    if wrong is not None:
        raise UsageError(f"{wrong} and --cluster exclude each other", hint="leave out one of them")


def _check_kinds(
    inputs: list[Path], output: Path | None, frame: tuple[str, Path] | None, *, pipe: bool, json: bool
) -> None:
    """Raises: UsageError where --frame or --pipe contradict the rest."""
    if frame is None and not pipe:
        return
    name = "--pipe" if pipe else "--frame"
    if pipe and frame is not None:
        raise UsageError("--pipe and --frame exclude each other", hint="give one of them")
    if len(inputs) > 1:
        raise UsageError(f"{name} takes one film, not several")
    if output is not None:
        raise UsageError(f"{name} says where the result goes; -o contradicts it", hint="leave out -o")
    if pipe and json:
        raise UsageError("--json and --pipe both write to stdout", hint="leave out --json")
