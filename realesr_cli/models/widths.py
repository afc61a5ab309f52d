"""Maps as wide as convolutions are fast with.

In bfloat16 on a CPU with AMX, oneDNN's speed depends on the width of maps (docs/performance.md). Above 256 one width in
six takes two to five times as long, for no reason that a caller could see, but no multiple of 16 does: so maps get
columns of zeros beside the picture. To a convolution they are what its own padding is, if they are zeros whenever it
looks: they are made so again before each one. And somewhat below 128 and 256 it is faster than anywhere else, which
makes tiles so wide, and windows within RRDBNet's dense blocks (rrdb.py), worth more context.
"""

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_MULTIPLE = 16
# Narrower maps go through other kernels, which take every width alike.
_NARROW_PX = 256
WIDEST_FAST_PX = 254
_FAST_PX = (range(111, 127), range(223, WIDEST_FAST_PX + 1))
# With one thread, and with several, which share what slows down the others.
_FAST_COST_ALONE, _FAST_COST_TOGETHER = 0.9, 0.75
# (height, width) of such a tile; higher ones leave the caches.
FAST_WINDOW_PX = (600, 254)


class _Widths(threading.local):
    """Of the picture in work and of its maps, in each thread that runs the network."""

    picture_px = 1
    padded_px = 1


class ZeroColumns:
    """Runs functions of a network over pictures of any width.

    Nothing but convolutions may look at neighbours in the network, and these must see zeros beyond the picture:
    networks that say so have `sees_zeros_outside`.
    """

    def __init__(self, network: nn.Module, multiple_of: int) -> None:
        """`multiple_of` input pixels become one of the network's maps (`LoadedModel.multiple_of`)."""
        self._factor = multiple_of
        self._widths = _Widths()
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                module.register_forward_pre_hook(self._blank)

    def __call__(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """`function(x)`; x is (N, C, H, W), and the result perhaps a view of wider maps."""
        width, step = x.shape[3], _MULTIPLE * self._factor
        if width <= _NARROW_PX * self._factor or width % step == 0:
            return function(x)
        padded = -(-width // step) * step
        self._widths.picture_px, self._widths.padded_px = width, padded
        try:
            maps = function(F.pad(x, (0, padded - width)))
            return maps[..., : self._end(maps)]
        finally:
            self._widths.picture_px = self._widths.padded_px = 1

    def _blank(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        (maps,) = inputs
        end = self._end(maps)
        if end < maps.shape[3]:
            maps[..., end:] = 0

    def _end(self, maps: Tensor) -> int:
        """Where the picture ends in maps at any scale."""
        return maps.shape[3] * self._widths.picture_px // self._widths.padded_px


def widths_matter(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether convolutions in this number format on this device are known to be so."""
    return dtype == torch.bfloat16 and device.type == "cpu"


def relative_cost(width: int) -> float:
    """Of a pixel of maps so wide, where widths matter; with 64 channels, and zeros beside the picture."""
    if not any(width in widths for widths in _FAST_PX):
        return 1.0
    return _FAST_COST_ALONE if torch.get_num_threads() == 1 else _FAST_COST_TOGETHER
