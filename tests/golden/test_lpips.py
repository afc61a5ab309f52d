"""LPIPS: published heads, the known values of its SqueezeNet, and the layouts of the other two networks."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from realesr_cli.errors import CorruptWeights
from realesr_cli.models.reading import read_weights
from realesr_train.features import FeatureNetwork
from realesr_train.metrics.lpips import BACKBONES, LAYERS, SMALLEST_PX, Backbone, Lpips, heads

Finder = Callable[[str], Path]
ALL: tuple[Backbone, ...] = ("alex", "vgg", "squeeze")
# torchvision's definitions without the classifier: C = convolution (width, side, stride, padding), M = max-pool
ALEXNET = "C64,11,4,2 R M3 C192,5,1,2 R M3 C384,3,1,1 R C256,3,1,1 R C256,3,1,1 R"
VGG16 = " ".join(
    [
        *["C64,3,1,1 R"] * 2, "M2", *["C128,3,1,1 R"] * 2, "M2", *["C256,3,1,1 R"] * 3, "M2",
        *["C512,3,1,1 R"] * 3, "M2", *["C512,3,1,1 R"] * 3,
    ]
)  # fmt: skip
TAPS = {"alex": (1, 4, 7, 9, 11), "vgg": (3, 8, 15, 22, 29)}
"""Numbers of the ReLUs in torchvision's `features`, as the published program slices them."""


@pytest.fixture(scope="module")
def squeeze(weights_file: Finder) -> Lpips:
    tensors = read_weights(weights_file("perceptual/squeezenet1_1-features.safetensors")).tensors
    features = FeatureNetwork("squeezenet1_1", tensors, LAYERS["squeeze"])
    return Lpips(features, read_weights(heads("squeeze")).tensors)


