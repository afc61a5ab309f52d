"""`realesr eval`: its three kinds of sets, what it says and writes, and how it ends."""

import csv
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.torch import save_file

import realesr_train
from networks import compact
from realesr_cli import Upscaler, read_image
from realesr_cli.image_io import Image, write_image
from realesr_train.metrics.niqe import niqe
from realesr_train.metrics.psnr_ssim import psnr, ssim

Command = Callable[..., Any]
Finder = Callable[[str], Path]
# a checkout that is not installed has the training package in a folder of its own
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(realesr_train.__file__).parent.parent)}


def _photo(number: int, height: int = 80, width: int = 96) -> NDArray[np.uint8]:
    """Smooth shapes and some texture."""
    rng = np.random.default_rng(number)
    coarse = cv2.resize(rng.random((6, 8, 3)), (width, height), interpolation=cv2.INTER_CUBIC)
    texture = 0.1 * rng.standard_normal((height, width, 1))
    pixels: NDArray[np.uint8] = ((coarse + texture).clip(0, 1) * 255).round().astype(np.uint8)
    return pixels


@pytest.fixture
def clean(tmp_path: Path) -> Path:
    (tmp_path / "hr").mkdir()
    for number, name in enumerate("abc"):
        write_image(tmp_path / "hr" / f"{name}.png", Image(pixels=_photo(number)))
    return tmp_path / "hr"


@pytest.fixture
def reduced(clean: Path, realesr: Command, tmp_path: Path) -> Path:
    """The low-resolution ones, under names of benchmarks."""
    assert realesr("data", "lr", clean, "-o", tmp_path / "lr").status == 0
    for path in (tmp_path / "lr").iterdir():
        path.rename(path.with_name(f"{path.stem}_LR_x4.png"))
    return tmp_path / "lr"


@pytest.fixture
def backbone(weights_file: Finder) -> Path:
    return weights_file("perceptual/squeezenet1_1-features.safetensors")


def _another(folder: Path, scale: int = 4, seed: int = 1) -> Path:
    path = folder / f"other{scale}.safetensors"
    tensors = compact(scale=scale, seed=seed).network.state_dict()
    save_file({key: value.contiguous() for key, value in tensors.items()}, path)
    return path


def _means(done: Any) -> dict[str, dict[str, float]]:
    return {event["model"]: event["values"] for event in done.events("metrics") if event["picture"] is None}


def test_pairs_in_a_process_of_its_own(
    realesr_process: Command, clean: Path, reduced: Path, model_file: Path, tmp_path: Path
) -> None:
    arguments = ["eval", "-m", model_file, "-m", "bicubic", "--data", reduced, "--hr", clean, "--precision", "fp32"]
    done = realesr_process(*arguments, "--metrics", "psnr,ssim", "-o", tmp_path / "out", env=ENVIRONMENT)
    assert done.status == 0, done.err
    assert "3 done, 0 skipped, 0 failed" in done.err
    table = [line.split() for line in done.out.splitlines()]
    assert table[1] == ["model", "PSNR-Y", "PSNR-RGB", "SSIM-Y", "SSIM-RGB"]
    expected = []
    upscaler = Upscaler(model_file)
    for name in "abc":
        result = upscaler(read_image(reduced / f"{name}_LR_x4.png").pixels)
        picture = read_image(clean / f"{name}.png").pixels
        expected.append(
            [
                *(psnr(result, picture, border=4, luma=luma) for luma in (True, False)),
                *(ssim(result, picture, border=4, luma=luma) for luma in (True, False)),
            ]
        )
    with (tmp_path / "out" / "results.csv").open(newline="", encoding="utf-8") as file:
        cells = [row for row in csv.reader(file) if row[1] == "small"]
    assert [row[0] for row in cells] == ["a", "b", "c"]
    assert np.array([row[2:] for row in cells], float) == pytest.approx(np.array(expected), abs=2e-2)
    assert table[2][0] == "small" and float(table[2][1]) == pytest.approx(np.mean(expected, 0)[0], abs=2e-2)
    assert "bicubic minus small" in done.out and "95 %" in done.out


