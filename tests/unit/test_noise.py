"""Gaussian and Poisson noise: formulas, exact counts, own levels of each image, independence of the batch, errors."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from realesr_train.degradation import counter, noise

_PEAKS = [2**e for e in range(9)]


def _batch(seed: int, count: int, height: int, width: int) -> dict[str, Tensor]:
    """Images of different sizes, every second grey; other numbers, many levels among them, outside."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.stack([torch.randint(1, side + 1, (count,), generator=generator) for side in (height, width)], 1)
    return {
        "pixels": torch.rand(count, 3, height, width, generator=generator) * 1.2 - 0.1,
        "grey": torch.arange(count) % 2 == 1,
        "sizes": sizes,
    }


def _poisson(pixels: Tensor, grey: Tensor, sizes: Tensor | None, keys: Tensor) -> Tensor:
    rates = noise.poisson_rates(pixels, grey, sizes)
    uniform = counter.uniform_field(keys, pixels.shape[2], pixels.shape[3], 3, "cpu")
    counts = noise.poisson_counts(rates, uniform, grey)
    return noise.add_poisson(pixels, torch.full((len(keys),), 1.5), rates, counts, sizes)


def _gaussian(pixels: Tensor, grey: Tensor, sizes: Tensor | None, keys: Tensor) -> Tensor:
    z = counter.normal_field(keys, pixels.shape[2], pixels.shape[3], 3, "cpu")
    return noise.add_gaussian(pixels, torch.full((len(keys),), 20.0), grey, z, sizes)


def _distribution(mean: float) -> np.ndarray:
    """P(count <= x) for x = 0 .. 399, by the recurrence of the Poisson probabilities."""
    chance = np.empty(400)
    chance[0] = math.exp(-mean)
    for x in range(1, 400):
        chance[x] = chance[x - 1] * mean / x
    return np.cumsum(chance)


def test_gaussian_noise_is_its_formula() -> None:
    batch = _batch(1, 4, 9, 7)
    z, sigma = torch.randn(4, 3, 9, 7), torch.tensor([0.0, 1.0, 10.0, 30.0])
    found = noise.add_gaussian(batch["pixels"], sigma, batch["grey"], z)
    for i in range(4):
        field = z[i, :1] if batch["grey"][i] else z[i]
        expected = (batch["pixels"][i] + field * sigma[i] / 255).clamp(0, 1)
        assert torch.allclose(found[i], expected, atol=1e-6, rtol=0)
    assert float(found.min()) == 0 and float(found.max()) == 1


@pytest.mark.parametrize("operator", [_gaussian, _poisson])
def test_grey_images_have_equal_noise_in_their_channels_and_others_have_not(operator: object) -> None:
    assert callable(operator)
    pixels = torch.full((6, 3, 20, 20), 128 / 255)
    grey = torch.arange(6) % 2 == 1
    found = operator(pixels, grey, None, counter.keys(0, torch.arange(6), 0))
    differ = (found - found[:, :1]).abs().amax((1, 2, 3))
    assert bool((differ[grey] == 0).all()) and bool((differ[~grey] > 0.01).all())


@pytest.mark.parametrize("operator", [_gaussian, _poisson])
def test_grey_noise_of_two_images_is_independent(operator: object) -> None:
    """Defect D3 of the original: one field for all grey images of a batch."""
    assert callable(operator)
    pixels = torch.full((2, 3, 100, 100), 128 / 255)
    found = operator(pixels, torch.tensor([True, True]), None, counter.keys(0, torch.arange(2), 0))
    both = torch.stack((found[0, 0].flatten(), found[1, 0].flatten()))
    assert abs(float(torch.corrcoef(both)[0, 1])) <= 4 / 100


@pytest.mark.parametrize("operator", [_gaussian, _poisson])
def test_an_image_has_the_same_bits_alone_in_a_batch_and_on_another_canvas(operator: object) -> None:
    assert callable(operator)
    batch = _batch(2, 5, 128, 64)
    keys = counter.keys(0, torch.arange(5), 3)
    together = operator(**batch, keys=keys)
    for i, (h, w) in enumerate(batch["sizes"].tolist()):
        one = {name: value[i : i + 1] for name, value in batch.items()}
        expected = together[i, :, :h, :w]
        assert torch.equal(operator(**one, keys=keys[i : i + 1])[0, :, :h, :w], expected)
        one["pixels"] = one["pixels"][:, :, :h, :w]
        assert torch.equal(operator(**one, keys=keys[i : i + 1])[0], expected)


