"""The operators of the degradation against the original's recorded numbers; tolerances of DEGRADATION.md."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from realesr_train.degradation import counter, filters, kernels, noise, resize

Finder = Callable[[str], Path]


def _arrays(path: Path) -> dict[str, Tensor]:
    """The file's numbers as tensors; uint16 counts become float32."""
    with np.load(path, allow_pickle=False) as content:
        numbers = {key: content[key] for key in content.files if content[key].dtype.kind in "fui"}
    return {
        key: torch.from_numpy(value.astype(np.float32) if value.dtype == np.uint16 else np.atleast_1d(value))
        for key, value in numbers.items()
    }


def _error(actual: Tensor, expected: Tensor) -> float:
    assert actual.shape == expected.shape
    return float((actual - expected).abs().max())


@pytest.mark.parametrize("family", kernels.FAMILIES[:7])
def test_kernels_equal_the_original(family: str, golden: Finder) -> None:
    arrays = _arrays(golden("kernels.npz"))
    size = arrays[f"{family}__size"]
    parameters = {
        name: arrays.get(f"{family}__{name}", torch.zeros(len(size)))
        for name in ("sigma_x", "sigma_y", "theta", "beta", "omega")
    }
    index = torch.full((len(size),), kernels.FAMILIES.index(family))
    actual = kernels.blur_kernels(family=index, size=size, **parameters)
    assert _error(actual, arrays[f"{family}__kernel"]) <= 1e-6


def test_kernels_of_sizes_outside_training_equal_the_original(golden: Finder) -> None:
    arrays = _arrays(golden("kernels.npz"))
    one = torch.ones(1)
    for width in (3, 5, 31):
        actual = kernels.blur_kernels(
            family=torch.tensor([6]),
            size=torch.tensor([width]),
            sigma_x=one,
            sigma_y=one,
            theta=one,
            beta=one,
            omega=arrays[f"sinc_free_{width}__omega"],
            width=width,
        )
        assert _error(actual[0], arrays[f"sinc_free_{width}__kernel"]) <= 1e-6
    sigma_x, sigma_y, theta = arrays["aniso_free_31__params"].split(1)
    actual = kernels.blur_kernels(
        family=torch.tensor([1]),
        size=torch.tensor([31]),
        sigma_x=sigma_x,
        sigma_y=sigma_y,
        theta=theta,
        beta=one,
        omega=one,
        width=31,
    )
    assert _error(actual[0], arrays["aniso_free_31__kernel"]) <= 1e-6


@pytest.mark.parametrize("case", ["a", "b", "c", "d"])
def test_blur_equals_the_original(case: str, golden: Finder) -> None:
    arrays = _arrays(golden("blur.npz"))
    actual = filters.blur(arrays[f"{case}_img"], arrays[f"{case}_kernel"])
    assert _error(actual, arrays[f"{case}_out"]) <= 2e-6


@pytest.mark.parametrize("case", [0, 1, 2])
def test_sharpening_equals_the_original(case: int, golden: Finder) -> None:
    arrays = _arrays(golden("usm.npz"))
    difference = (filters.sharpen(arrays[f"img_{case}"].float() / 255) - arrays[f"out_{case}"]).abs()
    assert float(difference.mean()) <= 2e-6
    assert float(difference.max()) <= 1e-3


def test_sharpening_with_other_amount_and_threshold_equals_the_original(golden: Finder) -> None:
    arrays = _arrays(golden("usm.npz"))
    actual = filters.sharpen(arrays["img_0"].float() / 255, amount=1.0, threshold=5)
    difference = (actual - arrays["out_0_w1_t5"]).abs()
    assert float(difference.mean()) <= 2e-6
    assert float(difference.max()) <= 1e-3


@pytest.mark.parametrize("mode", resize.MODES)
def test_resize_to_a_size_equals_the_original(mode: str, golden: Finder) -> None:
    arrays = _arrays(golden("resize.npz"))
    for index, size in enumerate(arrays["sizes"].long()):
        actual = resize.resize(arrays["img"], size[None], torch.tensor([resize.MODES.index(mode)]))
        assert _error(actual, arrays[f"size_{mode}_{index}"]) <= 5e-6, size


@pytest.mark.parametrize("mode", resize.MODES)
def test_resize_by_a_factor_equals_the_original(mode: str, golden: Finder) -> None:
    arrays = _arrays(golden("resize.npz"))
    for index, factor in enumerate(arrays["scale_factors"]):
        expected = arrays[f"scale_{mode}_{index}"]
        actual = resize.resize(
            arrays["img"],
            torch.tensor([expected.shape[2:]]),
            torch.tensor([resize.MODES.index(mode)]),
            steps=(1 / factor).expand(1, 2),
        )
        assert _error(actual, expected) <= 5e-6, factor


@pytest.mark.parametrize(
    ("name", "scale", "antialias"),
    [
        ("d2", 1 / 2, True),
        ("d3", 1 / 3, True),
        ("d4", 1 / 4, True),
        ("s0p37", 0.37, True),
        ("d2_noaa", 1 / 2, False),
        ("u2", 2.0, True),
        ("u3", 3.0, True),
        ("u4", 4.0, True),
    ],
)
def test_imresize_equals_the_original(name: str, scale: float, antialias: bool, golden: Finder) -> None:
    arrays = _arrays(golden("metrics.npz"))
    pixels = arrays["imresize_in"].permute(2, 0, 1)[None]
    actual = resize.imresize(pixels, scale=scale, antialias=antialias)[0].permute(1, 2, 0)
    assert _error(actual, arrays[f"imresize_{name}"]) <= 5e-6


def _one_field(colour: Tensor, shared: Tensor, grey: Tensor) -> Tensor:
    """The field that our functions take: the grey images' own in channel 0."""
    return torch.where(grey[:, None, None, None], shared, colour)


