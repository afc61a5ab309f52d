"""`realesr compare`: what is in its pages, what it says, and what it refuses."""

import base64
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from realesr_cli import comparison
from realesr_cli.image_io import Image, Pixels, read_image, write_image
from realesr_cli.metadata import Metadata

Command = Callable[..., Any]

RED = (220, 30, 30)


def _write(path: Path, pixels: Pixels) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, Image(pixels=pixels))
    return path


def _flat(path: Path, colour: tuple[int, ...], height: int = 120, width: int = 200) -> Path:
    return _write(path, np.full((height, width, len(colour)), colour, np.uint8))


def _noise(height: int, width: int, channels: int = 3, dtype: Any = np.uint8) -> Pixels:
    coarse = np.random.default_rng(height).random((7, 9, channels))
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).reshape(height, width, channels)
    return (smooth.clip(0, 1) * np.iinfo(dtype).max).round().astype(dtype)


def _pictures_of(page: Path) -> list[Pixels]:
    """The pictures inside a page."""
    found = re.findall(r'src="data:image/\w+;base64,([^"]+)"', page.read_text(encoding="utf-8"))
    return [read_image(base64.b64decode(data)).pixels for data in found]


def _bicubic_by_hand(pixels: Pixels, scale: int) -> Pixels:
    """Cubic convolution with a = -1/2, edges repeated symmetrically: MATLAB's imresize."""

    def weight(x: float) -> float:
        x = abs(x)
        return 1.5 * x**3 - 2.5 * x**2 + 1 if x <= 1 else max(0, 2 - x) * (0.5 * x**2 - 1.5 * x + 1)

    def matrix(length: int) -> NDArray[np.float64]:
        rows = np.zeros((length * scale, length))
        for row in range(length * scale):
            place = (row + 0.5) / scale - 0.5
            for tap in range(int(np.floor(place)) - 1, int(np.floor(place)) + 3):
                inside = -1 - tap if tap < 0 else min(tap, 2 * length - 1 - tap)
                rows[row, inside] += weight(place - tap)
        return rows

    tall, wide = matrix(pixels.shape[0]), matrix(pixels.shape[1])
    return np.einsum("ab,bcd,ec->aed", tall, pixels, wide).round().clip(0, 255).astype(np.uint8)


def test_scores_are_against_the_first_or_the_reference(realesr: Command, tmp_path: Path) -> None:
    true = _noise(60, 80)
    near, far = (np.clip(true.astype(int) + d, 0, 255).astype(np.uint8) for d in (2, 9))
    names = {"true": true, "near": near, "far": far}
    sources = {name: _write(tmp_path / f"{name}.png", pixels) for name, pixels in names.items()}
    done = realesr("compare", *sources.values(), "-o", tmp_path / "a.html", "--json")
    assert done.status == 0
    (event,) = done.events("compared")
    first, second, third = event["pictures"]
    assert event["reference"] == "true.png" and set(first) == {"name", "size"}
    assert second["psnr_rgb_db"] == pytest.approx(10 * np.log10(255**2 / ((near.astype(int) - true) ** 2).mean()))
    assert second["ssim_y"] > third["ssim_y"] > 0
    done = realesr(
        "compare", sources["near"], sources["far"], "--reference", sources["true"], "-o", tmp_path / "b.html"
    )
    assert done.status == 0
    assert "true.png  80x60  reference" in done.out and "42.22 dB" in done.out
    text = (tmp_path / "b.html").read_text(encoding="utf-8")
    assert "PSNR and SSIM to true.png" in text
    best = re.findall(r"<td class=best>([^<]+)", text)
    assert best[0] == f"{second['psnr_y_db']:.2f} dB" and len(best) == 4
    done = realesr("compare", *sources.values(), "--reference", sources["far"], "-o", tmp_path / "c.html", "--json")
    assert [("psnr_y_db" in one) for one in done.events("compared")[0]["pictures"]] == [True, True, False]


def test_scores_in_bands_are_those_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    from realesr_train.metrics.psnr_ssim import psnr, ssim

    a, b = _noise(61, 80), _noise(62, 80)[:61]
    monkeypatch.setattr(comparison, "_BAND_PX", 7 * 80)
    scores = comparison._scores(a, b, 3)
    assert scores["psnr_y_db"] == pytest.approx(psnr(a, b, border=3, luma=True), rel=1e-12)
    assert scores["psnr_rgb_db"] == pytest.approx(psnr(a, b, border=3), rel=1e-12)
    assert scores["ssim_y"] == pytest.approx(ssim(a, b, border=3, luma=True), rel=1e-12)
    assert scores["ssim_rgb"] == pytest.approx(ssim(a, b, border=3), rel=1e-12)


