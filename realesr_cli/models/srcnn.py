"""SRCNN: the first convolutional network for super-resolution.

Dong et al. 2014, "Image Super-Resolution Using Deep Convolutional Networks" (arXiv:1501.00092): three convolutions on
the picture already enlarged by bicubic interpolation, in the paper on luma alone.
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# BT.601 luma and colour differences of full-range RGB, the ones of JPEG
TO_YCC = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))


class SRCNN(nn.Module):
    """(N, C, H, W) in [0, 1] -> (N, C, scale*H, scale*W), not clamped.

    A network for one channel given three enlarges the colour differences of an RGB picture by bicubic interpolation
    and refines its luma.
    """

    def __init__(
        self,
        *,
        channels: int = 1,
        widths: tuple[int, int] = (64, 32),
        kernels: tuple[int, int, int] = (9, 5, 5),
        scale: int = 4,
    ) -> None:
        super().__init__()
        self.scale = scale
        self.channels = channels
        self.conv1 = nn.Conv2d(channels, widths[0], kernels[0], padding=kernels[0] // 2)
        self.conv2 = nn.Conv2d(widths[0], widths[1], kernels[1], padding=kernels[1] // 2)
        self.conv3 = nn.Conv2d(widths[1], channels, kernels[2], padding=kernels[2] // 2)

    def forward(self, x: Tensor) -> Tensor:
        enlarged = F.interpolate(x, scale_factor=self.scale, mode="bicubic", align_corners=False)
        if self.channels == x.shape[1]:
            return self.refine(enlarged)
        matrix = torch.tensor(TO_YCC, device=x.device, dtype=x.dtype)
        ycc = torch.einsum("ij,njhw->nihw", matrix, enlarged)
        ycc = torch.cat((self.refine(ycc[:, :1]), ycc[:, 1:]), 1)
        return torch.einsum("ij,njhw->nihw", torch.linalg.inv(matrix), ycc)

    def refine(self, enlarged: Tensor) -> Tensor:
        """The network itself: (N, channels, H, W), already enlarged -> the same size."""
        features = F.relu(self.conv2(F.relu(self.conv1(enlarged))))
        return cast(Tensor, self.conv3(features))
