"""`realesr doctor`, `--version` and completion."""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from realesr_cli import __version__


def test_doctor_says_what_a_bug_report_needs(realesr: Callable[..., Any], cache: Path) -> None:
    text = realesr("doctor").out
    for word in ("torch", "opencv-python", "devices", "GiB free", "bf16", str(cache), __version__):
        assert word in text
    assert realesr("doctor", "--json").events("doctor")[0]["facts"]["realesr"] == __version__


def test_version(realesr: Callable[..., Any]) -> None:
    assert realesr("--version").out.strip() == f"realesr {__version__}"


def test_no_arguments_is_help(realesr: Callable[..., Any]) -> None:
    done = realesr()
    assert done.status == 2
    assert "Usage: realesr" in done.out + done.err


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_completion_scripts(cache: Path) -> None:
    """The shell is found by looking at the parent process, so there must be one."""
    line = f"{shlex.quote(sys.executable)} -m realesr_cli --show-completion; exit $?"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True, env=environment)
    assert "_REALESR" in done.stdout.upper()
