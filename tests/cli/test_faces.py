"""`realesr faces`, and `realesr image --face-enhance` from end to end with a small network."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from realesr_cli import Image, read_image, write_image

Command = Callable[..., Any]
Pixels = NDArray[Any]


def _saved(path: Path, pixels: Pixels) -> Path:
    write_image(path, Image(pixels=np.ascontiguousarray(pixels)))
    return path


# --- realesr faces ----------------------------------------------------------------------------------------------------


def test_faces_are_drawn_and_printed(
    realesr_process: Command, detector: Path, portrait: Pixels, tmp_path: Path
) -> None:
    source = _saved(tmp_path / "me.png", portrait)
    done = realesr_process("faces", source)
    assert (done.status, done.err) == (0, "")
    result = json.loads(done.out)
    assert (result["input"], result["output"]) == (str(source), str(tmp_path / "me_faces.png"))
    assert (result["width"], result["height"]) == (200, 180)
    (face,) = result["faces"]
    assert np.abs(np.array(face["landmarks"][0]) - (103.4, 70.8)).max() < 3
    assert face["score"] > 0.9
    assert face["refused"] is None
    box = face["box"]
    copy = read_image(tmp_path / "me_faces.png").pixels
    assert (copy[box["top"], box["left"]] == (0, 200, 0)).all()
    assert np.array_equal(copy[:20], portrait[:20])
    assert np.array_equal(read_image(source).pixels, portrait)


def test_faces_as_events_and_without_a_face(realesr: Command, detector: Path, picture: Any, tmp_path: Path) -> None:
    done = realesr("faces", picture("a.jpg"), "-o", tmp_path / "b.png", "--json")
    assert done.status == 0
    (event,) = done.events("detected")
    assert event["faces"] == []
    assert done.events()[-1]["event"] == "summary"
    assert np.array_equal(read_image(tmp_path / "b.png").pixels, read_image(tmp_path / "a.jpg").pixels)
    assert json.loads(realesr("faces", tmp_path / "a.jpg").out)["faces"] == []


def test_flags_decide_what_is_taken(realesr: Command, detector: Path, portrait: Pixels, tmp_path: Path) -> None:
    source = _saved(tmp_path / "me.png", portrait)
    for flags, refused in (
        (["--face-min-size", "150"], "small"),
        (["--face-threshold", "0.999"], "uncertain"),
        (["--only-center-face"], None),
    ):
        (face,) = json.loads(realesr("faces", source, "--overwrite", *flags).out)["faces"]
        assert face["refused"] == refused


def test_faces_never_replaces_a_file_unasked(realesr: Command, detector: Path, picture: Any, tmp_path: Path) -> None:
    source = picture("a.png")
    before = source.read_bytes()
    assert realesr("faces", source, "-o", source).status == 2
    assert realesr("faces", source, "-o", source, "--overwrite").status == 2
    assert source.read_bytes() == before
    taken = picture("a_faces.png")
    assert realesr("faces", source).status == 6
    assert realesr("faces", source, "--overwrite").status == 0
    assert realesr("faces", source, "-o", tmp_path).status in (4, 6)
    assert taken.is_file()


def test_faces_of_what_is_no_picture(realesr: Command, detector: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture")
    for name in ("a.png", "missing.png"):
        done = realesr("faces", tmp_path / name)
        assert (done.status, done.out) == (4, "")


def test_faces_without_the_detector(realesr: Command, picture: Any, tmp_path: Path) -> None:
    source = picture("a.png")
    done = realesr("faces", source, "--offline")
    assert done.status == 3
    assert "realesr models download yunet" in done.err
    assert not (tmp_path / "a_faces.png").exists()


# --- realesr image --face-enhance -------------------------------------------------------------------------------------


def _two(portrait: Pixels) -> Pixels:
    return np.concatenate((portrait, portrait[:, ::-1]), axis=1)


def _alpha(portrait: Pixels) -> Pixels:
    alpha = np.full((*portrait.shape[:2], 1), 255, np.uint8)
    alpha[:30] = 0
    return np.concatenate((portrait, alpha), axis=2)


@pytest.mark.parametrize(
    ("name", "change", "count"),
    [
        ("rgb.png", lambda p: p, 1),
        ("photo.jpg", lambda p: p, 1),
        ("several.png", _two, 2),
        ("at the edge.png", lambda p: p[:140, 60:], 1),
        ("tiny.png", lambda p: cv2.resize(p, (50, 45), interpolation=cv2.INTER_AREA), 1),
        ("too small.png", lambda p: cv2.resize(p, (30, 27), interpolation=cv2.INTER_AREA), 0),
        ("rotated.png", np.rot90, 1),
        ("16 bit.png", lambda p: p.astype(np.uint16) * 257, 1),
        ("grey.png", lambda p: cv2.cvtColor(p, cv2.COLOR_RGB2GRAY)[..., None], 1),
        ("grey 16 bit.tif", lambda p: cv2.cvtColor(p, cv2.COLOR_RGB2GRAY)[..., None].astype(np.uint16) * 257, 1),
        ("rgba.png", _alpha, 1),
        ("none.png", lambda p: p[:40], 0),
    ],
)
def test_only_faces_change(
    name: str, change: Callable[[Pixels], Pixels], count: int,
    realesr: Command, detector: Path, restorer: Path, model_file: Path, portrait: Pixels, tmp_path: Path,
) -> None:  # fmt: skip
    source = _saved(tmp_path / name, change(portrait))
    common = ["image", source, "-m", model_file, "-s", "2.5", "--precision", "fp32", "--format", "png"]
    assert realesr(*common, "-o", tmp_path / "plain.png").status == 0
    done = realesr(*common, "-o", tmp_path / "faces.png", "--face-enhance", "--face-model", restorer, "--json")
    assert done.status == 0
    (event,) = done.events("faces")
    restored = [face for face in event["faces"] if face["refused"] is None]
    assert len(restored) == count
    plain, result = (read_image(tmp_path / f"{file}.png").pixels for file in ("plain", "faces"))
    assert (result.shape, result.dtype) == (plain.shape, plain.dtype)
    if not count:
        assert (tmp_path / "faces.png").read_bytes() == (tmp_path / "plain.png").read_bytes()
        return
    changed = (result != plain).any(axis=2)
    assert 0.01 < changed.mean() < 0.9
    middles = [np.mean(face["landmarks"], axis=0) * 2.5 for face in restored]
    for x, y in middles:
        assert changed[round(y) - 3 : round(y) + 3, round(x) - 3 : round(x) + 3].mean() > 0.9
    for (x, y), face in zip(middles, restored, strict=True):
        points = np.array(face["landmarks"])
        reach = 2.5 * 2.3 * np.hypot(*(points[:2].mean(0) - points[3:].mean(0)))  # in lengths from eyes to mouth
        rows, columns = np.ogrid[: plain.shape[0], : plain.shape[1]]
        changed[(rows - y) ** 2 + (columns - x) ** 2 < reach**2] = False
    assert not changed.any()
    if plain.shape[2] == 4:
        assert np.array_equal(result[..., 3], plain[..., 3])


def test_a_photo_without_a_face_is_the_same_and_says_so(
    realesr_process: Command, detector: Path, restorer: Path, model_file: Path, picture: Any, tmp_path: Path
) -> None:
    source = picture("a.png")
    common = ("image", source, "-m", model_file, "--offline")
    assert realesr_process(*common, "-o", tmp_path / "plain.png").status == 0
    done = realesr_process(*common, "-o", tmp_path / "f.png", "--face-enhance", "--face-model", restorer)
    assert (done.status, done.out) == (0, "")
    assert f"{source}: no face found" in done.err
    assert "WARN" not in done.err
    assert (tmp_path / "f.png").read_bytes() == (tmp_path / "plain.png").read_bytes()


def test_runs_repeat_exactly_and_strength_is_real(
    realesr: Command, detector: Path, restorer: Path, model_file: Path, portrait: Pixels, tmp_path: Path
) -> None:
    source = _saved(tmp_path / "me.png", portrait)
    pixels = {}
    for name, flags in (
        ("plain", []),
        ("zero", ["--face-enhance", "--face-strength", "0", "--face-model", restorer]),
        ("half", ["--face-enhance", "--face-strength", "0.5", "--face-model", restorer]),
        ("one", ["--face-enhance", "--face-model", restorer]),
        ("again", ["--face-enhance", "--face-model", restorer]),
    ):
        common = ("image", source, "-m", model_file, "--precision", "fp32")
        assert realesr(*common, "-o", tmp_path / f"{name}.png", *flags).status == 0
        pixels[name] = read_image(tmp_path / f"{name}.png").pixels.astype(int)
    assert np.array_equal(pixels["plain"], pixels["zero"])
    assert np.array_equal(pixels["one"], pixels["again"])
    assert np.abs(pixels["half"] - (pixels["plain"] + pixels["one"]) / 2).max() <= 1


def test_faces_are_kept_before_and_after(
    realesr: Command, detector: Path, restorer: Path, model_file: Path, portrait: Pixels, tmp_path: Path
) -> None:
    source = _saved(tmp_path / "two.png", _two(portrait))
    common = ("image", source, "-m", model_file, "--precision", "fp32")
    run = (*common, "--face-enhance", "--face-model", restorer, "--save-faces", tmp_path / "f")
    assert realesr(*run).status == 0
    kept = sorted((tmp_path / "f").iterdir())
    assert [path.name for path in kept] == ["two_x4.png_face1.png", "two_x4.png_face2.png"]
    for path in kept:
        assert read_image(path).pixels.shape == (32, 64, 3)
    (tmp_path / "two_x4.png").unlink()
    done = realesr(*run)
    assert done.status == 6
    assert "face1.png" in done.err
    assert not (tmp_path / "two_x4.png").exists()
    assert realesr(*run, "--overwrite").status == 0
    (tmp_path / "two_x4.png").unlink()
    only = realesr(*run, "--overwrite", "--only-center-face", "--json")
    assert sorted(str(face["refused"]) for face in only.events("faces")[0]["faces"]) == ["None", "not in the centre"]


def test_nothing_is_done_without_the_weights(
    realesr: Command, detector: Path, model_file: Path, picture: Any, tmp_path: Path
) -> None:
    source = picture("a.png")
    run = ("image", source, "-m", model_file, "-o", tmp_path / "out" / "b.png", "--face-enhance")
    done = realesr(*run, "--offline")
    assert done.status == 3
    assert "realesr models download gfpgan-1.4" in done.err
    assert "--face-model" in done.err
    done = realesr(*run, "--dry-run")
    assert done.status == 0
    assert "would first fetch gfpgan-1.4" in done.out
    done = realesr(*run, "--face-model", "codeformer")
    assert done.status == 2
    assert "--accept-license" in done.err
    assert not (tmp_path / "out").exists()


def test_nothing_is_done_without_the_detector(
    realesr: Command, restorer: Path, model_file: Path, picture: Any, tmp_path: Path
) -> None:
    run = ("image", picture("a.png"), "-m", model_file, "-o", tmp_path / "b.png", "--face-enhance")
    done = realesr(*run, "--face-model", restorer, "--offline")
    assert done.status == 3
    assert "realesr models download yunet" in done.err
    assert not (tmp_path / "b.png").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--face-strength", "0.5"], "--face-strength says nothing without --face-enhance"),
        (["--only-center-face"], "--only-center-face"),
        (["--save-faces", "x"], "--save-faces"),
        (["--face-enhance", "--face-strength", "1.5"], "between 0 and 1"),
        (["--face-enhance", "--face-threshold", "1"], "between 0 and 1"),
        (["--face-enhance", "--face-min-size", "0"], "at least 1"),
        (["--face-enhance", "--face-model", "x4plus", "--offline"], "does not restore faces"),
    ],
)
def test_contradictions_are_refused(
    flags: list[str], words: str, realesr: Command, model_file: Path, picture: Any
) -> None:
    done = realesr("image", picture("a.png"), "-m", model_file, *flags)
    assert done.status == 2
    assert words in done.err
