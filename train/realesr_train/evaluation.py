"""Models over a set of pictures: every model's result for each of them, measured while the next one is computed."""

import math
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import cv2
from torch import Tensor

from realesr_cli import __version__
from realesr_cli.atomic import output_error
from realesr_cli.device import find_device
from realesr_cli.errors import OutputExists, RealesrError, UnsupportedInput, UsageError
from realesr_cli.pipeline import run_pipeline
from realesr_cli.reporting import Reporter, progress
from realesr_train import evaluation_report as report
from realesr_train.contact_sheet import ContactSheet, chosen
from realesr_train.data.folder import warn
from realesr_train.degradation.resize import imresize
from realesr_train.eval_set import (
    DEGRADATIONS,
    Degradation,
    Failed,
    Pixels,
    Sample,
    clean_only,
    degrader,
    guess_scale,
    load,
    paired,
    reduced_only,
)
from realesr_train.evaluation_report import Row
from realesr_train.limits import check_scale, check_seed
from realesr_train.measuring import Metrics, Values, check_names, measurer, open_lpips, plain
from realesr_train.validation import to_pixels, to_tensor

Enlarge = Callable[[Pixels, int], Pixels]
"""(H, W, 3) uint8 and the scale -> (scale * H, scale * W, 3) uint8."""

TABLE, NUMBERS, SHEET = "results.csv", "results.json", "sheet.png"
"""Names of the files in the output folder."""

INTERPOLATIONS = ("nearest", "bicubic", "lanczos")
"""What can stand in the place of a model."""

_USUAL_SCALE = 4
_SEEDED = ("first", "second")


@dataclass(frozen=True, kw_only=True, slots=True)
class Contender:
    """A model, or what stands in its place."""

    label: str
    enlarge: Enlarge
    scale: int | None = None
    """None: any."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """For results.json."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalOptions:
    """What is measured, and of which pictures."""

    data: Path
    """Folder of low-resolution pictures; with `degradation`, of clean ones."""
    hr: Path | None = None
    """Folder of the clean pictures that belong to them."""
    degradation: str | None = None
    """Makes the low-resolution pictures: one of bicubic, first, second."""
    seed: int | None = None
    """Of first and second; None: 0."""
    metrics: tuple[str, ...] | None = None
    """None: psnr, ssim and niqe, or niqe alone where there are no clean pictures."""
    lpips_weights: tuple[str, ...] = ()
    """Backbones of LPIPS, as files or names; None: of the catalogue."""
    border_px: int | None = None
    """Cut off for PSNR and SSIM; None: the scale."""
    scale: int | None = None
    """Where no network tells it; None: of the pairs, or 4."""
    output: Path | None = None
    """Folder for the table, the numbers and the sheet."""
    overwrite: bool = False
    offline: bool = False

    def __post_init__(self) -> None:
        if self.hr is not None and self.degradation is not None:
            raise UsageError("--hr and --degradation exclude each other", hint="--degradation makes pairs of --data")
        if self.degradation not in (None, *DEGRADATIONS):
            raise UsageError(f"--degradation {self.degradation} is not one of {', '.join(DEGRADATIONS)}")
        if self.seed is not None and self.degradation not in _SEEDED:
            raise UsageError("--seed is for --degradation first or second", hint="leave it out")
        check_seed(self.seed or 0)
        if self.scale is not None:
            check_scale(self.scale)
        if self.border_px is not None and self.border_px < 0:
            raise UsageError(f"--border must be 0 or more, not {self.border_px}")
        check_names(self.names, has_reference=self.has_reference)
        if self.output is not None and not self.overwrite:
            for name in (TABLE, NUMBERS, SHEET):
                if (self.output / name).exists():
                    raise OutputExists(f"{self.output / name} is already there", hint="--overwrite replaces it")

    @property
    def has_reference(self) -> bool:
        return self.hr is not None or self.degradation is not None

    @property
    def used_seed(self) -> int | None:
        """None where nothing is drawn."""
        return (self.seed or 0) if self.degradation in _SEEDED else None

    @property
    def names(self) -> tuple[str, ...]:
        """Of the metrics."""
        usual = ("psnr", "ssim", "niqe") if self.has_reference else ("niqe",)
        return tuple(dict.fromkeys(usual if self.metrics is None else self.metrics))


def interpolation(name: str) -> Contender:
    """One of `INTERPOLATIONS`: pixels repeated; as MATLAB's imresize; OpenCV's Lanczos filter of 8x8 pixels."""

    def nearest(pixels: Pixels, scale: int) -> Pixels:
        return pixels.repeat(scale, 0).repeat(scale, 1)

    def bicubic(pixels: Pixels, scale: int) -> Pixels:
        height, width = pixels.shape[:2]
        return to_pixels(imresize(to_tensor(pixels), size=(height * scale, width * scale)))

    def lanczos(pixels: Pixels, scale: int) -> Pixels:
        return cast(Pixels, cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_LANCZOS4))

    return Contender(label=name, enlarge={"nearest": nearest, "bicubic": bicubic, "lanczos": lanczos}[name])


def find_samples(options: EvalOptions, reporter: Reporter) -> tuple[tuple[Sample, ...], list[Failed]]:
    """The pictures of the set, and those that have no partner. Raises: UnreadableInput (there are none)."""
    if options.hr is not None:
        return paired(options.data, options.hr, reporter)
    return (reduced_only if options.degradation is None else clean_only)(options.data), []


def common_scale(contenders: Sequence[Contender], samples: Sequence[Sample], options: EvalOptions) -> int:
    """How many times all models enlarge. Raises: UsageError (not all the same)."""
    scales = {one.label: one.scale for one in contenders if one.scale is not None}
    if options.scale is not None:
        scales["--scale"] = options.scale
    if len(set(scales.values())) > 1:
        named = ", ".join(f"{label} x{scale}" for label, scale in scales.items())
        raise UsageError(f"the scales differ: {named}", hint="compare models of one scale at a time")
    return next(iter(scales.values()), None) or guess_scale(samples) or _USUAL_SCALE


