"""Convolution under spectral normalisation, in the classic form of published discriminators.

Traps: every forward in training mode advances the power iteration, also where the weights are frozen; a network that
has never run in training mode has random singular vectors, and its output in eval mode is meaningless.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SpectralConv2d(nn.Conv2d):
    """A convolution with the weight W / s, s an estimate of the largest singular value of W as an (out, rest) matrix.

    The state dict holds `weight_orig`, `weight_u`, `weight_v` (and `bias`) like torch.nn.utils.spectral_norm, so that
    published files load. The estimate stays in float32 under autocast, where that function rounds it to 8 or 11 bits.

    Source: Miyato et al. 2018, "Spectral Normalization for Generative Adversarial Networks" (arXiv:1802.05957),
    algorithm 1, one power iteration.
    """

    weight_u: Tensor
    weight_v: Tensor

    def __init__(
        self, width_in: int, width_out: int, side: int, *, stride: int = 1, padding: int = 1, bias: bool = False
    ) -> None:
        super().__init__(width_in, width_out, side, stride, padding, bias=bias)
        weight = self.weight
        del self.weight
        self.weight_orig = nn.Parameter(weight.detach())
        matrix = weight.detach().flatten(1)
        self.register_buffer("weight_u", F.normalize(torch.randn(matrix.shape[0]), dim=0, eps=1e-12))
        self.register_buffer("weight_v", F.normalize(torch.randn(matrix.shape[1]), dim=0, eps=1e-12))

    def normalised_weight(self) -> Tensor:
        """W / s, (out, in, side, side) float32; gradients flow through W and s, not through the singular vectors."""
        with torch.autocast(self.weight_orig.device.type, enabled=False):
            matrix = self.weight_orig.flatten(1)
            if self.training:
                with torch.no_grad():
                    v = F.normalize(matrix.mT @ self.weight_u, dim=0, eps=1e-12)
                    u = F.normalize(matrix @ v, dim=0, eps=1e-12)
                    self.weight_u.copy_(u)
                    self.weight_v.copy_(v)
            else:
                # copies: a later forward in training mode changes the buffers, the graph of this one must not notice
                u, v = self.weight_u.clone(), self.weight_v.clone()
            return self.weight_orig / torch.dot(u, matrix @ v)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.normalised_weight(), self.bias, self.stride, self.padding)
