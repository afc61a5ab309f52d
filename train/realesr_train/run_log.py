"""What a training run leaves to read: `log.csv`, `events.jsonl`, TensorBoard's files, and events for whoever watches.

log.csv has a column `step`, the plain columns of `PLAIN`, `loss.NAME` for what a step gives back and
`metric.DATASET.NAME` for validations. A cell is empty where a row has nothing to say; each column has one value per
step at most, also after a run was killed and went on from an earlier checkpoint.

Traps: every line is flushed as it is written, so a killed process loses at most the line that it was writing, and
opening the log again drops that line. A new column rewrites the whole file once. Only rank 0 opens a log.
"""

import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from realesr_cli.atomic import output_error, replacing
from realesr_cli.errors import UsageError
from realesr_cli.reporting import NULL, JsonReporter, Reporter

PLAIN = ("learning_rate", "images_per_s", "data_s", "step_s", "memory_mib", "skipped")
"""The columns of every `step` row, after `step` and before the losses."""


@dataclass(frozen=True, slots=True)
class Series:
    """One column of the log: `values[i]` at `steps[i]`, steps rising."""

    steps: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.steps)


History = Mapping[str, Series]
"""The log by its columns, without `step`."""


def read_log(path: Path) -> dict[str, Series]:
    """The columns of a log.csv; of a damaged one what can be read, and of one that is not there nothing."""
    columns, rows = _read_rows(path, math.inf)
    return _history(columns, rows)