def test_the_peak_counts_the_levels_of_each_image_alone() -> None:
    batch = _batch(3, 12, 40, 30)
    steps = torch.tensor([1, 2, 3, 4, 6, 9, 14, 33, 70, 129, 200, 255]).view(-1, 1, 1, 1)
    batch["pixels"] = (batch["pixels"] * steps).round() / steps
    rates = noise.poisson_rates(**batch)
    luma = 0.2989 * batch["pixels"][:, 0] + 0.587 * batch["pixels"][:, 1] + 0.114 * batch["pixels"][:, 2]
    for i, (h, w) in enumerate(batch["sizes"].tolist()):
        source = luma[i].expand(3, -1, -1) if batch["grey"][i] else batch["pixels"][i]
        levels = (source[:, :h, :w] * 255).round().clamp(0, 255)
        assert torch.equal(rates.levels[i, :, :h, :w].float(), levels)
        assert rates.peaks[i].item() == 2 ** math.ceil(math.log2(levels.unique().numel()))
    assert rates.peaks.unique().numel() >= 5


@pytest.mark.parametrize(("levels", "peak"), [(1, 1), (2, 2), (3, 4), (128, 128), (129, 256), (256, 256)])
def test_the_peak_is_the_next_power_of_two(levels: int, peak: int) -> None:
    pixels = (torch.arange(levels) / 255).view(1, 1, 1, -1).expand(1, 3, 1, -1)
    assert noise.poisson_rates(pixels, torch.tensor([False])).peaks.tolist() == [peak]


def test_fixed_levels_replace_the_count() -> None:
    """Defect D5: a flat picture would get extreme noise."""
    pixels = torch.full((2, 3, 4, 4), 0.4)
    grey = torch.tensor([False, True])
    assert noise.poisson_rates(pixels, grey).peaks.tolist() == [1, 1]
    rates = noise.poisson_rates(pixels, grey, fixed_levels=256)
    assert rates.peaks.tolist() == [256, 256]
    assert rates.levels.unique().tolist() == [102]


def test_counts_are_the_exact_inverse_of_the_distribution() -> None:
    """At both sides of every step of 9 x 54 distributions, at both ends and at random numbers."""
    chance = np.random.default_rng(0)
    for k in [*range(0, 256, 5), 1, 2, 254]:
        chosen, expected = [], []
        for peak in _PEAKS:
            distribution = _distribution(k / 255 * peak)
            steps = np.ceil(distribution * 2**24 - 0.5).astype(np.int64)
            steps = steps[(steps > 0) & (steps < 2**24)]
            j = np.concatenate((steps, steps - 1, [0, 1, 2**23 - 1, 2**23, 2**24 - 1], chance.integers(0, 2**24, 900)))
            j = j[:1500] if len(j) >= 1500 else np.pad(j, (0, 1500 - len(j)))
            chosen.append(j)
            expected.append(np.searchsorted(distribution, (j + 0.5) / 2**24, side="right"))
        uniform = torch.from_numpy(np.stack(chosen).astype(np.float32) / 2**24).view(9, 1, 1, 1500)
        rates = noise.PoissonRates(
            levels=torch.full((9, 1, 1, 1500), k, dtype=torch.uint8), peaks=torch.tensor(_PEAKS, dtype=torch.float32)
        )
        found = noise.poisson_counts(rates, uniform, torch.zeros(9, dtype=torch.bool))
        assert np.array_equal(found.view(9, 1500).numpy(), np.stack(expected)), k


def test_counts_grow_with_the_uniform_number_and_the_level() -> None:
    uniform = torch.arange(0, 2**24, 1021).float() / 2**24
    size = uniform.numel()
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 256, 1).expand(9, 1, 256, size).contiguous()
    rates = noise.PoissonRates(levels=levels[:, :, ::16], peaks=torch.tensor(_PEAKS, dtype=torch.float32))
    field = uniform.expand(9, 1, 16, size).contiguous()
    counts = noise.poisson_counts(rates, field, torch.zeros(9, dtype=torch.bool))
    assert bool((counts.diff(dim=3) >= 0).all()) and bool((counts.diff(dim=2) >= 0).all())
    assert float(counts.max()) > 300 and float(counts[:, :, 0].max()) == 0


