"""Held-out pictures: never trained on, degraded once, aligned."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from realesr_cli.errors import ConfigError, UnsupportedInput
from realesr_train.held_out import open_data
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
    data = open_data(one(tmp_path, "validation.held_out=3"), Events())
    assert len(data.source) == 9 and data.pairs == ()


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


def test_a_run_without_pictures_is_refused(tmp_path: Path) -> None:
    tagged(tmp_path / "photos", 3)
    config = one(tmp_path)
    with pytest.raises(ConfigError, match=r"data\.folders is empty"):
        open_data(replace(config, data=replace(config.data, folders=())), Events())
