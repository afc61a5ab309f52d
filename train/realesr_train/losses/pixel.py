"""Losses between two pictures, pixel by pixel: L1, MSE, Charbonnier, and total variation of one picture.

`output` and `target` are (N, C, H, W) in any float dtype; the difference is taken in float32. A `weight_map` is
(N, 1 or C, H, W). Trap: with one, "mean" divides by the sum of the weights, where a map of one channel counts C times.
"""

from typing import Literal

import torch
from torch import Tensor

Reduction = Literal["mean", "sum"]
_LUMA = (0.299, 0.587, 0.114)


def l1(output: Tensor, target: Tensor, weight_map: Tensor | None = None, reduction: Reduction = "mean") -> Tensor:
    """|output - target|, reduced to a float32 scalar. Source: training_spec section 8."""
    return _reduced((output.float() - target.float()).abs(), weight_map, reduction)


def mse(output: Tensor, target: Tensor, weight_map: Tensor | None = None, reduction: Reduction = "mean") -> Tensor:
    """(output - target)^2, reduced to a float32 scalar. Source: training_spec section 8."""
    return _reduced((output.float() - target.float()).square(), weight_map, reduction)


def mse_luma(output: Tensor, target: Tensor) -> Tensor:
    """(Y(output) - Y(target))^2 of RGB pictures, a float32 scalar; Y is luma of BT.601 in the range of the pictures."""
    weights = torch.tensor(_LUMA, device=output.device).view(1, 3, 1, 1)
    return mse((output.float() * weights).sum(1), (target.float() * weights).sum(1))


def charbonnier(
    output: Tensor,
    target: Tensor,
    weight_map: Tensor | None = None,
    reduction: Reduction = "mean",
    *,
    epsilon: float = 1e-12,
) -> Tensor:
    """sqrt((output - target)^2 + epsilon), reduced to a float32 scalar: L1 that is smooth at 0.

    Source: Lai et al. 2017, LapSRN (arXiv:1704.03915), equation 1; training_spec section 8.
    """
    difference = output.float() - target.float()
    return _reduced(torch.sqrt(difference.square() + epsilon), weight_map, reduction)


def total_variation(output: Tensor, weight_map: Tensor | None = None, reduction: Reduction = "mean") -> Tensor:
    """L1 between vertical neighbours plus L1 between horizontal neighbours, each reduced by itself.

    A pair of neighbours has the weight of its upper or left pixel. Source: training_spec section 8.
    """
    above = left = None
    if weight_map is not None:
        above, left = weight_map[:, :, :-1], weight_map[:, :, :, :-1]
    vertical = l1(output[:, :, :-1], output[:, :, 1:], above, reduction)
    return vertical + l1(output[:, :, :, :-1], output[:, :, :, 1:], left, reduction)


def _reduced(elements: Tensor, weight_map: Tensor | None, reduction: Reduction) -> Tensor:
    if weight_map is None:
        return elements.mean() if reduction == "mean" else elements.sum()
    weights = weight_map.to(elements.dtype).expand_as(elements)
    weighted = (elements * weights).sum()
    return weighted / weights.sum() if reduction == "mean" else weighted