def _sequential(layout: str) -> nn.Sequential:
    """A network by torchvision's numbering, with random weights of sizes that keep features alive."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    width = 3
    for part in layout.split():
        if part == "R":
            layers.append(nn.ReLU())
        elif part.startswith("M"):
            layers.append(nn.MaxPool2d(int(part[1:]), 2))
        else:
            wide, side, stride, padding = map(int, part[1:].split(","))
            layers.append(nn.Conv2d(width, wide, side, stride, padding))
            nn.init.kaiming_normal_(layers[-1].weight)  # type: ignore[arg-type]
            width = wide
    return nn.Sequential(*layers).requires_grad_(False)


def _made_up(backbone: Backbone) -> Lpips:
    network = _sequential({"alex": ALEXNET, "vgg": VGG16}[backbone])
    tensors = {f"features.{key}": tensor for key, tensor in network.state_dict().items()}
    features = FeatureNetwork(BACKBONES[backbone], tensors, LAYERS[backbone])
    return Lpips(features, read_weights(heads(backbone)).tensors)


def _pictures(count: int = 2, height: int = 40, width: int = 52, seed: int = 1) -> Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


def _pattern(phase: float = 0.0) -> Tensor:
    i, j = torch.meshgrid(torch.arange(64), torch.arange(96), indexing="ij")
    return torch.stack([torch.sin(0.11 * (c + 1) * i + 0.07 * j + phase) for c in range(3)])[None]


@pytest.mark.parametrize(
    ("backbone", "sha256"),
    [
        ("alex", "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0"),
        ("vgg", "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868"),
        ("squeeze", "4a5350f23600cb79923ce65bb07cbf57dca461329894153e05a1346bd531cf76"),
    ],
)
def test_the_heads_are_the_published_ones(backbone: Backbone, sha256: str) -> None:
    assert hashlib.sha256(heads(backbone).read_bytes()).hexdigest() == sha256


def test_noise_has_the_distance_that_torchmetrics_documents(squeeze: Lpips) -> None:
    torch.manual_seed(123)
    a, b = torch.rand(10, 3, 100, 100), torch.rand(10, 3, 100, 100)
    assert squeeze(a, b).mean().item() == pytest.approx(0.100802, abs=2e-6)


def test_patterns_have_their_known_distances(squeeze: Lpips) -> None:
    a = _pattern()
    expected = {0.050453: _pattern(0.5), 0.001060: 0.9 * a, 0.419832: -a, 0.0: a}
    for value, b in expected.items():
        assert squeeze((a + 1) / 2, (b + 1) / 2).item() == pytest.approx(value, abs=2e-6)


@pytest.mark.parametrize("backbone", ["alex", "vgg"])
def test_layers_and_arithmetic_are_those_of_the_published_program(backbone: Backbone) -> None:
    network = _sequential({"alex": ALEXNET, "vgg": VGG16}[backbone])
    weights = read_weights(heads(backbone)).tensors
    a, b = _pictures(seed=1), _pictures(seed=2)
    # the published program takes -1 to 1 and has these two constants for it
    shift = torch.tensor([-0.030, -0.088, -0.188]).view(3, 1, 1)
    scale = torch.tensor([0.458, 0.448, 0.450]).view(3, 1, 1)
    x, y = ((2 * pictures - 1 - shift) / scale for pictures in (a, b))
    expected = torch.zeros(2)
    for number, layer in enumerate(network):
        x, y = layer(x), layer(y)
        if number in TAPS[backbone]:
            head = weights[f"lin{TAPS[backbone].index(number)}.model.1.weight"]
            fx, fy = (f / (f.square().sum(1, keepdim=True).sqrt() + 1e-10) for f in (x, y))
            expected += nn.functional.conv2d((fx - fy) ** 2, head).mean((1, 2, 3))
    assert expected.min() > 0.01
    assert _made_up(backbone)(a, b) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("backbone", ALL)
def test_smaller_pictures_than_said_have_no_features_and_those_have(backbone: Backbone, squeeze: Lpips) -> None:
    network = squeeze if backbone == "squeeze" else _made_up(backbone)
    side = SMALLEST_PX[backbone]
    assert torch.isfinite(network(_pictures(1, side, side), _pictures(1, side, side, seed=2))).all()
    with pytest.raises(RuntimeError):
        network(_pictures(1, side - 1, side), _pictures(1, side - 1, side))


def test_one_reference_serves_many_pictures(squeeze: Lpips) -> None:
    many, one = _pictures(3), _pictures(1, seed=5)
    together = squeeze.distance(squeeze.features(many), squeeze.features(one))
    assert together == pytest.approx(torch.cat([squeeze(picture[None], one) for picture in many]), rel=1e-5)


def test_gradients_reach_the_picture_and_nothing_else(squeeze: Lpips) -> None:
    picture, reference = _pictures(1).requires_grad_(), _pictures(1, seed=2)
    squeeze(picture, reference).sum().backward()
    assert picture.grad is not None and picture.grad.abs().max() > 0
    assert all(parameter.grad is None for parameter in squeeze.parameters())
    before = squeeze(picture, reference).item()
    with torch.no_grad():
        assert squeeze(picture - 0.1 * picture.grad / picture.grad.norm(), reference).item() < before


def test_pixels_without_any_feature_do_no_harm() -> None:
    tensors = {"features.0.weight": torch.ones(4, 3, 3, 3), "features.0.bias": torch.zeros(4)}
    network = Lpips(FeatureNetwork("vgg16", tensors, ["conv1_1"]), {"lin0.model.1.weight": torch.ones(1, 4, 1, 1)})
    black, white = torch.zeros(1, 3, 8, 8, requires_grad=True), torch.ones(1, 3, 8, 8)  # below and above the mean
    distance = network(black, white)
    distance.sum().backward()
    assert distance.item() == pytest.approx(1) and network(black, black).item() == 0
    assert black.grad is not None and torch.isfinite(black.grad).all()


def test_heads_that_are_missing_are_named(squeeze: Lpips) -> None:
    with pytest.raises(CorruptWeights, match=r"^alex\.pth holds no lin5\.model\.1\.weight"):
        Lpips(squeeze.backbone, read_weights(heads("alex")).tensors, source="alex.pth")
