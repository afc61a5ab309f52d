"""`realesr data`: low-resolution pictures made of clean ones, and what is measured in real ones."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from realesr_cli.cli.flags import Device, Json, Overwrite, Quiet, SkipExisting, Verbose
from realesr_cli.cli.run import Run, report_failure, running
from realesr_cli.errors import RealesrError, UsageError

app = typer.Typer(
    help="Make low-resolution pictures of clean ones; measure blur and noise in real ones.",
    rich_markup_mode=None,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

Scale = Annotated[int | None, typer.Option("-s", "--scale", help="Reduction, 1 to 8; default: 4.")]


@app.command()
def degrade(
    inputs: Annotated[list[Path], typer.Argument(metavar="IN...", help="Picture files, or folders of them.")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Folder for PNGs and draws.jsonl.")] = None,
    scale: Scale = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Another one degrades otherwise; default: 0.")] = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="TOML file with a [degradation] table; default: as published.")
    ] = None,
    order: Annotated[int | None, typer.Option("--order", help="Number of passes; 1 is the classical model.")] = None,
    legacy: Annotated[bool, typer.Option("--legacy", help="With the defects of the published code.")] = False,
    replay: Annotated[Path | None, typer.Option("--replay", help="A draws.jsonl: do exactly as it says.")] = None,
    contact_sheet: Annotated[
        Path | None, typer.Option("--contact-sheet", help="PNG file for 16 degradations of the first picture.")
    ] = None,
    overwrite: Overwrite = False,
    skip_existing: SkipExisting = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Degrade pictures as in training: blur, resize, noise and JPEG, drawn at random; sides are cut to multiples of
    the scale. draws.jsonl says what was drawn for each of them.
    """
    with running("data degrade", json=json, quiet=quiet, verbose=verbose, scale=scale, seed=seed) as run:
        _refuse_both(overwrite, skip_existing)
        if output is None and contact_sheet is None:
            raise UsageError("nothing to write", hint="give -o FOLDER, --contact-sheet FILE, or both")
        if replay is not None and (config, scale, seed, order, legacy, contact_sheet) != (None,) * 4 + (False, None):
            raise UsageError("--replay decides all draws", hint="leave out the other options, except -o")

        from realesr_train.config import legacy as with_defects
        from realesr_train.config import with_order
        from realesr_train.limits import check_scale, check_seed
        from realesr_train.recipes import load_config
        from realesr_train.train_config import TrainConfig

        settings = TrainConfig() if config is None else load_config(config)
        if settings.degradation.kind != "second_order" and (order is not None or legacy):
            raise UsageError(f'--order and --legacy are not for kind = "{settings.degradation.kind}"')
        chosen = settings.degradation if order is None else with_order(settings.degradation, order)
        chosen = with_defects(chosen) if legacy else chosen
        scale = check_scale(settings.scale if scale is None else scale)
        seed = check_seed(settings.run.seed if seed is None else seed)

        from realesr_train.data import degrade as engine

        if contact_sheet is not None:
            engine.contact_sheet(
                inputs, contact_sheet, chosen, scale=scale, seed=seed, overwrite=overwrite, reporter=run.reporter
            )
        if output is not None:
            jobs = _plan(run, inputs, output, skip_existing=skip_existing)
            engine.degrade_files(
                jobs,
                output,
                chosen,
                scale=scale,
                seed=seed,
                replay=replay,
                overwrite=overwrite,
                resume=skip_existing,
                reporter=run.reporter,
                **_heard(run, jobs),
            )


