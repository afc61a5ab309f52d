"""Five thousand damaged and hostile files of each kind that realesr reads beside pictures: a network, a configuration
or one error comes of each; nothing is run, written or asked for. `fuzzing.py` makes and reads them, in a process that
watches itself.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import fuzzing
from fuzzing import KINDS

_REPOSITORY = Path(__file__).resolve().parents[2]
_PATHS = [_REPOSITORY, _REPOSITORY / "train", _REPOSITORY / "tests" / "unit"]
_SAMPLE = 300
_ALL = 5000


def read_files(kinds: str, first: int, count: int, folder: Path) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, fuzzing.__file__, kinds, str(first), str(count), str(folder)],
        env={"PYTHONPATH": ":".join(map(str, _PATHS)), "PATH": "/usr/bin:/bin", "HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(json.loads(done.stdout))


def check(outcomes: dict[str, Any], count: int) -> None:
    for kind, outcome in outcomes.items():
        assert outcome["problems"] == [], kind
        assert outcome["loaded"] + outcome["refused"] == count, kind
        assert outcome["loaded"] > count / 100, kind  # both ends are tested
        assert outcome["refused"] > count / 3, kind


def test_a_sample_of_hostile_files_ends_in_a_result_or_one_line_and_does_nothing_else(tmp_path: Path) -> None:
    check(read_files(",".join(KINDS), 0, _SAMPLE, tmp_path), _SAMPLE)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_five_thousand_hostile_files_end_in_a_result_or_one_line_and_do_nothing_else(kind: str, tmp_path: Path) -> None:
    check(read_files(kind, 0, _ALL, tmp_path), _ALL)


def test_the_watch_sees_what_a_hostile_file_would_do(tmp_path: Path) -> None:
    """Without this, an empty list of problems would mean nothing."""
    script = f"""
import fuzzing, os, subprocess, socket, json, sys
from pathlib import Path
folder = Path({str(tmp_path)!r})
deeds = iter([
    lambda: (folder / "canary").write_text("x"), lambda: os.system("true"), lambda: subprocess.run(["true"]),
    lambda: socket.socket().close(), lambda: bytearray(b"1") * 2**29, lambda: 1 / 0, lambda: None,
])
fuzzing.KINDS["evil"] = (lambda chance, canary: {{".toml": b""}}, lambda path: next(deeds)())
fuzzing._try = lambda load, path, real=fuzzing._try: real(load, path) if warm.pop() else None
warm = [True] * 7 + [False] * 20
print(json.dumps(fuzzing.read_all("evil", 0, 7, folder)["problems"]))
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={"PYTHONPATH": ":".join(map(str, [*_PATHS, Path(fuzzing.__file__).parent])), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    problems = json.loads(done.stdout)
    for number, what in enumerate(("open", "os.system", "subprocess.Popen", "socket.", "took", "ZeroDivisionError")):
        assert any(problem.startswith(f"{number}: {what}") for problem in problems), (what, problems, done.stderr)
    assert problems[-1] == "left behind: canary"
    assert not any(problem.startswith("6") for problem in problems)