def test_gaussian_noise_equals_the_original(golden: Finder) -> None:
    arrays = _arrays(golden("noise.npz"))
    grey = arrays["g_gray"] > 0
    field = _one_field(arrays["g_z_color"], arrays["g_z_gray"], grey)
    actual = noise.add_gaussian(arrays["img_over"], arrays["g_sigma"], grey, field)
    assert _error(actual, arrays["g_out_clip1_round0"]) <= 2e-6


def test_gaussian_noise_of_recorded_draws_equals_the_original(golden: Finder) -> None:
    arrays = _arrays(golden("noise.npz"))
    grey = arrays["gr_u_gray"] < 0.4
    field = _one_field(arrays["gr_z"], arrays["gr_z_gray"], grey)
    actual = noise.add_gaussian(arrays["img_over"], 1 + 29 * arrays["gr_u_sigma"], grey, field)
    assert _error(actual, arrays["gr_out"]) <= 2e-6


@pytest.mark.parametrize("case", ["pc", "pg"])
def test_poisson_rates_equal_the_original(case: str, golden: Finder) -> None:
    arrays = _arrays(golden("noise.npz"))
    grey = arrays[f"{case}_gray"] > 0
    rates = noise.poisson_rates(arrays["img_over"], grey)
    expected_rate, expected_peaks = arrays[f"{case}_rate_color"], arrays[f"{case}_vals_color"]
    if bool(grey.any()):
        expected_rate = _one_field(expected_rate, arrays[f"{case}_rate_gray"], grey)
        expected_peaks = torch.where(grey, arrays[f"{case}_vals_gray"], expected_peaks)
    assert torch.equal(rates.peaks.double(), expected_peaks)
    assert torch.equal(rates.levels.float() / 255 * rates.peaks[:, None, None, None], expected_rate)


@pytest.mark.parametrize("case", ["pc", "pg"])
def test_poisson_noise_equals_the_original(case: str, golden: Finder) -> None:
    arrays = _arrays(golden("noise.npz"))
    grey = arrays[f"{case}_gray"] > 0
    counts = arrays[f"{case}_counts_color"]
    if bool(grey.any()):
        counts = _one_field(counts, arrays[f"{case}_counts_gray"], grey)
    rates = noise.poisson_rates(arrays["img_over"], grey)
    actual = noise.add_poisson(arrays["img_over"], arrays["p_scale"], rates, counts)
    assert _error(actual, arrays[f"{case}_out"]) <= 2e-6


def test_poisson_noise_of_recorded_draws_equals_the_original(golden: Finder) -> None:
    arrays = _arrays(golden("noise.npz"))
    grey = arrays["pr_u_gray"] < 0.4
    counts = _one_field(arrays["pr_counts_color"], arrays["pr_counts_gray"], grey)
    rates = noise.poisson_rates(arrays["img_over"], grey)
    actual = noise.add_poisson(arrays["img_over"], 0.05 + 2.95 * arrays["pr_u_scale"], rates, counts)
    assert _error(actual, arrays["pr_out"]) <= 2e-6


def test_peaks_follow_the_number_of_levels_as_in_the_original(golden: Finder) -> None:
    arrays = _arrays(golden("noise.npz"))
    for levels, expected in zip(arrays["v_levels"].tolist(), arrays["v_vals"].tolist(), strict=True):
        # spread over the whole range; each level occurs
        pixels = (torch.linspace(0, 255, levels).round() / 255).repeat(3).view(1, 3, 1, levels)
        assert noise.poisson_rates(pixels, torch.tensor([False])).peaks.tolist() == [expected], levels


@pytest.mark.parametrize("kind", ["poisson_color", "poisson_gray_scale2", "gauss_sigma10"])
def test_moments_of_own_draws_equal_those_of_the_original(kind: str, golden: Finder) -> None:
    """Colour Poisson noise, grey Poisson noise of scale 2, Gaussian noise; 6000 pictures each, unclamped mid-grey."""
    arrays = _arrays(golden("noise.npz"))
    draws = int(arrays["m_draws"])
    image = arrays["m_img"].float() / 255
    pixels = image.expand(draws, -1, -1, -1)
    grey = torch.full((draws,), "gray" in kind)
    keys = counter.keys(5, torch.arange(draws), 1)
    if kind == "gauss_sigma10":
        found = 10 / 255 * counter.normal_field(keys, 8, 8, 3, "cpu")
        expected_variance = arrays["m_gauss_sigma10_std"] ** 2
    else:
        scale = 2.0 if "scale2" in kind else 1.0
        rates = noise.poisson_rates(pixels, grey)
        assert rates.peaks.unique().tolist() == [4.0]
        counts = noise.poisson_counts(rates, counter.uniform_field(keys, 8, 8, 3, "cpu"), grey)
        found = scale * (counts / 4 - rates.levels / 255)
        expected_variance = scale**2 * (rates.levels[0] / 255) / 4
        recorded = arrays[f"m_{kind}_var"]
        assert float((recorded - expected_variance).abs().max()) <= 0.12 * float(expected_variance.max())
        if "gray" in kind:
            assert float((found - found[:, :1]).abs().max()) == float(arrays["m_poisson_gray_channel_absdiff_max"])
    mean, variance = found.mean(0), found.var(0)
    assert bool((mean.abs() <= 5 * (expected_variance / draws).sqrt()).all())
    assert bool(((variance - expected_variance).abs() <= 0.12 * expected_variance).all())
    for rows in (slice(0, 4), slice(4, 8)):
        for columns in (slice(0, 4), slice(4, 8)):
            expected = expected_variance[:, rows, columns].mean()
            assert float((variance[:, rows, columns].mean() - expected).abs()) <= 0.02 * float(expected)
