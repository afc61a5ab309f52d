"""The frame around every command: who listens to its events, and how an error becomes one line and an exit status."""

import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import typer

from realesr_cli import __version__
from realesr_cli.errors import RealesrError
from realesr_cli.reporting import JsonReporter, Reporter, TerminalReporter


@dataclass(slots=True)
class Run:
    """What a command fills in while it runs; `summary` is the last event of the run."""

    reporter: Reporter
    summary: dict[str, Any] = field(default_factory=lambda: {"done": 0, "skipped": 0, "failed": 0})
    exit_status: int = 0


@contextmanager
def running(command: str, *, json: bool, quiet: bool = False, verbose: bool = False, **options: Any) -> Iterator[Run]:
    """Yields the `Run` of a command; on leaving it, the summary is emitted and the process status decided.

    Raises: typer.Exit with the status of docs/architecture.md, whatever happened inside.
    """
    reporter: Reporter = JsonReporter(sys.stdout) if json else TerminalReporter(quiet=quiet, verbose=verbose)
    run = Run(reporter)
    started = time.monotonic()
    reporter.emit("start", command=command, version=__version__, options=options)
    try:
        with _terminable():
            yield run
    except RealesrError as error:
        run.exit_status = error.exit_status
        report_failure(reporter, error)
    except KeyboardInterrupt:
        run.exit_status = 130
        reporter.emit("failed", id=None, input=None, error="KeyboardInterrupt", exit_status=130, message="interrupted")
    except SystemExit as leaving:
        run.exit_status = leaving.code if isinstance(leaving.code, int) else 1
    except typer.Exit as leaving:
        run.exit_status = leaving.exit_code
    except BrokenPipeError:
        run.exit_status = 1
    except Exception as error:
        run.exit_status = 70
        reporter.emit(
            "failed",
            id=None,
            input=None,
            error=type(error).__name__,
            exit_status=70,
            message=f"a bug in realesr: {type(error).__name__}: {error}",
            hint=f"please report it with the file {_save_traceback(verbose)}",
        )
    reporter.emit("summary", **run.summary, seconds=round(time.monotonic() - started, 3), exit_status=run.exit_status)
    raise typer.Exit(run.exit_status)


def report_failure(reporter: Reporter, error: RealesrError, *, id: int | None = None, source: object = None) -> None:
    """Emits the `failed` event of an error."""
    reporter.emit(
        "failed",
        id=id,
        input=None if source is None else str(source),
        error=type(error).__name__,
        exit_status=error.exit_status,
        message=error.message,
        hint=error.hint,
    )


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM leaves through the same clean-up as Ctrl-C, with status 143."""

    def leave(number: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(143)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _save_traceback(verbose: bool) -> Path:
    if verbose:
        traceback.print_exc()
    with tempfile.NamedTemporaryFile("w", prefix="realesr-bug-", suffix=".txt", delete=False, encoding="utf-8") as file:
        file.write(f"realesr {__version__}\n{' '.join(sys.argv)}\n\n{traceback.format_exc()}")
    return Path(file.name)
