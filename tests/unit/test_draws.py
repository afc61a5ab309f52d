"""Draws: they follow the published probabilities, and a sample's draws depend on nothing but seed and number."""

import json
import math
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from chances import ALPHA, chi_square_p, ks_p
from realesr_train.config import (
    DegradationConfig,
    DirectionWeights,
    FamilyWeights,
    KernelConfig,
    NoiseConfig,
    PassConfig,
    ResizeConfig,
    with_order,
)
from realesr_train.degradation.draws import IMPULSE, MIN_SIDE_PX, NOISES, SINC, Draws, Stream, draw
from realesr_train.degradation.kernels import FAMILIES, blur_kernels
from realesr_train.degradation.replay import from_json, to_json

COUNT = 10_000
CONFIG = DegradationConfig()


def _draw(samples: Any, config: DegradationConfig = CONFIG, **options: Any) -> Draws:
    settings = {"scale": 4, "seed": 3, "height": 400, "width": 400, "crop_px": 256, **options}
    return draw(config, samples=torch.as_tensor(samples), **settings)


@pytest.fixture(scope="module")
def many() -> Draws:
    return _draw(torch.arange(COUNT))


def _leaves(record: Any) -> list[Any]:
    if is_dataclass(record):
        return [leaf for field in fields(record) for leaf in _leaves(getattr(record, field.name))]
    if isinstance(record, tuple):
        return [leaf for item in record for leaf in _leaves(item)]
    return [] if record is None else [record]


def _same(a: Any, b: Any) -> bool:
    pairs = list(zip(_leaves(a), _leaves(b), strict=True))
    return all(torch.equal(x, y) and x.dtype == y.dtype if isinstance(x, Tensor) else x == y for x, y in pairs)


def test_the_tests_of_this_file_reject_what_is_wrong() -> None:
    skewed = torch.cat((torch.zeros(5200), torch.ones(4800))).long()
    assert chi_square_p(skewed, [0.5, 0.5]) < 1e-3 < chi_square_p(skewed, [0.52, 0.48])
    line = torch.linspace(0, 1, 10_001, dtype=torch.float64)
    assert ks_p(line**1.06, 0, 1) < 1e-3
    assert ks_p(line, 0, 1) > 0.5


