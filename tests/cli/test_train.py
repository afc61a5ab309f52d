"""`realesr train`: from pictures to a model that `realesr image` uses, what it refuses, and how it ends."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

import realesr_train
from realesr_cli import read_image
from realesr_train.recipes import load_config, load_stages
from training import GAN, TINY, columns, write_config, write_photos

Command = Callable[..., Any]
# a checkout that is not installed has the training package in a folder of its own
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(realesr_train.__file__).parent.parent)}


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_photos(tmp_path / "photos")


def test_from_photos_to_a_model_in_processes_of_their_own(
    realesr_process: Command, photos: Path, tmp_path: Path
) -> None:
    config, run = write_config(tmp_path, TINY, GAN), tmp_path / "run"
    done = realesr_process("train", "--config", config, "--data", photos, "-o", run, env=ENVIRONMENT)
    assert (done.status, done.out) == (0, "")
    assert (
        "SRVGGNetCompact x2 of" in done.err and "step 12/12" in done.err and "validation at step 12: PSNR" in done.err
    )
    assert done.err.splitlines()[-2:] == [
        f"trained 12 steps: {run}/model.safetensors",
        f"use it: realesr image PICTURE -m {run}/model.safetensors",
    ]
    assert {path.name for path in run.iterdir()} == {
        "checkpoints", "config.toml", "events.jsonl", "log.csv", "model.safetensors", "progress.png", "samples",
    }  # fmt: skip
    assert (run / "checkpoints" / "latest").read_text() == "step-00000012\n"
    assert [path.name for path in (run / "samples" / "step-00000006").iterdir()] == ["photo06.png"]
    (asked,) = load_stages(config, [f'data.folders=["{photos}"]', f'run.folder="{run}"'])
    assert load_config(run / "config.toml") == asked

    picture = photos / "photo00.png"
    used = realesr_process(
        "image", picture, "-m", run / "model.safetensors", "-o", tmp_path / "large.png", env=ENVIRONMENT
    )
    assert used.status == 0 and read_image(tmp_path / "large.png").pixels.shape == (192, 224, 3)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_two_processes_learn_the_same_as_one(
    realesr_process: Command, photos: Path, tmp_path: Path, accumulate: int
) -> None:
    """The same pictures in the same steps. Sums in another order differ by rounding, which Adam makes larger from step
    to step: with a rate of 1e-5 it stays small."""
    game = GAN.replace("weight = 0.1", "weight = 0.1\ngenerator_every = 2")
    config = write_config(tmp_path, TINY.replace("lr = 1e-3", "lr = 1e-5"), game + "lr = 1e-5\n")
    for count in (1, 2):
        done = realesr_process(
            "train", "--config", config, "--data", photos, "-o", tmp_path / f"run{count}", "--devices", count,
            "--set", f"data.accumulate={accumulate}", env=ENVIRONMENT,
        )  # fmt: skip
        assert done.status == 0 and done.err.count("trained 12 steps") == 1
    one, two = columns(tmp_path / "run1"), columns(tmp_path / "run2")
    assert set(one) == set(two) >= {"loss.pixel", "loss.d_real", "loss.gradient_norm_d", "loss.gradient_norm_g"}
    for name, values in one.items():
        assert values == pytest.approx(two[name], abs=1e-5), name
    assert len(one["loss.d_real"]) == 12 and sorted(one["loss.pixel"]) == [2, 4, 6, 8, 10, 12]


def test_a_run_begun_by_two_processes_goes_on_with_one(realesr_process: Command, photos: Path, tmp_path: Path) -> None:
    config, run = write_config(tmp_path, TINY), tmp_path / "run"
    command = ("train", "--config", config, "--data", photos, "-o", run)
    assert realesr_process(*command, "--devices", 2, "--set", "run.steps=5", env=ENVIRONMENT).status == 0
    done = realesr_process(*command, "--allow-change", env=ENVIRONMENT)
    assert done.status == 0 and "going on after step 5" in done.err
    whole = realesr_process("train", "--config", config, "--data", photos, "-o", tmp_path / "whole", env=ENVIRONMENT)
    assert whole.status == 0
    for name, values in columns(tmp_path / "whole").items():
        assert values == pytest.approx(columns(run)[name], abs=1e-5), name


def test_the_recipes_are_listed_and_one_can_be_named(realesr: Command, photos: Path, tmp_path: Path) -> None:
    listed = realesr("train", "--list-recipes")
    assert listed.status == 0 and "debug_cpu" in [line.split()[0] for line in listed.out.splitlines()]
    few = [
        "run.steps=2",
        "schedule.warmup=0",
        "validation.every=0",
        "run.threads=1",
        "data.crop_px=64",
        "data.patch_px=32",
    ]
    done = realesr(
        "train", "--recipe", "debug_cpu", "--data", photos, "-o", tmp_path / "r", *(f"--set={one}" for one in few)
    )
    assert done.status == 0 and (tmp_path / "r" / "model.safetensors").is_file()


def test_a_check_looks_and_stops(realesr: Command, photos: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path, TINY)
    done = realesr("train", "--config", config, "--data", photos, "-o", tmp_path / "run", "--check")
    assert done.status == 0 and "1 stage, 12 steps; pictures: 11 to train on, 1 to validate on" in done.out
    assert not (tmp_path / "run").exists()


def test_the_events_as_json(realesr: Command, photos: Path, tmp_path: Path) -> None:
    config, run = write_config(tmp_path, TINY), tmp_path / "run"
    done = realesr("train", "--config", config, "--data", photos, "-o", run, "--json")
    assert done.status == 0
    (training,) = done.events("training")
    assert (training["parameters"], training["precision"], training["total"]) == (1_700, "fp32", 12)
    assert [event["step"] for event in done.events("step")] == list(range(1, 13))
    assert set(done.events("step")[0]) >= {"losses", "learning_rate", "data_s", "step_s", "images_per_s", "memory_mib"}
    assert [(e["step"], e["dataset"]) for e in done.events("metrics")] == [
        (0, "bicubic"), (6, "validation"), (12, "validation"),
    ]  # fmt: skip
    assert [event["step"] for event in done.events("checkpoint")] == [5, 10, 12]
    (trained,) = done.events("trained")
    assert trained["model"] == str(run / "model.safetensors") and trained["best"]["psnr_y_db"] > 15
    assert done.events()[-1] == {**done.events("summary")[0], "done": 1, "exit_status": 0}
    kept = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    assert [event["step"] for event in kept if event["event"] == "step"] == list(range(1, 13))


def test_what_is_asked_again_is_not_done_again(realesr: Command, photos: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path, TINY)
    command = ("train", "--config", config, "--data", photos, "-o", tmp_path / "run", "--set", "run.steps=2")
    assert realesr(*command).status == 0
    again = realesr(*command)
    assert again.status == 0 and "step 1/2" not in again.err and "trained 2 steps" in again.err
    other = realesr(*command, "--set", "optim.lr=1e-5")
    assert other.status == 2 and "optim.lr was 0.001, is 1e-05" in other.err and "--allow-change" in other.err


def _odd_photos(folder: Path) -> Path:
    """Grey, 16 bits, alpha, CMYK, large and small, and two files that are no pictures."""
    write_photos(folder, 3)
    rng = np.random.default_rng(0)
    cv2.imwrite(str(folder / "grey.png"), rng.integers(0, 256, (80, 90), dtype=np.uint8))
    cv2.imwrite(str(folder / "deep.png"), rng.integers(0, 65536, (80, 90, 3), dtype=np.uint16))
    cv2.imwrite(str(folder / "alpha.png"), rng.integers(0, 256, (80, 90, 4), dtype=np.uint8))
    cv2.imwrite(str(folder / "large.jpg"), rng.integers(0, 256, (300, 280, 3), dtype=np.uint8))
    cv2.imwrite(str(folder / "small.png"), rng.integers(0, 256, (40, 30, 3), dtype=np.uint8))
    cv2.imwrite(str(folder / "tiny.png"), rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff nothing")
    return folder


def test_pictures_of_all_kinds_are_taken_and_what_is_none_is_named_first(
    realesr: Command, media: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = _odd_photos(tmp_path / "odd")
    cmyk = media("images/formats/cmyk_noicc.jpg")
    (folder / "cmyk.jpg").write_bytes(cmyk.read_bytes())
    config = write_config(tmp_path, TINY, "")
    few = ("--set", "validation.every=0", "--set", "run.steps=6")
    done = realesr("train", "--config", config, "--data", folder, "-o", tmp_path / "run", *few)
    assert done.status == 0, done.err
    before = done.err.partition("step 1/6")[0]
    assert "broken.jpg" in before and "tiny.png" in before and "1 pictures have an alpha channel" in before
    assert "9 pictures to train on" in before


def _empty(folder: Path) -> list[object]:
    (folder / "empty").mkdir()
    return ["--data", folder / "empty"]


def _pairs(folder: Path, scale: int, names: int = 12) -> list[object]:
    small = folder / "lr"
    small.mkdir()
    for number in range(names):
        pixels = np.full((96 // scale, 112 // scale, 3), 100, np.uint8)
        cv2.imwrite(str(small / f"photo{number:02}.png"), pixels)
    return ["--set", f'data.lr_folders=["{small}"]']


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (lambda f: [], 2, ["say what to train", "--list-recipes"]),
        (lambda f: ["--config", f / "none.toml"], 2, ["none.toml"]),
        (lambda f: ["--recipe", "debug"], 2, ["no recipe is called debug", "debug_cpu"]),
        (lambda f: ["--config", f / "run.toml", "--set", "optim.rate=1"], 2, ["unknown key optim.rate"]),
        (lambda f: ["--config", f / "run.toml", "--devices", "0"], 2, ["--devices 0"]),
        (lambda f: ["--config", f / "run.toml"], 2, ["data.folders is empty", "--data"]),
        (
            lambda f: ["--config", f / "run.toml", "--data", f / "photos", "--set", "data.paired=true"],
            2,
            ["data.lr_folders is empty"],
        ),
        (lambda f: ["--config", f / "run.toml", "--data", f / "gone"], 4, ["gone does not exist"]),
        (lambda f: ["--config", f / "run.toml", *_empty(f)], 4, ["holds no pictures"]),
        (lambda f: ["--config", f / "run.toml", "--data", f / "photos", "--device", "cuda"], 5, ["cuda"]),
        (lambda f: ["--config", f / "run.toml", "--data", f / "photos", *_pairs(f, 4)], 4, ["photo"]),
        (lambda f: ["--config", f / "run.toml", "--data", f / "photos", *_pairs(f, 2, 11)], 4, ["photo11"]),
        (
            lambda f: ["--config", f / "run.toml", "--data", f / "photos", "--set", 'model.start_from="nobody"'],
            3,
            ["nobody"],
        ),
        (
            lambda f: ["--config", f / "run.toml", "--data", f / "photos", "--set", f'model.start_from="{f}/photos"'],
            3,
            ["photos"],
        ),
        (
            lambda f: ["--config", f / "run.toml", "--data", f / "photos", "--set", "data.accumulate=3"],
            2,
            ["data.batch = 4 must be a multiple of accumulate = 3"],
        ),
    ],
)
def test_what_cannot_be_done_is_said_before_training_begins(
    realesr: Command,
    photos: Path,
    tmp_path: Path,
    arguments: Callable[[Path], list[object]],
    status: int,
    words: list[str],
) -> None:
    write_config(tmp_path, TINY)
    done = realesr("train", "-o", tmp_path / "run", *arguments(tmp_path))
    assert done.status == status, done.err
    assert "error: " in done.err
    for word in words:
        assert word in done.err
    assert "step 1/" not in done.err


def test_pairs_are_trained_on_as_they_are(realesr: Command, photos: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path, TINY)
    lr = _pairs(tmp_path, 2)
    done = realesr("train", "--config", config, "--data", photos, "-o", tmp_path / "run", *lr, "--set", "run.steps=2")
    assert done.status == 0, done.err
    assert "11 pictures to train on, 1 to validate on" in done.err
    # all inputs are the same grey: what bicubic makes of them is grey too
    assert columns(tmp_path / "run", "metric.bicubic.psnr_y")["metric.bicubic.psnr_y_db"][0] < 20
