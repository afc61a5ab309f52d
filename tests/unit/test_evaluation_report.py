"""Means, paired differences and their intervals, on numbers whose answer is known."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest

from realesr_train import evaluation_report as report
from realesr_train.eval_set import Sample
from realesr_train.evaluation_report import Row, bootstrap_interval, differences, means

MODELS, KEYS = ["a", "b"], ["psnr_y_db", "niqe"]


def _rows(*numbers: tuple[float, float, float, float]) -> list[Row]:
    """Of a: psnr, niqe; of b: psnr, niqe."""
    return [
        Row(
            sample=Sample(number=i, name=f"picture {i}", lr=Path(f"{i}.png")),
            values={"a": {"psnr_y_db": a, "niqe": m}, "b": {"psnr_y_db": b, "niqe": n}},
        )
        for i, (a, m, b, n) in enumerate(numbers)
    ]


@pytest.mark.parametrize(("ones", "count", "low", "high"), [(10, 20, 6, 14), (9, 12, 6, 12), (50, 100, 40, 60)])
def test_the_interval_of_ones_and_zeros_is_that_of_the_binomial_distribution(
    ones: int, count: int, low: int, high: int
) -> None:
    """A resample of k ones among n has Binomial(n, k/n) of them; the bounds are its 2.5 % and 97.5 % points."""
    values = np.array([1.0] * ones + [0.0] * (count - ones))
    chance = [math.comb(count, k) * (ones / count) ** k * (1 - ones / count) ** (count - k) for k in range(count + 1)]
    below = np.cumsum(chance)
    assert (int(np.searchsorted(below, 0.025)), int(np.searchsorted(below, 0.975))) == (low, high)
    assert bootstrap_interval(values) == pytest.approx((low / count, high / count))


def test_the_interval_of_many_normal_values_is_the_textbook_one(rng: np.random.Generator) -> None:
    values = rng.normal(3, 2, 400)
    half = 1.96 * values.std() / math.sqrt(400)
    low, high = bootstrap_interval(values)
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.05 * half)
    narrow = bootstrap_interval(values, level=0.5)
    assert low < narrow[0] < narrow[1] < high


def test_equal_values_and_one_value_leave_no_doubt_and_the_seed_decides() -> None:
    assert bootstrap_interval(np.full(7, 0.25)) == pytest.approx((0.25, 0.25))
    assert bootstrap_interval(np.array([2.5])) == (2.5, 2.5)
    values = np.arange(9.0) ** 2
    assert bootstrap_interval(values) == bootstrap_interval(values) != bootstrap_interval(values, seed=1)


def test_differences_are_paired_over_the_pictures() -> None:
    """Pictures differ by 30 dB, the models by 1 dB on each of them: the pairs know that, the means alone do not."""
    rows = _rows(*[(20.0 + i, 5.0, 21.0 + i, 4.0 + i % 2) for i in range(30)])
    psnr, niqe = differences(rows, MODELS, KEYS)
    assert (psnr.model, psnr.than, psnr.metric, psnr.pictures) == ("b", "a", "psnr_y_db", 30)
    assert (psnr.mean, psnr.low, psnr.high) == pytest.approx((1.0, 1.0, 1.0))
    assert niqe.mean == pytest.approx(-0.5) and -0.7 < niqe.low < -0.5 < niqe.high < -0.3


def test_every_two_models_are_compared() -> None:
    rows = [
        Row(
            sample=Sample(number=0, name="x", lr=Path("x.png")),
            values={name: {"niqe": float(i)} for i, name in enumerate("abc")},
        )
    ]
    found = [(gap.model, gap.than, gap.mean) for gap in differences(rows, ["a", "b", "c"], ["niqe"])]
    assert found == [("b", "a", 1.0), ("c", "a", 2.0), ("c", "b", 1.0)]


def test_what_is_not_known_of_a_picture_is_left_out_of_means_and_pairs() -> None:
    rows = _rows((30, math.nan, 31, 2.0), (32, 4.0, 33, 3.0), (34, 6.0, 32, 5.0))
    found = means(rows, MODELS, KEYS)
    assert found["a"] == {"psnr_y_db": 32.0, "niqe": 5.0}
    assert found["b"]["niqe"] == pytest.approx(10 / 3)
    gap = differences(rows, MODELS, KEYS)[1]
    assert (gap.mean, gap.pictures) == (-1.0, 2)
    nothing = _rows((30, math.nan, 31, math.nan))
    assert math.isnan(means(nothing, MODELS, KEYS)["a"]["niqe"])
    assert [gap.metric for gap in differences(nothing, MODELS, KEYS)] == ["psnr_y_db"]


def test_the_table_and_the_files_show_the_same_numbers(tmp_path: Path) -> None:
    rows = _rows((30, math.nan, 31, math.nan), (32, math.nan, 34, math.nan))
    gaps = differences(rows, MODELS, KEYS)
    text = report.table_text(rows, MODELS, KEYS, gaps, "title")
    lines = [line.split() for line in text.splitlines()]
    assert lines[:4] == [["title"], ["model", "PSNR-Y", "NIQE"], ["a", "31.00", "-"], ["b", "32.50", "-"]]
    assert lines[-1] == ["PSNR-Y", "+1.50", "[+1.00,", "+2.00]"]
    report.write_csv(tmp_path / "r.csv", rows, MODELS, KEYS)
    with (tmp_path / "r.csv").open(newline="", encoding="utf-8") as file:
        cells = list(csv.reader(file))
    assert cells[0] == ["picture", "model", *KEYS]
    assert cells[1] == ["picture 0", "a", "30.000000", ""] and len(cells) == 5
    report.write_json(tmp_path / "r.json", rows, MODELS, KEYS, gaps, {"scale": 4})
    stored = json.loads((tmp_path / "r.json").read_text("utf-8"))
    assert stored["scale"] == 4 and stored["means"]["b"] == {"psnr_y_db": 32.5, "niqe": None}
    assert stored["differences"] == [
        {"model": "b", "than": "a", "metric": "psnr_y_db", "mean": 1.5, "low": 1.0, "high": 2.0, "pictures": 2}
    ]
    assert stored["pictures"][1]["values"]["b"] == {"psnr_y_db": 34.0, "niqe": None}
    assert stored["pictures"][1]["lr"] == "1.png" and stored["pictures"][1]["hr"] is None
