"""Learned perceptual distance of a picture to its reference (LPIPS v0.1): lower is more alike.

The five or seven small heads lie in the package (`heads`); the network below them is torchvision's, and the caller
reads it (`FeatureNetwork(BACKBONES[name], tensors, LAYERS[name])`).

Traps: values of the three backbones cannot be compared with each other. The measure likes hard edges, even staircases:
plain repetition of pixels beats bicubic in it. Read it beside a distance in pixels, and look at the picture.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from realesr_cli.errors import CorruptWeights
from realesr_train.features import Architecture, FeatureNetwork

Backbone = Literal["alex", "vgg", "squeeze"]

BACKBONES: dict[Backbone, Architecture] = {"alex": "alexnet", "vgg": "vgg16", "squeeze": "squeezenet1_1"}

LAYERS: dict[Backbone, tuple[str, ...]] = {
    "alex": ("conv1", "conv2", "conv3", "conv4", "conv5"),
    "vgg": ("conv1_2", "conv2_2", "conv3_3", "conv4_3", "conv5_3"),
    "squeeze": ("conv1", "fire3", "fire5", "fire6", "fire7", "fire8", "fire9"),
}
"""Compared after their ReLU. Source: Zhang et al. 2018, and the published heads, which have these widths."""

SMALLEST_PX: dict[Backbone, int] = {"alex": 31, "vgg": 16, "squeeze": 17}
"""Least side of a picture, for the last layer to have a pixel."""

_TINY = 1e-10


def heads(backbone: Backbone) -> Path:
    """The published heads of a backbone, in the package.

    Source: richzhang/PerceptualSimilarity, lpips/weights/v0.1 (BSD-2-Clause), unchanged; the hashes are in its test.
    """
    return Path(__file__).with_name("data") / f"lpips-v0.1-{backbone}.pth"


class Lpips(nn.Module):
    """(N, 3, H, W) RGB in [0, 1], beside as many references or one for all -> (N,) float32. Frozen and differentiable.

    `backbone` gives the layers of `LAYERS`, `heads` are the tensors `lin0.model.1.weight` (1, C, 1, 1), ... for them.

    Raises: CorruptWeights (heads of another backbone).
    Source: Zhang, Isola, Efros, Shechtman, Wang, "The unreasonable effectiveness of deep features", CVPR 2018.
    """

    def __init__(self, backbone: FeatureNetwork, heads: Mapping[str, Tensor], *, source: str = "the heads") -> None:
        super().__init__()
        self.backbone = backbone
        for number in range(len(backbone.layers)):
            key = f"lin{number}.model.1.weight"
            if key not in heads or heads[key].ndim != 4:
                raise CorruptWeights(f"{source} holds no {key}", hint="give the LPIPS v0.1 heads of this backbone")
            self.register_buffer(f"head{number}", heads[key].detach().float().clone(), persistent=False)

    def forward(self, pictures: Tensor, references: Tensor) -> Tensor:
        return self.distance(self.features(pictures), self.features(references))

    def features(self, pictures: Tensor) -> list[Tensor]:
        """What `distance` compares: for each layer (N, C, h, w), each pixel of length 1. To be made once a reference.

        The value range of the published program, -1 to 1 with mean and deviation of its own, is torchvision's.
        """
        found: dict[str, Tensor] = self.backbone(pictures)
        maps = [F.relu(found[layer]).float() for layer in self.backbone.layers]
        return [one / (one.norm(dim=1, keepdim=True) + _TINY) for one in maps]

    def distance(self, features: Sequence[Tensor], references: Sequence[Tensor]) -> Tensor:
        """(N,) of what `features` gives for N pictures and for N or 1 references."""
        layers = [
            F.conv2d((ours - theirs).square(), self.get_buffer(f"head{number}")).mean((1, 2, 3))
            for number, (ours, theirs) in enumerate(zip(features, references, strict=True))
        ]
        return torch.stack(layers).sum(0)
