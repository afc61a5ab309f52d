"""`realesr data prepare` and `data check`: what they write and say, what they refuse, and how they end."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import realesr_train
from realesr_train.data.packed import Pack
from realesr_train.data.source import open_pictures

from realesr_cli import read_image

Command = Callable[..., Any]
# a checkout that is not installed has the training package in a folder of its own
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(realesr_train.__file__).parent.parent)}


def _photo(path: Path, height: int, width: int, channels: int = 3) -> Path:
    coarse = np.random.default_rng(height).random((6, 8, channels))
    pixels = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).clip(0, 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, (pixels * 255).round().astype(np.uint8))[1].tobytes())
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    _photo(tmp_path / "in" / "a b.jpg", 300, 420)
    _photo(tmp_path / "in" / "ü" / "x2 c.png", 500, 450)
    return tmp_path / "in"


def test_prepare_in_a_process_of_its_own(realesr_process: Command, photos: Path, tmp_path: Path) -> None:
    (photos / "bad.png").write_bytes(b"no picture")
    pack = tmp_path / "out.pack"
    done = realesr_process("data", "prepare", photos, "-o", pack, env=ENVIRONMENT)
    assert done.status == 1  # one of three failed, and is named
    assert "bad.png" in done.err and "2 done, 0 skipped, 1 failed" in done.err
    assert "2 pictures of 2 files" in done.out
    (photos / "bad.png").unlink()
    packed, folder = (open_pictures([place], crop_px=64) for place in (pack, photos))
    for sample in range(8):
        assert np.array_equal(packed.item(0, sample)["hr"], folder.item(0, sample)["hr"])
    assert [one.name for one in Pack(pack).pictures()] == ["a b.jpg", "ü/x2 c.png"]


def test_check_in_a_process_of_its_own(realesr_process: Command, photos: Path) -> None:
    done = realesr_process("data", "check", photos, env=ENVIRONMENT)
    assert done.status == 0
    assert "2 pictures can be used, 0.4 megapixels, sides 300 to 500 px; 1 have a side below 400 px" in done.out
    _photo(photos / "small.png", 300, 99)
    cut = _photo(photos / "cut.jpg", 300, 300)
    cut.write_bytes(cut.read_bytes()[:-2000])  # its header is good
    done = realesr_process("data", "check", photos, env=ENVIRONMENT)
    assert done.status == 1 and "2 done, 0 skipped, 2 failed" in done.err
    assert "small.png has 99x300 pixels" in done.err and "cut.jpg: the jpg data is cut off" in done.err


def test_encoded_packs_hold_the_files_themselves(realesr: Command, photos: Path, tmp_path: Path) -> None:
    pack = tmp_path / "out.pack"
    assert realesr("data", "prepare", photos, "-o", pack, "--encoded").status == 0
    files = [photos / "a b.jpg", photos / "ü" / "x2 c.png"]
    assert pack.stat().st_size < sum(file.stat().st_size for file in files) + 1000
    for file, one in zip(files, Pack(pack).pictures(), strict=True):
        assert file.read_bytes() in pack.read_bytes()
        assert np.array_equal(one.read(), read_image(file).pixels)


@pytest.mark.parametrize("storage", [[], ["--encoded"]])
def test_copies_are_reduced_never_enlarged(realesr: Command, photos: Path, tmp_path: Path, storage: list[str]) -> None:
    pack = tmp_path / "out.pack"
    assert realesr("data", "prepare", photos, "-o", pack, "--multi-scale", *storage).status == 0
    pictures = {one.name: one.read() for one in Pack(pack).pictures()}
    assert {name: one.shape[:2] for name, one in pictures.items()} == {
        "a b.jpg": (300, 420),
        "a b.jpg@315x225": (225, 315),
        "a b.jpg@210x150": (150, 210),
        "a b.jpg@140x100": (100, 140),
        "ü/x2 c.png": (500, 450),
        "ü/x2 c.png@337x375": (375, 337),
        "ü/x2 c.png@225x250": (250, 225),
        "ü/x2 c.png@150x166": (166, 150),
        "ü/x2 c.png@400x444": (444, 400),
    }
    half = pictures["a b.jpg"].reshape(150, 2, 210, 2, 3).mean(axis=(1, 3))
    assert np.abs(pictures["a b.jpg@210x150"] - half).mean() < 1


def test_copies_too_small_to_train_on_and_equal_ones_are_left_out(realesr: Command, tmp_path: Path) -> None:
    photos = [_photo(tmp_path / "a.png", 150, 260), _photo(tmp_path / "b.png", 800, 810)]
    assert realesr("data", "prepare", *photos, "-o", tmp_path / "out.pack", "--multi-scale").status == 0
    assert [one.name for one in Pack(tmp_path / "out.pack").pictures()] == [
        "a.png", "a.png@195x112", "b.png", "b.png@607x600", "b.png@405x400", "b.png@270x266",
    ]  # fmt: skip


def test_crops_overlap_by_half_unless_told_otherwise(realesr: Command, photos: Path, tmp_path: Path) -> None:
    for options, count in ((["--crop", "200"], 8 + 16), (["--crop", "200", "--stride", "200"], 6 + 9)):
        done = realesr("data", "prepare", photos, "-o", tmp_path / "out.pack", *options, "--overwrite", "--json")
        assert done.status == 0
        assert done.events("plan")[0]["pictures"] == len(Pack(tmp_path / "out.pack").pictures()) == count
    done = realesr("data", "prepare", photos, "-o", tmp_path / "large.pack", "--crop", "480")
    assert done.status == 0 and "2 pictures have a side below the crop's 480 pixels and are kept whole" in done.err


def test_what_pictures_lose_is_said(realesr: Command, tmp_path: Path) -> None:
    _photo(tmp_path / "in" / "a.png", 120, 120, 4)
    _photo(tmp_path / "in" / "b.png", 120, 120, 1)
    done = realesr("data", "prepare", tmp_path / "in", "-o", tmp_path / "out.pack")
    assert done.status == 0 and "1 pictures have an alpha channel" in done.err
    grey = Pack(tmp_path / "out.pack").pictures()[1].read()
    assert np.array_equal(grey, read_image(tmp_path / "in" / "b.png").pixels.repeat(3, axis=2))


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["{in}", "-o", "{out}.zip"], 2, "does not end in .pack"),
        (["{in}", "-o", "{out}.pack", "--stride", "9"], 2, "--crop"),
        (["{in}", "-o", "{out}.pack", "--crop", "9", "--stride", "10"], 2, "from 1 to the crop"),
        (["{in}/gone", "-o", "{out}.pack"], 4, "does not exist"),
        (["{in}", "-o", "{out}/none/x.pack"], 6, "cannot write"),
    ],
)
def test_wrong_usage(
    realesr: Command, photos: Path, tmp_path: Path, arguments: list[str], status: int, words: str
) -> None:
    places = {"in": photos, "out": tmp_path / "out"}
    done = realesr("data", "prepare", *(argument.format(**places) for argument in arguments))
    assert done.status == status and words in done.err
    assert sorted(tmp_path.iterdir()) == [photos]


def test_a_pack_of_nothing_is_not_written(realesr: Command, tmp_path: Path) -> None:
    bad = tmp_path / "in" / "bad.png"
    bad.parent.mkdir()
    bad.write_bytes(b"no picture")
    done = realesr("data", "prepare", bad, "-o", tmp_path / "out.pack")
    assert done.status == 4 and "none of 1 files can be read" in done.err
    assert not (tmp_path / "out.pack").exists()


def test_what_exists_is_kept_unless_told_otherwise(realesr: Command, photos: Path, tmp_path: Path) -> None:
    pack = tmp_path / "out.pack"
    pack.write_bytes(b"precious")
    assert realesr("data", "prepare", photos, "-o", pack).status == 6
    assert pack.read_bytes() == b"precious"
    assert realesr("data", "prepare", photos, "-o", pack, "--overwrite").status == 0
    assert len(Pack(pack).pictures()) == 2


def test_check_compares_packs_with_their_hashes(realesr: Command, photos: Path, tmp_path: Path) -> None:
    pack = tmp_path / "out.pack"
    assert realesr("data", "prepare", photos, "-o", pack).status == 0
    assert "2 pictures can be used" in realesr("data", "check", pack).out
    data = bytearray(pack.read_bytes())
    data[100] ^= 1
    pack.write_bytes(data)
    done = realesr("data", "check", pack)
    assert done.status == 1 and "a b.jpg in" in done.err and "1 pictures can be used" in done.out


def test_check_compares_pairs(realesr: Command, photos: Path, tmp_path: Path) -> None:
    for folder, scale in (("two", 2), ("three", 3)):
        for name, height, width in (("a b.png", 300, 420), ("ü/x2 c.png", 500, 450)):
            _photo(tmp_path / folder / name, height // scale, width // scale)
    done = realesr("data", "check", photos, "--pairs", tmp_path / "two", "--scale", "2")
    assert done.status == 0 and "4 done" in done.err
    done = realesr("data", "check", photos, "--pairs", tmp_path / "three", "--scale", "3")
    assert done.status == 4 and "1 pairs are not 3 to 1 in size: ü/x2 c (450x500) and ü/x2 c (150x166)" in done.err
    (tmp_path / "two" / "a b.png").unlink()
    done = realesr("data", "check", photos, "--pairs", tmp_path / "two", "--scale", "2")
    assert done.status == 4 and "no partner for 1 pictures: a b" in done.err


def test_flags_are_frozen(realesr: Command) -> None:
    for command, expected in (
        ("prepare", {"--output", "--crop", "--stride", "--multi-scale", "--encoded", "--overwrite"}),
        ("check", {"--pairs", "--scale"}),
    ):
        words = {word.strip(",") for word in realesr("data", command, "--help").out.split() if word.startswith("--")}
        assert words - {"--json", "--quiet", "--verbose", "--help"} == expected
