"""What the numbers of an evaluation say: means, differences with their uncertainty, a table, and the files of them.

Trap: an interval tells how far the mean of *these kinds* of pictures is known from so few of them. Of five pictures it
is wide, and it knows nothing of kinds that are not in the set.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from realesr_cli.atomic import replacing
from realesr_train.eval_set import Sample
from realesr_train.measuring import COLUMNS, Values, plain

RESAMPLES = 10_000
_LEVEL = 0.95


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One picture's numbers: by model, then by key."""

    sample: Sample
    values: Mapping[str, Values]


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """How much greater a number is for `model` than for `than`, on average over the pictures."""

    model: str
    than: str
    metric: str
    mean: float
    low: float
    """Bounds of the 95 % bootstrap interval of the mean."""
    high: float
    pictures: int
    """That have the number for both."""


def means(rows: Sequence[Row], models: Sequence[str], keys: Sequence[str]) -> dict[str, Values]:
    """By model and key the mean over the pictures that have a number; NaN if none has."""
    table = _table(rows, models, keys)
    return {
        model: {key: _mean(table[:, m, k]) for k, key in enumerate(keys)} for m, model in enumerate(models)
    }  # fmt: skip


def differences(rows: Sequence[Row], models: Sequence[str], keys: Sequence[str]) -> list[Difference]:
    """For each two models, later minus earlier, and each key: mean and interval over the same pictures."""
    table = _table(rows, models, keys)
    found = []
    for first, second in combinations(range(len(models)), 2):
        gaps = table[:, second] - table[:, first]
        for k, key in enumerate(keys):
            known = gaps[:, k][~np.isnan(gaps[:, k])]
            if not known.size:
                continue
            low, high = bootstrap_interval(known)
            found.append(
                Difference(
                    model=models[second],
                    than=models[first],
                    metric=key,
                    mean=float(known.mean()),
                    low=low,
                    high=high,
                    pictures=known.size,
                )
            )
    return found


def bootstrap_interval(
    values: NDArray[np.float64], *, level: float = _LEVEL, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """The percentile interval of the mean of `values` (n,), from as many draws with replacement as there are values.

    Of one value both bounds are that value. The same values give the same interval.

    Source: Efron, "Bootstrap methods: another look at the jackknife", Annals of Statistics 7 (1979).
    """
    count = values.size
    # how often each value is drawn in each resample, which is all that its mean depends on
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples)
    tail = (1 - level) / 2
    low, high = np.quantile(drawn @ values / count, (tail, 1 - tail))
    return float(low), float(high)


def table_text(
    rows: Sequence[Row], models: Sequence[str], keys: Sequence[str], gaps: Sequence[Difference], title: str
) -> str:
    """The means of every model, and under them the differences, for a terminal."""
    averages = means(rows, models, keys)
    width = max(len(name) for name in (*models, "model"))
    titles = [COLUMNS[key][0] for key in keys]
    lines = [title, "  ".join([f"{'model':{width}}", *(f"{one:>8}" for one in titles)])]
    for model in models:
        numbers = (_shown(key, averages[model][key]) for key in keys)
        cells = [f"{number:>{max(8, len(one))}}" for number, one in zip(numbers, titles, strict=True)]
        lines.append("  ".join([f"{model:{width}}", *cells]))
    before: tuple[str, str] | None = None
    for gap in gaps:
        if (gap.model, gap.than) != before:
            before = (gap.model, gap.than)
            lines += ["", f"{gap.model} minus {gap.than}: mean, and its 95 % interval over the pictures"]
        name, decimals = COLUMNS[gap.metric]
        bounds = f"[{gap.low:+.{decimals}f}, {gap.high:+.{decimals}f}]"
        lines.append(f"  {name:13}  {gap.mean:+8.{decimals}f}  {bounds}")
    return "\n".join(lines)


def write_csv(path: Path, rows: Sequence[Row], models: Sequence[str], keys: Sequence[str]) -> None:
    """One line for each picture and model; what is not known stays empty. Raises: DiskFull, OutputError."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(["picture", "model", *keys])
    for row in rows:
        for model in models:
            numbers = plain(row.values[model])
            cells = ["" if (number := numbers.get(key)) is None else f"{number:.6f}" for key in keys]
            lines.writerow([row.sample.name, model, *cells])
    _write(path, text.getvalue())


def write_json(
    path: Path,
    rows: Sequence[Row],
    models: Sequence[str],
    keys: Sequence[str],
    gaps: Sequence[Difference],
    facts: Mapping[str, Any],
) -> None:
    """`facts`, and the numbers of each picture, the means and the differences. Raises: DiskFull, OutputError."""
    averages = means(rows, models, keys)
    content = {
        **facts,
        "means": {model: plain(averages[model]) for model in models},
        "differences": [asdict(gap) for gap in gaps],
        "pictures": [
            {
                "name": row.sample.name,
                "lr": None if row.sample.lr is None else str(row.sample.lr),
                "hr": None if row.sample.hr is None else str(row.sample.hr),
                "values": {model: plain(row.values[model]) for model in models},
            }
            for row in rows
        ],
    }
    _write(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def _table(rows: Sequence[Row], models: Sequence[str], keys: Sequence[str]) -> NDArray[np.float64]:
    """(pictures, models, keys), NaN where a number is not known."""
    numbers = [[[row.values[model].get(key, np.nan) for key in keys] for model in models] for row in rows]
    return np.array(numbers, np.float64).reshape(len(rows), len(models), len(keys))


def _mean(values: NDArray[np.float64]) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")


def _shown(key: str, value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.{COLUMNS[key][1]}f}"


def _write(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
