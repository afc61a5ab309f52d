"""`realesr eval`: what models make of a set of pictures, in numbers."""

from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from realesr_cli import weights
from realesr_cli.cli import flags
from realesr_cli.cli.run import Run, report_failure, running
from realesr_cli.errors import DeviceUnavailable, DiskFull, ModelError, RealesrError, UsageError
from realesr_cli.options import DeviceOptions, Precision, TileOptions
from realesr_cli.reporting import Reporter

if TYPE_CHECKING:
    from realesr_train.eval_set import Sample
    from realesr_train.evaluation import Contender

_HOPELESS = (UsageError, ModelError, DeviceUnavailable, DiskFull)
"""Errors that every further picture would meet as well."""


def evaluate(
    data: Annotated[
        Path, typer.Option("--data", help="Folder of low-resolution pictures; with --degradation, of clean ones.")
    ],
    models: Annotated[
        list[str] | None,
        typer.Option(
            "-m",
            "--model",
            help="Name, weights file, or nearest, bicubic or lanczos. Repeatable.",
            metavar="NAME|FILE",
        ),
    ] = None,
    hr: Annotated[
        Path | None, typer.Option("--hr", help="Folder of the clean pictures; _LR, _HR and x4 in names do not matter.")
    ] = None,
    degradation: Annotated[
        str | None,
        typer.Option("--degradation", help="Make low-resolution pictures of those in --data: bicubic, first, second."),
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Of --degradation first and second; default: 0.")] = None,
    metrics: Annotated[
        str | None,
        typer.Option(
            "--metrics",
            metavar="A,B,...",
            help="Of psnr, ssim, niqe, lpips (lpips-squeeze), lpips-alex, lpips-vgg, shift (of the mean colour, in "
            "levels of 255); default: psnr,ssim,niqe, and niqe where there are no clean pictures.",
        ),
    ] = None,
    lpips_weights: Annotated[
        list[str] | None,
        typer.Option("--lpips-weights", help="Backbone of LPIPS; default: fetched once. Repeatable.", metavar="FILE"),
    ] = None,
    border: Annotated[
        int | None, typer.Option("--border", help="Pixels cut off for PSNR and SSIM; default: the scale.")
    ] = None,
    scale: Annotated[
        int | None, typer.Option("-s", "--scale", help="Where no network tells it; default: of the pairs, or 4.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder for results.csv, results.json and sheet.png.")
    ] = None,
    device: flags.Device = "auto",
    precision: flags.Precision = "auto",
    threads: flags.Threads = None,
    tile: flags.Tile = None,
    keep_colours: flags.KeepColours = False,
    overwrite: flags.Overwrite = False,
    offline: flags.Offline = False,
    json: flags.Json = False,
    quiet: flags.Quiet = False,
    verbose: flags.Verbose = False,
) -> None:
    """Measure models on pairs of pictures, on clean pictures alone, or without reference, and say how certain their
    differences are.
    """
    with running(
        "eval", json=json, quiet=quiet, verbose=verbose, models=models, data=data, hr=hr, degradation=degradation
    ) as run:
        named = _labelled(models or [])
        device_options = DeviceOptions(device=device, precision=cast(Precision, precision), threads=threads)
        tile_options = TileOptions(size=tile, keep_colours=keep_colours)

        from realesr_train import evaluation

        options = evaluation.EvalOptions(
            data=data,
            hr=hr,
            degradation=degradation,
            seed=seed,
            metrics=None if metrics is None else tuple(name.strip() for name in metrics.split(",") if name.strip()),
            lpips_weights=tuple(lpips_weights or ()),
            border_px=border,
            scale=scale,
            output=output,
            overwrite=overwrite,
            offline=offline,
        )
        samples, unpaired = evaluation.find_samples(options, run.reporter)
        alone = len(samples) + len(unpaired) == 1
        for path, error in unpaired:
            _count_failure(run, error, path, alone=alone)

        def fail(sample: "Sample", error: RealesrError) -> None:
            hopeless = isinstance(error, _HOPELESS)
            _count_failure(run, error, sample.source, alone=alone or hopeless, id=sample.number)
            if hopeless:
                raise typer.Exit(run.exit_status)

        with ExitStack() as closing:
            contenders = [
                evaluation.interpolation(model)
                if model in evaluation.INTERPOLATIONS
                else _network(label, model, device_options, tile_options, offline=offline, run=run, closing=closing)
                for label, model in named.items()
            ]
            rows = evaluation.evaluate(
                options,
                samples,
                contenders,
                device=device_options.device,
                reporter=run.reporter,
                fail=fail,
            )
        run.summary["done"] = len(rows)


class _WithoutProgress:
    """Of the pictures of a set, not of the tiles of each, the progress is shown."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter

    def emit(self, event: str, **fields: Any) -> None:
        if event != "progress":
            self._reporter.emit(event, **fields)


def _labelled(models: list[str]) -> dict[str, str]:
    """Each model by a short name of its own: of a file the stem, with its folder where two are called alike.

    Raises: UsageError (no model, or the same one twice).
    """
    if not models:
        raise UsageError("say which models: -m NAME, once or more", hint="`realesr models list` shows names")
    stems = Counter(Path(model).stem for model in models if weights.is_file(model))
    labelled: dict[str, str] = {}
    for model in models:
        label = model
        if weights.is_file(model):
            path = Path(model)
            label = path.stem if stems[path.stem] == 1 else f"{path.absolute().parent.name}/{path.stem}"
        if label in labelled:
            raise UsageError(f"-m {model} and -m {labelled[label]} have one name", hint="give each model once")
        labelled[label] = model
    return labelled


def _network(
    label: str,
    model: str,
    device: DeviceOptions,
    tile: TileOptions,
    *,
    offline: bool,
    run: Run,
    closing: ExitStack,
) -> "Contender":
    """Raises: ModelError, DeviceUnavailable, UnsupportedInput."""
    from realesr_cli.models.architectures import load_model
    from realesr_cli.upscaler import Upscaler
    from realesr_train.evaluation import Contender

    loaded = load_model(model, offline=offline, reporter=run.reporter)
    upscaler = closing.enter_context(
        Upscaler(loaded, device=device, tile=tile, reporter=_WithoutProgress(run.reporter))
    )
    facts = {
        "name": loaded.name,
        "architecture": loaded.architecture,
        "scale": loaded.scale,
        "sha256": loaded.sha256,
        "device": str(upscaler.choice.device),
        "precision": upscaler.choice.precision,
        "keep_colours": tile.keep_colours,
    }
    run.reporter.emit("model", **facts, reason=upscaler.choice.reason)
    return Contender(label=label, scale=loaded.scale, facts=facts, enlarge=lambda pixels, scale: upscaler(pixels))


def _count_failure(run: Run, error: RealesrError, source: Path, *, alone: bool, id: int | None = None) -> None:
    """One picture decides the exit status by its own error; of several, status 1 says that some failed."""
    report_failure(run.reporter, error, id=id, source=source)
    run.summary["failed"] += 1
    run.exit_status = error.exit_status if alone else 1
