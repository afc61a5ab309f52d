"""Losses and their gradients against the originals' numbers, and features against known ones."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from realesr_cli.models.reading import read_weights
from realesr_train.features import FeatureNetwork
from realesr_train.losses import adversarial, pixel
from realesr_train.losses.perceptual import PerceptualLoss

Golden = Callable[[str], Path]
_KINDS: tuple[adversarial.Kind, ...] = ("vanilla", "lsgan", "wgan", "wgan_softplus", "hinge")


def _arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


def _near(ours: Tensor | None, theirs: np.ndarray, what: str, relative: float = 1e-5) -> None:
    assert ours is not None, what
    error = float(np.abs(ours.detach().double().numpy() - theirs).max())
    assert error <= relative * float(np.abs(theirs).max()) + 1e-9, f"{what}: {error:.1e}"


@pytest.mark.parametrize("name", ["l1", "mse", "charbonnier"])
def test_pixel_losses_equal_the_original(name: str, golden: Golden) -> None:
    arrays = _arrays(golden("losses.npz"))
    target = torch.from_numpy(arrays["target"])
    maps = {"none": None, "w1": torch.from_numpy(arrays["weight1"]), "w3": torch.from_numpy(arrays["weight3"])}
    for reduction in ("mean", "sum"):
        for label, weight_map in maps.items():
            pred = torch.from_numpy(arrays["pred"]).requires_grad_(True)
            loss = 0.7 * getattr(pixel, name)(pred, target, weight_map, reduction)
            _near(loss, arrays[f"{name}_{reduction}_{label}"], f"{name} {reduction} {label}")
            loss.backward()
            if reduction == "mean":
                _near(pred.grad, arrays[f"{name}_mean_{label}_grad"], f"gradient of {name} {label}")


def test_charbonnier_with_another_epsilon_and_total_variation_equal_the_original(golden: Golden) -> None:
    arrays = _arrays(golden("losses.npz"))
    pred, target = torch.from_numpy(arrays["pred"]), torch.from_numpy(arrays["target"])
    _near(pixel.charbonnier(pred, target, epsilon=1e-3), arrays["charbonnier_eps1e-3"], "charbonnier")
    _near(0.3 * pixel.total_variation(pred), arrays["tv_mean"], "total variation")


@pytest.mark.parametrize("kind", _KINDS)
def test_adversarial_losses_equal_the_original(kind: adversarial.Kind, golden: Golden) -> None:
    arrays = _arrays(golden("losses.npz"))
    for real in (True, False):
        logits = torch.from_numpy(arrays["logits"]).requires_grad_(True)
        loss = adversarial.discriminator_loss(logits, real=real, kind=kind)
        _near(loss, arrays[f"{kind}_real{real:d}_disc1"], f"{kind} {real}")
        loss.backward()
        _near(logits.grad, arrays[f"{kind}_real{real:d}_disc1_grad"], f"gradient of {kind} {real}")
    logits = torch.from_numpy(arrays["logits"]).requires_grad_(True)
    loss = 0.1 * adversarial.generator_loss(logits, kind=kind)
    _near(loss, arrays[f"{kind}_real1_disc0"], f"{kind} of the generator")
    loss.backward()
    _near(logits.grad, arrays[f"{kind}_real1_disc0_grad"], f"gradient of {kind} of the generator")


def test_smoothed_labels_equal_the_original(golden: Golden) -> None:
    arrays = _arrays(golden("losses.npz"))
    logits = torch.from_numpy(arrays["logits"])
    real = adversarial.discriminator_loss(logits, real=True, label=0.9)
    fake = adversarial.discriminator_loss(logits, real=False, label=0.1)
    _near(real, arrays["vanilla_smooth_real1_disc1"], "real")
    _near(fake, arrays["vanilla_smooth_real0_disc1"], "fake")


@pytest.mark.parametrize("kind", ["vanilla", "lsgan"])
def test_relativistic_losses_equal_the_original(kind: adversarial.Kind, golden: Golden) -> None:
    arrays = _arrays(golden("losses.npz"))
    real = torch.from_numpy(arrays["ra_real_logits"]).requires_grad_(True)
    fake = torch.from_numpy(arrays["ra_fake_logits"]).requires_grad_(True)
    loss = 0.005 * adversarial.relativistic_generator_loss(real, fake, kind=kind)
    _near(loss, arrays[f"ra_{kind}_g"], "generator")
    loss.backward()
    _near(fake.grad, arrays[f"ra_{kind}_g_grad_fake"], "gradient of the generator's")
    assert real.grad is None
    fake.grad = None
    # with the half that the training step of the original multiplies them with
    d_real, d_fake = adversarial.relativistic_discriminator_losses(real, fake, kind=kind)
    _near(d_real, arrays[f"ra_{kind}_d_real"], "real")
    _near(d_fake, arrays[f"ra_{kind}_d_fake"], "fake")
    (d_real + d_fake).backward()
    _near(real.grad, arrays[f"ra_{kind}_d_real_grad"], "gradient of real")
    _near(fake.grad, arrays[f"ra_{kind}_d_fake_grad"], "gradient of fake")


def test_esrgan_losses_equal_the_reference_and_not_the_misprint(golden: Golden) -> None:
    arrays = _arrays(golden("esrgan_losses.npz"))
    for case in range(5):
        prefix = f"c{case}_"

        def check(loss: Callable[[Tensor, Tensor], Tensor], name: str, prefix: str = prefix) -> Tensor:
            real = torch.from_numpy(arrays[f"{prefix}real"]).requires_grad_(True)
            fake = torch.from_numpy(arrays[f"{prefix}fake"]).requires_grad_(True)
            value = loss(real, fake)
            value.backward()
            _near(value, arrays[prefix + name], prefix + name)
            for logits, side in ((real, "real"), (fake, "fake")):
                expected = arrays[f"{prefix}{name}_grad_{side}"]
                _near(logits.grad if logits.grad is not None else torch.zeros_like(logits), expected, prefix + name)
            return value.detach()

        check(lambda r, f: sum(adversarial.relativistic_discriminator_losses(r, f)), "ragan_d_detached_mean")
        g = check(adversarial.relativistic_generator_loss, "ragan_g_real_detached")
        assert abs(float(g) - arrays[f"{prefix}seed_misprint_as_g"]) > 0.1
        check(lambda r, f: adversarial.generator_loss(f), "vanilla_g")
        check(
            lambda r, f: adversarial.discriminator_loss(r, real=True) + adversarial.discriminator_loss(f, real=False),
            "vanilla_d_sum",
        )


@pytest.fixture(scope="module")
def made_up_vgg19() -> dict[str, Tensor]:
    """The weights that anyone can regenerate: golden NETWORKS.md, "perceptual_vgg19"."""
    generator = np.random.RandomState(19)
    tensors, before = {}, 3
    numbers = (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34)
    for number, width in zip(numbers, [64] * 2 + [128] * 2 + [256] * 4 + [512] * 8, strict=True):
        weight = generator.standard_normal((width, before, 3, 3)) * np.sqrt(2 / (9 * before))
        tensors[f"features.{number}.weight"] = torch.from_numpy(weight.astype(np.float32))
        tensors[f"features.{number}.bias"] = torch.from_numpy((generator.standard_normal(width) * 0.05).astype("f4"))
        before = width
    return tensors


@pytest.mark.parametrize("case", ["both", "l2_two_layers", "relu_layers"])
def test_the_perceptual_loss_equals_the_original(case: str, golden: Golden, made_up_vgg19: dict[str, Tensor]) -> None:
    arrays = _arrays(golden("networks/perceptual_vgg19.npz"))
    meta = json.loads(str(arrays["meta"]))
    config, result = meta["configs"][case], meta["results"][case]
    weights = config["layer_weights"]
    network = FeatureNetwork("vgg19", made_up_vgg19, weights)
    loss = PerceptualLoss(
        network,
        weights,
        distance="mse" if config["criterion"] == "l2" else "l1",
        style_weight=config.get("style_weight", 0),
    )
    x = torch.from_numpy(arrays["x"]).requires_grad_(True)
    scale = config.get("perceptual_weight", 1.0)
    value = scale * loss(x, torch.from_numpy(arrays["gt"]))
    expected = result["percep"] + (result["style"] or 0)
    assert value.item() == pytest.approx(expected, rel=1e-5)
    value.backward()
    _near(x.grad, arrays[f"dx/{case}"], f"gradient of {case}", 1e-3)
    if case == "both":  # the layers of Real-ESRGAN
        for layer, features in network(torch.from_numpy(arrays["x"][:1])).items():
            _near(features[0, :6, :3, :3], arrays[f"feat/{layer}"], layer, 1e-4)


def _pattern(height: int = 64, width: int = 96) -> Tensor:
    """The picture of weights.md, section 8, in [-1, 1]."""
    i, j = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([torch.sin(0.11 * (c + 1) * i + 0.07 * j) for c in range(3)])[None]


def test_the_oxford_file_serves_its_layers_with_the_known_statistics(weights_file: Golden) -> None:
    path = weights_file("perceptual/vgg19-oxford-conv1_1-conv3_4.fp16.safetensors")
    expected = {
        "conv1_1": (1.1096, 118.76),
        "conv1_2": (120.5504, 414.80),
        "conv2_2": (-35.7660, 957.59),
        "conv3_1": (9.6615, 1136.20),
        "conv3_4": (395.7112, 2625.83),
    }
    network = FeatureNetwork("vgg19", read_weights(path).tensors, expected, convention="oxford")
    features = network((_pattern() + 1) / 2)
    for layer, (mean, deviation) in expected.items():
        assert features[layer].mean().item() == pytest.approx(mean, abs=1e-3 * deviation), layer
        assert features[layer].std().item() == pytest.approx(deviation, rel=1e-4), layer
