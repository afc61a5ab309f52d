"""What a person sees and what a program reads."""

import io
import json
import os
import time

import pytest

from realesr_cli.reporting import JsonReporter, TerminalReporter, progress
from recording import Events


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def delay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("realesr_cli.reporting._PROGRESS_INTERVAL_S", 0.0)


def _work(stream: io.StringIO, seconds: float, *, quiet: bool = False) -> str:
    reporter = TerminalReporter(stream=stream, quiet=quiet)
    with progress(reporter, 100, "pixels", label="photo.jpg") as advance:
        for _ in range(20):
            time.sleep(seconds / 20)
            advance(5)
    return stream.getvalue()


def test_work_of_more_than_a_second_shows_a_bar_with_the_time_left(delay: None) -> None:
    text = _work(Terminal(), 1.4)
    assert "photo.jpg:" in text
    assert "%" in text and "<00:0" in text
    assert text.endswith("\r")  # and it is wiped at the end


def test_short_work_pipes_and_quiet_show_none(delay: None) -> None:
    assert "photo.jpg" not in _work(Terminal(), 0.1)
    assert _work(io.StringIO(), 1.2) == ""
    assert _work(Terminal(), 1.2, quiet=True) == ""


def test_progress_is_throttled_and_ends(events: Events) -> None:
    with progress(events, 1000, "bytes", label="x") as advance:
        for _ in range(1000):
            advance(1)
    assert len(events.all) < 10
    assert events.all[-1]["done"] == 1000
    assert events.all[-1]["finished"] is True


def test_progress_ends_also_after_an_error(events: Events) -> None:
    with pytest.raises(ValueError), progress(events, 10, "bytes"):
        raise ValueError
    assert [event["finished"] for event in events.all] == [True]


def test_json_lines_survive_any_file_name() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    reporter = JsonReporter(stream)
    name = os.fsdecode(b"bad\xff") + " ü 写真\n"
    reporter.emit("done", input=name)
    stream.seek(0)
    (line,) = stream.read().splitlines()
    assert json.loads(line)["input"] == name


def test_quiet_keeps_errors_and_what_was_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = TerminalReporter(quiet=True)
    reporter.emit("note", message="a")
    reporter.emit("done", input="a", output="b", width=1, height=1, seconds=1.0)
    reporter.emit("plan", text="the plan")
    reporter.emit("failed", message="broken", hint="mend it")
    captured = capsys.readouterr()
    assert captured.out == "the plan\n"
    assert captured.err == "error: broken\nhint: mend it\n"


def test_the_end_of_a_run_over_a_folder_repeats_what_failed(capsys: pytest.CaptureFixture[str]) -> None:
    failures = [{"input": f"{number}.png", "message": f"cannot decode {number}.png"} for number in range(25)]
    reporter = TerminalReporter()
    reporter.emit("skipped", input="a", output="b", reason="nothing has changed since it was made")
    reporter.emit("moved", input="a", output="b")
    reporter.emit("summary", done=1, skipped=2, failed=30, seconds=1.0, failures=failures)
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == ["a moved to b", "1 done, 2 skipped, 30 failed, 1.0 s; failed:"]
    assert lines[2:] == [f"  cannot decode {number}.png" for number in range(20)] + ["  and 10 more"]
    TerminalReporter(verbose=True).emit("skipped", input="a", output="b", reason="nothing has changed")
    assert capsys.readouterr().err == "a: b is already there\n"