def test_counts_have_the_moments_of_poisson_numbers() -> None:
    uniform = counter.uniform_field(counter.keys(2, torch.arange(9), 0), 250, 400, 1, "cpu")
    for level in (1, 7, 64, 255):
        rates = noise.PoissonRates(
            levels=torch.full(uniform.shape, level, dtype=torch.uint8), peaks=torch.tensor(_PEAKS, dtype=torch.float32)
        )
        counts = noise.poisson_counts(rates, uniform, torch.zeros(9, dtype=torch.bool)).view(9, -1).double()
        mean = level / 255 * torch.tensor(_PEAKS, dtype=torch.float64)
        assert bool(((counts.mean(1) - mean).abs() <= 4.5 * (mean / 1e5).sqrt()).all())
        # the variance of a sample variance: (fourth central moment - variance squared) / n
        spread = ((mean + 2 * mean**2) / 1e5).sqrt()
        assert bool(((counts.var(1) - mean).abs() <= 4.5 * spread).all())


@pytest.mark.parametrize("operator", [_gaussian, _poisson])
def test_the_gradient_is_one_where_nothing_is_clamped(operator: object) -> None:
    """The levels of the Poisson noise are rounded, that is, constant; finite differences as small as they stay so."""
    assert callable(operator)
    levels = torch.randint(60, 190, (2, 3, 5, 4), generator=torch.Generator().manual_seed(0))
    x = (levels.double() / 255 + 1e-4).requires_grad_(True)
    keys, grey = counter.keys(1, torch.arange(2), 0), torch.tensor([False, False])
    assert torch.autograd.gradcheck(lambda value: operator(value, grey, None, keys), x, eps=1e-7)
    (gradient,) = torch.autograd.grad(operator(x, grey, None, keys).sum(), x)
    assert float(gradient.mean()) > 0.5


def test_wrong_arguments_are_named() -> None:
    pixels, grey, sigma = torch.rand(2, 3, 8, 8), torch.tensor([True, False]), torch.ones(2)
    rates = noise.poisson_rates(pixels, grey)
    for name, call in (
        ("pixels", lambda: noise.add_gaussian(pixels[0], sigma, grey, pixels)),
        ("pixels", lambda: noise.poisson_rates(pixels.int(), grey)),
        ("sigma", lambda: noise.add_gaussian(pixels, sigma[:1], grey, pixels)),
        ("grey", lambda: noise.add_gaussian(pixels, sigma, grey.float(), pixels)),
        ("grey", lambda: noise.poisson_rates(pixels, grey[:1])),
        ("grey", lambda: noise.poisson_counts(rates, pixels, grey.int())),
        ("z", lambda: noise.add_gaussian(pixels, sigma, grey, pixels[:, :1])),
        ("sizes", lambda: noise.poisson_rates(pixels, grey, torch.full((2, 2), 9))),
        ("sizes", lambda: noise.add_gaussian(pixels, sigma, grey, pixels, torch.zeros(2, 2, dtype=torch.int64))),
        ("fixed_levels", lambda: noise.poisson_rates(pixels, grey, fixed_levels=100)),
        ("uniform", lambda: noise.poisson_counts(rates, pixels.double(), grey)),
        ("uniform", lambda: noise.poisson_counts(rates, pixels[:, :1], grey)),
        ("scale", lambda: noise.add_poisson(pixels, sigma[:1], rates, pixels)),
        ("counts", lambda: noise.add_poisson(pixels, sigma, rates, pixels[:1])),
        ("rates.levels", lambda: noise.add_poisson(pixels[..., :4], sigma, rates, pixels[..., :4])),
    ):
        with pytest.raises(ValueError, match=f"^{name}: "):
            call()


@pytest.mark.gpu
def test_a_cuda_device_gives_the_same_without_waiting() -> None:
    batch = _batch(5, 4, 64, 64)
    pixels, keys = batch["pixels"].cuda(), counter.keys(0, torch.arange(4), 0)
    uniform = counter.uniform_field(keys, 64, 64, 3, "cuda")
    noise._quantile_table(uniform.device)  # made once per device
    torch.cuda.set_sync_debug_mode("error")
    try:
        rates = noise.poisson_rates(pixels, batch["grey"], batch["sizes"])
        counts = noise.poisson_counts(rates, uniform, batch["grey"])
        noisy = noise.add_poisson(pixels, torch.full((4,), 1.5), rates, counts)
        noise.add_gaussian(pixels, torch.ones(4), batch["grey"], uniform)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    expected = noise.poisson_rates(**batch)
    assert torch.equal(rates.peaks.cpu(), expected.peaks)
    difference = (noisy.cpu() - _poisson(**batch, keys=keys)).abs()
    assert float((difference > 2e-6).float().mean()) <= 1e-3  # an 8-bit tie of the grey sum may fall differently
