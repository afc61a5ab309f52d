"""How likely drawn numbers are, if they come as they should."""

import math

import torch
from torch import Tensor

ALPHA = 1e-4
"""About eighty tests with a fixed seed: none should fall below."""


def chi_square_p(index: Tensor, weights: list[float]) -> float:
    """Probability of counts as unlikely as these, by Wilson and Hilferty's approximation."""
    expected = torch.tensor(weights, dtype=torch.float64) * len(index)
    counts = torch.bincount(index, minlength=len(weights)).double()
    assert (counts[expected == 0] == 0).all()
    expected, counts = expected[expected > 0], counts[expected > 0]
    free = len(expected) - 1
    statistic = float(((counts - expected) ** 2 / expected).sum())
    z = ((statistic / free) ** (1 / 3) - (1 - 2 / (9 * free))) / math.sqrt(2 / (9 * free))
    return 0.5 * math.erfc(z / math.sqrt(2))


def ks_p(values: Tensor, low: float, high: float) -> float:
    """Kolmogorov and Smirnov: probability of values as far from uniform in [low, high] as these."""
    count = len(values)
    places = (values.double().sort().values - low) / (high - low)
    assert places[0] >= 0 and places[-1] <= 1
    ranks = torch.arange(count + 1, dtype=torch.float64) / count
    distance = float(torch.maximum(ranks[1:] - places, places - ranks[:-1]).max())
    x = (math.sqrt(count) + 0.12 + 0.11 / math.sqrt(count)) * distance
    return 2 * sum((-1) ** (k - 1) * math.exp(-2 * k * k * x * x) for k in range(1, 101))
