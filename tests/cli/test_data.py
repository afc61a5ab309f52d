"""`realesr data`: what it writes, that it can be repeated, what it refuses, and how it ends."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

import realesr_train
from realesr_cli import read_image
from realesr_cli.errors import DiskFull
from realesr_train.config import DegradationConfig, legacy, with_order
from realesr_train.data import degrade as engine
from realesr_train.degradation.draws import draw
from realesr_train.degradation.replay import from_json, to_json
from realesr_train.degradation.resize import imresize
from realesr_train.degradation.second_order import apply

Command = Callable[..., Any]
# a checkout that is not installed has the training package in a folder of its own
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(realesr_train.__file__).parent.parent)}


def _photo(path: Path, height: int = 48, width: int = 64, *, channels: int = 3, deep: bool = False) -> Path:
    rng = np.random.default_rng(len(path.name))
    coarse = rng.random((6, 8, channels))
    pixels = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).clip(0, 1)
    top, dtype = (65535, np.uint16) if deep else (255, np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), (pixels * top).round().astype(dtype))
    return path


def _tensor(path: Path) -> torch.Tensor:
    pixels = read_image(path).pixels
    planes = torch.from_numpy(pixels.astype(np.float32) / np.iinfo(pixels.dtype).max)
    return planes.permute(2, 0, 1)[None].contiguous()


def _records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "draws.jsonl").read_text(encoding="utf-8").splitlines()]


def test_degrade_in_a_process_of_its_own(realesr_process: Command, tmp_path: Path) -> None:
    photos = [_photo(tmp_path / "in" / name) for name in ("a.png", "b ü.png")]
    done = realesr_process("data", "degrade", *photos, "-o", tmp_path / "out", "--seed", "5", env=ENVIRONMENT)
    assert done.status == 0 and done.out == ""
    assert "2 done, 0 skipped, 0 failed" in done.err
    for i, photo in enumerate(photos):
        draws = draw(DegradationConfig(), scale=4, seed=5, samples=torch.tensor([i]), height=48, width=64)
        assert torch.equal(_tensor(tmp_path / "out" / photo.name), apply(_tensor(photo), draws))
        assert _records(tmp_path / "out")[i] == {"input": str(photo), "output": photo.name, "draws": to_json(draws, 0)}


def test_the_record_gives_the_same_files_again(realesr: Command, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    _photo(folder / "a.png", 50, 67)
    _photo(folder / "sub" / "b.jpg", 40, 40)
    options = ["--scale", "2", "--legacy", "--order", "3", "--seed", "9"]
    assert realesr("data", "degrade", folder, "-o", tmp_path / "one", *options).status == 0
    record = tmp_path / "one" / "draws.jsonl"
    # the order of the inputs no longer matters
    assert realesr("data", "degrade", folder / "sub" / "b.jpg", "-o", tmp_path / "b", "--replay", record).status == 4
    assert realesr("data", "degrade", folder, "-o", tmp_path / "two", "--replay", record).status == 0
    for name in ("a.png", "sub/b.png"):
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
    assert _records(tmp_path / "two") == _records(tmp_path / "one")
    draws = from_json([_records(tmp_path / "one")[0]["draws"]])
    assert (draws.scale, draws.seed, draws.jpeg_model, len(draws.passes)) == (2, 9, "legacy", 3)


def test_a_configuration_file_decides_and_flags_go_before_it(realesr: Command, tmp_path: Path) -> None:
    photo = _photo(tmp_path / "a.png")
    config = tmp_path / "c.toml"
    config.write_text("scale = 2\n[run]\nseed = 3\n[degradation]\nsharpen_input = false\n", encoding="utf-8")
    assert realesr("data", "degrade", photo, "-o", tmp_path / "out", "--config", config).status == 0
    draws = from_json([_records(tmp_path / "out")[0]["draws"]])
    assert (draws.scale, draws.seed, draws.sharpen_input) == (2, 3, False)
    done = realesr("data", "degrade", photo, "-o", tmp_path / "out", "--config", config, "-s", "1", "--overwrite")
    assert done.status == 0
    assert from_json([_records(tmp_path / "out")[0]["draws"]]).scale == 1
    config.write_text("[degradation]\npases = 3\n", encoding="utf-8")
    done = realesr("data", "degrade", photo, "-o", tmp_path / "out", "--config", config)
    assert done.status == 2 and "did you mean passes?" in done.err


def test_grey_alpha_and_deep_pictures(realesr: Command, tmp_path: Path) -> None:
    grey, alpha, deep = (
        _photo(tmp_path / name, channels=channels, deep=is_deep)
        for name, channels, is_deep in (("grey.png", 1, False), ("alpha.png", 4, False), ("deep.png", 3, True))
    )
    done = realesr("data", "degrade", grey, alpha, deep, "-o", tmp_path / "out", "--json")
    assert done.status == 0
    assert [event["code"] for event in done.events("warning")] == ["alpha"]
    assert [(event["width"], event["height"]) for event in done.events("done")] == [(16, 12)] * 3
    for i, (path, pixels) in enumerate(
        ((grey, _tensor(grey).expand(1, 3, -1, -1).contiguous()), (alpha, _tensor(alpha)[:, :3]), (deep, _tensor(deep)))
    ):
        draws = draw(DegradationConfig(), scale=4, seed=0, samples=torch.tensor([i]), height=48, width=64)
        assert torch.equal(_tensor(tmp_path / "out" / path.name), apply(pixels, draws))


def test_sides_are_cut_to_multiples_of_the_scale(realesr: Command, tmp_path: Path) -> None:
    photo = _photo(tmp_path / "a.png", 51, 66)
    done = realesr("data", "degrade", photo, "-o", tmp_path / "out", "-v")
    assert done.status == 0 and "cut to 64x48" in done.err
    assert read_image(tmp_path / "out" / "a.png").pixels.shape == (12, 16, 3)


def test_a_picture_too_large_for_the_memory_is_refused_before_it_is_tried(
    realesr: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large, small = _photo(tmp_path / "large.png", 400, 400), _photo(tmp_path / "small.png")
    monkeypatch.setattr(engine, "free_memory_bytes", lambda device: 5 * 2**20)
    done = realesr("data", "degrade", large, small, "-o", tmp_path / "out", "--json")
    assert done.status == 1 and done.events("summary")[0]["done"] == 1
    (failed,) = done.events("failed")
    assert failed["error"] == "OutOfMemory" and "400x400 pixels needs 0.0 GiB" in failed["message"]
    assert [record["output"] for record in _records(tmp_path / "out")] == ["small.png"]
    assert realesr("data", "degrade", large, "-o", tmp_path / "b").status == 5


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_memory_that_runs_out_is_no_bug(
    realesr: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(engine, "apply", fail)
    done = realesr("data", "degrade", _photo(tmp_path / "a.png"), "-o", tmp_path / "out")
    assert done.status == 5 and "not enough memory for" in done.err and "cut the picture into pieces" in done.err


def test_one_bad_file_stops_nothing(realesr: Command, tmp_path: Path) -> None:
    good, tiny = _photo(tmp_path / "good.png"), _photo(tmp_path / "tiny.png", 3, 40)
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no picture")
    out = tmp_path / "out"
    done = realesr("data", "degrade", bad, tiny, good, "-o", out, "--json")
    assert done.status == 1
    failed = done.events("failed")
    assert [(event["id"], event["error"]) for event in failed] == [(0, "UnreadableInput"), (1, "UnsupportedInput")]
    assert "less than the scale" in failed[1]["message"]
    assert done.events("summary")[0]["done"] == 1
    (record,) = _records(out)
    assert record["output"] == "good.png" and record["draws"]["samples"] == 2
    assert realesr("data", "degrade", bad, "-o", tmp_path / "other").status == 4
    assert not (tmp_path / "other" / "draws.jsonl").exists()


def test_what_exists_is_kept_unless_told_otherwise(realesr: Command, tmp_path: Path) -> None:
    photo, out = _photo(tmp_path / "a.png"), tmp_path / "out"
    assert realesr("data", "degrade", photo, "-o", out).status == 0
    before = {path: path.read_bytes() for path in out.iterdir()}
    done = realesr("data", "degrade", photo, "-o", out, "--seed", "1")
    assert done.status == 6 and "--overwrite" in done.err
    assert {path: path.read_bytes() for path in out.iterdir()} == before
    assert realesr("data", "degrade", photo, "-o", out, "--seed", "1", "--overwrite").status == 0
    assert all(path.read_bytes() != data for path, data in before.items())


def _interrupted(monkeypatch: pytest.MonkeyPatch, at: int, error: BaseException) -> Callable[[], None]:
    """Writing the picture number `at` (from 0) ends in `error`, Ctrl-C just after it; returns what mends that."""
    write, calls = engine.write_image, []

    def fails(*arguments: Any, **options: Any) -> None:
        calls.append(arguments[0])
        if len(calls) != at + 1 or isinstance(error, KeyboardInterrupt):
            write(*arguments, **options)
        if len(calls) == at + 1:
            raise error

    monkeypatch.setattr(engine, "write_image", fails)
    return lambda: monkeypatch.setattr(engine, "write_image", write)


def test_an_interrupted_run_leaves_no_picture_without_its_line_and_can_go_on(
    realesr: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out, whole = tmp_path / "in", tmp_path / "out", tmp_path / "whole"
    for name in "abcd":
        _photo(folder / f"{name}.png")
    assert realesr("data", "degrade", folder, "-o", whole).status == 0
    mend = _interrupted(monkeypatch, 2, KeyboardInterrupt())
    done = realesr("data", "degrade", folder, "-o", out, "--json")
    mend()
    assert done.status == 130
    assert done.events("summary")[0]["done"] == 2
    pictures = sorted(path.name for path in out.glob("*.png"))
    assert pictures == ["a.png", "b.png", "c.png"]
    assert {*pictures} <= {record["output"] for record in _records(out)}
    with (out / "draws.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"input": "cut o')  # as a power failure leaves it
    kept = {name: (out / name).stat().st_mtime_ns for name in pictures}
    done = realesr("data", "degrade", folder, "-o", out, "--skip-existing", "--json")
    assert done.status == 0
    summary = done.events("summary")[0]
    assert (summary["done"], summary["skipped"], summary["failed"]) == (1, 3, 0)
    assert [event["id"] for event in done.events("skipped")] == [0, 1, 2]
    assert {name: (out / name).stat().st_mtime_ns for name in pictures} == kept
    for path in whole.glob("*.png"):
        assert (out / path.name).read_bytes() == path.read_bytes()
    by_name = {record["output"]: record for record in _records(out)}  # the last line of a name counts
    assert by_name == {record["output"]: record for record in _records(whole)}
    assert realesr("data", "degrade", folder, "-o", tmp_path / "again", "--replay", out / "draws.jsonl").status == 0
    assert (tmp_path / "again" / "d.png").read_bytes() == (whole / "d.png").read_bytes()


def test_a_full_disk_ends_the_run_and_keeps_what_is_done(
    realesr: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = [_photo(tmp_path / "in" / f"{name}.png") for name in "abc"]
    _interrupted(monkeypatch, 1, DiskFull("no space left"))
    done = realesr("data", "degrade", *photos, "-o", tmp_path / "out", "--json")
    assert done.status == 6 and done.events("summary")[0]["done"] == 1
    assert [event["message"] for event in done.events("failed")] == ["no space left"]
    assert "a.png" in {record["output"] for record in _records(tmp_path / "out")}


def test_a_run_without_results_leaves_the_older_record(realesr: Command, tmp_path: Path) -> None:
    photo, out = _photo(tmp_path / "a.png"), tmp_path / "out"
    assert realesr("data", "degrade", photo, "-o", out).status == 0
    before = (out / "draws.jsonl").read_bytes()
    photo.write_bytes(b"no picture any more")
    assert realesr("data", "degrade", photo, "-o", out, "--overwrite").status == 4
    assert (out / "draws.jsonl").read_bytes() == before


def test_results_inside_the_input_folder_and_hidden_files_are_no_inputs(realesr: Command, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    for name in ("a.png", ".hidden.png", ".cache/b.png", "lr/earlier.png", "sub/c.png"):
        _photo(folder / name)
    for command in ("degrade", "lr"):
        done = realesr("data", command, folder, "-o", folder / "lr", "--json", "--overwrite")
        assert done.status == 0
        assert [Path(event["output"]).name for event in done.events("done")] == ["a.png", "c.png"]
    (tmp_path / "only" / "lr").mkdir(parents=True)
    _photo(tmp_path / "only" / "lr" / "a.png")
    done = realesr("data", "lr", tmp_path / "only", "-o", tmp_path / "only" / "lr")
    assert done.status == 4 and "holds no pictures" in done.err


def test_lr_goes_on_where_it_was_interrupted(realesr: Command, tmp_path: Path) -> None:
    photos = [_photo(tmp_path / "in" / f"{name}.png") for name in "ab"]
    assert realesr("data", "lr", photos[0], "-o", tmp_path / "out").status == 0
    done = realesr("data", "lr", *photos, "-o", tmp_path / "out", "--skip-existing", "--json")
    assert done.status == 0
    assert [event["id"] for event in done.events("skipped")] == [0]
    assert [event["id"] for event in done.events("done")] == [1]
    again = realesr("data", "lr", *photos, "-o", tmp_path / "out")
    assert again.status == 1 and "--skip-existing" in again.err


def test_one_pixel_is_enough_where_nothing_is_reduced(realesr: Command, tmp_path: Path) -> None:
    photo = _photo(tmp_path / "dot.png", 1, 1)
    for options in ([], ["--legacy"], ["--order", "3"]):
        out = tmp_path / f"out{len(options)}{options[-1:]}"
        assert realesr("data", "degrade", photo, "-o", out, "--scale", "1", *options).status == 0
        assert read_image(out / "dot.png").pixels.shape == (1, 1, 3)


@pytest.mark.parametrize("command", ["degrade", "lr"])
def test_a_folder_that_cannot_be_made_is_named(realesr: Command, tmp_path: Path, command: str) -> None:
    (tmp_path / "file").write_text("no folder", encoding="utf-8")
    done = realesr("data", command, _photo(tmp_path / "a.png"), "-o", tmp_path / "file", "--json")
    assert done.status == 6
    (failed,) = done.events("failed")
    assert failed["error"] == "OutputError" and str(tmp_path / "file") in failed["message"]


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        ([], 2, "--contact-sheet"),
        (["-o", "{out}", "--scale", "9"], 2, "scale = 9"),
        (["-o", "{out}", "--order", "0"], 2, "order 0"),
        (["-o", "{out}", "--config", "{out}/none.toml"], 2, "none.toml"),
        (["-o", "{out}", "--replay", "{out}/none.jsonl"], 2, "none.jsonl"),
        (["-o", "{out}", "--replay", "{in}"], 2, "cannot read"),
        (["-o", "{out}", "--replay", "x", "--seed", "1"], 2, "--replay decides"),
        (["-o", "{in_folder}"], 2, "one of the inputs"),
        (["-o", "{out}", "--overwrite", "--skip-existing"], 2, "exclude each other"),
    ],
)
def test_wrong_usage(realesr: Command, tmp_path: Path, arguments: list[str], status: int, words: str) -> None:
    photo = _photo(tmp_path / "in" / "a.png")
    places = {"out": tmp_path / "out", "in": photo, "in_folder": photo.parent}
    done = realesr("data", "degrade", photo, *(argument.format(**places) for argument in arguments))
    assert done.status == status and words in done.err
    assert not (tmp_path / "out").exists()


def test_two_inputs_for_one_file_are_refused(realesr: Command, tmp_path: Path) -> None:
    photos = [_photo(tmp_path / name) for name in ("a.png", "a.jpg")]
    done = realesr("data", "lr", *photos, "-o", tmp_path / "out")
    assert done.status == 2 and "would both become" in done.err
    (tmp_path / "empty").mkdir()
    done = realesr("data", "lr", tmp_path / "empty", "-o", tmp_path / "out")
    assert done.status == 4 and "holds no pictures" in done.err


def test_a_record_that_does_not_fit_is_refused_by_line(realesr: Command, tmp_path: Path) -> None:
    photo, out = _photo(tmp_path / "a.png"), tmp_path / "out"
    assert realesr("data", "degrade", photo, "-o", out).status == 0
    record = out / "draws.jsonl"
    text = record.read_text(encoding="utf-8")
    record.write_text(text + text.replace('"area"', '"nearest"').replace('"bi', '"tri'), encoding="utf-8")
    done = realesr("data", "degrade", photo, "-o", tmp_path / "two", "--replay", record)
    assert done.status == 2 and "draws.jsonl, line 2: draws." in done.err and "mode" in done.err
    record.write_text(text, encoding="utf-8")
    other = _photo(tmp_path / "other" / "a.png", 60, 64)
    done = realesr("data", "degrade", other, "-o", tmp_path / "two", "--replay", record)
    assert done.status == 4 and "does not fit" in done.err


def test_a_contact_sheet_shows_sixteen_labelled_degradations(
    realesr: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    photo = Path(_photo(tmp_path / "a.png", 100, 500).name)
    sheet = tmp_path / "sheet.png"
    assert realesr("data", "degrade", photo, "--contact-sheet", sheet).status == 0
    assert not (tmp_path / "draws.jsonl").exists()
    pixels = read_image(sheet).pixels
    height, width, _ = pixels.shape
    tile = height // 4
    assert (height % 4, width) == (0, 1280) and tile > 320 + 6 * 15
    tiles = [pixels[y * tile : (y + 1) * tile, x * 320 : (x + 1) * 320] for y in range(4) for x in range(4)]
    assert len({one[:320].tobytes() for one in tiles}) == 16
    assert all(one[320:].max() == 255 and one[320:].min() == 0 for one in tiles)
    assert realesr("data", "degrade", photo, "--contact-sheet", sheet).status == 6


def test_lr_in_a_process_of_its_own(realesr_process: Command, tmp_path: Path) -> None:
    folder = tmp_path / "HR"
    photos = [_photo(folder / "a.png", 50, 67), _photo(folder / "b.png", channels=1)]
    done = realesr_process(
        "data", "lr", folder, "-o", tmp_path / "LR", "--kernel", "bicubic", "--scale", "3", env=ENVIRONMENT
    )
    assert done.status == 0 and done.out == ""
    for photo, (height, width) in zip(photos, ((48, 66), (48, 63)), strict=True):
        whole = _tensor(photo)[..., :height, :width].expand(1, 3, -1, -1)
        levels = (imresize(whole, scale=1 / 3) * 255).clamp(0, 255)
        difference = (_tensor(tmp_path / "LR" / photo.name) * 255 - levels).abs()
        assert difference.mean() < 0.4  # rounded twice


def test_lr_gives_the_published_set5(realesr: Command, tmp_path: Path, data: Callable[[str], Path]) -> None:
    folder = data("set5")
    assert realesr("data", "lr", folder / "HR", "-o", tmp_path, "--scale", "4").status == 0
    for path in sorted((folder / "LR_bicubic_x4").iterdir()):
        theirs, ours = _tensor(path) * 255, _tensor(tmp_path / path.name) * 255
        assert (ours - theirs).abs().max() <= 1.001
        assert ((ours - theirs).abs() > 0.5).double().mean() < 1e-3


def test_lr_knows_one_kernel(realesr: Command, tmp_path: Path) -> None:
    done = realesr("data", "lr", _photo(tmp_path / "a.png"), "-o", tmp_path / "out", "--kernel", "lanczos")
    assert done.status == 2 and "lanczos" in done.err


def test_flags_are_frozen(realesr: Command) -> None:
    words = {word.strip(",") for word in realesr("data", "degrade", "--help").out.split() if word.startswith("--")}
    assert words == {
        "--output", "--scale", "--seed", "--config", "--order", "--legacy", "--replay", "--contact-sheet",
        "--overwrite", "--skip-existing", "--json", "--quiet", "--verbose", "--help",
    }  # fmt: skip
    words = {word.strip(",") for word in realesr("data", "lr", "--help").out.split() if word.startswith("--")}
    assert words == {
        "--output", "--kernel", "--scale", "--overwrite", "--skip-existing", "--json", "--quiet", "--verbose", "--help",
    }  # fmt: skip


def test_legacy_and_order_are_the_configurations(realesr: Command, tmp_path: Path) -> None:
    photo = _photo(tmp_path / "a.png")
    assert realesr("data", "degrade", photo, "-o", tmp_path / "out", "--legacy", "--order", "1").status == 0
    config = legacy(with_order(DegradationConfig(), 1))
    draws = draw(config, scale=4, seed=0, samples=torch.tensor([0]), height=48, width=64)
    assert _records(tmp_path / "out")[0]["draws"] == to_json(draws, 0)
