"""The log of a training run, its curves, and what it warns of."""

import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from realesr_train.alarms import alarms
from realesr_train.curves import curves_picture, draw_curves
from realesr_train.run_log import PLAIN, RunLog, Series, read_log
from recording import Events

from realesr_cli.errors import DiskFull, UsageError
from realesr_cli.image_io import read_image


def _step(log: RunLog, step: int, total: int = 1000, **losses: float) -> None:
    log.step(
        step, total, losses or {"pixel": 1 / step}, learning_rate=2e-4, images_per_s=80.0, data_s=0.01, step_s=0.1,
        memory_mib=512.0, skipped=0,
    )  # fmt: skip


def _run(folder: Path, steps: Sequence[int], **options: Any) -> None:
    with RunLog(folder, **options) as log:
        for step in steps:
            _step(log, step)


def test_a_log_reads_back_as_it_was_written(tmp_path: Path) -> None:
    with RunLog(tmp_path) as log:
        _step(log, 100, pixel=0.1234567891, d_real=math.inf)
        _step(log, 200, pixel=1e-12, d_real=math.nan)
        log.metrics(200, "set5", {"psnr_y_db": 27.25})
    columns = read_log(tmp_path / "log.csv")
    assert (tmp_path / "log.csv").read_text().splitlines()[0] == (
        f"step,{','.join(PLAIN)},loss.pixel,loss.d_real,metric.set5.psnr_y_db"
    )
    assert columns["loss.pixel"].steps == [100, 200]
    assert columns["loss.pixel"].values == pytest.approx([0.1234567891, 1e-12], rel=1e-8)
    assert columns["loss.d_real"].values[0] == math.inf
    assert math.isnan(columns["loss.d_real"].values[1])
    assert columns["metric.set5.psnr_y_db"] == Series([200], [27.25])
    assert columns["memory_mib"].values == [512.0, 512.0]


def test_the_history_in_memory_is_the_one_on_disk(tmp_path: Path) -> None:
    with RunLog(tmp_path) as log:
        for step in (1, 2, 3):
            _step(log, step, pixel=0.5)
            log.metrics(step, "set5", {"ssim_y": 0.25 * step})
        assert log.history == read_log(tmp_path / "log.csv")
    with RunLog(tmp_path, resume_step=2) as log:
        assert log.history["metric.set5.ssim_y"] == Series([1, 2], [0.25, 0.5])


def test_a_new_loss_becomes_a_column_and_moves_no_other(tmp_path: Path) -> None:
    with RunLog(tmp_path) as log:
        _step(log, 1, pixel=0.5)
        _step(log, 2, pixel=0.25, perceptual=3.0)
        _step(log, 3, perceptual=2.0)
    lines = (tmp_path / "log.csv").read_text().splitlines()
    assert lines[0].endswith("loss.pixel,loss.perceptual")
    assert [line.split(",")[-2:] for line in lines[1:]] == [["0.5", ""], ["0.25", "3"], ["", "2"]]


def test_rows_and_events_of_the_future_go_when_a_run_goes_on_from_a_checkpoint(tmp_path: Path) -> None:
    with RunLog(tmp_path) as log:
        for step in range(10, 101, 10):
            _step(log, step)
        log.metrics(100, "set5", {"psnr_y_db": 20.0})
        log.warn(100, [("overfitting", "it overfits", "stop")])
    _run(tmp_path, [60, 70], resume_step=50)
    columns = read_log(tmp_path / "log.csv")
    assert columns["loss.pixel"].steps == [10, 20, 30, 40, 50, 60, 70]
    assert "metric.set5.psnr_y_db" not in columns
    records = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [10, 20, 30, 40, 50, 60, 70]
    assert all(record["event"] == "step" and record["v"] == 1 for record in records)


