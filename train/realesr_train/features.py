"""Features of a frozen ImageNet network, for the perceptual loss and for LPIPS: VGG19, VGG16, AlexNet, SqueezeNet 1.1.

The caller reads the weights file (`realesr_cli.models.reading.read_weights(path).tensors`, torchvision's key names);
only the layers that are asked for, and those before them, need to be in it. Layers of a VGG are called as in the paper:
`conv3_4` is the fourth convolution of the third group before its ReLU, `relu3_4` after it. Those of AlexNet are `conv1`
... `conv5` and `relu1` ... `relu5`, those of SqueezeNet `conv1`, `fire2` ... `fire9` before the ReLU, and `relu1`.
Pictures are RGB in [0, 1] and are not clamped.

Trap: the sizes of features differ between sets of weights. Those of the Oxford files (`convention="oxford"`) are
hundreds of times larger than torchvision's, so a weight of one set means nothing in another.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from realesr_cli.errors import ConfigError, CorruptWeights

Architecture = Literal["vgg19", "vgg16", "alexnet", "squeezenet1_1"]
Convention = Literal["torchvision", "oxford"]
_CONVOLUTIONS = {"vgg19": (2, 2, 4, 4, 4), "vgg16": (2, 2, 3, 3, 3)}  # in each group; Simonyan and Zisserman 2014
_FIRES = {2: 3, 3: 4, 4: 6, 5: 7, 6: 9, 7: 10, 8: 11, 9: 12}  # number of the fire -> number in torchvision's features
_POOL_BEFORE_FIRES = (2, 4, 6)  # SqueezeNet 1.1; in 1.0 the pools stand elsewhere
_ALEXNET = {1: 0, 2: 3, 3: 6, 4: 8, 5: 10}  # number of the convolution -> number in torchvision's features
_POOL_BEFORE_ALEXNET = (2, 3)
# side of the max-pools, and whether the last window may hang over; the step is 2
_POOLS = {"vgg19": (2, False), "vgg16": (2, False), "alexnet": (3, False), "squeezenet1_1": (3, True)}
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
        names = [layer.name for layer in plan]
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
                hint="ask only for layers that it holds, or give torchvision's full file (vgg19-dcbb9e9d.pth, "
                "vgg16-397923af.pth, alexnet-owt-7be5be79.pth or squeezenet1_1-b8a52dc0.pth)",
            )
        self.stages = nn.ModuleDict()
        self.pooled = {layer.name for layer in plan if layer.pooled}
        self.pool_side, self.ceiling = _POOLS[architecture]
        width = 3
        for layer in plan[: depth + 1]:
            first, *others = [
                _frozen(tensors, key, width if key == layer.keys[0] else None, source, layer) for key in layer.keys
            ]
            self.stages[layer.name] = _Fire(first, *others) if others else first
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
                x = F.max_pool2d(x, self.pool_side, 2, ceil_mode=self.ceiling)
            x = stage(x)
            wanted = name in self.layers
            if wanted:
                features[name] = x
            x = F.relu(x, inplace=not wanted)
            after = f"relu{name.removeprefix('conv')}"
            if after in self.layers:
                features[after] = x
        return features


class _Fire(nn.Module):
    """SqueezeNet's module without its last ReLU: 1x1 down, then 1x1 and 3x3 up side by side."""

    def __init__(self, squeeze: nn.Conv2d, expand1x1: nn.Conv2d, expand3x3: nn.Conv2d) -> None:
        super().__init__()
        self.squeeze, self.expand1x1, self.expand3x3 = squeeze, expand1x1, expand3x3

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.squeeze(x), inplace=True)
        return torch.cat((self.expand1x1(x), self.expand3x3(x)), 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Layer:
    name: str
    keys: tuple[str, ...]
    """torchvision's, of its convolutions."""
    pooled: bool = False
    """A max-pool stands before it."""
    stride: int = 1
    padding: int | None = None
    """None: as much as keeps the size."""


def _plan(architecture: Architecture) -> list[_Layer]:
    """The layers in order."""
    if architecture == "squeezenet1_1":
        parts = ("squeeze", "expand1x1", "expand3x3")
        fires = [
            _Layer(
                name=f"fire{fire}",
                keys=tuple(f"features.{number}.{part}" for part in parts),
                pooled=fire in _POOL_BEFORE_FIRES,
            )
            for fire, number in _FIRES.items()
        ]
        return [_Layer(name="conv1", keys=("features.0",), stride=2, padding=0), *fires]
    if architecture == "alexnet":
        others = [
            _Layer(name=f"conv{layer}", keys=(f"features.{number}",), pooled=layer in _POOL_BEFORE_ALEXNET)
            for layer, number in _ALEXNET.items()
        ]
        return [_Layer(name="conv1", keys=("features.0",), stride=4, padding=2), *others[1:]]
    plan = []
    number = 0
    for group, count in enumerate(_CONVOLUTIONS[architecture], 1):
        for convolution in range(1, count + 1):
            name, pooled = f"conv{group}_{convolution}", group > 1 and convolution == 1
            plan.append(_Layer(name=name, keys=(f"features.{number}",), pooled=pooled))
            number += 2  # the ReLU has a number, too
        number += 1  # and so has the pool
    return plan


def _convolution(layer: str) -> str:
    return f"conv{layer.removeprefix('relu')}" if layer.startswith("relu") else layer


def _present(plan: list[_Layer], tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of the layers up to the first one whose tensors are not all there."""
    names = []
    for layer in plan:
        if not all(f"{key}.{part}" in tensors for key in layer.keys for part in ("weight", "bias")):
            break
        names.append(layer.name)
    return names


def _frozen(tensors: Mapping[str, Tensor], key: str, expected_in: int | None, source: str, layer: _Layer) -> nn.Conv2d:
    weight, bias = tensors[f"{key}.weight"], tensors[f"{key}.bias"]
    convolution_like = weight.ndim == 4 and weight.shape[2] in (1, 3, 5, 11) and bias.shape == weight.shape[:1]
    if not convolution_like or (expected_in is not None and weight.shape[1] != expected_in):
        raise CorruptWeights(
            f"{source}: {key}.weight has the shape {tuple(weight.shape)}; a convolution "
            f"over {expected_in or 'the squeezed'} channels was expected",
            hint="give a file of torchvision's",
        )
    width_out, width_in, side, _ = weight.shape
    padding = side // 2 if layer.padding is None else layer.padding
    convolution = nn.Conv2d(width_in, width_out, side, layer.stride, padding)
    convolution.weight.data, convolution.bias.data = weight.float().clone(), bias.float().clone()  # type: ignore[union-attr]
    return convolution
