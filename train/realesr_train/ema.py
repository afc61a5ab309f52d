"""Exponential moving average of a network's weights, kept as a second network in float32 and eval mode.

Traps: it starts at the weights it is made from and has no bias correction (training_spec, D26); buffers are copied,
not averaged; give it the bare network, not the DistributedDataParallel around it.
"""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


class Ema:
    """e <- decay * e + (1 - decay) * w after every step; `network` holds e and can be called or exported.

    Source: training_spec section 10, step 4.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay {decay}: must be in [0, 1)")
        self.decay = decay
        self.network = copy.deepcopy(network).float().eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, network: nn.Module, *, skipped: Tensor | None = None) -> None:
        """Moves one step towards `network`; where the flag `skipped` (0-d, 0 or 1, on the device) is 1, nothing moves.

        One fused pass over all weights, and no waiting for the device.
        """
        averages: list[Tensor] = list(self.network.parameters())
        weights = [weight.detach().float() for weight in network.parameters()]
        if skipped is None:
            torch._foreach_lerp_(averages, weights, 1 - self.decay)
        else:
            share = (1 - self.decay) * (1 - skipped.float())
            torch._foreach_lerp_(averages, weights, [share] * len(weights))
        for average, buffer in zip(self.network.buffers(), network.buffers(), strict=True):
            current = buffer.to(average.dtype)
            average.copy_(current if skipped is None else torch.where(skipped.bool(), average, current))

    def state_dict(self) -> dict[str, Tensor]:
        """The averaged weights and the copied buffers, under the network's own names."""
        state: dict[str, Tensor] = self.network.state_dict()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes the averages from `state`; every name must fit."""
        self.network.load_state_dict(state, strict=True)
