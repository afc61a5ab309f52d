"""`realesr doctor` and `--version`."""

import os
import platform
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import av
import pytest
import torch

from realesr_cli import __version__, machine


def test_doctor_says_what_a_bug_report_needs(realesr: Callable[..., Any], cache: Path) -> None:
    text = realesr("doctor").out
    for word in ("torch", "opencv", "devices", "GiB free", "bf16", str(cache), __version__):
        assert word in text
    assert realesr("doctor", "--json").events("doctor")[0]["facts"]["realesr"] == __version__


def test_version_says_what_a_bug_report_needs_on_one_screen(realesr: Callable[..., Any], cache: Path) -> None:
    first, *lines = realesr("--version").out.splitlines()
    assert first == f"realesr {__version__}"  # scripts read this line
    found = dict(line.split(None, 1) for line in lines)
    assert list(found) == [
        "python", "system", "torch", "opencv", "av", "others", "cpu", "memory", "gpu", "cache", "models",
    ]  # fmt: skip
    assert platform.python_version() in found["python"]
    assert metadata.version("torch") in found["torch"]
    assert ("CPU build" in found["torch"]) == (torch.version.cuda is None and torch.version.hip is None)
    assert found["cache"] == str(cache)
    assert found["models"] == "realesr-lite-x4"
    assert len(lines) < 23


def test_version_names_the_libraries_of_ffmpeg_that_are_used(realesr: Callable[..., Any]) -> None:
    (line,) = (line for line in realesr("--version").out.splitlines() if line.startswith("av "))
    assert f"av       {av.__version__}" in line
    if "avcodec" in line:  # a wheel; else PyAV was built with the system's libraries
        assert f"avcodec {'.'.join(map(str, av.library_versions['libavcodec']))}" in line


def test_version_works_where_torch_is_broken(tmp_path: Path, cache: Path) -> None:
    """Then a bug report needs it most."""
    for name in ("torch", "cv2", "av", "numpy"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('broken')")
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{Path(__file__).resolve().parents[2]}"}
    command = [sys.executable, "-m", "realesr_cli", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert f"torch    {metadata.version('torch')}" in done.stdout
    assert done.stderr == ""


def test_version_names_gpu_and_driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA H200, 143771 MiB, 580.65.06'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert "NVIDIA H200, 143771 MiB, driver 580.65.06" in machine.facts()["gpu"]
    tool.write_text("#!/bin/sh\nexec sleep 60\n")  # a driver that hangs must not hang the command
    monkeypatch.setattr(machine, "_DRIVER_WAIT_S", 0.2)
    assert "NVIDIA" not in machine.facts()["gpu"]


def test_no_arguments_is_help(realesr: Callable[..., Any]) -> None:
    done = realesr()
    assert done.status == 2
    assert "Usage: realesr" in done.out + done.err
