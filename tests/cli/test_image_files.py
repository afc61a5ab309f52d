"""`realesr image` and its files: formats, quality, pipes, names, transparency, what is skipped."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from realesr_cli import Image, read_image, write_image
from realesr_cli.image_header import sniff
from realesr_cli.metadata import Metadata

Command = Callable[..., Any]
Picture = Callable[..., Path]


def _rgba(path: Path, alpha: int = 128) -> Path:
    pixels = np.full((40, 40, 4), (200, 100, 50, 255), np.uint8)
    pixels[:20, :, 3] = alpha
    write_image(path, Image(pixels=pixels))
    return path


@pytest.mark.parametrize(
    "name", ["png", "jpg", "jpeg", "webp", "tif", "TIFF", "bmp", "avif", "jp2", "ppm", "pnm", ".png"]
)
def test_format_chooses_the_suffix(
    name: str, realesr: Command, model_file: Path, picture: Picture, tmp_path: Path
) -> None:
    done = realesr("image", picture("a.png"), "-m", model_file, "--format", name)
    assert done.status == 0
    written = tmp_path / f"a_x4.{name.lower().removeprefix('.')}"
    expected = {"jpeg": "jpg", "tiff": "tif", "ppm": "pnm"}.get(written.suffix[1:], written.suffix[1:])
    assert sniff(written.read_bytes()) == expected
    assert read_image(written).pixels.shape == (96, 128, 3)


def test_formats_that_are_only_read_become_png(realesr: Command, model_file: Path, tmp_path: Path) -> None:
    (tmp_path / "a.pbm").write_bytes(b"P4\n32 32\n" + bytes(range(128)))
    assert realesr("image", tmp_path / "a.pbm", "-m", model_file).status == 0
    grey = read_image(tmp_path / "a_x4.pgm").pixels
    assert grey.shape == (128, 128, 1)
    assert len(np.unique(grey)) > 2


def test_quality_and_lossless(realesr: Command, model_file: Path, picture: Picture, tmp_path: Path) -> None:
    source = picture("a.png", 64, 64)
    sizes = {}
    for flags in (["--quality", "10"], ["--quality", "100"], ["--lossless"]):
        name = tmp_path / f"{flags[-1]}.webp"
        assert realesr("image", source, "-m", model_file, "-o", name, *flags).status == 0
        sizes[flags[-1]] = name.stat().st_size
    assert sizes["10"] < sizes["100"]
    assert realesr("image", source, "-m", model_file, "-o", tmp_path / "exact.png").status == 0
    exact = read_image(tmp_path / "exact.png").pixels
    np.testing.assert_array_equal(read_image(tmp_path / "--lossless.webp").pixels, exact)
    # a WebP file without loss goes into another one
    write_image(tmp_path / "b.webp", read_image(source), lossless=True)
    assert realesr("image", tmp_path / "b.webp", "-m", model_file).status == 0
    np.testing.assert_array_equal(read_image(tmp_path / "b_x4.webp").pixels, exact)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--quality", "0"], "--quality must lie between 1 and 100"),
        (["--quality", "5", "--lossless"], "exclude each other"),
        (["--lossless", "--format", "jpg"], "always loses detail"),
        (["--format", "psd"], "--format psd is not one of png, jpg"),
        (["--format", "jpg", "-o", "a.png"], "--format jpg contradicts -o"),
        (["--background", "blue"], "blue is not a colour"),
        (["--alpha-mode", "x"], "--alpha-mode x is not one of"),
        (["--max-pixels", "0"], "--max-pixels must lie between"),
        (["--skip-existing", "--overwrite"], "exclude each other"),
        (["-o", "-", "--json"], "both write to stdout"),
    ],
)
def test_contradictions(flags: list[str], words: str, realesr: Command, model_file: Path, picture: Picture) -> None:
    done = realesr("image", picture("a.png"), "-m", model_file, *flags)
    assert (done.status, words in done.out + done.err) == (2, True), done.out + done.err


def test_a_background_lets_transparency_into_a_jpeg(realesr: Command, model_file: Path, tmp_path: Path) -> None:
    source = _rgba(tmp_path / "a.png")
    assert realesr("image", source, "-m", model_file, "--format", "jpg").status == 4
    done = realesr("image", source, "-m", model_file, "--format", "jpg", "--background", "#0000ff")
    assert done.status == 0
    written = read_image(tmp_path / "a_x4.jpg").pixels
    assert written.shape == (160, 160, 3)
    half = np.array([200, 100, 50]) * 128 / 255 + np.array([0, 0, 255]) * 127 / 255
    assert np.abs(written[30:40, 30:130].mean((0, 1)) - half).max() < 30  # the network is random, the colour is not


def test_what_is_opaque_needs_no_background(realesr: Command, model_file: Path, tmp_path: Path) -> None:
    assert realesr("image", _rgba(tmp_path / "a.png", 255), "-m", model_file, "--format", "jpg").status == 0


def test_strip_keeps_the_profile_alone(realesr: Command, model_file: Path, tmp_path: Path) -> None:
    icc = bytes(16) + b"RGB " + bytes(200)
    gamma = bytes.fromhex("0000000467414d41000186a031e8965f")  # gAMA: linear light
    metadata = Metadata(xmp=b"<x/>", icc=icc, dpi=(300, 300), png_colour=gamma)
    write_image(tmp_path / "a.png", Image(pixels=np.zeros((8, 8, 3), np.uint8), metadata=metadata))
    assert realesr("image", tmp_path / "a.png", "-m", model_file, "--strip").status == 0
    assert read_image(tmp_path / "a_x4.png").metadata == Metadata(icc=icc, png_colour=gamma)


def test_nothing_is_loaded_where_all_is_finished(realesr: Command, picture: Picture, cache: Path) -> None:
    source = picture("a.png")
    picture("a_x4.png")
    done = realesr("image", source, "-m", "realesr-animevideov3", "--offline", "--skip-existing", "--json")
    assert done.status == 0  # the model is not there at all
    assert done.events("summary")[0]["skipped"] == 1
    assert len(done.events("skipped")) == 1


def test_skip_existing(realesr: Command, model_file: Path, picture: Picture, tmp_path: Path) -> None:
    sources = [picture("a.png"), picture("b.png")]
    (tmp_path / "a_x4.png").write_bytes(b"mine")
    done = realesr("image", *sources, "-m", model_file, "--skip-existing", "--json")
    assert done.status == 0
    assert (tmp_path / "a_x4.png").read_bytes() == b"mine"
    assert [event["input"] for event in done.events("skipped")] == [str(sources[0])]
    summary = done.events("summary")[0]
    assert (summary["done"], summary["skipped"], summary["failed"]) == (1, 1, 0)
    assert "a_x4.png is already there" in realesr("image", *sources, "-m", model_file, "--skip-existing").err


def test_a_picture_through_pipes(model_file: Path, picture: Picture, cache: Path) -> None:
    source = picture("a.png")
    command = [sys.executable, "-m", "realesr_cli", "image", "-", "-o", "-", "-m", str(model_file)]
    for flags, format_ in (([], "png"), (["--format", "jpg"], "jpg")):
        done = subprocess.run([*command, *flags], input=source.read_bytes(), capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        assert sniff(done.stdout) == format_
        assert read_image(done.stdout).pixels.shape == (96, 128, 3)
        assert b"- -> -" in done.stderr
    done = subprocess.run(command, input=b"", capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (4, b"")
    assert b"cannot read standard input: the file is empty" in done.stderr


def test_pipes_and_files(realesr: Command, model_file: Path, picture: Picture, tmp_path: Path) -> None:
    sources = [picture("a.png"), picture("b.png")]
    done = realesr("image", *sources, "-m", model_file, "-o", "-")
    assert (done.status, "takes one picture" in done.err) == (2, True)
    done = realesr("image", "-", "-m", model_file)
    assert (done.status, "needs -o" in done.err) == (2, True)


def test_names_that_would_become_too_long_are_cut(
    realesr: Command, model_file: Path, picture: Picture, tmp_path: Path
) -> None:
    source = picture("ü" * 125 + ".png")
    assert realesr("image", source, "-m", model_file).status == 0
    (written,) = tmp_path.glob("*_x4.png")
    assert len(written.name.encode()) <= 255
    assert written.name.startswith("ü" * 120)


def test_the_size_limit_is_checked_before_decoding(realesr: Command, model_file: Path, picture: Picture) -> None:
    source = picture("a.png", 20, 30)
    done = realesr("image", source, "-m", model_file, "--max-pixels", "599")
    assert (done.status, "--max-pixels 600 lets it through" in done.err) == (4, True)
    assert realesr("image", source, "-m", model_file, "--max-pixels", "600").status == 0
