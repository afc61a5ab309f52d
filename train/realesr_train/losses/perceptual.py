"""Perceptual and style loss on features of a frozen ImageNet network: VGG19, VGG16 or SqueezeNet 1.1.

The caller reads the weights file (`realesr_cli.models.reading.read_weights(path).tensors`, torchvision's key names);
only the layers that are asked for, and those before them, need to be in it. Layers of a VGG are called as in the paper:
`conv3_4` is the fourth convolution of the third group before its ReLU, `relu3_4` after it. Those of SqueezeNet are
`conv1`, `fire2` ... `fire9` before the ReLU, and `relu1`. Pictures are RGB in [0, 1] and are not clamped.

Trap: the sizes of features differ between sets of weights. Those of the Oxford files (`convention="oxford"`) are
hundreds of times larger than torchvision's, so a weight of one set means nothing in another.
"""

from collections.abc import Iterable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from realesr_cli.errors import ConfigError, CorruptWeights
from realesr_train.losses.pixel import l1, mse

Architecture = Literal["vgg19", "vgg16", "squeezenet1_1"]
Convention = Literal["torchvision", "oxford"]
Distance = Literal["l1", "mse"]

REAL_ESRGAN_LAYERS = {"conv1_2": 0.1, "conv2_2": 0.1, "conv3_4": 1.0, "conv4_4": 1.0, "conv5_4": 1.0}
"""Layers of VGG19 and their weights in Real-ESRGAN. Source: training_spec section 8."""

_CONVOLUTIONS = {"vgg19": (2, 2, 4, 4, 4), "vgg16": (2, 2, 3, 3, 3)}  # in each group; Simonyan and Zisserman 2014
_FIRES = {2: 3, 3: 4, 4: 6, 5: 7, 6: 9, 7: 10, 8: 11, 9: 12}  # number of the fire -> number in torchvision's features
_POOL_BEFORE_FIRES = (2, 4, 6)  # SqueezeNet 1.1; in 1.0 the pools stand elsewhere
# mean and standard deviation of the input in RGB [0, 1]
_STATISTICS = {
    "torchvision": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "oxford": ((123.68 / 255, 116.779 / 255, 103.939 / 255), (1 / 255, 1 / 255, 1 / 255)),
}


class FeatureNetwork(nn.Module):
    """(N, 3, H, W) RGB in [0, 1] -> a dict of the features of `layers`; frozen, but pictures keep their gradient.

    Widths are read off the tensors. `source` names them in error messages. `convention` says what the weights expect:
    torchvision's RGB with ImageNet mean and deviation, or the BGR in 0..255 minus mean of the original Oxford files.

    Raises: ConfigError (no such layer), CorruptWeights (a layer that is asked for is not in `tensors`).
    """

    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        architecture: Architecture,
        tensors: Mapping[str, Tensor],
        layers: Iterable[str],
        *,
        convention: Convention = "torchvision",
        source: str = "the perceptual weights",
    ) -> None:
        super().__init__()
        self.layers = tuple(layers)
        plan = _plan(architecture)
        names = [name for name, _, _ in plan]
        unknown = [layer for layer in self.layers if _convolution(layer) not in names]
        if unknown or not self.layers:
            raise ConfigError(
                f"loss.perceptual: {architecture} has no layer {', '.join(unknown) or 'given'}",
                hint=f"its layers are {', '.join(names)}; relu in place of conv is the same after the activation",
            )
        depth = max(names.index(_convolution(layer)) for layer in self.layers)
        present = _present(plan, tensors)
        if depth >= len(present):
            missing = [layer for layer in self.layers if _convolution(layer) not in present]
            raise CorruptWeights(
                f"{source} does not hold {', '.join(missing)} of {architecture}; "
                f"it holds {f'{present[0]} to {present[-1]}' if present else 'none of its layers'}",
                hint="ask only for layers that it holds, or give torchvision's full file "
                "(vgg19-dcbb9e9d.pth, vgg16-397923af.pth or squeezenet1_1-b8a52dc0.pth)",
            )
        self.stages = nn.ModuleDict()
        self.pooled = {name for name, _, pooled in plan if pooled}
        self.ceiling = architecture == "squeezenet1_1"
        width = 3
        for name, keys, _ in plan[: depth + 1]:
            first, *others = [
                _frozen(tensors, key, width if key == keys[0] else None, source, stride=2 if name == "conv1" else 1)
                for key in keys
            ]
            self.stages[name] = _Fire(first, *others) if others else first
            width = sum(part.out_channels for part in others) if others else first.out_channels
        mean, deviation = _STATISTICS[convention]
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(deviation).view(1, 3, 1, 1), persistent=False)
        if convention == "oxford":
            entrance = self.stages[names[0]]
            assert isinstance(entrance, nn.Conv2d)
            entrance.weight.data = entrance.weight.data.flip(1)  # BGR to RGB, once
        self.requires_grad_(False)

    def forward(self, picture: Tensor) -> dict[str, Tensor]:
        x = (picture - self.mean) / self.deviation
        features: dict[str, Tensor] = {}
        for name, stage in self.stages.items():
            if name in self.pooled:
                # torchvision's SqueezeNet: 3x3, the last window may hang over; VGG: 2x2
                x = F.max_pool2d(x, 3, 2, ceil_mode=True) if self.ceiling else F.max_pool2d(x, 2)
            x = stage(x)
            wanted = name in self.layers
            if wanted:
                features[name] = x
            x = F.relu(x, inplace=not wanted)
            after = f"relu{name.removeprefix('conv')}"
            if after in self.layers:
                features[after] = x
        return features


