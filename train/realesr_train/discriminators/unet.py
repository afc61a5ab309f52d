"""U-Net discriminator of Real-ESRGAN: one logit per pixel.

Wang et al. 2021, "Real-ESRGAN" (arXiv:2107.10833), section 3.3, after Schönfeld et al. 2020 (arXiv:2002.12655). Key
names are those of the published `_netD` files.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from realesr_train.discriminators.spectral import SpectralConv2d


class UNetDiscriminator(nn.Module):
    """(N, channels_in, H, W) RGB in [0, 1] -> (N, 1, H, W) logits; H and W multiples of 8.

    `skip`: add the encoder's features to the decoder's of the same size.

    Raises: ValueError for other sizes. Source: training_spec section 7.
    """

    def __init__(self, *, channels_in: int = 3, width: int = 64, skip: bool = True) -> None:
        super().__init__()
        self.skip = skip
        self.conv0 = nn.Conv2d(channels_in, width, 3, padding=1)
        self.conv1 = SpectralConv2d(width, width * 2, 4, stride=2)
        self.conv2 = SpectralConv2d(width * 2, width * 4, 4, stride=2)
        self.conv3 = SpectralConv2d(width * 4, width * 8, 4, stride=2)
        self.conv4 = SpectralConv2d(width * 8, width * 4, 3)
        self.conv5 = SpectralConv2d(width * 4, width * 2, 3)
        self.conv6 = SpectralConv2d(width * 2, width, 3)
        self.conv7 = SpectralConv2d(width, width, 3)
        self.conv8 = SpectralConv2d(width, width, 3)
        self.conv9 = nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        if height % 8 or width % 8:
            raise ValueError(
                f"the U-Net discriminator cannot judge {height}x{width} px: sides must be multiples of 8; "
                "change the size of the target crop"
            )
        x = _leaky(self.conv0(x))
        known = [x]
        for conv in (self.conv1, self.conv2, self.conv3):
            x = _leaky(conv(x))
            known.append(x)
        known.pop()
        for conv in (self.conv4, self.conv5, self.conv6):
            doubled = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            x = _leaky(conv(doubled))
            if self.skip:
                x = x + known.pop()
        x = _leaky(self.conv8(_leaky(self.conv7(x))))
        logits: Tensor = self.conv9(x)
        return logits


def _leaky(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.2, inplace=True)
