"""Configuration: what is refused and how it is said, and that text and records say the same."""

import dataclasses
import math
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pytest

from realesr_cli.errors import ConfigError, UsageError
from realesr_train.config import (
    SECOND_PASS,
    DegradationConfig,
    FamilyWeights,
    FinalConfig,
    JpegConfig,
    KernelConfig,
    NoiseConfig,
    PassConfig,
    ResizeConfig,
    legacy,
    with_order,
)
from realesr_train.recipes import load_config
from realesr_train.tables import apply_overrides, dump, from_table
from realesr_train.train_config import RunConfig, TrainConfig


def _file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "run.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_defaults_are_the_published_numbers() -> None:
    first, second = DegradationConfig().passes
    assert (first.blur_probability, second.blur_probability) == (1.0, 0.8)
    assert (first.kernel.sigma_range_px, second.kernel.sigma_range_px) == ((0.2, 3.0), (0.2, 1.5))
    assert (first.resize.up_range, first.resize.down_range) == ((1.0, 1.5), (0.15, 1.0))
    assert (second.resize.up_range, second.resize.down_range) == ((1.0, 1.2), (0.3, 1.0))
    directions = [(d.up, d.down, d.keep) for d in (first.resize.directions, second.resize.directions)]
    assert directions == [(0.2, 0.7, 0.1), (0.3, 0.4, 0.3)]
    noises = [(n.sigma_range, n.poisson_scale_range, n.grey_probability) for n in (first.noise, second.noise)]
    assert noises == [((1.0, 30.0), (0.05, 3.0), 0.4), ((1.0, 25.0), (0.05, 2.5), 0.4)]
    assert first.jpeg.quality_range == DegradationConfig().final.jpeg.quality_range == (30.0, 95.0)
    assert DegradationConfig().final.sinc_probability == 0.8


