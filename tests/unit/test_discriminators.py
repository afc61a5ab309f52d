"""Discriminators: sizes they refuse, spectral normalisation, low precision."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from realesr_train.discriminators.patch import PatchDiscriminator
from realesr_train.discriminators.spectral import SpectralConv2d
from realesr_train.discriminators.unet import UNetDiscriminator
from realesr_train.discriminators.vgg import SRGANDiscriminator, VGGDiscriminator


def _pictures(height: int, width: int) -> torch.Tensor:
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize(
    ("net", "good", "bad", "said"),
    [
        (lambda: UNetDiscriminator(width=2), (8, 24), (12, 16), "12x16 px: sides must be multiples of 8"),
        (lambda: PatchDiscriminator(width=2), (24, 24), (23, 64), "23x64 px: sides must be at least 24"),
        (lambda: PatchDiscriminator(width=2, layers=2), (12, 12), (16, 11), "16x11 px: sides must be at least 12"),
        (lambda: VGGDiscriminator(width=2), (128, 128), (128, 120), "128x120 px: its dense head takes 128x128"),
        (lambda: SRGANDiscriminator(width=2, dense=3), (96, 96), (128, 96), "128x96 px: its dense head takes 96x96"),
    ],
)
def test_sizes_that_cannot_be_judged_are_refused_with_the_rule(
    net: Callable[[], nn.Module], good: tuple[int, int], bad: tuple[int, int], said: str
) -> None:
    network = net()
    assert torch.isfinite(network(_pictures(*good))).all()
    with pytest.raises(ValueError, match=said):
        network(_pictures(*bad))


def test_dense_heads_exist_for_few_sizes() -> None:
    with pytest.raises(ValueError, match="side_px 100"):
        VGGDiscriminator(side_px=100)
    with pytest.raises(ValueError, match="side_px 100"):
        SRGANDiscriminator(side_px=100)


def test_published_sizes_give_the_published_number_of_weights_and_logits() -> None:
    count = {
        name: sum(p.numel() for p in net.parameters())
        for name, net in {"unet": UNetDiscriminator(), "patch": PatchDiscriminator()}.items()
    }
    assert count == {"unet": 4_376_897, "patch": 2_765_633}
    assert UNetDiscriminator(width=2)(_pictures(16, 24)).shape == (2, 1, 16, 24)
    assert PatchDiscriminator(width=2)(_pictures(128, 128)).shape == (2, 1, 14, 14)
    assert PatchDiscriminator(width=2, normalisation="spectral")(_pictures(128, 128)).shape == (2, 1, 19, 19)


def test_a_convolution_is_normalised_to_the_largest_singular_value() -> None:
    torch.manual_seed(0)
    conv = SpectralConv2d(6, 8, 3)
    for _ in range(60):
        conv.normalised_weight()
    largest = torch.linalg.matrix_norm(conv.normalised_weight().flatten(1), ord=2)
    assert largest.item() == pytest.approx(1, abs=1e-3)
    exact = torch.linalg.matrix_norm(conv.weight_orig.flatten(1), ord=2)
    torch.testing.assert_close(conv.normalised_weight(), conv.weight_orig / exact, rtol=1e-3, atol=1e-6)


def test_the_power_iteration_runs_once_in_training_and_never_in_evaluation() -> None:
    torch.manual_seed(0)
    conv = SpectralConv2d(4, 5, 3)
    before = conv.weight_u.clone()
    conv.eval()(_pictures(8, 8)[:, :1].expand(2, 4, 8, 8))
    assert torch.equal(conv.weight_u, before)
    matrix = conv.weight_orig.detach().flatten(1)
    v = matrix.T @ before
    u = matrix @ (v / v.norm())
    conv.train().requires_grad_(False)  # as in the generator's pass
    conv.normalised_weight()
    torch.testing.assert_close(conv.weight_u, u / u.norm())


def test_an_evaluation_graph_survives_a_later_training_forward() -> None:
    torch.manual_seed(0)
    conv, other = SpectralConv2d(2, 3, 3), SpectralConv2d(2, 3, 3)
    other.load_state_dict(conv.state_dict())
    x = _pictures(8, 8)[:, :2]
    late, alone = conv.eval()(x), other.eval()(x)
    conv.train()(x)
    late.square().sum().backward()
    alone.square().sum().backward()
    assert conv.weight_orig.grad is not None and other.weight_orig.grad is not None
    torch.testing.assert_close(conv.weight_orig.grad, other.weight_orig.grad)


def test_singular_vectors_stay_exact_under_bfloat16() -> None:
    torch.manual_seed(0)
    exact, low = SpectralConv2d(8, 8, 3), SpectralConv2d(8, 8, 3)
    low.load_state_dict(exact.state_dict())
    x = torch.rand(1, 8, 8, 8)
    exact(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert low(x).dtype == torch.bfloat16
    assert torch.equal(low.weight_u, exact.weight_u)
    assert torch.equal(low.weight_v, exact.weight_v)


@pytest.mark.parametrize(
    "net",
    [
        lambda: UNetDiscriminator(width=4),
        lambda: PatchDiscriminator(width=4),
        lambda: PatchDiscriminator(width=4, normalisation="spectral"),
    ],
)
def test_bfloat16_and_channels_last_stay_near_float32(net: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    network = net()
    x = _pictures(32, 40)
    for _ in range(5):
        network(x)
    network.eval()
    exact = network(x)
    network.to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        low = network(x.contiguous(memory_format=torch.channels_last))
    low.float().square().mean().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())
    assert float((low.float() - exact).detach().abs().max()) <= 0.05 * float(exact.detach().abs().max())


def test_the_state_is_that_of_torch_and_loads_in_both_directions() -> None:
    torch.manual_seed(0)
    ours = SpectralConv2d(3, 4, 3, bias=True)
    assert set(ours.state_dict()) == {"bias", "weight_orig", "weight_u", "weight_v"}
    theirs = torch.nn.utils.spectral_norm(nn.Conv2d(3, 4, 3, padding=1))
    theirs.load_state_dict(ours.state_dict(), strict=True)
    x = _pictures(9, 9)
    torch.testing.assert_close(theirs(x), ours(x))
    torch.testing.assert_close(theirs(x), ours(x))
    ours.load_state_dict(theirs.state_dict(), strict=True)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))
