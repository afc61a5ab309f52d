"""Hundreds of files, some of them bad; killed at random moments; memory that does not grow with their number."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from safetensors.torch import save_file

from networks import compact
from realesr_cli import read_image

Finder = Callable[[str], Path]

SOURCES = (
    "formats/progressive.jpg",
    "formats/rgb24.bmp",
    "formats/alpha.webp",
    "formats/gray.jpg",
    "formats/rgba8.png",
)
BAD = {
    "cut.jpg": lambda data: data[: len(data) // 3],
    "empty.png": lambda data: b"",
    "text.webp": lambda data: b"this is no picture",
}


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    path = tmp_path / "small.safetensors"
    save_file({key: value.contiguous() for key, value in compact(depth=1).network.state_dict().items()}, path)
    return path


def _fill(root: Path, count: int, media: Finder) -> dict[str, tuple[int, int]]:
    """`count` small pictures of five photographs in three formats, a third of them in folders: name -> size."""
    rng = random.Random(5)
    pictures = [cv2.imread(str(media(f"images/{name}")), cv2.IMREAD_UNCHANGED) for name in SOURCES]
    sizes = {}
    for number in range(count):
        picture = pictures[number % len(pictures)]
        height, width = rng.randint(12, 40), rng.choice((16, 32, 33))
        suffix = (".jpg", ".png", ".webp")[number % 3]
        if picture.ndim == 3 and picture.shape[2] == 4 and suffix == ".jpg":
            picture = picture[..., :3]
        folder = root / ("", "sub", "sub/deep")[number % 3] / ""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{number:03}{suffix}"
        small = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
        path.write_bytes(cv2.imencode(suffix, small)[1].tobytes())
        sizes[path.relative_to(root).as_posix()] = (height, width)
    return sizes


def _start(root: Path, model: Path, tmp_path: Path, *flags: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "realesr_cli", "directory", root, "-o", tmp_path / "out", "-m", model, "--json"]
    environment = os.environ | {"REALESR_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([*map(str, command), *flags], stdout=subprocess.PIPE, text=True, env=environment)


def _ends(process: "subprocess.Popen[str]") -> tuple[int, list[dict[str, Any]]]:
    out, _ = process.communicate(timeout=250)
    return process.returncode, _events(out)


def _events(text: str) -> list[dict[str, Any]]:
    """Those that were written whole."""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_ten_times_every_result_is_complete_right_and_made_once(
    tmp_path: Path, model_file: Path, media: Finder
) -> None:
    """SIGKILL at random moments of a run over 300 files with bad ones among them, then the same command."""
    root = tmp_path / "in"
    sizes = _fill(root, 300 - 3, media)
    whole = (root / "000.jpg").read_bytes()
    for name, spoil in BAD.items():
        (root / "sub" / name).write_bytes(spoil(whole))
    rng = random.Random(11)
    told: list[str] = []
    for _ in range(10):
        process = _start(root, model_file, tmp_path)
        assert process.stdout is not None
        wanted, seen = rng.randint(1, 25), 0
        for line in process.stdout:
            if json.loads(line)["event"] == "done":
                told.append(json.loads(line)["input"])
                seen += 1
                if seen == wanted:
                    break
        time.sleep(rng.random() * 0.05)  # somewhere in the next files
        process.send_signal(signal.SIGKILL)
        rest = process.stdout.read()
        told += [event["input"] for event in _events(rest) if event["event"] == "done"]
        process.stdout.close()
        process.wait()
        for path in (tmp_path / "out").rglob("*"):  # whatever has a final name is whole
            if path.is_file() and not path.name.startswith("."):
                read_image(path)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("[!.]*") if path.is_file()}
    status, events = _ends(_start(root, model_file, tmp_path))
    summary = events[-1]
    assert (status, summary["failed"], summary["done"] + summary["skipped"]) == (1, 3, len(sizes))
    assert summary["skipped"] >= len(before)  # what was there is not made again, reported or not
    assert {path: path.stat().st_mtime_ns for path in before} == before
    told += [event["input"] for event in events if event["event"] == "done"]
    assert len(told) == len(set(told))
    assert not list((tmp_path / "out").rglob(".*.part*"))
    results = {path.relative_to(tmp_path / "out").as_posix(): path for path in (tmp_path / "out").rglob("[!.]*")}
    assert {name for name, path in results.items() if path.is_file()} == set(sizes)
    for name, (height, width) in sizes.items():
        assert read_image(results[name]).pixels.shape[:2] == (4 * height, 4 * width), name
    # the same bytes as those of a run that nothing has disturbed, in which other files ran together
    shutil.move(tmp_path / "out", tmp_path / "disturbed")
    assert _ends(_start(root, model_file, tmp_path))[0] == 1
    for name in sizes:
        made, expected = read_image(tmp_path / "disturbed" / name).pixels, read_image(tmp_path / "out" / name).pixels
        assert np.abs(made.astype(int) - expected).max() <= (1 if name.endswith(".png") else 12), name


def test_an_interrupted_run_leaves_no_half_file_and_the_same_command_goes_on(
    tmp_path: Path, model_file: Path, media: Finder
) -> None:
    sizes = _fill(tmp_path / "in", 60, media)
    process = _start(tmp_path / "in", model_file, tmp_path)
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line)["event"] == "done":
            break
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    first, events = _ends(process)
    assert (first, events[-1]["event"], time.monotonic() - began < 10) == (130, "summary", True)
    made = {path.name for path in (tmp_path / "out").rglob("[!.]*") if path.is_file()}
    assert not list((tmp_path / "out").rglob(".*.part*"))
    status, events = _ends(_start(tmp_path / "in", model_file, tmp_path))
    assert (status, events[-1]["skipped"], events[-1]["done"]) == (0, len(made), len(sizes) - len(made))


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_files(tmp_path: Path, model_file: Path, media: Finder) -> None:
    """Peak of a process over 50 and over 500 pictures."""
    code = (
        "import resource, sys\n"
        "from realesr_cli.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)"
    )
    peaks = []
    rng = np.random.default_rng(0)
    picture = cv2.imencode(".jpg", rng.integers(0, 256, (96, 128, 3), np.uint8))[1].tobytes()
    for count in (50, 500):
        root = tmp_path / str(count)
        root.mkdir()
        for number in range(count):
            (root / f"{number}.jpg").write_bytes(picture)
        command = [
            sys.executable,
            "-c",
            code,
            "directory",
            root,
            "-o",
            tmp_path / f"out {count}",
            "-m",
            model_file,
            "-q",
        ]
        environment = os.environ | {"REALESR_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
        done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=True, env=environment)
        assert len(list((tmp_path / f"out {count}").glob("*.jpg"))) == count, done.stderr
        peaks.append(int(done.stderr.split()[-1]) / 1024)
    assert peaks[1] - peaks[0] < 25, f"{peaks} MiB"  # 450 results of 512x384 would be 250 MiB