def evaluate(
    options: EvalOptions,
    samples: Sequence[Sample],
    contenders: Sequence[Contender],
    *,
    device: str,
    reporter: Reporter,
    fail: Callable[[Sample, RealesrError], None],
) -> list[Row]:
    """The numbers of each picture that went through all models, reported and written as `options` say.

    LPIPS is computed on `device`. `fail` hears of each picture that failed, and may raise.

    Raises: UsageError (scales that differ), ModelError (LPIPS), OutputError.
    """
    scale = common_scale(contenders, samples, options)
    metrics = Metrics(
        names=options.names,
        border_px=scale if options.border_px is None else options.border_px,
        networks=open_lpips(
            options.names,
            options.lpips_weights,
            device=find_device(device),
            offline=options.offline,
            reporter=reporter,
        ),
    )
    degrade = None
    if options.degradation is not None:
        degrade = degrader(cast(Degradation, options.degradation), scale=scale, seed=options.used_seed or 0)
    if options.output is not None:
        _make_folder(options.output)
    networks = [one.label for one in contenders if one.scale is not None]
    sheet = None if options.output is None else ContactSheet(scale, networks)
    models = [one.label for one in contenders]
    on_sheet = set() if sheet is None else {samples[place].number for place in chosen(len(samples))}

    def enlarge(sample: Sample, pair: tuple[Pixels, Pixels | None]) -> Generator[Pixels, None, None]:
        for contender in contenders:
            yield contender.enlarge(pair[0], scale)

    def measure(sample: Sample, pair: tuple[Pixels, Pixels | None], results: Iterator[Pixels]) -> Row:
        low, clean = pair
        measure_one = measurer(metrics, low, clean)
        values: dict[str, Values] = {}
        kept: dict[str, Pixels] = {}
        for model, result in zip(models, results, strict=True):
            values[model] = measure_one(result)
            if sample.number in on_sheet:
                kept[model] = result
        if any(math.isnan(numbers.get("niqe", 0.0)) for numbers in values.values()):
            message = f"{sample.source}: no NIQE, which needs two blocks of 96x96 pixels that are not flat"
            warn(reporter, "niqe", message)
        if sheet is not None and kept:
            sheet.add(sample.name, low, kept, clean, values)
        return Row(sample=sample, values=values)

    rows: list[Row] = []
    with progress(reporter, len(samples), "files", label="evaluating") as advance:

        def done(sample: Sample, row: Row) -> None:
            rows.append(row)
            for model, values in row.values.items():
                reporter.emit(
                    "metrics", dataset=str(options.data), picture=sample.name, model=model, values=plain(values)
                )
            advance(1)

        def failed(sample: Sample, error: RealesrError) -> None:
            fail(sample, error)
            advance(1)

        run_pipeline(
            samples,
            load=partial(_read, metrics=metrics, scale=scale, degrade=degrade, reporter=reporter),
            work=enlarge,
            save=measure,
            on_done=done,
            on_error=failed,
        )
    if rows:
        _publish(options, rows, contenders, metrics, scale, reporter)
        if sheet is not None and options.output is not None:
            sheet.write(options.output / SHEET)
    return rows


def _publish(
    options: EvalOptions,
    rows: Sequence[Row],
    contenders: Sequence[Contender],
    metrics: Metrics,
    scale: int,
    reporter: Reporter,
) -> None:
    """Means and differences as events, as a table and, with the numbers of each picture, as files."""
    models, dataset = [one.label for one in contenders], str(options.data)
    averages, gaps = report.means(rows, models, metrics.keys), report.differences(rows, models, metrics.keys)
    for model in models:
        reporter.emit("metrics", dataset=dataset, picture=None, model=model, values=plain(averages[model]))
    for gap in gaps:
        reporter.emit("difference", dataset=dataset, **asdict(gap))
    if options.output is not None:
        facts = {
            "realesr": __version__,
            "data": dataset,
            "hr": None if options.hr is None else str(options.hr),
            "degradation": options.degradation,
            "seed": options.used_seed,
            "scale": scale,
            "border_px": metrics.border_px,
            "models": {one.label: dict(one.facts) for one in contenders},
        }
        report.write_csv(options.output / TABLE, rows, models, metrics.keys)
        report.write_json(options.output / NUMBERS, rows, models, metrics.keys, gaps, facts)
    made = f", {options.degradation}" if options.degradation else ""
    made += f" with seed {options.used_seed}" if options.used_seed is not None else ""
    title = f"{dataset}: {len(rows)} pictures, x{scale}{made}"
    text = report.table_text(rows, models, metrics.keys, gaps, title)
    output = None if options.output is None else str(options.output)
    reporter.emit("evaluated", dataset=dataset, pictures=len(rows), output=output, text=text)


def _read(
    sample: Sample, metrics: Metrics, scale: int, degrade: Callable[[Tensor, int], Tensor] | None, reporter: Reporter
) -> tuple[Pixels, Pixels | None]:
    """As `load`; a picture that the metrics cannot be taken of is refused here, before the work."""
    low, clean = load(sample, scale=scale, degrade=degrade, reporter=reporter)
    if clean is not None and min(clean.shape[:2]) < metrics.smallest_px:
        raise UnsupportedInput(
            f"{sample.hr} is too small: {clean.shape[1]}x{clean.shape[0]} pixels",
            hint=f"these metrics need sides of at least {metrics.smallest_px}",
            path=sample.hr,
        )
    return low, clean


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise output_error(error, folder) from error
