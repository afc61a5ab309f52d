"""The kinds of degradation beside the second-order one, and the switches of the ablations."""

import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from chances import ALPHA, chi_square_p, ks_p
from realesr_cli.errors import ConfigError
from realesr_train import degradations
from realesr_train.config import DegradationConfig, ablated
from realesr_train.degradation.draws import IMPULSE, SINC, Draws
from realesr_train.degradation.realsr import RealsrDraws
from realesr_train.degradation.replay import AnyDraws, from_json, to_json
from realesr_train.degradation.resize import imresize
from realesr_train.degradation.second_order import paired_crop
from realesr_train.degradation.shuffled import COLOURS, OPERATIONS, ShuffledDraws
from realesr_train.recipes import find_recipe, load_stages

SHUFFLED = DegradationConfig(kind="shuffled")
BICUBIC = DegradationConfig(kind="bicubic")


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> DegradationConfig:
    """Three kernels and two patches of noise."""
    folder = tmp_path_factory.mktemp("measured")
    rng = np.random.default_rng(0)
    for number in range(3):
        np.savez(folder / f"{number}.npz", kernel=rng.random((7, 7)), scale=4)
        if number < 2:
            cv2.imwrite(str(folder / f"{number}.png"), rng.integers(90, 110, (40, 48, 3)).astype(np.uint8))
    return DegradationConfig(kind="realsr", kernels=folder, noise=folder)


def _pictures(count: int, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 9, 9, generator=generator)
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)


def _draw(config: DegradationConfig, samples: list[int], height: int = 64, width: int = 72, scale: int = 4) -> AnyDraws:
    return degradations.draw(
        config, scale=scale, seed=5, samples=torch.tensor(samples), height=height, width=width, crop_px=32
    )


