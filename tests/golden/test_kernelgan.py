"""KernelGAN and the fit of spectra against reference numbers (which are no part of this repository)."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from realesr_train import kernel_forms, kernelgan
from realesr_train.data.noise import tiles
from realesr_train.kernelgan import Critic, Schedule
from realesr_train.spectrum import fit_blur

Golden = Callable[[str], Path]
Arrays = dict[str, np.ndarray]
_LOSSES = (
    "gan", "similarity", "sum", "boundaries", "centralised", "sparse", "total", "d_fake", "d_real", "d_total",
)  # fmt: skip


@pytest.fixture(scope="module")
def arrays(golden: Golden) -> Arrays:
    with np.load(golden("kernelgan.npz"), allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array.copy())


def _error(ours: Tensor, theirs: np.ndarray) -> float:
    return float((ours.detach().double() - _tensor(theirs).double()).abs().max())


def _picture(pixels: np.ndarray) -> Tensor:
    """(1, 1, 3, H, W) in [-1, 1]."""
    return _tensor(pixels).permute(2, 0, 1)[None, None].float() / 255 * 2 - 1


def _layers(arrays: Arrays, prefix: str) -> list[Tensor]:
    names = ("first_layer", *(f"feature_block.{number}" for number in range(4)), "final_layer")
    return [_tensor(arrays[f"{prefix}.{name}.weight"])[None] for name in names]


def _critic(arrays: Arrays, prefix: str) -> Critic:
    layers = ("first_layer", *(f"feature_block.{number}" for number in (0, 3, 6, 9, 12)), "final_layer.0")
    norms = [f"feature_block.{number}" for number in (1, 4, 7, 10, 13)]

    def of(names: tuple[str, ...] | list[str], key: str) -> list[Tensor]:
        return [_tensor(arrays[f"{prefix}.{name}.{key}"])[None] for name in names]

    return Critic(
        weights=[weight.flatten(2) for weight in of(layers, "weight_orig")],
        biases=of(layers, "bias"),
        gains=of(norms, "weight"),
        offsets=of(norms, "bias"),
        u=of(layers, "weight_u"),
    )


def test_the_networks_give_what_the_original_gives(arrays: Arrays) -> None:
    kernel = kernelgan.compose(_layers(arrays, "full_G"))
    assert _error(kernel[0], arrays["full_kernel"]) < 1e-7
    crop = _picture(arrays["full_g_in_u8"])
    output = kernelgan.halve(crop, kernel)
    assert _error(output[0], arrays["full_g_out"]) < 2e-6
    critic = _critic(arrays, "full_D_before")
    seen = critic(output)
    assert _error(seen, arrays["full_D_out_train"]) < 1e-5
    assert _error(critic.u[0][0], arrays["full_D_after.first_layer.weight_u"]) < 1e-6
    gan, _, similarity = arrays["full_losses_gan_bicubicref_bicubicfixed"]
    assert float((seen - 1).abs().mean()) == pytest.approx(gan, rel=1e-5)
    assert _error(kernelgan.bicubic_kernel(), arrays["bicubic_kernel"]) < 1e-9
    ours = kernelgan.similarity_loss(output, crop, kernelgan.bicubic_kernel()[None])
    assert float(ours) == pytest.approx(similarity, rel=1e-5)


def test_a_batch_gives_each_picture_what_it_gets_alone(arrays: Arrays) -> None:
    crop, other = _picture(arrays["full_g_in_u8"]), _picture(arrays["trace_g_in0"])
    alone = kernelgan.halve(crop, kernelgan.compose(_layers(arrays, "full_G")))
    double = [torch.cat((one, 2 * one)) for one in _layers(arrays, "full_G")]
    both = kernelgan.halve(torch.cat((crop, other)), kernelgan.compose(double))
    assert torch.allclose(both[:1], alone, atol=1e-6)
    critic, pair = _critic(arrays, "full_D_before"), _critic(arrays, "full_D_before")
    for name in ("weights", "biases", "gains", "offsets", "u"):
        setattr(pair, name, [torch.cat((one, one)) for one in getattr(pair, name)])
    assert torch.allclose(pair(torch.cat((alone, both[1:])))[:1], critic(alone), atol=1e-5)


def test_the_constraints_and_their_gradients_equal_the_original(arrays: Arrays) -> None:
    assert _error(kernelgan.border_mask(13), arrays["penalty_mask_13"]) < 1e-12
    kernels = _tensor(arrays["loss_kernels"]).requires_grad_(True)
    losses = kernelgan.constraint_losses(kernels)
    for number, name in enumerate(_LOSSES[2:6]):
        assert _error(losses[name], arrays["loss_sum2one_boundaries_central_sparse"][:, number]) < 2e-4
        (gradient,) = torch.autograd.grad(losses[name].sum(), kernels, retain_graph=True)
        expected = arrays["loss_kernel_grads"][:, number]
        assert _error(gradient, expected) < 1e-5 * np.abs(expected).max() + 1e-7


@pytest.mark.parametrize("number", range(3))
def test_the_schedule_equals_the_original(number: int, arrays: Arrays) -> None:
    schedule = Schedule(2)
    found: list[tuple[float, ...]] = []
    for iteration, loss in enumerate(arrays[f"schedule{number}_bicubic_loss"]):
        schedule.update(iteration, torch.tensor([loss, 1.0]))
        state = (float(schedule.similarity[0]), float(schedule.constraints[0]))
        if not found or found[-1][1:] != state:
            found.append((iteration, *state))
    assert schedule.similarity[1] == 5 and schedule.constraints[1] == 0  # a picture that never became similar
    rows = arrays[f"schedule{number}_changes"][:, :3]
    expected = [row for place, row in enumerate(rows) if place == 0 or (row[1:] != rows[place - 1][1:]).any()]
    assert np.allclose(found, expected, rtol=1e-9)


def test_six_steps_equal_the_original(arrays: Arrays) -> None:
    layers = [layer.requires_grad_(True) for layer in _layers(arrays, "trace_fixed_G0")]
    critic = _critic(arrays, "trace_fixed_D0")
    optimizers = (
        kernelgan.adam(layers, 2e-4),
        kernelgan.adam([one.requires_grad_(True) for one in critic.parameters()], 2e-4),
    )
    schedule = Schedule(1)
    for number in range(6):
        weights = arrays["trace_lambdas"][number]
        schedule.similarity.fill_(weights[0])
        schedule.constraints.fill_(weights[3])
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = arrays["trace_lr"][number]
        fake_noise = _tensor(arrays[f"trace_fake_noise{number}"])[None] / 255
        real = _picture(arrays[f"trace_d_in{number}"] + arrays[f"trace_d_noise{number}"])
        done = kernelgan.step(
            layers,
            critic,
            _picture(arrays[f"trace_g_in{number}"]),
            real,
            schedule,
            optimizers,
            towards=kernelgan.bicubic_kernel()[None],
            noise=lambda fake, given=fake_noise: given,  # type: ignore[misc]
        )
        ours = [float(done.losses[name]) for name in _LOSSES]
        assert ours == pytest.approx(arrays["trace_fixed_losses"][number].tolist(), rel=1e-4, abs=1e-6)
        assert _error(done.kernels[0], arrays["trace_fixed_kernels"][number]) < 1e-6


@pytest.mark.parametrize("name", ["post0", "post1", "post2", "real0", "real1"])
def test_the_post_processing_equals_the_original(name: str, arrays: Arrays) -> None:
    kernel = _tensor(arrays[f"{name}_in"])
    cleaned = kernel_forms.clean(kernel)
    if f"{name}_clean40" in arrays:
        assert _error(cleaned, arrays[f"{name}_clean40"]) < 1e-7
        assert _error(kernel_forms.clean(kernel, keep=20), arrays[f"{name}_clean20"]) < 1e-7
        assert _error(kernel_forms.twice(kernel.double()), arrays[f"{name}_x4_from_raw"]) < 1e-7
    moved = kernel_forms.centred(cleaned)
    assert moved.shape == arrays[f"{name}_shifted"].shape
    assert _error(moved, arrays[f"{name}_shifted"]) < 1e-7
    assert _error(kernel_forms.twice(_tensor(arrays[f"{name}_shifted"]).double()), arrays[f"{name}_x4"]) < 1e-7


@pytest.mark.parametrize("name", ["canyon_a30", "moto_a120"])
def test_the_fit_of_spectra_finds_what_the_reference_found(name: str, golden: Golden) -> None:
    arrays = np.load(golden("known_kernels.npz"), allow_pickle=False)
    grey = _tensor(arrays[f"{name}_lr_u8"]).double().mean(2)
    ours, _ = fit_blur(grey, floor=1.0, highest=0.42, gain_weight=1.0, prior_weight=0.0)
    xx, yy, xy, _ = arrays[f"{name}_spectral_vx_vy_cov_err"]
    theirs = torch.tensor([[xx, xy], [xy, yy]], dtype=torch.float64)
    assert float((ours - theirs).norm() / theirs.norm()) < 0.1
    wanted = float(arrays[f"{name}_true_l1_l2_deg"][2])
    for covariance in (ours, fit_blur(grey)[0]):
        vector = torch.linalg.eigh(covariance).eigenvectors[:, 1]
        angle = float(torch.rad2deg(torch.atan2(vector[1], vector[0])))
        assert abs((angle - wanted + 90) % 180 - 90) < 5


@pytest.mark.parametrize("name", ["scan", "phone"])
def test_flat_tiles_are_those_of_the_original(name: str, golden: Golden) -> None:
    arrays = np.load(golden("realsr_noise.npz"), allow_pickle=False)
    for side in (32, 48):
        found = {(tile.top, tile.left): tile for tile in tiles(arrays[f"{name}_u8"], side, side)}
        for rule, (most, least) in {"df2k": (20, 0), "dped": (20, 50), "loose": (60, 20)}.items():
            for row, column, variance, mean, kept in arrays[f"{name}_{side}_{rule}"]:
                tile = found[int(row), int(column)]
                assert (tile.variance, tile.mean) == pytest.approx((variance, mean), rel=1e-6)
                assert (tile.variance < most and tile.mean > least) == bool(kept)


def test_the_last_row_and_column_of_tiles_count_where_they_fit(golden: Golden) -> None:
    arrays = np.load(golden("realsr_noise.npz"), allow_pickle=False)
    ours = [(tile.top, tile.left) for tile in tiles(arrays["exactfit_u8"], 32, 32)]
    assert len(ours) == 12 and len(arrays["exactfit_32"]) == 6
    assert {(int(row), int(column)) for row, column, *_ in arrays["exactfit_32"]} < set(ours)
