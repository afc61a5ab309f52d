"""Every command of the README does what it says, in the order in which it stands there."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import pytest

from clips import read_clip, write_clip
from realesr_cli import catalog, read_image

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)
COMMANDS = [line.split("  #")[0].strip() for block in BLOCKS for line in block.splitlines() if line.strip()]
# the parts of the set-up that .ci/run executes for real
SETUP = ("python3 -m venv", ".venv/bin/pip install", ".venv/bin/pytest", "pipx install")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the pictures and the film that the README speaks of."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "assets", tmp_path / "assets")
    shutil.copy(ROOT / "assets" / "budgie.jpg", tmp_path / "photo.jpg")
    small = cv2.resize(cv2.imread(str(tmp_path / "photo.jpg")), (60, 40), interpolation=cv2.INTER_AREA)
    for name in ("a.jpg", "b.png", "c.webp", "scan.tif", "logo.png"):
        (tmp_path / name).write_bytes(cv2.imencode(Path(name).suffix, small)[1].tobytes())
    write_clip(tmp_path / "film.mp4", count=15, audio_at=[Fraction(0)])
    (tmp_path / "photos").mkdir()
    shutil.copy(tmp_path / "photo.jpg", tmp_path / "photos")
    photo = cv2.imread(str(tmp_path / "photo.jpg"))
    for number in range(3):
        cv2.imwrite(str(tmp_path / "photos" / f"turned {number}.png"), cv2.rotate(photo, number))
    return tmp_path


@pytest.mark.timeout(280)
def test_every_command(realesr: Callable[..., Any], stocked_cache: Path, folder: Path) -> None:
    ran = 0
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    for command in COMMANDS:
        for part in command.split(" && "):
            if part.startswith(SETUP):
                continue
            if "<" in part:  # a pipe needs a shell and a process of its own
                line = part.replace("realesr", f"{shlex.quote(sys.executable)} -m realesr_cli", 1)
                assert subprocess.run(["sh", "-c", line], check=False, env=environment).returncode == 0, part
                continue
            program, *arguments = shlex.split(part)
            assert Path(program).name == "realesr", f"what is {part!r}?"
            if arguments[0] == "train" and "--data" in arguments:
                arguments += ["--set", "run.steps=6", "--set", "schedule.warmup=0"]
            done = realesr(*arguments)
            assert done.status == 0, f"{part}: {done.err}"
            ran += 1
    assert ran >= 24
    assert (folder / "lr" / "photo.png").read_bytes() == (folder / "again" / "photo.png").read_bytes()
    assert (folder / "photos.pack").is_file()
    sizes = {path.name: read_image(path).pixels.shape[:2] for path in folder.rglob("*.*") if path.suffix != ".json"
             and path.suffix in (".jpg", ".png", ".webp") and "assets" not in path.parts}  # fmt: skip
    assert sizes["photo_x4.jpg"] == sizes["budgie_x4.jpg"] == (640, 960)
    assert read_clip(folder / "film_x4.mp4").frames[14].shape == (192, 256, 3)
    assert read_clip(folder / "drawn.mkv").frames[14].shape == (96, 128, 3)
    assert sizes["look.png"] == (192, 256)
    assert sizes["mine.png"] == (320, 480)
    assert sizes["large.png"] == (400, 600)
    assert sizes["photo_fit3840x2160.jpg"] == (2160, 3240)
    assert sizes["c_x4.webp"] == sizes["piped.png"] == (160, 240)
    assert sizes["scan_x4.webp"] == sizes["logo_x4.jpg"] == (160, 240)


def test_the_python_example(stocked_cache: Path, folder: Path) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    exec(compile(example, "README.md", "exec"), {})
    assert read_image(folder / "large.png").pixels.shape == (400, 600, 3)


def test_pictures_and_links_exist() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", TEXT):
        assert (ROOT / target).exists(), target


def test_the_model_table_is_true() -> None:
    for names, scales in re.findall(r"^\| (`[^|]+`) \| ([\d, ]+) \|", TEXT, re.MULTILINE):
        for name in re.findall(r"`([^`]+)`", names):
            assert str(catalog.find(name).scale) in scales


def test_the_two_setup_commands_are_there() -> None:
    for name in ("upscale-command", "test-command"):
        assert re.search(rf"<!-- {name} -->\s*```sh\n.*?\n```", TEXT, re.DOTALL)
