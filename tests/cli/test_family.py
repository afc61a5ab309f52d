"""The commands of the family: blends and strips, kernels and noise of photos, sweeps."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from networks import compact
from realesr_cli import read_image
from training import TINY, write_config, write_photos

Command = Callable[..., Any]


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Two trainings of one small network."""
    paths = []
    for number in range(2):
        tensors = compact().network.state_dict()
        generator = torch.Generator().manual_seed(number)
        tensors = {key: value + 0.05 * torch.randn(value.shape, generator=generator) for key, value in tensors.items()}
        paths.append(tmp_path / f"{number}.safetensors")
        save_file(tensors, paths[-1], {"activation": "prelu"})
    return paths[0], paths[1]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_photos(tmp_path / "photos", count=3, height=160, width=176)


def _enlarged(realesr: Command, picture: Path, target: Path, *options: object) -> np.ndarray:
    done = realesr("image", picture, "-o", target, *options)
    assert done.status == 0, done.err
    return read_image(target).pixels.astype(int)


def test_image_blends_as_models_interpolate_does(
    realesr: Command, pair: tuple[Path, Path], photos: Path, tmp_path: Path
) -> None:
    picture = photos / "photo00.png"
    assert realesr("models", "interpolate", *pair, "--alpha", "0.8", "-o", tmp_path / "c.safetensors").status == 0
    mixed = load_file(tmp_path / "c.safetensors")
    first, second = (load_file(path) for path in pair)
    assert all(torch.allclose(mixed[key], 0.2 * first[key] + 0.8 * second[key], atol=1e-6) for key in first)
    from_file = _enlarged(realesr, picture, tmp_path / "1.png", "-m", tmp_path / "c.safetensors")
    at_once = _enlarged(realesr, picture, tmp_path / "2.png", "-m", pair[0], "--blend", f"{pair[1]}:0.8")
    assert np.array_equal(from_file, at_once)
    alone = _enlarged(realesr, picture, tmp_path / "3.png", "-m", pair[0], "--blend", f"{pair[1]}:0")
    assert np.array_equal(alone, _enlarged(realesr, picture, tmp_path / "4.png", "-m", pair[0]))
    assert not np.array_equal(alone, at_once)


@pytest.mark.parametrize("blend", ["x", "x:", ":0.5", "x:1.5", "x:much"])
def test_a_blend_that_makes_no_sense_is_refused(
    blend: str, realesr: Command, pair: tuple[Path, Path], photos: Path
) -> None:
    done = realesr("image", photos / "photo00.png", "-m", pair[0], "--blend", blend)
    assert done.status == 2 and "--blend" in done.err
    assert realesr("image", photos / "photo00.png", "--blend", f"{pair[1]}:0.5").status == 2


