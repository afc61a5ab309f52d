"""SRResNet in its two forms.

`MSRResNet` is the one of BasicSR and ESRGAN: no batch normalisation, bilinear base picture. `SRResNet` is the network
of the paper: Ledig et al. 2017, "Photo-Realistic Single Image Super-Resolution Using a Generative Adversarial
Network" (arXiv:1609.04802), figure 4, with batch normalisation and 9x9 ends.
"""

from torch import Tensor, nn
from torch.nn import functional as F


class ResidualBlock(nn.Module):
    """x + conv(relu(conv(x))); (N, width, H, W) -> the same."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.conv1(x), inplace=True))


class MSRResNet(nn.Module):
    """(N, channels_in, H, W) RGB in [0, 1] -> (N, channels_out, scale*H, scale*W), scale 2, 3 or 4, not clamped."""

    def __init__(
        self, *, channels_in: int = 3, channels_out: int = 3, width: int = 64, blocks: int = 16, scale: int = 4
    ) -> None:
        super().__init__()
        self.scale = scale
        step = 2 if scale == 4 else scale
        self.conv_first = nn.Conv2d(channels_in, width, 3, padding=1)
        self.body = nn.Sequential(*(ResidualBlock(width) for _ in range(blocks)))
        self.upconv1 = nn.Conv2d(width, width * step**2, 3, padding=1)
        self.upconv2 = nn.Conv2d(width, width * step**2, 3, padding=1) if scale == 4 else None
        self.step = step
        self.conv_hr = nn.Conv2d(width, width, 3, padding=1)
        self.conv_last = nn.Conv2d(width, channels_out, 3, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and not module.weight.is_meta:  # why not: see rrdb.py
                nn.init.kaiming_normal_(module.weight)
                module.weight.data *= 0.1
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        features = self.body(F.leaky_relu(self.conv_first(x), 0.1))
        features = F.leaky_relu(F.pixel_shuffle(self.upconv1(features), self.step), 0.1)
        if self.upconv2 is not None:
            features = F.leaky_relu(F.pixel_shuffle(self.upconv2(features), self.step), 0.1)
        features = self.conv_last(F.leaky_relu(self.conv_hr(features), 0.1))
        base = F.interpolate(x, scale_factor=self.scale, mode="bilinear", align_corners=False)
        return features + base


class BNBlock(nn.Module):
    """Residual block with batch normalisation and no activation after the sum; (N, width, H, W) -> the same."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(width)
        self.prelu = nn.PReLU()
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bn2(self.conv2(self.prelu(self.bn1(self.conv1(x)))))


class UpStep(nn.Module):
    """Doubling by convolution, pixel shuffle and PReLU; (N, width, H, W) -> (N, width, 2H, 2W)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, 4 * width, 3, padding=1)
        self.prelu = nn.PReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.prelu(F.pixel_shuffle(self.conv(x), 2))


class SRResNet(nn.Module):
    """(N, channels_in, H, W) RGB in [0, 1] -> (N, channels_out, scale*H, scale*W), scale a power of two.

    The paper trains towards pictures in [-1, 1]; `signed_output` (buffer-free, from the file's metadata) makes
    `forward` map that range back to [0, 1].
    """

    def __init__(
        self,
        *,
        channels_in: int = 3,
        channels_out: int = 3,
        width: int = 64,
        blocks: int = 16,
        up_steps: int = 2,
        signed_output: bool = False,
    ) -> None:
        super().__init__()
        self.signed_output = signed_output
        self.conv_first = nn.Conv2d(channels_in, width, 9, padding=4)
        self.prelu_first = nn.PReLU()
        self.body = nn.Sequential(*(BNBlock(width) for _ in range(blocks)))
        self.conv_body = nn.Conv2d(width, width, 3, padding=1)
        self.bn_body = nn.BatchNorm2d(width)
        self.up = nn.Sequential(*(UpStep(width) for _ in range(up_steps)))
        self.conv_last = nn.Conv2d(width, channels_out, 9, padding=4)

    def forward(self, x: Tensor) -> Tensor:
        first = self.prelu_first(self.conv_first(x))
        features = first + self.bn_body(self.conv_body(self.body(first)))
        out = self.conv_last(self.up(features))
        return (out + 1) / 2 if self.signed_output else out