def test_numbers_as_events_and_files(
    realesr: Command, clean: Path, reduced: Path, model_file: Path, backbone: Path, tmp_path: Path
) -> None:
    models = ["-m", "nearest", "-m", model_file, "-m", _another(tmp_path)]
    lpips = ["--metrics", "psnr, ssim,lpips", "--lpips-weights", backbone]
    done = realesr("eval", *models, "--data", reduced, "--hr", clean, *lpips, "-o", tmp_path / "out", "--json")
    assert done.status == 0, done.err
    keys = ["psnr_y_db", "psnr_rgb_db", "ssim_y", "ssim_rgb", "lpips_squeeze"]
    numbers = done.events("metrics")
    assert [(one["picture"], one["model"]) for one in numbers] == [
        (picture, model) for picture in ["a", "b", "c", None] for model in ["nearest", "small", "other4"]
    ]
    assert all(list(one["values"]) == keys for one in numbers)
    means = _means(done)
    nearest = [one["values"]["psnr_y_db"] for one in numbers if one["model"] == "nearest" and one["picture"]]
    assert means["nearest"]["psnr_y_db"] == pytest.approx(np.mean(nearest))
    gaps = done.events("difference")
    assert [(gap["model"], gap["than"]) for gap in gaps[::5]] == [
        ("small", "nearest"), ("other4", "nearest"), ("other4", "small")
    ]  # fmt: skip
    for gap in gaps:
        expected = means[gap["model"]][gap["metric"]] - means[gap["than"]][gap["metric"]]
        assert gap["low"] <= gap["mean"] <= gap["high"] and gap["mean"] == pytest.approx(expected)
    assert [event["name"] for event in done.events("model")] == ["small", "other4"]
    stored = json.loads((tmp_path / "out" / "results.json").read_text("utf-8"))
    assert stored["means"] == means and stored["scale"] == stored["border_px"] == 4
    assert stored["models"]["small"]["sha256"] == done.events("model")[0]["sha256"]
    assert stored["pictures"][0]["hr"] == str(clean / "a.png")
    assert read_image(tmp_path / "out" / "sheet.png").pixels.shape[1] == 5 * 264
    assert done.events()[-1]["done"] == 3


@pytest.mark.parametrize(("kind", "options"), [("first", ["--order", "1"]), ("second", [])])
def test_made_pictures_are_those_of_data_degrade(
    realesr: Command, clean: Path, tmp_path: Path, kind: str, options: list[str]
) -> None:
    assert realesr("data", "degrade", clean, "-o", tmp_path / "lr", "--seed", "5", *options).status == 0
    how = ["eval", "-m", "bicubic", "--metrics", "psnr", "--json"]
    of_files = realesr(*how, "--data", tmp_path / "lr", "--hr", clean)
    made = realesr(*how, "--data", clean, "--degradation", kind, "--seed", "5")
    assert made.status == of_files.status == 0
    assert _means(made) == _means(of_files)
    assert _means(made) != _means(realesr(*how, "--data", clean, "--degradation", kind))


def test_plainly_reduced_pictures_are_those_of_data_lr(realesr: Command, clean: Path, reduced: Path) -> None:
    how = ["eval", "-m", "lanczos", "--metrics", "psnr,ssim", "--json"]
    made = realesr(*how, "--data", clean, "--degradation", "bicubic")
    assert _means(made) == _means(realesr(*how, "--data", reduced, "--hr", clean))


def test_pictures_without_reference_have_a_naturalness_and_small_ones_have_none(
    realesr: Command, tmp_path: Path
) -> None:
    for number, (height, width) in enumerate([(50, 60), (20, 60), (70, 50)]):
        path = tmp_path / "lr" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        write_image(path, Image(pixels=_photo(number, height, width)))
    done = realesr("eval", "-m", "nearest", "-m", "bicubic", "--data", tmp_path / "lr", "--json")
    assert done.status == 0 and done.events("metrics")[2]["values"] == {"niqe": None}
    (warning,) = done.events("warning")
    assert warning["code"] == "niqe" and "1.png" in warning["message"]
    large = [read_image(tmp_path / "lr" / f"{number}.png").pixels.repeat(4, 0).repeat(4, 1) for number in (0, 2)]
    assert _means(done)["nearest"]["niqe"] == pytest.approx(np.mean([niqe(one) for one in large]))
    assert {gap["pictures"] for gap in done.events("difference")} == {2}