def test_networks_of_two_spellings_can_be_blended(
    realesr: Command, golden: Callable[[str], Path], tmp_path: Path
) -> None:
    from realesr_cli.models.architectures import respelled
    from realesr_cli.models.reading import read_weights

    with np.load(golden("interpolation.npz"), allow_pickle=False) as arrays:
        for side in "AB":
            tensors = {key[2:]: torch.from_numpy(arrays[key]) for key in arrays.files if key.startswith(f"{side}.")}
            save_file(tensors, tmp_path / f"{side}.safetensors")
    save_file(respelled(read_weights(tmp_path / "B.safetensors")).tensors, tmp_path / "new.safetensors")
    for b, target in (("B", "one"), ("new", "two")):
        arguments = (
            tmp_path / "A.safetensors",
            tmp_path / f"{b}.safetensors",
            "-o",
            tmp_path / f"{target}.safetensors",
        )
        assert realesr("models", "interpolate", *arguments).status == 0
    one, two = (load_file(tmp_path / f"{name}.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


def test_a_sweep_of_alphas_writes_one_labelled_strip(
    realesr: Command, pair: tuple[Path, Path], photos: Path, tmp_path: Path
) -> None:
    strip = tmp_path / "strip.png"
    picture = photos / "photo00.png"
    done = realesr("models", "interpolate", *pair, "--alpha", "0,0.5,...,1", "--picture", picture, "-o", strip)
    assert (done.status, done.out) == (0, f"{strip}\n")
    pixels = read_image(strip).pixels
    side = 96 * 4
    assert pixels.shape == (26 + side, 3 * side + 2 * 6, 3)
    panels = [pixels[26:, start : start + side].astype(int) for start in (0, side + 6, 2 * (side + 6))]
    assert not np.array_equal(panels[0], panels[2])
    for start in range(0, 3 * (side + 6), side + 6):
        assert pixels[:26, start : start + 60].min() < 100  # something is written there
    assert realesr("models", "interpolate", *pair, "--alpha", "0,1", "--picture", picture, "-o", strip).status == 6


@pytest.mark.parametrize("alpha", ["0,2", "a", "0,0.2,...", "1,0.5,...,0", "0,0.001,...,1", ""])
def test_alphas_that_make_no_sense_are_refused(
    alpha: str, realesr: Command, pair: tuple[Path, Path], photos: Path, tmp_path: Path
) -> None:
    picture = photos / "photo00.png"
    done = realesr("models", "interpolate", *pair, "--alpha", alpha, "--picture", picture, "-o", tmp_path / "s.png")
    assert done.status == 2 and "--alpha" in done.err


def test_several_alphas_need_a_picture(realesr: Command, pair: tuple[Path, Path], tmp_path: Path) -> None:
    done = realesr("models", "interpolate", *pair, "--alpha", "0,1", "-o", tmp_path / "s.png")
    assert done.status == 2 and "--picture" in done.err


def test_kernels_of_photos_become_a_pool_that_degrades(realesr: Command, photos: Path, tmp_path: Path) -> None:
    (photos / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    cv2.imwrite(str(photos / "flat.png"), np.full((160, 160, 3), 99, np.uint8))
    before = {path.name: path.read_bytes() for path in photos.iterdir()}
    pool = tmp_path / "kernels"
    done = realesr("data", "kernels", photos, "-o", pool, "--json")
    assert done.status == 1
    assert {Path(event["input"]).name for event in done.events("failed")} == {"broken.jpg", "flat.png"}
    assert {path.name: path.read_bytes() for path in photos.iterdir()} == before
    assert {path.name for path in pool.iterdir()} == {
        "photo00.npz", "photo01.npz", "photo02.npz", "kernels.jsonl", "sheet.png",
    }  # fmt: skip
    records = [json.loads(line) for line in (pool / "kernels.jsonl").read_text().splitlines()]
    assert [record["kernel"] for record in records] == ["photo00.npz", "photo01.npz", "photo02.npz"]
    assert read_image(pool / "sheet.png").pixels.min() == 0
    assert realesr("data", "kernels", photos / "photo00.png", "-o", pool).status == 6
    done = realesr("data", "kernels", photos / "photo00.png", "-o", pool, "--skip-existing", "--json")
    assert done.status == 0 and len(done.events("skipped")) == 1

    config = write_config(tmp_path, '[degradation]\nkind = "realsr"\nkernels = "kernels"\n')
    low = tmp_path / "low"
    assert realesr("data", "degrade", photos / "photo00.png", "-o", low, "--config", config).status == 0
    assert read_image(low / "photo00.png").pixels.shape == (40, 44, 3)
    again = tmp_path / "again"
    assert realesr("data", "degrade", photos / "photo00.png", "-o", again, "--replay", low / "draws.jsonl").status == 0
    assert (again / "photo00.png").read_bytes() == (low / "photo00.png").read_bytes()
    sheet = tmp_path / "sheet.png"
    assert realesr("data", "degrade", photos / "photo00.png", "--contact-sheet", sheet, "--config", config).status == 0
    done = realesr("data", "degrade", photos, "-o", tmp_path / "x", "--config", config, "--legacy")
    assert done.status == 2 and "--legacy" in done.err


def test_kernelgan_runs_from_the_command_line(realesr: Command, photos: Path, tmp_path: Path) -> None:
    arguments = ("data", "kernels", photos, "--method", "gan", "--iterations", "4", "--scale", "2")
    assert realesr(*arguments, "-o", tmp_path / "k").status == 0
    with np.load(tmp_path / "k" / "photo01.npz") as found:
        assert int(found["scale"]) == 2 and found["kernel"].shape == (21, 21)
        assert found["kernel"].sum() == pytest.approx(1, abs=1e-3)
    for options in (("--scale", "3"), ("--method", "best")):
        assert realesr("data", "kernels", photos, "-o", tmp_path / "no", *options).status == 2


def test_noise_of_photos_becomes_a_pool(realesr: Command, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    noisy = rng.normal(120, 3, (100, 130, 3)).clip(0, 255).astype(np.uint8)
    noisy[:, 64:] = rng.integers(0, 256, (100, 66, 3))
    (tmp_path / "in").mkdir()
    cv2.imwrite(str(tmp_path / "in" / "a.png"), noisy)
    arguments = ("data", "noise", tmp_path / "in", "-o", tmp_path / "noise", "--patch", "32")
    done = realesr(*arguments)
    assert done.status == 0 and f"6 patches in {tmp_path / 'noise'}" in done.err + done.out
    patches = sorted(path.name for path in (tmp_path / "noise").glob("a_*.png"))
    assert patches == sorted(f"a_{top}_{left}.png" for top in (0, 32, 64) for left in (0, 32))
    assert np.array_equal(cv2.imread(str(tmp_path / "noise" / "a_32_0.png")), noisy[32:64, :32])
    assert read_image(tmp_path / "noise" / "sheet.png").pixels.shape[0] > 100
    assert realesr(*arguments).status == 6
    done = realesr(*arguments, "--overwrite", "--max-variance", "0.01")
    assert done.status == 4 and "--max-variance" in done.err
    assert realesr(*arguments, "--overwrite", "--min-mean", "200").status == 4


def test_a_sweep_trains_each_value_and_tabulates_the_validations(
    realesr: Command, photos: Path, tmp_path: Path
) -> None:
    photos = write_photos(tmp_path / "many")
    config = write_config(tmp_path, TINY)
    arguments = ("train", "--config", config, "--data", photos, "-o", tmp_path / "run")
    done = realesr(*arguments, "--sweep", "loss.pixel.kind=l1,mse")
    assert done.status == 0, done.err
    rows = list(csv.DictReader((tmp_path / "run" / "sweep.csv").read_text().splitlines()))
    assert [row["loss.pixel.kind"] for row in rows] == ['"l1"', '"mse"'] and {row["steps"] for row in rows} == {"12"}
    assert all(float(row["psnr_y_db"]) > 5 for row in rows)
    assert {path.name for path in (tmp_path / "run").iterdir() if path.is_dir()} == {
        "loss.pixel.kind=_l1", "loss.pixel.kind=_mse",
    }  # fmt: skip
    text = done.out + done.err
    assert "psnr_y_db" in text and '"mse"' in text
    again = realesr(*arguments, "--sweep", "loss.pixel.kind=l1,mse")
    assert again.status == 0 and "step 1/12" not in again.err


@pytest.mark.parametrize(
    ("sweep", "words"),
    [
        ("optim.lr", "--sweep optim.lr"),
        ("optim.lr=1", "--sweep optim.lr=1"),
        ("optim.rate=1,2", "unknown key optim.rate"),
        ("optim.lr=1e-3,-1", "optim.lr = -1"),
    ],
)
def test_a_sweep_that_cannot_be_run_is_refused_before_it_begins(
    sweep: str, words: str, realesr: Command, photos: Path, tmp_path: Path
) -> None:
    config = write_config(tmp_path, TINY)
    done = realesr("train", "--config", config, "--data", photos, "-o", tmp_path / "run", "--sweep", sweep)
    assert done.status == 2 and words in done.err and not (tmp_path / "run").exists()


@pytest.mark.parametrize("options", [("--check",), ("--devices", "2")])
def test_a_sweep_goes_alone(options: tuple[str, ...], realesr: Command, photos: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path, TINY)
    done = realesr("train", "--config", config, "--data", photos, "--sweep", "optim.lr=1e-3,1e-4", *options)
    assert done.status == 2 and "--sweep goes with one process" in done.err


def test_flags_are_frozen(realesr: Command) -> None:
    """A new flag is a decision: extend this list, the README and the CHANGELOG together."""
    common = {"--json", "--quiet", "--verbose", "--help", "--output", "--overwrite"}
    for command, expected in (
        ("kernels", {"--scale", "--method", "--iterations", "--batch", "--seed", "--device", "--skip-existing"}),
        ("noise", {"--patch", "--stride", "--max-variance", "--min-mean"}),
    ):
        words = {word.strip(",;.") for word in realesr("data", command, "--help").out.split() if word.startswith("--")}
        assert words == common | expected
