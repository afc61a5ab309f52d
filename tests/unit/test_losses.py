"""Losses: promises that no recorded number covers."""

from math import log

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from realesr_cli.errors import ConfigError, CorruptWeights
from realesr_train.features import FeatureNetwork
from realesr_train.losses import adversarial, pixel
from realesr_train.losses.perceptual import PerceptualLoss, gram


def vgg_tensors(widths: tuple[int, ...] = (4, 4, 6, 6, 8, 8, 8, 8), seed: int = 0) -> dict[str, Tensor]:
    """The first convolutions of a narrow VGG19 with torchvision's names."""
    generator = torch.Generator().manual_seed(seed)
    numbers = (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34)[: len(widths)]
    tensors, before = {}, 3
    for number, width in zip(numbers, widths, strict=True):
        tensors[f"features.{number}.weight"] = torch.randn(width, before, 3, 3, generator=generator) / before
        tensors[f"features.{number}.bias"] = torch.randn(width, generator=generator) / 10
        before = width
    return tensors


def pictures(*, seed: int = 1, count: int = 2, side: int = 24) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", ["l1", "mse", "charbonnier"])
def test_pixel_losses_are_computed_in_float32_whatever_comes_in(name: str) -> None:
    loss = getattr(pixel, name)
    output, target = pictures(seed=1).bfloat16(), pictures(seed=2).bfloat16()
    assert loss(output, target).dtype == torch.float32
    assert torch.equal(loss(output, target), loss(output.float(), target.float()))


def test_a_weight_map_counts_only_where_it_is_not_zero() -> None:
    output, target = pictures(seed=1), pictures(seed=2)
    left = torch.zeros(2, 1, 24, 24)
    left[..., :10] = 1
    for loss in (pixel.l1, pixel.mse, pixel.charbonnier):
        assert loss(output, target, left).item() == pytest.approx(loss(output[..., :10], target[..., :10]).item())


def test_charbonnier_has_a_gradient_where_the_difference_is_zero() -> None:
    output = torch.zeros(1, 3, 2, 2, requires_grad=True)
    pixel.charbonnier(output, torch.zeros(1, 3, 2, 2)).backward()
    assert output.grad is not None and torch.equal(output.grad, torch.zeros_like(output))


def test_total_variation_of_a_ramp_is_its_slope_and_weights_choose_pixels() -> None:
    ramp = torch.arange(5.0).view(1, 1, 1, 5).expand(1, 3, 4, 5) * 0.1
    assert pixel.total_variation(ramp).item() == pytest.approx(0.1)
    step = torch.zeros(1, 1, 4, 4)
    step[..., 2:] = 1
    away = torch.ones(1, 1, 4, 4)
    away[..., 1] = 0
    assert pixel.total_variation(step).item() > 0
    assert pixel.total_variation(step, away).item() == 0


def test_equal_logits_of_zero_cost_what_the_formulas_say() -> None:
    zero = torch.zeros(2, 1, 3, 3)
    expected = {"vanilla": log(2), "lsgan": 1.0, "wgan": 0.0, "wgan_softplus": log(2), "hinge": 1.0}
    for kind, value in expected.items():
        assert adversarial.discriminator_loss(zero, real=True, kind=kind).item() == pytest.approx(value)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["vanilla", "lsgan", "wgan", "wgan_softplus", "hinge"])
def test_the_two_players_pull_in_opposite_directions(kind: adversarial.Kind) -> None:
    def slope(loss: Tensor, logits: Tensor) -> float:
        return float(torch.autograd.grad(loss, logits)[0].sum())

    fake = torch.full((2, 1), 0.6, requires_grad=True)
    real = torch.full((2, 1), 0.3, requires_grad=True)
    assert slope(adversarial.generator_loss(fake, kind=kind), fake) < 0
    assert slope(adversarial.discriminator_loss(fake, real=False, kind=kind), fake) > 0
    assert slope(adversarial.discriminator_loss(real, real=True, kind=kind), real) < 0
    assert slope(adversarial.relativistic_generator_loss(real, fake, kind=kind), fake) < 0
    assert slope(adversarial.relativistic_discriminator_losses(real, fake, kind=kind)[1], fake) > 0


