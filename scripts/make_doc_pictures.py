"""Makes the pictures of the pages from assets/budgie.jpg, all by realesr itself.

python scripts/make_doc_pictures.py [--only NAME]

The models of `MODELS` are taken from the cache; Chromium photographs the page of `realesr compare`.
About three minutes on a CPU, most of it a short training.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from realesr_cli import Image, Upscaler, read_image, write_image

ROOT = Path(__file__).resolve().parents[1]
PHOTO = ROOT / "assets" / "budgie.jpg"
PICTURES = ROOT / "docs" / "pictures"
MODELS = ("realesr-lite-x4", "realesr-general-x4v3", "realesrgan-x4plus", "realesr-animevideov3")


def before_after(folder: Path) -> NDArray[Any]:
    """The photo by bicubic interpolation and by realesr, side by side."""
    small = read_image(PHOTO).pixels
    large = Upscaler("realesrgan-x4plus")(small)
    height, width = large.shape[:2]
    # a narrow part with the most detail, so that the difference is visible in a page's width
    part = (slice(height // 16, height * 13 // 16), slice(width // 8, width * 5 // 8))
    return beside([bicubic(small)[part], large[part]])


def models(folder: Path) -> NDArray[Any]:
    """The bird's head by bicubic interpolation and by four models."""
    head = read_image(PHOTO).pixels[22:82, 88:148]
    return beside([bicubic(head), *(Upscaler(name)(head) for name in MODELS)])


def degradations(folder: Path) -> NDArray[Any]:
    """Eight of the sixteen degradations of the sheet, smaller: noise makes large files."""
    realesr("data", "degrade", PHOTO, "--contact-sheet", folder / "sheet.png", "--seed", "7")
    sheet = read_image(folder / "sheet.png").pixels
    return cv2.resize(sheet[: sheet.shape[0] // 2], None, fx=0.6, fy=0.6, interpolation=cv2.INTER_AREA)


def progress(folder: Path) -> NDArray[Any]:
    """The curves of the run that the page on training begins with."""
    photos = folder / "photos"
    photos.mkdir()
    photo = read_image(PHOTO).pixels
    for number in range(16):
        half = photo[:, number // 8 * 120 :][:, :120]
        turned = np.rot90(half[::-1] if number // 4 % 2 else half, number)
        write_image(photos / f"{number}.png", Image(pixels=np.ascontiguousarray(turned)))
    realesr("train", "--recipe", "debug_cpu", "--data", photos, "-o", folder / "run")
    return read_image(folder / "run" / "progress.png").pixels


def compare(folder: Path) -> NDArray[Any]:
    """The page of `realesr compare`, as a browser shows it."""
    browser = shutil.which("chromium") or sys.exit("no Chromium here")
    page, shot = folder / "page.html", folder / "shot.png"
    realesr("compare", PHOTO, "--models", "realesr-general-x4v3,realesrgan-x4plus", "-o", page)
    command = [browser, "--headless", "--no-sandbox", "--hide-scrollbars", "--window-size=1000,760"]
    subprocess.run([*command, f"--screenshot={shot}", page.as_uri()], check=True, capture_output=True)
    return read_image(shot).pixels


def bicubic(small: NDArray[Any]) -> NDArray[Any]:
    return cv2.resize(small, None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC)


def beside(panels: list[NDArray[Any]]) -> NDArray[Any]:
    """The pictures in a row, 8 white pixels between them."""
    gap = np.full((panels[0].shape[0], 8, 3), 255, np.uint8)
    return np.hstack([part for panel in panels for part in (gap, panel)][1:])


def realesr(*arguments: object) -> None:
    subprocess.run([sys.executable, "-m", "realesr_cli", *map(str, arguments)], check=True)


MAKERS: dict[str, tuple[Callable[[Path], NDArray[Any]], int]] = {
    "before_after.jpg": (before_after, 92),
    "models.jpg": (models, 88),
    "degradations.jpg": (degradations, 80),
    "progress.png": (progress, 100),
    "compare.jpg": (compare, 82),
}
"""Each picture's maker, and the quality of its file."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=MAKERS)
    wanted = parser.parse_args().only
    for name, (make, quality) in MAKERS.items():
        if wanted in (None, name):
            with tempfile.TemporaryDirectory() as folder:
                pixels = make(Path(folder))
            write_image(PICTURES / name, Image(pixels=pixels), quality=quality, overwrite=True)
            print(f"{name}: {pixels.shape[1]}x{pixels.shape[0]}, {(PICTURES / name).stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