def test_kinds_come_as_often_as_published(many: Draws) -> None:
    families = [0.45, 0.25, 0.12, 0.03, 0.12, 0.03]
    kernels = [*(0.9 * weight for weight in families), 0.1, 0.0]
    seconds = [*(0.8 * weight for weight in kernels[:7]), 0.2]
    first, second = many.passes
    for index, weights in (
        (first.blur.family, kernels),
        (second.blur.family, seconds),
        (many.final.sinc.family, [0.0] * 6 + [0.8, 0.2]),
        (first.resize.direction, [0.2, 0.7, 0.1]),
        (second.resize.direction, [0.3, 0.4, 0.3]),
        (first.noise.kind, [0.5, 0.5]),
        (second.noise.kind, [0.5, 0.5]),
        (first.noise.grey.long(), [0.6, 0.4]),
        (second.noise.grey.long(), [0.6, 0.4]),
        (many.final.jpeg_last.long(), [0.5, 0.5]),
        *((one.resize.mode, [1 / 3] * 3) for one in (first, second, many.final)),
        *(((blur.size_px[blur.family != IMPULSE] - 7) // 2, [1 / 8] * 8)
          for blur in (first.blur, second.blur, many.final.sinc)),
    ):  # fmt: skip
        assert index is not None
        assert chi_square_p(index, weights) > ALPHA


def test_numbers_are_uniform_in_the_published_ranges(many: Draws) -> None:
    first, second = many.passes
    checks: list[tuple[Tensor, float, float]] = [(many.final.quality, 30, 95)]
    assert first.quality is not None and second.quality is None
    checks.append((first.quality, 30, 95))
    for one, sigma, ups, downs, noise, poisson in (
        (first, (0.2, 3), (1, 1.5), (0.15, 1), (1, 30), (0.05, 3)),
        (second, (0.2, 1.5), (1, 1.2), (0.3, 1), (1, 25), (0.05, 2.5)),
    ):
        blur, resize = one.blur, one.resize
        aniso = (blur.family < 6) & (blur.family % 2 == 1)
        checks += [(blur.sigma_x[blur.family < 6], *sigma), (blur.sigma_y[aniso], *sigma)]
        checks.append((blur.theta[aniso], -math.pi, math.pi))
        for family, low, high in ((2, 0.5, 4), (4, 1, 2)):
            beta = blur.beta[(blur.family == family) | (blur.family == family + 1)]
            checks.append((beta[beta > 1], 1, high))
            share = (beta <= 1).double().mean()
            assert abs(share - 0.5) < 4 * math.sqrt(0.25 / len(beta))
            if low < 1:
                checks.append((beta[beta < 1], low, 1))
            else:
                assert (beta[beta <= 1] == 1).all()
        is_sinc, is_small = blur.family == SINC, blur.size_px < 13
        checks.append((blur.omega[is_sinc & is_small], math.pi / 3, math.pi))
        checks.append((blur.omega[is_sinc & ~is_small], math.pi / 5, math.pi))
        assert blur.omega[is_sinc & (blur.size_px == 13)].min() < math.pi / 3  # 13 is large
        assert resize.factor is not None and resize.direction is not None
        checks += [(resize.factor[resize.direction == 0], *ups), (resize.factor[resize.direction == 1], *downs)]
        assert (resize.factor[resize.direction == 2] == 1).all()
        checks += [
            (one.noise.strength[one.noise.kind == 0], *noise),
            (one.noise.strength[one.noise.kind == 1], *poisson),
        ]
    checks.append((many.final.sinc.omega[many.final.sinc.family == SINC], math.pi / 3, math.pi))
    for values, low, high in checks:
        assert len(values) > 200
        assert ks_p(values, low, high) > ALPHA, (low, high)


def test_crops_are_uniform_and_inside(many: Draws) -> None:
    for axis in (0, 1):
        assert chi_square_p(many.crop[:, axis], [1 / 37] * 37) > ALPHA


def test_different_decisions_are_independent(many: Draws) -> None:
    first, second = many.passes
    assert first.resize.factor is not None and first.quality is not None
    columns = torch.stack(
        [
            first.blur.size_px, second.blur.size_px, first.blur.family == 0,
            first.blur.sigma_x * (first.blur.family == 0),
            first.resize.factor, first.resize.mode, second.resize.mode, first.noise.kind, second.noise.kind,
            first.noise.grey, second.noise.grey, first.quality, many.final.quality, many.final.jpeg_last,
            many.final.resize.mode, many.final.sinc.size_px, *many.crop.unbind(1),
        ]
    ).double()  # fmt: skip
    correlation = torch.corrcoef(columns)
    correlation[2, 3] = correlation[3, 2] = 0  # the same decision twice
    off = correlation - torch.eye(len(columns), dtype=torch.float64)
    assert off.abs().max() < 4.5 / math.sqrt(COUNT)


def test_kernels_are_as_wide_as_the_original_samplers(many: Draws, golden: Callable[[str], Path]) -> None:
    stored = np.load(golden("kernels.npz"))
    offset = torch.arange(21, dtype=torch.float64) - 10
    for one, name in zip(many.passes, ("first", "second"), strict=True):
        shaped = (one.blur.family < 6).nonzero()[:, 0]
        blur = {f.name: getattr(one.blur, f.name)[shaped] for f in fields(one.blur)}
        kernels = blur_kernels(size=blur.pop("size_px"), **blur).double()
        variance = (kernels.sum(1) @ offset**2 + kernels.sum(2) @ offset**2) / 2
        sigma = variance.sqrt()
        mean, spread = stored[f"sampler_{name}__eff_sigma_mean_std"]
        assert abs(float(sigma.mean()) - mean) < 0.08
        assert abs(float(sigma.std()) - spread) < 0.08
        levels = torch.from_numpy(stored[f"sampler_{name}__quantile_levels"])
        quantiles = torch.from_numpy(stored[f"sampler_{name}__eff_sigma_quantiles"])
        # 4000 draws of theirs: in the tails their own error is larger
        assert (torch.quantile(sigma, levels) - quantiles)[1:-1].abs().max() < 0.12


def test_a_sample_is_drawn_alike_in_every_batch() -> None:
    whole = _draw(torch.arange(100, 160))
    for chosen in ([100, 101, 102], [159], [130, 110, 120, 110]):
        assert _same(_draw(chosen), whole[torch.tensor(chosen) - 100])
    assert not _same(_draw([100]), _draw([101]))
    assert not _same(_draw([100]), _draw([100], seed=4))


def test_numbers_of_samples_may_be_large() -> None:
    large = [2**40, 2**62, 2**63 - 1]
    assert len(set(_draw(large).final.quality.tolist())) == 3


def test_another_pass_or_probability_shifts_no_other_draw() -> None:
    """Everything is addressed: what one decision uses is not taken from another."""
    plain = _draw(torch.arange(50))
    third = _draw(torch.arange(50), with_order(CONFIG, 3))
    for a, b in ((plain.passes[0], third.passes[0]), (plain.passes[1].blur, third.passes[1].blur),
                 (plain.passes[1].noise, third.passes[1].noise), (plain.final, third.final)):  # fmt: skip
        assert _same(a, b)
    unblurred = _draw(torch.arange(50), replace(CONFIG, passes=(PassConfig(blur_probability=0), CONFIG.passes[1])))
    assert (unblurred.passes[0].blur.family == IMPULSE).all()
    assert _same(unblurred.passes[1].blur, plain.passes[1].blur)
    assert torch.equal(unblurred.passes[0].resize.target, plain.passes[0].resize.target)


def test_streams_keep_their_numbers() -> None:
    assert {stream.name: int(stream) for stream in Stream} == {
        "FINAL_RESIZE": 1, "FINAL_SINC": 2, "FINAL_JPEG": 3, "CROP": 4, "PLAIN": 5,
        "BLUR": 16, "RESIZE": 17, "NOISE": 18, "JPEG": 19, "NOISE_FIELD": 20,
        "SHUFFLED": 512, "REALSR": 576,
    }  # fmt: skip


def test_draws_stay_what_they_are() -> None:
    """Recorded once: a run continues the same sequence with every version."""
    record = to_json(_draw([7]), 0)
    first, second = record["passes"]
    assert first["blur"] == {
        "family": "iso",
        "size_px": 15,
        "sigma_x": 0.97293583928622,
        "sigma_y": 0.97293583928622,
        "theta": -0.0,
        "beta": 0.0,
        "omega": 0.0,
    }
    assert first["resize"] == {
        "mode": "bilinear",
        "target": [145, 145],
        "direction": "down",
        "factor": 0.36355648239189,
    }
    assert first["quality"] == 58.930333178974465
    assert second["noise"] == {
        "kind": "gaussian",
        "strength": 12.332716677494144,
        "grey": True,
        "field": 7,
        "poisson_levels": "rule",
    }
    assert record["final"] == {
        "resize": {"mode": "bicubic", "target": [100, 100], "direction": None, "factor": None},
        "sinc": {
            "family": "sinc",
            "size_px": 9,
            "sigma_x": 0.0,
            "sigma_y": 0.0,
            "theta": 0.0,
            "beta": 0.0,
            "omega": 1.7254422024271854,
        },
        "quality": 63.0676421260127,
        "jpeg_last": False,
    }
    assert record["crop"] == [9, 28]


def test_json_gives_the_same_draws_again() -> None:
    draws = _draw([5, 6, 7, 2**62])
    records = [json.loads(json.dumps(to_json(draws, i))) for i in range(4)]
    assert _same(from_json(records), draws)
    assert _same(from_json(records[2:3]), draws[2:3])
    assert records[0]["passes"][0]["blur"]["family"] in FAMILIES
    assert records[0]["passes"][0]["noise"]["kind"] in NOISES
    assert records[0]["passes"][1]["quality"] is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r: r.pop("scale"), "draws: must hold exactly samples"),
        (lambda r: r.update(extra=1), "draws: must hold exactly"),
        (lambda r: r.update(scale="4"), "draws.scale: '4'"),
        (lambda r: r["final"]["resize"].update(mode="nearest"), r"final.resize.mode.*area, bilinear, bicubic"),
        (lambda r: r["final"].update(quality="high"), "final.quality"),
        (lambda r: r["passes"][1].update(blur=3), r"passes\[1\].blur"),
        (lambda r: r.update(passes={}), "passes: must be lists"),
    ],
)
def test_a_record_that_does_not_fit_is_refused_by_field(change: Any, words: str) -> None:
    record = to_json(_draw([5]), 0)
    change(record)
    with pytest.raises(ValueError, match=words):
        from_json([record])