@app.command()
def lr(
    inputs: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Folders of pictures, or files.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the PNG files.")],
    kernel: Annotated[str, typer.Option("--kernel", help="bicubic, the antialiased one of MATLAB.")] = "bicubic",
    scale: Scale = None,
    overwrite: Overwrite = False,
    skip_existing: SkipExisting = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Reduce pictures for the classical benchmarks; sides are cut to multiples of the scale."""
    with running("data lr", json=json, quiet=quiet, verbose=verbose, kernel=kernel, scale=scale) as run:
        _refuse_both(overwrite, skip_existing)
        if kernel != "bicubic":
            raise UsageError(f"--kernel {kernel} is not known", hint="give bicubic")

        from realesr_train.data import degrade as engine
        from realesr_train.limits import check_scale

        jobs = _plan(run, inputs, output, skip_existing=skip_existing)
        engine.reduce_files(
            jobs,
            scale=check_scale(4 if scale is None else scale),
            overwrite=overwrite,
            reporter=run.reporter,
            **_heard(run, jobs),
        )


@app.command()
def prepare(
    inputs: Annotated[list[Path], typer.Argument(metavar="IN...", help="Folders, lists (.txt) or picture files.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The pack: a file NAME.pack.")],
    crop: Annotated[int | None, typer.Option("--crop", min=1, help="Side of crops; default: whole pictures.")] = None,
    stride: Annotated[int | None, typer.Option("--stride", help="From crop to crop; default: half a crop.")] = None,
    multi_scale: Annotated[bool, typer.Option("--multi-scale", help="Add reduced copies, as published.")] = False,
    encoded: Annotated[bool, typer.Option("--encoded", help="Keep the files' bytes: smaller, but slower.")] = False,
    overwrite: Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Pack pictures into one file for fast training: their pixels, or with --encoded the files as they are."""
    with running("data prepare", json=json, quiet=quiet, verbose=verbose, crop=crop, stride=stride) as run:
        from realesr_train.data import prepare as engine

        run.summary["done"] = engine.prepare(
            inputs,
            output,
            crop_px=crop,
            stride_px=stride,
            multi_scale=multi_scale,
            encoded=encoded,
            overwrite=overwrite,
            reporter=run.reporter,
            fail=_counting(run, alone=False),
        )


@app.command()
def check(
    inputs: Annotated[list[Path], typer.Argument(metavar="IN...", help="Folders, lists (.txt), packs or files.")],
    pairs: Annotated[
        list[Path] | None, typer.Option("--pairs", help="Their reduced pictures, with the same names.")
    ] = None,
    scale: Scale = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Read every picture of a data set, and say which cannot be used for training."""
    with running("data check", json=json, quiet=quiet, verbose=verbose, scale=scale) as run:
        from realesr_train.data import prepare as engine
        from realesr_train.limits import check_scale

        run.summary["done"] = engine.check(
            inputs,
            pairs or [],
            scale=check_scale(4 if scale is None else scale),
            reporter=run.reporter,
            fail=_counting(run, alone=False),
        )


@app.command()
def kernels(
    inputs: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Folders of photos, or files.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for a NAME.npz each, and sheet.png.")],
    scale: Annotated[int, typer.Option("-s", "--scale", help="Reduction that the kernels are for: 2 or 4.")] = 4,
    method: Annotated[
        str,
        typer.Option("--method", help="spectrum: a Gaussian; gan: KernelGAN from there; published: that alone."),
    ] = "spectrum",
    iterations: Annotated[
        int | None, typer.Option("--iterations", min=2, help="Steps of KernelGAN; default: 300, published 3000.")
    ] = None,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Photos that are estimated together.")] = 16,
    seed: Annotated[int, typer.Option("--seed", help="Of KernelGAN: another one draws other crops.")] = 0,
    device: Device = "auto",
    overwrite: Overwrite = False,
    skip_existing: SkipExisting = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Find the blur kernels of photos, for degradation.kind = "realsr"; photos are only read, sheet.png shows all."""
    with running("data kernels", json=json, quiet=quiet, verbose=verbose, scale=scale, method=method) as run:
        _refuse_both(overwrite, skip_existing)
        if scale not in (2, 4):
            raise UsageError(f"--scale {scale} is not known here", hint="give 2 or 4")
        if method not in ("spectrum", "gan", "published"):
            raise UsageError(f"--method {method} is not known", hint="give spectrum, gan or published")

        from realesr_cli.device import find_device
        from realesr_train.data import kernels as engine

        jobs = _plan(run, inputs, output, skip_existing=skip_existing, suffix=".npz")
        engine.estimate_files(
            jobs,
            output,
            scale=scale,
            method=cast(Any, method),
            iterations=iterations,
            batch=batch,
            device=find_device(device),
            seed=seed,
            overwrite=overwrite,
            reporter=run.reporter,
            **_heard(run, jobs),
        )


@app.command()
def noise(
    inputs: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Folders of photos, or files.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the patches (PNG), and sheet.png.")],
    patch: Annotated[int, typer.Option("--patch", min=8, help="Side of a patch, pixels.")] = 256,
    stride: Annotated[
        int | None, typer.Option("--stride", min=1, help="From patch to patch; default: a patch.")
    ] = None,
    max_variance: Annotated[
        float, typer.Option("--max-variance", min=0, help="Of the grey levels, 0 to 255; above, it is no flat patch.")
    ] = 20.0,
    min_mean: Annotated[
        float, typer.Option("--min-mean", min=0, help="Darker patches are left out; 50 for phones.")
    ] = 0.0,
    overwrite: Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Collect flat patches of photos, whose noise degradation.kind = "realsr" adds; sheet.png shows them."""
    with running("data noise", json=json, quiet=quiet, verbose=verbose, patch=patch, max_variance=max_variance) as run:
        from realesr_train.data import noise as engine

        jobs = _plan(run, inputs, output, skip_existing=False)
        count = engine.collect_files(
            jobs,
            output,
            patch_px=patch,
            stride_px=stride or patch,
            max_variance=max_variance,
            min_mean=min_mean,
            overwrite=overwrite,
            reporter=run.reporter,
            **_heard(run, jobs),
        )
        run.reporter.emit("plan", patches=count, text=f"{count} patches in {output}")


def _refuse_both(overwrite: bool, skip_existing: bool) -> None:
    if overwrite and skip_existing:
        raise UsageError("--overwrite and --skip-existing exclude each other", hint="give one of them")


def _plan(run: Run, inputs: list[Path], output: Path, *, skip_existing: bool, suffix: str = ".png") -> list[Any]:
    """The jobs of `realesr_train.data.degrade` that are to be done; counts those that are skipped."""
    from realesr_train.data import degrade as engine

    jobs = engine.plan(inputs, output, suffix)
    left = engine.unfinished(jobs, run.reporter) if skip_existing else jobs
    run.summary["skipped"] = len(jobs) - len(left)
    return left


def _counting(run: Run, *, alone: bool) -> Callable[[int, Path, RealesrError], None]:
    """One input decides the exit status by its own error; of several, status 1 says that some failed."""

    def fail(id: int, path: Path, error: RealesrError) -> None:
        report_failure(run.reporter, error, id=id, source=path)
        run.summary["failed"] += 1
        run.exit_status = error.exit_status if alone else 1

    return fail


def _heard(run: Run, jobs: list[Any]) -> dict[str, Any]:
    """`done` and `fail` of the functions that go through the jobs: they keep the run's counts and its exit status."""

    def done() -> None:
        run.summary["done"] += 1

    return {"done": done, "fail": _counting(run, alone=run.summary["skipped"] + len(jobs) == 1)}
