"""One run for each value of a key, one after the other, and their validations in a table."""

import csv
import io
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from realesr_cli.atomic import output_error, replacing
from realesr_cli.errors import ConfigError
from realesr_cli.reporting import Reporter
from realesr_train import launch
from realesr_train.recipes import with_folder
from realesr_train.train_config import TrainConfig

TABLE = "sweep.csv"

Stages = tuple[TrainConfig, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sweep:
    """A key of the configuration and its values as TOML text."""

    key: str
    values: tuple[str, ...]


def parse(text: str) -> Sweep:
    """The sweep of `key=a,b,c`; text needs no quotes, arrays their brackets.

    Raises: ConfigError.
    """
    key, equals, values = (part.strip() for part in text.partition("="))
    parts = [part.strip() for part in re.split(r",(?![^\[]*\])", values)]
    if not (key and equals and all(parts)) or len(parts) < 2 or len(set(parts)) < len(parts):
        raise ConfigError(f"--sweep {text} is not key=a,b,...", hint="for example --sweep degradation.order=1,2")
    return Sweep(key=key, values=tuple(_toml(part) for part in parts))


def _toml(value: str) -> str:
    try:
        tomllib.loads(f"value = {value}")
    except tomllib.TOMLDecodeError:
        return f'"{value}"'
    return value


def run(
    sweep: Sweep, make: Callable[[Sequence[str]], Stages], reporter: Reporter, *, allow_change: bool = False
) -> list[tuple[str, launch.Result]]:
    """Trains `make(overrides)` for each value, in a folder of its own below the run's; writes `sweep.csv` there.

    All configurations are looked at before the first one is trained. What has been trained is not trained again.

    Raises: RealesrError of every kind.
    """
    planned = []
    for value in sweep.values:
        stages = make([f"{sweep.key}={value}"])
        folder = launch.run_folder(stages)
        place = folder / re.sub(r"[^\w.=+-]+", "_", f"{sweep.key}={value}").strip("_")
        planned.append((value, tuple(with_folder(stage, place) for stage in stages)))
    for _, stages in planned:
        launch.check_data(stages, reporter)
    results = []
    for number, (value, stages) in enumerate(planned, 1):
        text = f"{sweep.key} = {value} ({number} of {len(planned)}): {launch.run_folder(stages)}"
        reporter.emit("plan", key=sweep.key, value=value, text=text)
        results.append((value, launch.train(stages, reporter, allow_change=allow_change)))
    _write(folder / TABLE, sweep.key, results)
    reporter.emit("plan", table=str(folder / TABLE), text=table(sweep.key, results))
    return results


def table(key: str, results: Sequence[tuple[str, launch.Result]]) -> str:
    """The best validation of each run by luma PSNR, as text for people."""
    rows = _rows(key, results)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def _rows(key: str, results: Sequence[tuple[str, launch.Result]]) -> list[list[str]]:
    names = [name for name in dict.fromkeys(name for _, result in results for name in result.best) if name != "step"]
    rows = [[key, "steps", "best_step", *names]]
    for value, result in results:
        best: Mapping[str, float] = result.best
        step = f"{best['step']:.0f}" if best else "-"
        rows.append([value, str(result.steps), step, *(f"{best[name]:.4f}" if name in best else "-" for name in names)])
    return rows


def _write(path: Path, key: str, results: Sequence[tuple[str, launch.Result]]) -> None:
    """Raises: OutputError."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(_rows(key, results))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise output_error(error, path.parent) from error
    with replacing(path) as temporary:
        temporary.write_text(buffer.getvalue(), encoding="utf-8")