def test_records_of_different_runs_do_not_mix() -> None:
    with pytest.raises(ValueError, match=r"draws.seed: must be the same"):
        from_json([to_json(_draw([5]), 0), to_json(_draw([5], seed=4), 0)])
    with pytest.raises(ValueError, match="records: none"):
        from_json([])


def test_sizes_follow_the_factors(many: Draws) -> None:
    first, second = many.passes
    assert first.resize.factor is not None and second.resize.factor is not None
    assert torch.equal(first.resize.target[:, 0], (400 * first.resize.factor).floor().long())
    assert torch.equal(second.resize.target[:, 1], (100 * second.resize.factor).floor().long())
    assert (many.final.resize.target == 100).all()


def test_no_image_between_is_smaller_than_a_jpeg_block_unless_it_was() -> None:
    draws = _draw(torch.arange(500), height=24, width=4, crop_px=None)
    targets = torch.stack([one.resize.target for one in draws.passes])
    assert targets[..., 0].min() == MIN_SIDE_PX
    assert targets[..., 1].min() == 4
    assert (draws.final.resize.target == torch.tensor([6, 1])).all()


def test_options_of_the_configuration_are_followed() -> None:
    one = PassConfig(
        kernel=KernelConfig(
            families=FamilyWeights(
                iso=0, aniso=0, generalized_iso=0, generalized_aniso=0, plateau_iso=1, plateau_aniso=0
            ),
            sinc_probability=0,
            sizes_px=(5,),
            beta_sampling="uniform",
        ),
        resize=ResizeConfig(directions=DirectionWeights(up=0, down=0, keep=1)),
        noise=NoiseConfig(gaussian_probability=0, poisson_levels="fixed"),
    )
    draws = _draw(torch.arange(2000), DegradationConfig(passes=(one,)), crop_px=None)
    (only,) = draws.passes
    assert (only.blur.family == 4).all() and (only.blur.size_px == 5).all()
    assert ks_p(only.blur.beta, 1, 2) > ALPHA
    assert (only.resize.target == 400).all()
    assert (only.noise.kind == 1).all() and only.noise.poisson_levels == "fixed"
    assert only.quality is None
    assert (draws.crop == 0).all()


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"samples": torch.tensor([], dtype=torch.int64)}, "samples"),
        ({"samples": torch.tensor([1.0])}, "samples"),
        ({"scale": 0}, "scale"),
        ({"height": 402}, "height, width"),
        ({"width": 0}, "height, width"),
        ({"crop_px": 404}, "crop_px"),
        ({"crop_px": 30}, "crop_px"),
        ({"crop_px": 0}, "crop_px"),
    ],
)
def test_what_cannot_be_drawn_is_refused_by_name(options: dict[str, Any], name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name}: "):
        _draw(**{"samples": torch.tensor([1]), **options})