def test_equal_and_tiny_pictures_have_scores_too(realesr: Command, tmp_path: Path) -> None:
    source = _flat(tmp_path / "a.png", RED, 5, 6)
    done = realesr("compare", source, source, "-o", tmp_path / "page.html")
    assert done.status == 0
    assert re.search(r"a\.png \(2\)\s+6x5\s+equal\s+–\s+equal\s+–", done.out)


def test_pictures_lie_in_the_page_without_loss_at_the_size_of_the_largest(realesr: Command, tmp_path: Path) -> None:
    small, large = _noise(30, 40), _noise(120, 160)
    sources = [_write(tmp_path / "s.png", small), _write(tmp_path / "l.png", large)]
    done = realesr("compare", *sources, "-o", tmp_path / "page.html")
    assert done.status == 0
    assert "40x30, bicubic to 160x120" in done.out
    first, second = _pictures_of(tmp_path / "page.html")
    assert np.array_equal(second, large)
    off = np.abs(first.astype(int) - _bicubic_by_hand(small, 4))
    assert off.max() <= 1 and (off > 0).mean() < 0.01  # halves, of which float32 makes a bit more or less


@pytest.mark.parametrize(
    ("name", "channels", "dtype"),
    [("a.png", 1, np.uint8), ("a.png", 4, np.uint8), ("a.tif", 3, np.uint16), ("a.png", 4, np.uint16)],
)
def test_every_kind_of_picture_is_shown(name: str, channels: int, dtype: Any, realesr: Command, tmp_path: Path) -> None:
    pixels = _noise(48, 64, channels, dtype)
    small = _noise(24, 32, channels, dtype)
    sources = [_write(tmp_path / "colour.png", _noise(48, 64)), _write(tmp_path / name, pixels)]
    sources.append(_write(tmp_path / f"small{name}", small))
    assert realesr("compare", *sources, "-o", tmp_path / "page.html").status == 0
    shown = _pictures_of(tmp_path / "page.html")[1]
    expected = pixels if dtype == np.uint8 else ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    assert np.array_equal(shown, expected.repeat(3, 2) if channels == 1 else expected)


def test_a_part_and_a_quality(realesr: Command, tmp_path: Path) -> None:
    a, b = _noise(100, 120), _noise(101, 120)[:100]
    sources = [_write(tmp_path / "a.png", a), _write(tmp_path / "b.png", b)]
    target = tmp_path / "page.html"
    for crop, part in (
        ("40x30", np.s_[35:65, 40:80]), ("40x30+90+80", np.s_[80:100, 90:120]), ("999x999", np.s_[:, :]),
    ):  # fmt: skip
        assert realesr("compare", *sources, "-o", target, "--crop", crop, "--overwrite").status == 0
        assert np.array_equal(_pictures_of(target)[1], b[part]), crop
    large = target.stat().st_size
    done = realesr("compare", *sources, "-o", target, "--quality", "30", "--overwrite", "--json")
    assert done.status == 0 and done.events("compared")[0]["bytes"] == target.stat().st_size < large - 5000
    assert "WebP of quality 30" in target.read_text(encoding="utf-8")


def test_models_beside_bicubic_and_the_truth(
    realesr: Command, model_file: Path, picture: Callable[..., Path], tmp_path: Path
) -> None:
    low, true = picture("low.png", 20, 30), _write(tmp_path / "true.png", _noise(80, 120))
    second = tmp_path / "second,model.safetensors"
    second.write_bytes(model_file.read_bytes())
    arguments = ["compare", low, "--models", model_file, "--models", second, "-o", tmp_path / "page.html", "--json"]
    done = realesr(*arguments, "--reference", true, "--device", "cpu", "--precision", "fp32", "--tile", "16")
    assert done.status == 0, done.err
    (event,) = done.events("compared")
    assert [one["name"] for one in event["pictures"]][0::3] == ["bicubic", "true.png"]
    assert len({one["name"] for one in event["pictures"]}) == 4 and len(done.events("model")) == 2
    assert (event["width"], event["height"], event["reference"]) == (120, 80, "true.png")
    _, by_model, again, last = _pictures_of(tmp_path / "page.html")
    assert np.array_equal(by_model, again) and np.array_equal(last, read_image(true).pixels)
    assert realesr("image", low, "-m", model_file, "-o", tmp_path / "x4.png", "--precision", "fp32").status == 0
    assert np.array_equal(by_model, read_image(tmp_path / "x4.png").pixels)
    assert "a border of 4 pixels left out" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_models_without_the_truth_have_no_scores(
    realesr_process: Command, model_file: Path, picture: Callable[..., Path], tmp_path: Path
) -> None:
    target = tmp_path / "page.html"
    done = realesr_process(
        "compare", picture("low.png"), "--models", f"{model_file},{model_file}", "-s", "3", "-o", target
    )
    assert done.status == 0, done.err
    assert "No scores: --reference names" in done.out and "96x72" in done.out and "PSNR" not in done.out
    assert len(_pictures_of(target)) == 3


