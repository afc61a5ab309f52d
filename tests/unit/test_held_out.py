"""Held-out pictures: never trained on, degraded once, aligned."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from realesr_cli.errors import ConfigError, UnreadableInput, UnsupportedInput
from realesr_train.data.prepare import prepare
from realesr_train.held_out import Data, open_data
from realesr_train.train_config import TrainConfig
from recording import Events
from training import TINY, configs, write_photos


def tagged(folder: Path, count: int) -> None:
    """Pictures of one colour each: its red value is its number."""
    folder.mkdir(parents=True)
    for number in range(count):
        cv2.imwrite(str(folder / f"p{number:02}.png"), np.full((96, 112, 3), number, np.uint8))


def one(tmp_path: Path, *overrides: str) -> TrainConfig:
    (config,) = configs(tmp_path, TINY, overrides=overrides)
    return config


def test_what_is_held_out_is_never_trained_on(tmp_path: Path) -> None:
    tagged(tmp_path / "photos", 30)
    config = one(tmp_path, "validation.held_out=3")
    data = open_data(config, Events())
    held = {int(pair.hr[0, 0, 0]) for pair in data.pairs}
    assert [pair.name for pair in data.pairs] == ["p05", "p15", "p25"] and held == {5, 15, 25}
    seen = {int(data.source.item(0, sample)["hr"][0, 0, 0]) for sample in range(len(data.source))}
    assert len(data.source) == 27 and seen == set(range(30)) - held
    again = open_data(config, Events())
    assert all((a.lq == b.lq).all() for a, b in zip(data.pairs, again.pairs, strict=True))


def test_few_pictures_are_not_held_out(tmp_path: Path) -> None:
    tagged(tmp_path / "photos", 9)
    events = Events()
    data = open_data(one(tmp_path, "validation.held_out=3"), events)
    assert len(data.source) == 9 and data.pairs == ()
    assert "nothing can be kept back of 9 pictures" in events.of("note")[0]["message"]


def colours(data: Data) -> set[int]:
    """The numbers of the tagged pictures that are trained on."""
    item = "hr" if "hr" in data.source.item(0, 0) else "gt"
    return {int(data.source.item(0, sample)[item][0, 0, 0]) for sample in range(3 * len(data.source))}


@pytest.mark.parametrize(("crop_px", "encoded"), [(None, False), (None, True), (64, False)])
def test_of_a_pack_the_pictures_are_kept_back_that_are_of_its_folder(
    tmp_path: Path, crop_px: int | None, encoded: bool
) -> None:
    """With their crops and their reduced copies."""
    (tmp_path / "photos" / "sub").mkdir(parents=True)
    for number in range(20):
        path = tmp_path / "photos" / ("sub" if number % 2 else "") / f"p{number:02}.png"
        cv2.imwrite(str(path), np.full((280, 300, 3), number, np.uint8))
    pack = tmp_path / "photos.pack"
    prepare(
        [tmp_path / "photos"], pack, crop_px=crop_px, stride_px=None, multi_scale=True, encoded=encoded,
        overwrite=False, reporter=Events(), fail=lambda *_: pytest.fail("unreadable"),
    )  # fmt: skip
    config = one(tmp_path, "validation.held_out=2", "validation.crop_px=128")
    of_folder = open_data(config, Events())
    events = Events()
    of_pack = open_data(replace(config, data=replace(config.data, folders=(pack,))), events)
    assert [pair.name for pair in of_pack.pairs] == [pair.name for pair in of_folder.pairs] and of_pack.pairs
    for packed, plain in zip(of_pack.pairs, of_folder.pairs, strict=True):
        assert packed.hr.shape == (128, 128, 3) and (packed.hr == plain.hr).all() and (packed.lq == plain.lq).all()
    held = {int(pair.hr[0, 0, 0]) for pair in of_pack.pairs}
    assert colours(of_pack) == set(range(20)) - held == colours(of_folder)
    assert len(of_pack.source) == 18 * (3 if crop_px is None else 72 + 42 + 16) and not events.of("note")


def test_a_picture_named_twice_is_kept_back_twice(tmp_path: Path) -> None:
    tagged(tmp_path / "photos", 20)
    config = one(tmp_path, "validation.held_out=2")
    listed = tmp_path / "list.txt"
    listed.write_text("".join(f"photos/p{number:02}.png\n" for number in range(20)))
    data = open_data(replace(config, data=replace(config.data, folders=(tmp_path / "photos", listed))), Events())
    assert colours(data) == set(range(20)) - {int(pair.hr[0, 0, 0]) for pair in data.pairs}


def test_what_cannot_be_read_is_not_validated_on_and_does_not_end_the_run(tmp_path: Path) -> None:
    tagged(tmp_path / "photos", 20)
    config = one(tmp_path, "validation.held_out=2")
    spoilt = tmp_path / "photos" / "p05.png"
    data_of = spoilt.read_bytes()
    spoilt.write_bytes(data_of[:43] + bytes(len(data_of) - 43 - 16) + data_of[-16:])  # the header stays right
    events = Events()
    data = open_data(config, events)
    assert [pair.name for pair in data.pairs] == ["p15"] and len(data.source) == 18
    assert "not validated on" in events.of("warning")[0]["message"]
    with pytest.raises(UnreadableInput, match=r"p05\.png"):
        named = replace(config.validation, folders=(tmp_path / "photos",))
        open_data(replace(config, validation=named), Events())


def test_pictures_of_their_own_leave_the_training_set_whole(tmp_path: Path) -> None:
    tagged(tmp_path / "photos", 20)
    write_photos(tmp_path / "own", 2)
    data = open_data(one(tmp_path, f'validation.folders=["{tmp_path / "own"}"]'), Events())
    assert len(data.source) == 20 and [pair.name for pair in data.pairs] == ["photo00", "photo01"]
    for pair in data.pairs:
        assert pair.hr.shape == (64, 64, 3) and pair.lq.shape == (32, 32, 3)
        whole = cv2.imread(str(tmp_path / "own" / f"{pair.name}.png"))[..., ::-1]
        assert (whole[16:80, 24:88] == pair.hr).all()


def test_pairs_are_held_out_together_and_cut_out_at_the_same_place(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("photos", "lr"):
        (tmp_path / name).mkdir()
    for number in range(10):
        small = rng.integers(0, 256, (45, 51, 3), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / "lr" / f"p{number}.png"), small)
        cv2.imwrite(str(tmp_path / "photos" / f"p{number}.png"), small.repeat(2, 0).repeat(2, 1))
    config = one(tmp_path, f'data.lr_folders=["{tmp_path / "lr"}"]')
    data = open_data(config, Events())
    (pair,) = data.pairs
    assert len(data.source) == 9 and pair.lq.shape == (32, 32, 3)
    assert (pair.lq.repeat(2, 0).repeat(2, 1) == pair.hr).all()
    (tmp_path / "lr" / "p5.png").unlink()
    with pytest.raises(UnsupportedInput, match="p5"):
        open_data(config, Events())


def paired_folders(folder: Path, names: Sequence[str]) -> None:
    """Pairs of one colour each, x2: gt of one number, lq of the next."""
    for number, name in enumerate(names):
        for place, side, value in (("photos", 96, 2 * number), ("lr", 48, 2 * number + 1)):
            (folder / place / name).parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / place / name), np.full((side, side, 3), value, np.uint8))


def test_pairs_in_sub_folders_are_held_out_by_their_path_in_the_folder(tmp_path: Path) -> None:
    """As of films, where frames have the same names in each."""
    paired_folders(tmp_path, [f"film{film}/{frame:04}.png" for film in range(5) for frame in range(4)])
    events = Events()
    data = open_data(one(tmp_path, f'data.lr_folders=["{tmp_path / "lr"}"]', "validation.held_out=2"), events)
    assert [pair.name for pair in data.pairs] == ["film1_0001", "film3_0003"] and not events.of("note")
    for pair in data.pairs:
        assert int(pair.lq[0, 0, 0]) == int(pair.hr[0, 0, 0]) + 1
    held = {int(pair.hr[0, 0, 0]) for pair in data.pairs}
    assert len(data.source) == 18 and colours(data) == set(range(0, 40, 2)) - held
    low = {int(data.source.item(0, sample)["lq"][0, 0, 0]) for sample in range(54)}
    assert low == {number + 1 for number in colours(data)}


def test_listed_pairs_are_held_out_and_may_be_validated_on(tmp_path: Path) -> None:
    names = [f"{number}.png" for number in range(20)]
    paired_folders(tmp_path, names)
    listed = tmp_path / "list.txt"
    listed.write_text("".join(f"photos/{name}, lr/{name}\n" for name in names))
    config = one(tmp_path, "data.paired=true", f'data.folders=["{listed}"]', "validation.held_out=2")
    data = open_data(config, Events())
    held = {int(pair.hr[0, 0, 0]) for pair in data.pairs}
    assert len(data.source) == 18 and len(held) == 2 and colours(data) == set(range(0, 40, 2)) - held
    assert all(int(pair.lq[0, 0, 0]) == int(pair.hr[0, 0, 0]) + 1 for pair in data.pairs)
    own = open_data(replace(config, validation=replace(config.validation, folders=(listed,))), Events())
    assert len(own.source) == len(own.pairs) == 20


def test_a_run_without_pictures_is_refused(tmp_path: Path) -> None:
    tagged(tmp_path / "photos", 3)
    config = one(tmp_path)
    with pytest.raises(ConfigError, match=r"data\.folders is empty"):
        open_data(replace(config, data=replace(config.data, folders=())), Events())