class PerceptualLoss(nn.Module):
    """sum_l weight_l distance(features_l(output), features_l(target)) + style_weight * the same of Gram matrices.

    No gradient reaches the target and none the network. A float32 scalar.
    Source: training_spec section 8; Gram matrices / (C H W), Gatys et al. 2016, Johnson et al. 2016.
    """

    def __init__(
        self,
        network: FeatureNetwork,
        weights: Mapping[str, float],
        *,
        distance: Distance = "l1",
        style_weight: float = 0.0,
    ) -> None:
        super().__init__()
        if set(weights) != set(network.layers):
            raise ValueError(f"weights are for {sorted(weights)}, the network gives {sorted(network.layers)}")
        self.network = network
        self.weights = dict(weights)
        self.distance = {"l1": l1, "mse": mse}[distance]
        self.style_weight = style_weight

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        with torch.no_grad():
            wanted: dict[str, Tensor] = self.network(target)
        features: dict[str, Tensor] = self.network(output)
        terms = []
        for layer, weight in self.weights.items():
            terms.append(weight * self.distance(features[layer], wanted[layer]))
            if self.style_weight:
                terms.append(weight * self.style_weight * self.distance(gram(features[layer]), gram(wanted[layer])))
        return torch.stack(terms).sum()


def gram(features: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, C, C) float32 products of channels, divided by C H W."""
    flat = features.float().flatten(2)
    with torch.autocast(features.device.type, enabled=False):
        return flat @ flat.mT / (flat.shape[1] * flat.shape[2])


class _Fire(nn.Module):
    """SqueezeNet's module without its last ReLU: 1x1 down, then 1x1 and 3x3 up side by side."""

    def __init__(self, squeeze: nn.Conv2d, expand1x1: nn.Conv2d, expand3x3: nn.Conv2d) -> None:
        super().__init__()
        self.squeeze, self.expand1x1, self.expand3x3 = squeeze, expand1x1, expand3x3

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.squeeze(x), inplace=True)
        return torch.cat((self.expand1x1(x), self.expand3x3(x)), 1)


_Plan = list[tuple[str, tuple[str, ...], bool]]


def _plan(architecture: Architecture) -> _Plan:
    """The layers in order: name, torchvision's keys of its convolutions, whether a max-pool stands before it."""
    if architecture == "squeezenet1_1":
        fires: _Plan = [
            (
                f"fire{fire}",
                tuple(f"features.{number}.{part}" for part in ("squeeze", "expand1x1", "expand3x3")),
                fire in _POOL_BEFORE_FIRES,
            )
            for fire, number in _FIRES.items()
        ]
        return [("conv1", ("features.0",), False), *fires]
    plan: _Plan = []
    number = 0
    for group, count in enumerate(_CONVOLUTIONS[architecture], 1):
        for convolution in range(1, count + 1):
            plan.append((f"conv{group}_{convolution}", (f"features.{number}",), group > 1 and convolution == 1))
            number += 2  # the ReLU has a number, too
        number += 1  # and so has the pool
    return plan


def _convolution(layer: str) -> str:
    return f"conv{layer.removeprefix('relu')}" if layer.startswith("relu") else layer


def _present(plan: _Plan, tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of the layers up to the first one whose tensors are not all there."""
    names = []
    for name, keys, _ in plan:
        if not all(f"{key}.{part}" in tensors for key in keys for part in ("weight", "bias")):
            break
        names.append(name)
    return names


def _frozen(tensors: Mapping[str, Tensor], key: str, expected_in: int | None, source: str, *, stride: int) -> nn.Conv2d:
    weight, bias = tensors[f"{key}.weight"], tensors[f"{key}.bias"]
    convolution_like = weight.ndim == 4 and weight.shape[2] in (1, 3) and bias.shape == weight.shape[:1]
    if not convolution_like or (expected_in is not None and weight.shape[1] != expected_in):
        raise CorruptWeights(
            f"{source}: {key}.weight has the shape {tuple(weight.shape)}; a convolution of 1x1 or 3x3 "
            f"over {expected_in or 'the squeezed'} channels was expected",
            hint="give a file of torchvision's",
        )
    width_out, width_in, side, _ = weight.shape
    padding = side // 2 if stride == 1 else 0
    convolution = nn.Conv2d(width_in, width_out, side, stride, padding)
    convolution.weight.data, convolution.bias.data = weight.float().clone(), bias.float().clone()  # type: ignore[union-attr]
    return convolution