def test_two_proportions_are_said(realesr: Command, tmp_path: Path) -> None:
    sources = [_write(tmp_path / "a.png", _noise(100, 150)), _write(tmp_path / "b.png", _noise(198, 302))]
    done = realesr("compare", *sources, "-o", tmp_path / "page.html")
    assert done.status == 0 and "stretched by 1.7 %" in done.err
    sources[1] = _write(tmp_path / "c.png", _noise(203, 304))  # 2.03 times as large: rounding could do that
    assert "stretched" not in realesr("compare", *sources, "-o", tmp_path / "other.html").err


def test_colour_profiles_go_into_the_page_and_different_ones_are_said(realesr: Command, tmp_path: Path) -> None:
    icc = bytes(16) + b"RGB " + bytes(16) + b"acsp" + bytes(88)
    icc = len(icc).to_bytes(4, "big") + icc[4:]
    sources = [_write(tmp_path / "a.png", _noise(20, 30)), tmp_path / "b.png"]
    write_image(sources[1], Image(pixels=_noise(21, 30)[:20], metadata=Metadata(icc=icc, dpi=(72, 72))))
    done = realesr("compare", *sources, "-o", tmp_path / "page.html", "--json")
    assert [event["code"] for event in done.events("warning")] == ["profile"]
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    (second,) = re.findall(r'alt="b.png".*base64,([^"]+)"', text)
    assert read_image(base64.b64decode(second)).metadata == Metadata(icc=icc)


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["{a}"], 2, "one picture has nothing to be compared with"),
        (["{a}", "{none}"], 4, "cannot read"),
        (["{a}", "{text}"], 4, "it is not a picture"),
        (["{a}", "{wide}"], 4, "not one picture in two sizes"),
        (["{a}", "{a}", "-o", "{a}"], 2, "what is written is a web page"),
        (["{a}", "{a}", "-o", "{there}"], 6, "is already there"),
        (["{a}", "--models", "no-such-model", "-o", "{there}"], 6, "is already there"),  # before anything is loaded
        (["{a}", "{a}", "-o", "{folder}/no/page.html"], 6, "its folder does not exist"),
        (["{a}", "{pic}", "-o", "{pic}", "--overwrite"], 2, "is one of the pictures"),
        (["{a}", "{a}", "--crop", "3"], 2, "--crop 3 is not a part"),
        (["{a}", "{a}", "--crop", "3x3+900+0"], 2, "no part of the 200x120 pixels"),
        (["{a}", "{a}", "--crop", "0x3"], 2, "no part of"),
        (["{a}", "{a}", "--quality", "0"], 2, "--quality must lie between"),
        (["{a}", "{a}", "--models", "x4plus"], 2, "--models takes one picture"),
        (["{a}", "{a}", "-s", "2"], 2, "--scale is for --models"),
        (["{a}", "--models", "no-such-model"], 3, "no-such-model"),
        (["{a}", "{a}", "--reference", "{none}"], 4, "cannot read"),
        (["{a}", "{a}", "--max-pixels", "9"], 4, "the limit is"),
    ],
)
def test_what_is_refused(arguments: list[str], status: int, words: str, realesr: Command, tmp_path: Path) -> None:
    places = {name: tmp_path / f"{name}.png" for name in ("a", "none", "text", "wide")}
    places |= {"there": tmp_path / "there.html", "pic": tmp_path / "pic.html", "folder": tmp_path}
    _flat(places["a"], RED)
    _flat(places["wide"], RED, 100, 300)
    places["pic"].write_bytes(places["a"].read_bytes())
    places["text"].write_text("no picture")
    places["there"].write_text("mine")
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    target = [] if "-o" in arguments else ["-o", str(tmp_path / "page.html")]
    done = realesr("compare", *(text.format(**places) for text in arguments), *target)
    assert (done.status, words in done.err) == (status, True), done.err
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_what_no_browser_would_show_is_refused(
    realesr: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = _write(tmp_path / "a.png", _noise(100, 100))
    for name, limit, words in (("_MOST_PIXELS", 19_999, "more than a page can hold"), ("_MOST_BYTES", 999, "browsers")):
        with monkeypatch.context() as patch:
            patch.setattr(comparison, name, limit)
            done = realesr("compare", source, source, "-o", tmp_path / "page.html")
        assert done.status == 4 and words in done.err and "--crop" in done.err
        assert not (tmp_path / "page.html").exists()


def test_the_flags_are_frozen(realesr: Command) -> None:
    found = set(re.findall(r"--[a-z-]+", realesr("compare", "--help").out))
    assert found == {
        "--output", "--models", "--reference", "--scale", "--crop", "--quality", "--device", "--precision", "--threads",
        "--tile", "--max-pixels", "--overwrite", "--offline", "--json", "--quiet", "--verbose", "--help",
    }  # fmt: skip
