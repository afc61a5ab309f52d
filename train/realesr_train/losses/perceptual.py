"""Perceptual and style loss on features of a frozen ImageNet network (features.py)."""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from realesr_train.features import FeatureNetwork
from realesr_train.losses.pixel import l1, mse

Distance = Literal["l1", "mse"]

REAL_ESRGAN_LAYERS = {"conv1_2": 0.1, "conv2_2": 0.1, "conv3_4": 1.0, "conv4_4": 1.0, "conv5_4": 1.0}
"""Layers of VGG19 and their weights in Real-ESRGAN. Source: training_spec section 8."""


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