@pytest.mark.parametrize(
    "torn", ["40,0.0002,8", "40", "40,0.0002,80,0.01,0.1,512,0,0.5", "40,0.0002,80\n", "\0\0\0\0\n", "4,x\n"]
)
def test_a_torn_last_line_is_dropped(tmp_path: Path, torn: str) -> None:
    _run(tmp_path, [10, 20, 30])
    before = (tmp_path / "log.csv").read_text()
    with (tmp_path / "log.csv").open("a") as file:
        file.write(torn)
    with (tmp_path / "events.jsonl").open("a") as file:
        file.write('{"v": 1, "event": "step", "st')
    assert read_log(tmp_path / "log.csv")["loss.pixel"].steps == [10, 20, 30]
    RunLog(tmp_path, resume_step=99).close()
    assert (tmp_path / "log.csv").read_text() == before
    _run(tmp_path, [40], resume_step=30)
    assert read_log(tmp_path / "log.csv")["loss.pixel"].steps == [10, 20, 30, 40]
    assert all(json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines())


@pytest.mark.parametrize("damaged", ["", "step", "not a log\n1,2,3\n"])
def test_a_log_without_a_header_is_begun_again(tmp_path: Path, damaged: str) -> None:
    (tmp_path / "log.csv").write_text(damaged)
    assert read_log(tmp_path / "log.csv") == {}
    _run(tmp_path, [5], resume_step=4)
    assert read_log(tmp_path / "log.csv")["loss.pixel"].steps == [5]


