"""`per_batch` draws: shared in a batch is what the published code shares, with its probabilities."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from chances import ALPHA, chi_square_p, ks_p
from realesr_train.config import DegradationConfig
from realesr_train.degradation.draws import IMPULSE, SINC, Draws, draw


def _draw(samples: Any, mode: Any = "per_batch") -> Draws:
    config = DegradationConfig(draws=mode)
    return draw(config, scale=4, seed=3, samples=torch.as_tensor(samples), height=400, width=400, crop_px=256)


def test_per_batch_shares_what_the_original_shared() -> None:
    draws = _draw(torch.arange(40, 80))
    for one in draws.passes:
        assert one.resize.direction is not None and one.resize.factor is not None
        for shared in (one.resize.direction, one.resize.factor, one.resize.mode, one.noise.kind):
            assert len(shared.unique()) == 1
        assert (
            len(one.noise.strength.unique())
            == len(one.blur.sigma_x[one.blur.sigma_x > 0].unique()) + sum(one.blur.sigma_x == 0)
            or (one.blur.family == IMPULSE).all()
        )
        assert len(one.noise.grey.unique()) == 2
    quality = draws.passes[0].quality
    assert quality is not None and len(quality.unique()) == 40
    assert len((draws.passes[1].blur.family == IMPULSE).unique()) == 1
    assert len(draws.final.jpeg_last.unique()) == len(draws.final.resize.mode.unique()) == 1
    assert len(draws.crop.unique(dim=0)) == 1
    assert len(draws.final.quality.unique()) == len(draws) == 40
    assert len((draws.final.sinc.family == IMPULSE).unique()) == 2
    # from the first sample of the batch, and different from batch to batch
    assert torch.equal(draws.crop[0], _draw([40])[0:1].crop[0])
    starts = torch.cat([_draw([start, 1]).crop[:1] for start in range(20)])
    assert len(starts.unique(dim=0)) > 15


@pytest.mark.parametrize("mode", ["per_image", "per_batch"])
def test_noise_fields_are_the_images_own_but_for_grey_gaussian_noise_per_batch(mode: Any) -> None:
    for first in range(20):
        draws = _draw(torch.arange(first, first + 12), mode)
        for one in draws.passes:
            shared = one.noise.grey & (one.noise.kind == 0) & (mode == "per_batch")
            assert (one.noise.field[shared] == -1 - first).all()
            assert torch.equal(one.noise.field[~shared], draws.samples[~shared])


def _shared(values: Tensor) -> Tensor:
    """(B,) bool: all values of a batch are equal; of (B, N)."""
    return (values == values[:, :1]).all(1)


def test_per_batch_has_the_statistics_of_the_published_code() -> None:
    """Over many batches, what is shared has the published probabilities, and what is not has them within a batch."""
    batches = [_draw(torch.arange(8 * n, 8 * n + 8)) for n in range(600)]

    def column(get: Callable[[Draws], Any]) -> Tensor:
        return torch.stack([get(one) for one in batches])

    for number, (directions, ups, downs) in enumerate(
        (((0.2, 0.7, 0.1), (1, 1.5), (0.15, 1)), ((0.3, 0.4, 0.3), (1, 1.2), (0.3, 1)))
    ):
        direction = column(lambda d, n=number: d.passes[n].resize.direction)
        factor = column(lambda d, n=number: d.passes[n].resize.factor)
        mode = column(lambda d, n=number: d.passes[n].resize.mode)
        kind = column(lambda d, n=number: d.passes[n].noise.kind)
        grey = column(lambda d, n=number: d.passes[n].noise.grey)
        assert all(_shared(values).all() for values in (direction, factor, mode, kind))
        assert chi_square_p(direction[:, 0], list(directions)) > ALPHA
        assert chi_square_p(mode[:, 0], [1 / 3] * 3) > ALPHA
        assert chi_square_p(kind[:, 0], [0.5, 0.5]) > ALPHA
        assert ks_p(factor[:, 0][direction[:, 0] == 0], *ups) > ALPHA
        assert ks_p(factor[:, 0][direction[:, 0] == 1], *downs) > ALPHA
        assert chi_square_p(grey.flatten().long(), [0.6, 0.4]) > ALPHA
        assert chi_square_p(grey.sum(1), [math.comb(8, k) * 0.4**k * 0.6 ** (8 - k) for k in range(9)]) > ALPHA
    skipped = column(lambda d: d.passes[1].blur.family == IMPULSE)
    order = column(lambda d: d.final.jpeg_last)
    sinc = column(lambda d: d.final.sinc.family == SINC)
    quality = column(lambda d: d.final.quality)
    crop = column(lambda d: d.crop[:, 0])
    assert all(_shared(values).all() for values in (skipped, order, crop))
    assert chi_square_p(skipped[:, 0].long(), [0.8, 0.2]) > ALPHA
    assert chi_square_p(order[:, 0].long(), [0.5, 0.5]) > ALPHA
    assert chi_square_p(crop[:, 0], [1 / 37] * 37) > ALPHA
    assert chi_square_p(sinc.sum(1), [math.comb(8, k) * 0.8**k * 0.2 ** (8 - k) for k in range(9)]) > ALPHA
    assert ks_p(quality.flatten(), 30, 95) > ALPHA