def test_a_drift_of_colour_is_a_number_and_keep_colours_takes_it_away(
    realesr: Command, reduced: Path, model_file: Path
) -> None:
    how = ["eval", "-m", "nearest", "-m", model_file, "--data", reduced, "--metrics", "shift", "--json"]
    as_it_is, kept = realesr(*how), realesr(*how, "--keep-colours")
    assert as_it_is.status == kept.status == 0
    drift = _means(as_it_is)["small"]["shift_levels"]
    results = [(Upscaler(model_file)(low), low) for low in (read_image(path).pixels for path in reduced.iterdir())]
    expected = [abs(result.mean((0, 1)) - low.mean((0, 1))).mean() for result, low in results]
    assert drift == pytest.approx(np.mean(expected)) and drift > 1
    assert _means(kept)["small"]["shift_levels"] < 0.3 * drift
    assert _means(kept)["nearest"]["shift_levels"] == 0
    assert [event["keep_colours"] for done in (as_it_is, kept) for event in done.events("model")] == [False, True]


def test_the_border_and_the_scale_can_be_chosen(realesr: Command, clean: Path, tmp_path: Path) -> None:
    how = ["eval", "-m", "bicubic", "--data", clean, "--degradation", "bicubic", "--metrics", "psnr", "--json"]
    whole, usual, half = (realesr(*how, *more) for more in (["--border", "0"], [], ["-s", "2", "--border", "4"]))
    values = [_means(done)["bicubic"]["psnr_y_db"] for done in (whole, usual, half)]
    assert len(set(values)) == 3 and values[2] > values[1]
    assert realesr("data", "lr", clean, "-o", tmp_path / "half", "-s", "2").status == 0
    paired = realesr("eval", "-m", "bicubic", "--data", tmp_path / "half", "--hr", clean, "--metrics", "psnr", "--json")
    assert paired.status == 0 and "x2" in paired.events("evaluated")[0]["text"]  # the pairs tell the scale


def test_equal_pictures_do_not_make_the_mean_infinite(realesr: Command, clean: Path, tmp_path: Path) -> None:
    how = ["eval", "-m", "nearest", "-s", "1", "--metrics", "psnr,ssim", "--data", clean, "--hr", clean, "--json"]
    values = _means(realesr(*how))["nearest"]
    assert values["psnr_y_db"] == values["psnr_rgb_db"] == 100 and values["ssim_rgb"] == pytest.approx(1)


def test_one_bad_picture_stops_nothing(realesr: Command, clean: Path, reduced: Path, tmp_path: Path) -> None:
    (reduced / "b_LR_x4.png").write_bytes(b"no picture")
    write_image(reduced / "c_LR_x4.png", Image(pixels=_photo(2, 21, 24)), overwrite=True)
    write_image(reduced / "d.png", Image(pixels=_photo(3, 20, 24)))
    tiny = Image(pixels=_photo(4, 16, 16))
    write_image(clean / "e.png", tiny)
    write_image(reduced / "e.png", Image(pixels=tiny.pixels[::4, ::4]))
    done = realesr("eval", "-m", "bicubic", "--data", reduced, "--hr", clean, "--metrics", "ssim", "--json")
    assert done.status == 1
    messages = {Path(event["input"]).name: event["message"] for event in done.events("failed")}
    assert list(messages) == ["d.png", "b_LR_x4.png", "c_LR_x4.png", "e.png"]
    assert "no partner" in messages["d.png"] and "cannot decode" in messages["b_LR_x4.png"]
    assert "96x80" in messages["c_LR_x4.png"] and "too small: 16x16" in messages["e.png"]
    assert [event["picture"] for event in done.events("metrics")] == ["a", None]
    assert done.events()[-1]["failed"] == 4 and done.events()[-1]["done"] == 1