def test_each_line_is_on_disk_when_the_call_returns(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    _step(log, 7)
    assert read_log(tmp_path / "log.csv")["loss.pixel"].steps == [7]
    assert json.loads((tmp_path / "events.jsonl").read_text())["step"] == 7
    log.close()


def test_events_have_their_documented_keys(tmp_path: Path, events: Events) -> None:
    with RunLog(tmp_path, events) as log:
        _step(log, 10, 100, pixel=math.nan)
        log.metrics(10, "set5", {"psnr_y_db": 20.0})
        log.checkpoint(10, tmp_path / "checkpoints" / "step-00000010", 1234)
    (step,), (metrics,), (checkpoint,), (progress,) = map(events.of, ("step", "metrics", "checkpoint", "progress"))
    assert step["losses"] == {"pixel": None}, "JSON has no word for NaN"
    assert {"step", "total", "losses", "learning_rate", "data_s", "step_s", "images_per_s", "skipped"} <= step.keys()
    assert metrics == {"event": "metrics", "step": 10, "dataset": "set5", "values": {"psnr_y_db": 20.0}}
    assert (checkpoint["step"], checkpoint["bytes"]) == (10, 1234)
    assert (progress["done"], progress["total"], progress["unit"]) == (10, 100, "steps")
    assert (progress["per_s"], progress["eta_s"], progress["finished"]) == (10.0, 9.0, False)
    in_file = [json.loads(line)["event"] for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert in_file == ["step", "metrics", "checkpoint"]


def test_what_stays_wrong_is_said_once_and_again_when_it_comes_back(tmp_path: Path, events: Events) -> None:
    drift, other = ("colour_drift", "red", "hint"), ("overfitting", "less", "hint")
    with RunLog(tmp_path, events) as log:
        for step, found in enumerate([[drift], [drift], [drift, other], [other], [drift]], 1):
            log.warn(step, found)
    assert [(w["code"], w["step"]) for w in events.of("warning")] == [
        ("colour_drift", 1), ("overfitting", 3), ("colour_drift", 5),
    ]  # fmt: skip


def test_tensorboard_that_is_asked_for_and_absent_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UsageError) as caught:
        RunLog(tmp_path, tensorboard=True)
    assert "realesr-cli[train]" in str(caught.value.hint)
    assert "\n" not in caught.value.message
    RunLog(tmp_path).close()


def test_tensorboard_gets_every_finite_number_and_hides_the_future(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[tuple[str, float, int]] = []

    class Writer:
        def __init__(self, folder: str, *, purge_step: int) -> None:
            assert (folder, purge_step) == (str(tmp_path / "tensorboard"), 41)

        def add_scalar(self, name: str, value: float, step: int) -> None:
            written.append((name, value, step))

        def close(self) -> None:
            written.append(("closed", 0, 0))

    module = type(sys)("torch.utils.tensorboard")
    module.SummaryWriter = Writer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    with RunLog(tmp_path, resume_step=40, tensorboard=True) as log:
        _step(log, 41, pixel=0.5, d_real=math.nan)
        log.metrics(41, "set5", {"psnr_y_db": 20.0})
    assert ("loss/pixel", 0.5, 41) in written
    assert ("metric/set5/psnr_y_db", 20.0, 41) in written
    assert not any(name == "loss/d_real" for name, _, _ in written)
    assert written[-1][0] == "closed"


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with RunLog(tmp_path) as log:
        _step(log, 1)

        def full(self: Path, *args: Any, **kwargs: Any) -> Any:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Path, "open", full)
        with pytest.raises(DiskFull, match=r"log\.csv"):
            _step(log, 2)
        monkeypatch.undo()


def test_a_name_that_would_break_the_table_is_refused(tmp_path: Path) -> None:
    with RunLog(tmp_path) as log, pytest.raises(ValueError, match="cannot be a column"):
        log.metrics(1, "my, photos", {"psnr_y_db": 20.0})


# --- curves -----------------------------------------------------------------------------------------------------------


def _trained(count: int = 200) -> dict[str, Series]:
    rng = np.random.default_rng(1)
    steps = [100 * (i + 1) for i in range(count)]
    return {
        "loss.pixel": Series(steps, [0.02 + 0.1 * math.exp(-i / 40) * rng.uniform(0.8, 1.2) for i in range(count)]),
        "loss.logit_real": Series(steps, [-3.0] * count),
        "learning_rate": Series(steps, [2e-4] * count),
        "metric.set5.psnr_y_db": Series(steps[::20], [20 + i for i in range(len(steps[::20]))]),
        "metric.bicubic.psnr_y_db": Series([100], [24.0]),
        "metric.set5.ssim_y": Series(steps[::20], [0.5] * len(steps[::20])),
    }


def test_curves_go_where_the_numbers_are() -> None:
    picture = curves_picture(_trained())
    assert picture.shape == (900, 1400, 3)
    blue = (picture == (31, 100, 180)).all(2)
    psnr = blue[45:460, 790:1380]  # inside the frame of the second panel
    rows, columns = np.nonzero(psnr)
    left, right = rows[columns < 60].mean(), rows[columns > 470].mean()
    assert left - right > 250, "PSNR rises"
    assert blue[45:460, 80:680].any()
    assert blue[545:860, 80:680].any()
    loss_rows, loss_columns = np.nonzero(blue[45:460, 80:680])
    assert loss_rows[loss_columns < 60].mean() < loss_rows[loss_columns > 470].mean() - 100, "the loss falls"
    dashed = (picture == (214, 80, 30)).all(2)[45:460, 790:1370]
    assert dashed.any(1).sum() <= 4, "bicubic is a level"
    assert 0.3 < dashed.any(0).mean() < 0.8, "and dashed"


@pytest.mark.parametrize(
    "history",
    [
        {},
        {"loss.pixel": Series([1], [0.5])},
        {"loss.pixel": Series([1, 2], [0.0, 0.0])},
        {"loss.pixel": Series([1, 2, 3], [math.nan, math.inf, 1.0]), "learning_rate": Series([0], [0.0])},
        {"metric.set5.psnr_y_db": Series([5000], [27.0]), "learning_rate": Series([1, 2], [1e-9, 1e-9])},
        {f"loss.{'x' * 30}{i}": Series([1, 2], [1e-8, 1e8]) for i in range(12)},
        {"metric.set5.psnr_y_db": Series([1, 2], [-5.0, -5.0]), "loss.pixel": Series([10**7], [3e-30])},
    ],
)
def test_any_history_can_be_drawn(history: Mapping[str, Series]) -> None:
    assert curves_picture(history).shape == (900, 1400, 3)


def test_the_picture_of_a_log_is_a_png_file_and_replaces_the_older_one(tmp_path: Path) -> None:
    _run(tmp_path, range(10, 500, 10))
    target = tmp_path / "progress.png"
    target.write_bytes(b"old")
    draw_curves(tmp_path / "log.csv", target)
    pixels = read_image(target).pixels
    assert pixels.shape == (900, 1400, 3)
    assert np.array_equal(cv2.imread(str(target))[:, :, ::-1], pixels)
    assert (pixels == (31, 100, 180)).all(2).sum() > 500


# --- alarms -----------------------------------------------------------------------------------------------------------


def _metric(name: str, values: Sequence[float]) -> dict[str, Series]:
    return {f"metric.validation.{name}": Series([1000 * (i + 1) for i in range(len(values))], list(values))}


def _losses(count: int = 20, **columns: Sequence[float] | float) -> dict[str, Series]:
    steps = [100 * (i + 1) for i in range(count)]
    return {
        f"loss.{name}": Series(steps, [values] * count if isinstance(values, float) else list(values))
        for name, values in columns.items()
    }


def _codes(history: Mapping[str, Series]) -> list[str]:
    return [alarm.code for alarm in alarms(history)]


@pytest.mark.parametrize(
    ("shifts", "is_drift"),
    [
        ((0.5, 2.5, 2.6, 3.0), True),
        ((-2.1, -4.0, -3.0), True),
        ((2.5, 2.5), False),  # too few
        ((3.0, 3.0, 1.9), False),  # it comes back
        ((3.0, -3.0, 3.0), False),  # to both sides: noise
        ((0.9, 1.0, 1.1), False),
        ((3.0, math.nan, 3.0), False),
    ],
)
def test_colour_drift_is_a_shift_that_stays(shifts: tuple[float, ...], is_drift: bool) -> None:
    history = _metric("shift_g_levels", shifts) | _metric("shift_r_levels", [0.1] * len(shifts))
    assert _codes(history) == (["colour_drift"] if is_drift else [])


@pytest.mark.parametrize(
    ("shift", "of_input", "is_drift"),
    [(-4.0, -3.0, False), (0.5, -3.0, False), (-1.0, -3.0, False), (-5.5, -3.0, True), (2.5, -3.0, True)],
)
def test_a_shift_of_the_input_itself_is_no_drift(shift: float, of_input: float, is_drift: bool) -> None:
    history = _metric("shift_r_levels", [shift] * 3)
    history["metric.bicubic.shift_r_levels"] = Series([0], [of_input])
    assert _codes(history) == (["colour_drift"] if is_drift else [])


def test_colour_drift_names_the_worst_channel_and_its_direction() -> None:
    history = _metric("shift_r_levels", [2.5] * 3) | _metric("shift_b_levels", [-4.25] * 3)
    (alarm,) = alarms(history)
    assert alarm.message.startswith("blue is 4.2/255 too low")


_WON = {"d_real": 0.01, "d_fake": 0.02, "logit_real": 6.0, "logit_fake": -5.0, "adversarial": 0.6}
_BALANCED = {"d_real": 0.5, "d_fake": 0.55, "logit_real": 0.6, "logit_fake": -0.4, "adversarial": 0.09}


@pytest.mark.parametrize(
    ("change", "is_won"),
    [
        ({}, True),
        (_BALANCED, False),
        ({"d_real": 0.3}, False),  # not sure of the real ones
        ({"logit_real": 0.5}, False),  # logits near each other
        ({"adversarial": [0.9 - 0.02 * i for i in range(20)]}, False),  # the generator wins ground back
        ({"adversarial": [0.4 + 0.02 * i for i in range(20)]}, True),
    ],
)
def test_a_discriminator_that_has_won_is_noticed(change: dict[str, Any], is_won: bool) -> None:
    assert _codes(_losses(**{**_WON, **change})) == (["discriminator_won"] if is_won else [])


def test_a_short_log_tells_nothing_of_the_discriminator() -> None:
    assert not alarms(_losses(19, **_WON))
    assert not alarms(_losses(19, **_COLLAPSED))


_COLLAPSED = {"d_real": 0.6931, "d_fake": 0.6932, "logit_real": 0.001, "logit_fake": 0.0, "gradient_norm_d": 1e-4}


@pytest.mark.parametrize(
    ("change", "is_collapsed"),
    [
        ({}, True),
        ({"gradient_norm_d": 0.5}, False),  # the first steps of every game: undecided, but learning
        ({"d_real": [0.6931] * 19 + [0.6]}, False),
        ({"logit_real": 0.2}, False),
    ],
)
def test_a_collapsed_discriminator_is_noticed(change: dict[str, Any], is_collapsed: bool) -> None:
    history = _losses(**{**_COLLAPSED, "adversarial": 0.0693, **change})
    assert _codes(history) == (["discriminator_collapsed"] if is_collapsed else [])


@pytest.mark.parametrize(
    ("psnr", "losses", "is_overfitting"),
    [
        ((25.0, 27.0, 26.9, 26.8, 26.7, 26.5), (5.0, 4.0, 3.9, 3.8, 3.7, 3.6), True),
        ((25.0, 27.0, 26.9, 26.8, 26.7, 26.5), (5.0, 4.0, 4.1, 4.2, 4.3, 4.4), False),  # both worse: not that
        ((25.0, 27.0, 26.9, 26.95, 26.7, 26.5), (5.0, 4.0, 3.9, 3.8, 3.7, 3.6), False),  # once it rose
        ((27.0, 26.99, 26.98, 26.97, 26.96), (5.0, 4.0, 3.9, 3.8, 3.7), False),  # noise
        ((25.0, 26.0, 26.5, 26.7, 26.8), (5.0, 4.0, 3.9, 3.8, 3.7), False),  # healthy
        ((27.0, 26.9, 26.8), (5.0, 4.0, 3.9), False),  # too few
    ],
)
def test_overfitting_is_a_falling_psnr_with_a_falling_loss(
    psnr: tuple[float, ...], losses: tuple[float, ...], is_overfitting: bool
) -> None:
    rows = [value for value in losses for _ in range(10)]  # ten rows of the log between two validations
    history = _metric("psnr_y_db", psnr) | _losses(len(rows), pixel=rows)
    assert _codes(history) == (["overfitting"] if is_overfitting else [])


def test_healthy_runs_of_either_stage_never_raise_an_alarm() -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        history: dict[str, Series] = {}
        for step in range(100, 20001, 100):
            share = step / 20000
            row = {
                "loss.pixel": (0.05 * math.exp(-4 * share) + 0.02) * rng.uniform(0.8, 1.2),
                "loss.adversarial": rng.uniform(0.06, 0.14),
                "loss.d_real": rng.uniform(0.3, 0.7),
                "loss.d_fake": rng.uniform(0.3, 0.7),
                "loss.logit_real": rng.normal(0.7, 0.3),
                "loss.logit_fake": rng.normal(-0.7, 0.3),
                "loss.gradient_norm_d": rng.uniform(0.5, 5),
            }
            if step % 1000 == 0:
                row["metric.validation.psnr_y_db"] = 24 + 3 * (1 - math.exp(-4 * share)) + rng.normal(0, 0.05)
                row |= {f"metric.validation.shift_{c}_levels": rng.normal(0, 0.5) for c in "rgb"}
            for name, value in row.items():
                series = history.setdefault(name, Series())
                series.steps.append(step)
                series.values.append(value)
            assert alarms(history) == [], (seed, step)