def test_shuffled_draws_come_as_often_as_published() -> None:
    draws = _draw(SHUFFLED, list(range(6000)))
    assert isinstance(draws, ShuffledDraws)
    first, second = ((draws.order == OPERATIONS.index(name)).int().argmax(1) for name in ("reduce1", "reduce2"))
    assert bool((first < second).all()) and bool((draws.order.sort(1).values == torch.arange(6)).all())
    checks = [chi_square_p((draws.order == number).int().argmax(1), [1 / 6] * 6) for number in (0, 1, 4, 5)]
    for flags, chance in ((draws.halved, 0.25), (draws.reduction.resized, 0.75), (draws.compressed, 0.9)):
        checks.append(chi_square_p(flags.long(), [1 - chance, chance]))
    checks.append(chi_square_p(draws.colour, [0.4, 0.4, 0.2]))
    checks.append(chi_square_p(draws.halving[draws.halved], [1 / 6] * 3 + [0.5]))
    checks.append(chi_square_p(draws.quality.long() - 30, [1 / 66] * 66))
    checks.append(chi_square_p((draws.blurs[0].size_px - 7) // 2, [1 / 10] * 10))
    sf = torch.where(draws.halved, 2.0, 4.0)
    checks.append(ks_p((draws.reduction.factor - 1) / (2 * sf - 1), 0, 1))
    aniso = draws.blurs[1].theta > 0
    checks.append(chi_square_p(aniso.long(), [0.5, 0.5]))
    checks.append(ks_p(draws.blurs[1].theta[aniso], 0, math.pi))
    variances = draws.blurs[1].sigma_x[aniso] ** 2 / (4 + sf[aniso])
    checks.append(ks_p(variances[variances > 0.02], 0.02, 1))
    assert min(checks) > ALPHA, checks


def test_shuffled_noise_has_the_strength_and_colours_that_were_drawn() -> None:
    draws = _draw(SHUFFLED, list(range(3000)))
    assert isinstance(draws, ShuffledDraws)
    covariance = draws.mixing @ draws.mixing.mT * 255**2
    variances = covariance.diagonal(dim1=1, dim2=2)
    grey = draws.colour == COLOURS.index("grey")
    assert torch.allclose(covariance[grey], variances[grey][:, :1, None].expand(-1, 3, 3), atol=1e-6)
    colour = draws.colour == COLOURS.index("colour")
    assert float((covariance[colour] - torch.diag_embed(variances[colour])).abs().max()) < 1e-6
    levels = variances[colour | grey].sqrt()
    assert float(levels.min()) >= 2 - 1e-6 and float(levels.max()) <= 25 + 1e-6
    correlated = covariance[draws.colour == COLOURS.index("correlated")]
    assert bool((correlated > -1e-6).all()) and float(correlated.max()) <= 625 + 1e-6


@pytest.mark.parametrize("scale", [2, 4])
def test_a_shuffled_picture_depends_on_its_sample_alone_and_is_8_bits(scale: int) -> None:
    hr = _pictures(1, 64, 72).expand(6, -1, -1, -1).contiguous()
    draws = _draw(SHUFFLED, [3, 4, 5, 6, 7, 8], scale=scale)
    lq = degradations.apply(hr, draws)
    assert lq.shape == (6, 3, 64 // scale, 72 // scale) and torch.equal((lq * 255).round() / 255, lq)
    alone = degradations.apply(hr[:1], _draw(SHUFFLED, [6], scale=scale))
    assert torch.equal(alone[0], lq[3]) and len({picture.sum().item() for picture in lq}) == 6
    small, gt = paired_crop(lq, hr, draws)
    assert small.shape[2:] == (32 // scale, 32 // scale) and gt.shape[2:] == (32, 32)


def test_a_small_picture_survives_a_reduction_by_eight() -> None:
    hr = _pictures(40, 16, 20)
    draws = degradations.draw(SHUFFLED, scale=4, seed=0, samples=torch.arange(40), height=16, width=20)
    assert degradations.apply(hr, draws).shape == (40, 3, 4, 5)


def test_bicubic_is_the_reduction_of_matlab_rounded() -> None:
    hr = _pictures(2, 64, 72)
    lq = degradations.apply(hr, _draw(BICUBIC, [0, 1]))
    assert torch.equal(lq, (imresize(hr, size=(16, 18)) * 255).round().clamp(0, 255) / 255)


def test_measured_kernels_and_noise_are_drawn_anew_for_each_sample(measured: DegradationConfig) -> None:
    draws = _draw(measured, list(range(3000)))
    assert isinstance(draws, RealsrDraws)
    assert chi_square_p(draws.kernel, [1 / 3] * 3) > ALPHA and chi_square_p(draws.noise, [0.5, 0.5]) > ALPHA
    hr = _pictures(1, 64, 72).expand(8, -1, -1, -1).contiguous()
    noisy = degradations.apply(hr, _draw(measured, list(range(8))))
    assert len({picture.sum().item() for picture in noisy}) == 8
    assert torch.equal(degradations.apply(hr[:1], _draw(measured, [5]))[0], noisy[5])


def test_injected_noise_has_no_mean_and_the_deviation_of_its_patch(measured: DegradationConfig) -> None:
    only_noise = DegradationConfig(kind="realsr", noise=measured.noise)
    grey = torch.full((16, 3, 128, 128), 0.5)  # 32 x 32 after the reduction, which the patches hold
    draws = degradations.draw(only_noise, scale=4, seed=0, samples=torch.arange(16), height=128, width=128)
    change = (degradations.apply(grey, draws) - 0.5) * 255
    assert float(change.mean((2, 3)).abs().max()) < 0.6
    assert float(change.std()) == pytest.approx(20 / math.sqrt(12), rel=0.05)


def test_a_patch_that_is_too_small_is_mirrored(measured: DegradationConfig) -> None:
    large = torch.full((2, 3, 256, 256), 0.5)
    draws = degradations.draw(measured, scale=4, seed=0, samples=torch.arange(2), height=256, width=256)
    assert degradations.apply(large, draws).std() > 0.01


@pytest.mark.parametrize("kind", ["shuffled", "bicubic", "realsr"])
def test_draws_of_every_kind_survive_json(kind: str, measured: DegradationConfig) -> None:
    config = {"shuffled": SHUFFLED, "bicubic": BICUBIC, "realsr": measured}[kind]
    hr = _pictures(3, 64, 72)
    draws = _draw(config, [4, 5, 6])
    again = from_json([json.loads(json.dumps(to_json(draws, number))) for number in range(3)])
    assert type(again) is type(draws)
    assert torch.equal(degradations.apply(hr, again), degradations.apply(hr, draws))
    assert isinstance(from_json([to_json(_draw(DegradationConfig(), [1]), 0)]), Draws)


@pytest.mark.parametrize(
    ("config", "scale", "words"),
    [
        (SHUFFLED, 3, "for scales 2 and 4, not 3"),
        (DegradationConfig(kind="realsr"), 4, "needs degradation.kernels, degradation.noise"),
        (DegradationConfig(kind="realsr", noise=Path("nowhere")), 4, "nowhere holds no noise patches"),
    ],
)
def test_what_a_kind_cannot_do_is_said(config: DegradationConfig, scale: int, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        degradations.check(config, scale)


def test_a_pool_for_another_scale_is_refused(measured: DegradationConfig) -> None:
    with pytest.raises(ConfigError, match="for scale 4, not 2"):
        degradations.check(measured, 2)


def test_the_first_order_ablation_draws_one_pass_like_the_first_of_two() -> None:
    both, one = (_draw(DegradationConfig(order=order), list(range(50))) for order in (0, 1))
    assert isinstance(both, Draws) and isinstance(one, Draws)
    assert (len(both.passes), len(one.passes)) == (2, 1)
    assert torch.equal(both.passes[0].blur.sigma_x, one.passes[0].blur.sigma_x)
    assert torch.equal(both.passes[0].noise.strength, one.passes[0].noise.strength)
    assert torch.equal(both.final.quality, one.final.quality)
    with pytest.raises(ConfigError, match="order = 3"):
        DegradationConfig(order=3)


def test_the_ablation_without_sinc_has_none_anywhere() -> None:
    draws = _draw(DegradationConfig(sinc=False), list(range(500)))
    assert isinstance(draws, Draws)
    assert bool((draws.final.sinc.family == IMPULSE).all())
    assert not any(bool((one.blur.family == SINC).any()) for one in draws.passes)
    assert ablated(DegradationConfig()) == DegradationConfig()


def test_without_sharpening_no_target_is_sharpened_in_any_stage() -> None:
    path = find_recipe("realesrgan_x4")
    plus, plain = load_stages(path), load_stages(path, ["data.sharpen=false"])
    assert plus[0].data.sharpen_target and not plain[0].data.sharpen_target
    assert (plus[1].loss.targets(), plain[1].loss.targets()) == ({"gt", "gt_usm"}, {"gt"})
    assert plain[1].loss.pixel.weight == plus[1].loss.pixel.weight
