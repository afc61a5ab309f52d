"""`realesr doctor`, `--version` and completion."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

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


def test_completion_scripts(realesr_process: Callable[..., Any]) -> None:
    assert "realesr" in realesr_process("--show-completion", "bash").out