class RunLog:
    """The log of the run in `folder`, which exists; rows of later steps than `resume_step` are dropped first.

    Every event goes to `reporter` and to `events.jsonl`. Use it in a `with` block.

    Raises: UsageError (`tensorboard` is asked for and not installed), DiskFull, OutputError.
    """

    def __init__(
        self, folder: Path, reporter: Reporter = NULL, *, resume_step: int = 0, tensorboard: bool = False
    ) -> None:
        self._path = folder / "log.csv"
        self._events = folder / "events.jsonl"
        self._reporter = reporter
        self._active: frozenset[str] = frozenset()
        self._board = _board(folder / "tensorboard", resume_step + 1) if tensorboard else None
        columns, rows = _read_rows(self._path, resume_step)
        self._columns = columns or ["step", *PLAIN]
        self.history: dict[str, Series] = _history(self._columns, rows)
        """All that has been logged up to now, earlier parts of the run included."""
        _rewrite(self._path, self._columns, rows)
        _replace_text(self._events, "".join(f"{line}\n" for line in _kept_events(self._events, resume_step)))
        try:
            self._stream = self._events.open("a", encoding="utf-8")
        except OSError as error:
            raise output_error(error, self._events) from error
        self._lines = JsonReporter(self._stream)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the files; nothing can be logged any more."""
        self._stream.close()
        if self._board is not None:
            self._board.close()

    def step(
        self,
        step: int,
        total: int,
        losses: Mapping[str, float],
        *,
        learning_rate: float,
        images_per_s: float,
        data_s: float,
        step_s: float,
        memory_mib: float,
        skipped: int,
    ) -> None:
        """One row of the log, a `step` event, and a `progress` event for the bar.

        `losses` is what the step gave back, as floats; times are means since the last row, per step; `skipped` counts
        all skipped steps up to now.

        Raises: DiskFull, OutputError.
        """
        plain = (learning_rate, images_per_s, data_s, step_s, memory_mib, skipped)
        row = dict(zip(PLAIN, plain, strict=True))
        self._append(step, {**row, **{f"loss.{name}": value for name, value in losses.items()}})
        self._emit("step", step=step, total=total, losses=dict(losses), **row)
        self._reporter.emit(
            "progress",
            done=step,
            total=total,
            unit="steps",
            per_s=round(1 / step_s, 3) if step_s > 0 else 0.0,
            eta_s=round((total - step) * step_s, 1),
            finished=step >= total,
            label="training",
        )

    def metrics(self, step: int, dataset: str, values: Mapping[str, float]) -> None:
        """A row with the results of a validation, and a `metrics` event. Raises: DiskFull, OutputError."""
        self._append(step, {f"metric.{dataset}.{name}": value for name, value in values.items()})
        self._emit("metrics", step=step, dataset=dataset, values=dict(values))

    def checkpoint(self, step: int, path: Path, size_bytes: int) -> None:
        """A `checkpoint` event. Raises: DiskFull, OutputError."""
        self._emit("checkpoint", step=step, path=str(path), bytes=size_bytes)

    def warn(self, step: int, found: Iterable[tuple[str, str, str]]) -> None:
        """A `warning` event for each (code, message, hint) of `found` whose code was not in the call before this one.

        So what stays wrong is said once. Give all that is wrong now, nothing if nothing is.

        Raises: DiskFull, OutputError.
        """
        found = list(found)
        for code, message, hint in found:
            if code not in self._active:
                self._emit("warning", code=code, message=message, hint=hint, step=step)
        self._active = frozenset(code for code, _, _ in found)

    def _emit(self, event: str, **fields: Any) -> None:
        fields = _as_json(fields)
        try:
            self._lines.emit(event, **fields)
        except OSError as error:
            raise output_error(error, self._events) from error
        self._reporter.emit(event, **fields)

    def _append(self, step: int, row: Mapping[str, float]) -> None:
        new = [name for name in row if name not in self._columns]
        bad = next((name for name in new if any(sign in name for sign in ',"\r\n')), None)
        if bad is not None:
            raise ValueError(f"{bad!r} cannot be a column: names are without commas, quotes and line ends")
        if new:
            _, rows = _read_rows(self._path, math.inf)
            self._columns += new
            _rewrite(self._path, self._columns, rows)
        try:
            with self._path.open("a", encoding="utf-8", newline="") as file:
                file.write(_line([step, *(row.get(name) for name in self._columns[1:])]))
        except OSError as error:
            raise output_error(error, self._path) from error
        for name, value in row.items():
            series = self.history.setdefault(name, Series())
            series.steps.append(step)
            series.values.append(float(value))
            if self._board is not None and math.isfinite(value):
                self._board.add_scalar(name.replace(".", "/"), value, step)


def _rewrite(path: Path, columns: Sequence[str], rows: Iterable[Sequence[float | None]]) -> None:
    lines = [_line([*row, *[None] * (len(columns) - len(row))]) for row in rows]
    _replace_text(path, ",".join(columns) + "\n" + "".join(lines))


def _line(values: Sequence[float | None]) -> str:
    """Numbers as short as they can be to read back as float32, which is what losses are."""
    cells = ("" if v is None else str(v) if isinstance(v, int) else format(v, ".9g") for v in values)
    return ",".join(cells) + "\n"


def _replace_text(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def _read_rows(path: Path, last_step: float) -> tuple[list[str], list[list[float | None]]]:
    """Column names, and the rows up to `last_step`, without those that a killed process has left torn."""
    try:
        lines = io.StringIO(path.read_text(encoding="utf-8", errors="replace")).readlines()
    except FileNotFoundError:
        return [], []
    except OSError as error:
        raise output_error(error, path) from error
    whole = [line.rstrip("\r\n") for line in lines if line.endswith("\n")]
    if not whole or not whole[0].startswith("step"):
        return [], []
    columns = whole[0].split(",")
    rows = []
    for line in whole[1:]:
        cells = line.split(",")
        try:
            step = int(cells[0])
            values = [float(cell) if cell else None for cell in cells[1:]]
        except ValueError:
            continue
        if len(cells) == len(columns) and step <= last_step:
            rows.append([step, *values])
    return columns, rows


def _history(columns: Sequence[str], rows: Iterable[Sequence[float | None]]) -> dict[str, Series]:
    history: dict[str, Series] = {name: Series() for name in columns[1:]}
    for row in rows:
        for name, value in zip(columns[1:], row[1:], strict=False):
            if value is not None and row[0] is not None:
                history[name].steps.append(int(row[0]))
                history[name].values.append(value)
    return {name: series for name, series in history.items() if series.steps}


def _kept_events(path: Path, last_step: int) -> list[str]:
    """The whole lines of an events.jsonl that are of no later step."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise output_error(error, path) from error
    kept = []
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        step = record.get("step", 0) if isinstance(record, dict) else math.inf
        if isinstance(step, int) and step <= last_step:
            kept.append(line)
    return kept


def _as_json(value: Any) -> Any:
    """NaN and infinity as null: JSON has no word for them."""
    if isinstance(value, dict):
        return {key: _as_json(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _board(folder: Path, first_step: int) -> Any:
    """TensorBoard's writer; hides what an earlier attempt has written from `first_step` on. Raises: UsageError."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UsageError(
            "TensorBoard is asked for, but not installed", hint="pip install 'realesr-cli[train]', or leave it off"
        ) from error
    return SummaryWriter(str(folder), purge_step=first_step)