def test_vanilla_stays_finite_and_exact_for_large_logits() -> None:
    large = torch.tensor([200.0, -200.0])
    assert adversarial.discriminator_loss(large, real=True).item() == pytest.approx(100.0)
    assert adversarial.discriminator_loss(large.half(), real=False).item() == pytest.approx(100.0)


def test_a_label_for_a_loss_without_target_value_is_refused() -> None:
    with pytest.raises(ValueError, match=r"label 0\.9"):
        adversarial.discriminator_loss(torch.zeros(1, 1), real=True, kind="hinge", label=0.9)


def test_vgg_features_are_convolutions_relus_and_pools_in_order() -> None:
    tensors = vgg_tensors()
    x = pictures()
    features = FeatureNetwork("vgg19", tensors, ["conv1_1", "relu1_2", "conv2_1"])(x)

    def convolve(y: Tensor, number: int) -> Tensor:
        return F.conv2d(y, tensors[f"features.{number}.weight"], tensors[f"features.{number}.bias"], padding=1)

    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    first = convolve((x - mean.view(1, 3, 1, 1)) / deviation.view(1, 3, 1, 1), 0)
    second = F.relu(convolve(F.relu(first), 2))
    torch.testing.assert_close(features["conv1_1"], first)
    torch.testing.assert_close(features["relu1_2"], second)
    torch.testing.assert_close(features["conv2_1"], convolve(F.max_pool2d(second, 2), 5))
    assert float(features["conv1_1"].min()) < 0 <= float(features["relu1_2"].min())


def test_a_layer_before_and_after_its_relu_do_not_share_memory() -> None:
    features = FeatureNetwork("vgg19", vgg_tensors(), ["conv2_2", "relu2_2"])(pictures())
    torch.testing.assert_close(F.relu(features["conv2_2"]), features["relu2_2"])
    assert float(features["conv2_2"].min()) < 0


def test_vgg16_has_three_convolutions_in_its_last_groups() -> None:
    tensors = vgg_tensors((4, 4, 6, 6, 8, 8, 8))
    shifted = {key.replace("features.16.", "features.17."): value for key, value in tensors.items()}
    with pytest.raises(ConfigError, match="conv3_4"):
        FeatureNetwork("vgg16", shifted, ["conv3_4"])
    # after conv3_3 (14) come its ReLU (15) and the pool (16)
    assert FeatureNetwork("vgg16", shifted, ["conv3_3"])(pictures())["conv3_3"].shape == (2, 8, 6, 6)
    fourth = dict(tensors)
    fourth["features.17.weight"], fourth["features.17.bias"] = torch.randn(8, 8, 3, 3), torch.zeros(8)
    assert FeatureNetwork("vgg16", fourth, ["conv4_1"])(pictures())["conv4_1"].shape == (2, 8, 3, 3)


def test_the_oxford_convention_is_bgr_in_255_minus_mean() -> None:
    tensors = vgg_tensors((4,))
    x = pictures()
    ours = FeatureNetwork("vgg19", tensors, ["conv1_1"], convention="oxford")(x)["conv1_1"]
    bgr = x.flip(1) * 255 - torch.tensor([103.939, 116.779, 123.68]).view(1, 3, 1, 1)
    theirs = F.conv2d(bgr, tensors["features.0.weight"], tensors["features.0.bias"], padding=1)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-3)
    assert torch.equal(tensors["features.0.weight"], vgg_tensors((4,))["features.0.weight"])  # not flipped in place


