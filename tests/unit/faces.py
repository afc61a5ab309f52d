"""Restorers with known results, and faces where there are none, for tests."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from networks import loaded
from realesr_cli.faces.align import TEMPLATE, Points
from realesr_cli.faces.detect import Face
from realesr_cli.models.architectures import LoadedModel
from realesr_cli.tiling import Box


class Restorer(nn.Module):
    """Does to faces what `function` does; counts them."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))
        self.function = function
        self.batches: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.batches.append(len(x))
        return self.function(x)

    def __deepcopy__(self, memo: object) -> "Restorer":
        return self  # so that the calls of the copy on the device are counted here


def restorer(function: Callable[[Tensor], Tensor] = lambda x: x, side: int = 512) -> LoadedModel:
    return loaded(Restorer(function), scale=1, side_px=side)


def face_at(x: float, y: float, *, scale: float = 0.25, turn_deg: float = 0.0, score: float = 0.9) -> Face:
    """A face whose aligned face of 512 pixels has its middle at x, y and `scale` times its size."""
    angle = np.radians(turn_deg)
    turn: Points = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    landmarks = (TEMPLATE - 255.5) @ turn.T + (x, y)
    reach = 130 * scale
    box = Box(int(y - reach), int(x - reach), int(y + reach), int(x + reach))
    return Face(box=box, landmarks=landmarks, score=score)


class Found:
    """A detector that always finds the same."""

    def __init__(self, *faces: Face) -> None:
        self.faces = list(faces)

    def __call__(self, pixels: np.ndarray) -> list[Face]:
        assert pixels.ndim == 3
        return self.faces