def test_a_file_changes_what_it_names_and_leaves_the_rest(tmp_path: Path) -> None:
    path = _file(tmp_path, "scale = 2\n[degradation.final]\nsinc_probability = 0\n")
    config = load_config(path, ["run.seed=7", 'degradation.draws="per_batch"'])
    expected = DegradationConfig(final=FinalConfig(sinc_probability=0.0), draws="per_batch")
    assert config == TrainConfig(scale=2, run=RunConfig(seed=7), degradation=expected)
    assert type(config.degradation.final.sinc_probability) is float


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[degradation.finale]", ["degradation.finale", "did you mean final"]),
        ("skale = 2", ["skale", "did you mean scale"]),
        ("zzz = 2", ["zzz", "known here: scale, run"]),
        ("scale = 2.0", ["scale = 2.0", "whole number"]),
        ("scale = true", ["scale = True", "whole number"]),
        ("scale = 9", ["scale = 9", "1 to 8"]),
        ("[run]\nseed = -1", ["run.seed = -1"]),
        ("degradation = 3", ["degradation = 3", "table"]),
        ('[degradation]\ndraws = "per_picture"', ["degradation.draws", "'per_image', 'per_batch'"]),
        ("[degradation]\nsharpen_input = 1", ["degradation.sharpen_input = 1", "true or false"]),
        ("[degradation]\npasses = []", ["degradation.passes", "1 to 16"]),
        ("[degradation]\npasses = {}", ["degradation.passes", "array"]),
        ("[[degradation.passes]]\nblur_probability = 1.5", ["degradation.passes[0].blur_probability = 1.5", "0 to 1"]),
        ("[degradation.passes]\nblur_probability = 1.5", ["degradation.passes", "array"]),
        (
            "[[degradation.passes]]\n[[degradation.passes]]\n[degradation.passes.noise]\nsigma_range = [30, 1]",
            ["degradation.passes[1].noise.sigma_range = [30, 1]"],
        ),
        ("[degradation.final]\nomega_range = [1, 2, 3]", ["degradation.final.omega_range", "array of 2"]),
        ("[degradation.final]\nomega_range = [1, 4]", ["degradation.final.omega_range = [1, 4]", "3.14159"]),
        ('[degradation.final]\nomega_range = [1, "a"]', ["degradation.final.omega_range[1] = 'a'", "number"]),
        ("[degradation.final]\nsinc_probability = nan", ["sinc_probability", "finite"]),
        ("[degradation.final.modes]\narea = 0.5", ["degradation.final.modes", "sum to 1.16667", "area 0.5"]),
        ("[degradation.final.modes]\narea = -1", ["degradation.final.modes.area = -1"]),
        ("scale = ", ["is not TOML"]),
    ],
)
def test_what_cannot_be_is_refused_by_name(text: str, words: list[str], tmp_path: Path) -> None:
    path = _file(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    said = f"{caught.value.message}\n{caught.value.hint}"
    for word in [str(path), *words]:
        assert word in said
    assert "\n" not in caught.value.message


def test_a_configuration_error_is_wrong_usage_and_a_wrong_value(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        load_config(tmp_path / "absent.toml")
    assert caught.value.exit_status == 2
    with pytest.raises(ValueError, match=r"cannot read .*absent"):
        load_config(tmp_path / "absent.toml")


@pytest.mark.parametrize(
    ("build", "name"),
    [
        (lambda: KernelConfig(sigma_range_px=(0, 1)), "sigma_range_px"),
        (lambda: KernelConfig(sigma_range_px=(math.nan, 1)), "sigma_range_px"),
        (lambda: KernelConfig(sizes_px=(7, 8)), "sizes_px"),
        (lambda: KernelConfig(sizes_px=()), "sizes_px"),
        (lambda: KernelConfig(sizes_px=(23,)), "sizes_px"),
        (lambda: KernelConfig(plateau_beta_range=(1.5, 2)), "plateau_beta_range"),
        (lambda: KernelConfig(large_omega_range=(0, 1)), "large_omega_range"),
        (lambda: FamilyWeights(iso=0.46), "sum to 1.01"),
        (lambda: ResizeConfig(up_range=(0.9, 1.5)), "up_range"),
        (lambda: ResizeConfig(down_range=(0, 1)), "down_range"),
        (lambda: NoiseConfig(sigma_range=(-1, 1)), "sigma_range"),
        (lambda: NoiseConfig(grey_probability=-0.1), "grey_probability"),
        (lambda: with_order(DegradationConfig(), 0), "order 0"),
        (
            lambda: legacy(DegradationConfig(final=FinalConfig(jpeg=JpegConfig(quality_range=(1, 100))))),
            "quality_range",
        ),
        (lambda: JpegConfig(quality_range=(0, 90)), "quality_range"),
    ],
)
def test_impossible_values_are_refused(build: Any, name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build()
    assert name in caught.value.message


def test_values_at_the_edge_are_accepted() -> None:
    KernelConfig(plateau_beta_range=(1.5, 2), beta_sampling="uniform")
    KernelConfig(sigma_range_px=(1, 1), sinc_probability=1)
    NoiseConfig(sigma_range=(0, 0))
    FamilyWeights(iso=0.45 + 9e-7)


@pytest.mark.parametrize(
    "config",
    [
        TrainConfig(),
        TrainConfig(scale=1, run=RunConfig(seed=2**63 - 1), degradation=legacy(with_order(DegradationConfig(), 5))),
        TrainConfig(degradation=DegradationConfig(passes=(replace(SECOND_PASS, blur_probability=1e-12),))),
    ],
)
def test_the_text_of_a_configuration_loads_to_an_equal_one(config: TrainConfig, tmp_path: Path) -> None:
    path = _file(tmp_path, dump(config))
    assert load_config(path) == config


def test_every_field_survives_its_text() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Small:
        pairs: tuple[tuple[int, float], ...] = ()
        name: str = ""
        path: Path | None = None
        kind: Literal[1, 2] = 1

    value = Small(pairs=((1, 0.1), (2, 1e300)), name='quote " \\ \x7f \n ü', path=Path("a b"), kind=2)
    assert from_table(Small, tomllib.loads(dump(value))) == value
    assert from_table(Small, tomllib.loads(dump(Small()))) == Small()


def test_order_takes_the_first_passes_and_repeats_the_last() -> None:
    config = DegradationConfig()
    assert with_order(config, 1).passes == config.passes[:1]
    assert with_order(config, 2) == config
    assert with_order(config, 4).passes == (*config.passes, SECOND_PASS, SECOND_PASS)


def test_legacy_is_every_switch_of_the_published_defects_and_nothing_else() -> None:
    plain = with_order(DegradationConfig(sharpen_input=False), 3)
    switches = {"draws": "per_batch", "resize_step": "factor", "jpeg_model": "legacy"}
    for field in dataclasses.fields(DegradationConfig):
        assert getattr(legacy(plain), field.name) == switches.get(field.name, getattr(plain, field.name))


def test_overrides_are_toml_and_leave_the_table_alone() -> None:
    table = {"a": {"b": 1}, "list": [{"x": 1}, {"x": 2}]}
    changed = apply_overrides(table, ["a.b=2.5", "new.deep=[1, 2]", "list.1.x=true", 'word = "w"', "list.0.y=3"])
    assert changed == {
        "a": {"b": 2.5},
        "new": {"deep": [1, 2]},
        "list": [{"x": 1, "y": 3}, {"x": True}],
        "word": "w",
    }
    assert table == {"a": {"b": 1}, "list": [{"x": 1}, {"x": 2}]}


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("a", "not key=value"),
        ("=3", "not key=value"),
        ("a..b=3", "not key=value"),
        ("a.b=fast", "not a TOML value"),
        ("a.b.c=3", "not a table"),
        ("list.2.x=3", "array of 2"),
        ("list.x=3", "array of 2"),
        ("list.2=3", "array of 2"),
    ],
)
def test_overrides_that_lead_nowhere_are_refused(override: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        apply_overrides({"a": {"b": 1}, "list": [{}, {}]}, [override])


def test_a_pass_in_a_file_starts_from_the_first_pass(tmp_path: Path) -> None:
    path = _file(tmp_path, "[[degradation.passes]]\nblur_probability = 0.5\n")
    assert load_config(path).degradation.passes == (PassConfig(blur_probability=0.5),)