def test_a_file_of_the_first_layers_serves_those_and_names_them_when_asked_for_more() -> None:
    tensors = vgg_tensors()
    assert "conv3_4" in FeatureNetwork("vgg19", tensors, ["conv3_4"])(pictures())
    with pytest.raises(CorruptWeights, match=r"vgg\.pth does not hold conv4_4, conv5_4 .* conv1_1 to conv3_4") as error:
        FeatureNetwork("vgg19", tensors, ["conv1_2", "conv4_4", "conv5_4"], source="vgg.pth")
    assert error.value.hint is not None and "vgg19-dcbb9e9d.pth" in error.value.hint
    with pytest.raises(CorruptWeights, match="holds none of its layers"):
        FeatureNetwork("squeezenet1_1", {"classifier.weight": torch.zeros(1)}, ["fire2"])


def test_unknown_layers_are_refused_with_those_that_exist() -> None:
    for layers in (["conv6_1"], []):
        with pytest.raises(ConfigError, match="vgg19 has no layer") as error:
            FeatureNetwork("vgg19", vgg_tensors(), layers)
        assert error.value.hint is not None and "conv5_4" in error.value.hint


def test_tensors_of_another_shape_are_corrupt_weights() -> None:
    tensors = vgg_tensors()
    tensors["features.2.weight"] = torch.zeros(4, 4)
    with pytest.raises(CorruptWeights, match=r"features\.2\.weight has the shape \(4, 4\)"):
        FeatureNetwork("vgg19", tensors, ["conv1_2"])
    tensors = vgg_tensors()
    tensors["features.2.weight"] = torch.zeros(4, 9, 3, 3)
    with pytest.raises(CorruptWeights, match=r"features\.2\.weight"):
        FeatureNetwork("vgg19", tensors, ["conv1_2"])


def test_the_perceptual_loss_is_zero_for_equal_pictures_and_its_gradient_reaches_only_the_output() -> None:
    weights = {"conv1_2": 0.1, "conv3_4": 1.0}
    network = FeatureNetwork("vgg19", vgg_tensors(), weights)
    loss = PerceptualLoss(network, weights, style_weight=10)
    output, target = pictures(seed=1).requires_grad_(True), pictures(seed=2).requires_grad_(True)
    assert loss(target, target).item() == 0
    loss(output, target).backward()
    assert output.grad is not None and float(output.grad.abs().max()) > 0
    assert target.grad is None
    assert not [name for name, p in loss.named_parameters() if p.requires_grad or p.grad is not None]


def test_the_target_leaves_no_graph_behind() -> None:
    network = FeatureNetwork("vgg19", vgg_tensors(), ["conv1_1"])
    modes = []
    network.stages["conv1_1"].register_forward_hook(lambda *_: modes.append(torch.is_grad_enabled()))
    PerceptualLoss(network, {"conv1_1": 1.0})(pictures().requires_grad_(True), pictures(seed=2))
    assert modes == [False, True]


def test_weights_for_other_layers_than_the_network_gives_are_refused() -> None:
    with pytest.raises(ValueError, match="conv1_2"):
        PerceptualLoss(FeatureNetwork("vgg19", vgg_tensors(), ["conv1_1"]), {"conv1_2": 1.0})


def test_the_gram_matrix_is_the_mean_product_of_channels() -> None:
    features = torch.randn(2, 5, 3, 4, generator=torch.Generator().manual_seed(0))
    expected = torch.einsum("nchw,ndhw->ncd", features, features) / (5 * 3 * 4)
    torch.testing.assert_close(gram(features), expected)


def test_the_perceptual_loss_under_bfloat16_stays_near_float32() -> None:
    weights = {"conv1_2": 0.1, "conv2_2": 0.1, "conv3_4": 1.0}
    loss = PerceptualLoss(FeatureNetwork("vgg19", vgg_tensors(), weights), weights, style_weight=1)
    output, target = pictures(seed=1), pictures(seed=2)
    with torch.autocast("cpu", torch.bfloat16):
        low = loss(output, target)
    assert low.dtype == torch.float32
    assert low.item() == pytest.approx(loss(output, target).item(), rel=0.03)