def test_a_single_bad_picture_decides_the_status(realesr: Command, tmp_path: Path) -> None:
    (tmp_path / "lr").mkdir()
    (tmp_path / "lr" / "x.png").write_bytes(b"no picture")
    done = realesr("eval", "-m", "bicubic", "--data", tmp_path / "lr", "-o", tmp_path / "out")
    assert done.status == 4 and not list((tmp_path / "out").iterdir())


def test_wrong_calls_are_explained(realesr: Command, clean: Path, model_file: Path, tmp_path: Path) -> None:
    other = tmp_path / "others" / model_file.name
    other.parent.mkdir()
    shutil.copy(model_file, other)
    pairs = ["--data", clean, "--degradation", "bicubic"]
    calls: list[tuple[list[Any], int, str]] = [
        (["--data", clean], 2, "say which models"),
        (["-m", "bicubic", "--data", clean, "--metrics", "niqe,psnr"], 2, "psnr compares with clean pictures"),
        (["-m", "bicubic", *pairs, "--metrics", "psnr,mse"], 2, "'mse' is not known"),
        (["-m", "bicubic", *pairs, "--metrics", ","], 2, "names nothing"),
        (["-m", "bicubic", *pairs, "--hr", clean], 2, "exclude each other"),
        (["-m", "bicubic", "--data", clean, "--degradation", "third"], 2, "third is not one of bicubic, first, second"),
        (["-m", "bicubic", *pairs, "--seed", "1"], 2, "--seed is for"),
        (["-m", "bicubic", "--data", clean, "--degradation", "first", "--seed", "-1"], 2, "seed = -1"),
        (["-m", "bicubic", *pairs, "--border", "-1"], 2, "--border"),
        (["-m", "bicubic", *pairs, "-s", "9"], 2, "from 1 to 8"),
        (["-m", "bicubic", "-m", "bicubic", *pairs], 2, "give each model once"),
        (["-m", model_file, "-m", _another(tmp_path, scale=2), *pairs], 2, "small x4, other2 x2"),
        (["-m", model_file, *pairs, "-s", "2"], 2, "small x4, --scale x2"),
        (["-m", "nobody-knows", *pairs], 3, "no model is called nobody-knows"),
        (["-m", "bicubic", *pairs, "--metrics", "lpips-vgg", "--offline"], 3, "lpips-squeeze (5 MB)"),
        (["-m", "bicubic", *pairs, "--metrics", "lpips", "--lpips-weights", model_file], 3, "none of AlexNet"),
        (["-m", "bicubic", "--data", tmp_path / "nowhere"], 4, "does not exist"),
        (["-m", "bicubic", *pairs, "-o", model_file], 6, "cannot write"),
    ]
    for arguments, status, message in calls:
        done = realesr("eval", *arguments)
        assert (done.status, done.out) == (status, ""), arguments
        assert message in done.err, done.err
    # files of one name are told apart by their folders
    done = realesr("eval", "-m", model_file, "-m", other, *pairs, "--metrics", "psnr", "--json")
    assert list(_means(done)) == [f"{tmp_path.name}/small", "others/small"]


def test_a_backbone_for_another_metric_is_refused(realesr: Command, clean: Path, backbone: Path) -> None:
    how = ["eval", "-m", "bicubic", "--data", clean, "--degradation", "bicubic", "--lpips-weights", backbone]
    done = realesr(*how, "--metrics", "lpips-alex")
    assert done.status == 2 and "is for lpips-squeeze" in done.err


def test_results_are_not_replaced_unasked(realesr: Command, clean: Path, tmp_path: Path) -> None:
    how = ["eval", "-m", "nearest", "--data", clean, "--degradation", "bicubic", "--metrics", "psnr"]
    assert realesr(*how, "-o", tmp_path / "out").status == 0
    before = (tmp_path / "out" / "results.csv").read_bytes()
    done = realesr(*how, "-m", "bicubic", "-o", tmp_path / "out")
    assert done.status == 6 and "results.csv is already there" in done.err
    assert (tmp_path / "out" / "results.csv").read_bytes() == before
    assert realesr(*how, "-m", "bicubic", "-o", tmp_path / "out", "--overwrite").status == 0
    assert (tmp_path / "out" / "results.csv").read_bytes() != before
