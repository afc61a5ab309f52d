"""Every command of the README and of the pages does what it says, in the order in which it stands there."""

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
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
# the parts of the set-up that .ci/run executes for real
SETUP = ("python3 -m venv", ".venv/bin/pip install", ".venv/bin/pytest", "pipx install")


def commands_of(page: Path) -> list[str]:
    """The lines of its `sh` blocks, without comments. What is not to be run stands in a block of another kind."""
    blocks = re.findall(r"^```sh\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [re.split(r"\s+# ", line)[0].strip() for block in blocks for line in block.splitlines() if line.strip()]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the pictures and the film that the pages speak of."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "assets", tmp_path / "assets")
    budgie = cv2.imread(str(ROOT / "assets" / "budgie.jpg"))
    cv2.imwrite(str(tmp_path / "photo.jpg"), cv2.resize(budgie, (120, 80), interpolation=cv2.INTER_AREA))
    small = cv2.resize(budgie, (60, 40), interpolation=cv2.INTER_AREA)
    for name in ("a.jpg", "b.png", "c.webp", "scan.tif", "logo.png"):
        (tmp_path / name).write_bytes(cv2.imencode(Path(name).suffix, small)[1].tobytes())
    write_clip(tmp_path / "film.mp4", count=15, audio_at=[Fraction(0)])
    (tmp_path / "photos").mkdir()  # of a size that can be trained on
    cv2.imwrite(str(tmp_path / "photos" / "photo.jpg"), budgie)
    for number in range(3):
        cv2.imwrite(str(tmp_path / "photos" / f"turned {number}.png"), cv2.rotate(budgie, number))
    return tmp_path


def run_commands(page: Path, realesr: Callable[..., Any]) -> int:
    """How many there were; each must end with status 0."""
    ran = 0
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    for command in commands_of(page):
        for part in command.split(" && "):
            if part.startswith(SETUP):
                continue
            ran += 1
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
    return ran


def size_of(path: Path) -> tuple[int, ...]:
    return read_image(path).pixels.shape[:2]


def test_the_commands_of_the_readme(realesr: Callable[..., Any], stocked_cache: Path, folder: Path) -> None:
    assert run_commands(README, realesr) >= 9
    assert size_of(folder / "budgie_x4.jpg") == (640, 960)
    assert size_of(folder / "photo_x4.jpg") == (320, 480)
    assert size_of(folder / "large.png") == (200, 300)
    assert size_of(folder / "mine.png") == (160, 240)
    assert size_of(folder / "photos_x4" / "photo.jpg") == (640, 960)
    assert read_clip(folder / "film_x4.mp4").frames[14].shape == (192, 256, 3)


def test_the_commands_about_pictures(realesr: Callable[..., Any], stocked_cache: Path, folder: Path) -> None:
    assert run_commands(ROOT / "docs" / "pictures.md", realesr) >= 13
    assert size_of(folder / "photo_fit1920x1080.jpg") == (1080, 1620)
    assert size_of(folder / "enlarged" / "c_x4.webp") == size_of(folder / "piped.png") == (160, 240)
    assert size_of(folder / "scan_x4.webp") == size_of(folder / "logo_x4.jpg") == (160, 240)


def test_the_commands_about_films(realesr: Callable[..., Any], stocked_cache: Path, folder: Path) -> None:
    assert run_commands(ROOT / "docs" / "films.md", realesr) >= 6
    assert read_clip(folder / "drawn.mkv").frames[14].shape == (96, 128, 3)
    assert size_of(folder / "look.png") == (192, 256)


def test_the_commands_about_training(realesr: Callable[..., Any], stocked_cache: Path, folder: Path) -> None:
    assert run_commands(ROOT / "docs" / "training.md", realesr) >= 11
    assert (folder / "lr" / "photo.png").read_bytes() == (folder / "again" / "photo.png").read_bytes()
    assert (folder / "photos.pack").is_file()
    assert size_of(folder / "mine.png") == (160, 240)


TESTED_ABOVE = ("README.md", "pictures.md", "films.md", "training.md")


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.name not in TESTED_ABOVE and commands_of(page)], ids=lambda page: page.stem
)
def test_the_commands_of_other_pages(
    page: Path, realesr: Callable[..., Any], stocked_cache: Path, folder: Path
) -> None:
    assert run_commands(page, realesr) >= 1


@pytest.mark.parametrize("page", [README, ROOT / "docs" / "python.md"], ids=lambda page: page.stem)
def test_the_python_examples(page: Path, stocked_cache: Path, folder: Path) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    exec(compile(example, page.name, "exec"), {})
    assert size_of(folder / "large.png") == (200, 300)


@pytest.mark.parametrize("page", [README, ROOT / "docs" / "models.md"], ids=lambda page: page.stem)
def test_the_model_table_is_true(page: Path) -> None:
    rows = re.findall(r"^\| (`[^|]+`) \| ([\d, ]+) \|", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(rows) >= 4
    for names, scales in rows:
        for name in re.findall(r"`([^`]+)`", names):
            assert str(catalog.find(name).scale) in scales


def test_the_two_setup_commands_are_there() -> None:
    for name in ("upscale-command", "test-command"):
        assert re.search(rf"<!-- {name} -->\s*```sh\n.*?\n```", README.read_text(encoding="utf-8"), re.DOTALL)
