"""Patch discriminators: one logit per overlapping patch of 70 px (three layers).

Isola et al. 2017, "Image-to-Image Translation with Conditional Adversarial Networks" (arXiv:1611.07004). With batch
normalisation as in RealSR, with spectral normalisation as in BSRGAN; key names are those of their files, which differ.
"""

from typing import Literal

from torch import Tensor, nn

from realesr_train.discriminators.spectral import SpectralConv2d


class PatchDiscriminator(nn.Module):
    """(N, channels_in, H, W) RGB in [0, 1] -> (N, 1, h, w) logits; three layers: h = H/8 - 2, or H/8 + 3 (spectral).

    `layers` convolutions halve the size. "batch": padding 1, no bias before a normalisation (RealSR); "spectral":
    padding 2, every convolution normalised and with bias (BSRGAN).

    Raises: ValueError for pictures that leave no logit. Source: family_spec section 5.
    """

    def __init__(
        self,
        *,
        channels_in: int = 3,
        width: int = 64,
        layers: int = 3,
        normalisation: Literal["batch", "spectral"] = "batch",
    ) -> None:
        super().__init__()
        self.normalisation = normalisation
        self.padding = 1 if normalisation == "batch" else 2
        self.strides = (*[2] * layers, 1, 1)
        widths = [channels_in, *(width * min(2**step, 8) for step in range(layers + 1)), 1]
        self.model = nn.Sequential()
        for step, stride in enumerate(self.strides):
            last = step == layers + 1
            if normalisation == "spectral":
                conv = SpectralConv2d(widths[step], widths[step + 1], 4, stride=stride, padding=2, bias=True)
                parts = [conv] if last else [conv, nn.LeakyReLU(0.2, inplace=True)]
                self.model.add_module(f"child{step}", nn.Sequential(*parts))
                continue
            bias = step == 0 or last
            self.model.append(nn.Conv2d(widths[step], widths[step + 1], 4, stride, 1, bias=bias))
            if not bias:
                self.model.append(nn.BatchNorm2d(widths[step + 1]))
            if not last:
                self.model.append(nn.LeakyReLU(0.2, inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        if self._logits(min(height, width)) < 1:
            least = next(side for side in range(1, 4096) if self._logits(side) >= 1)
            raise ValueError(
                f"the patch discriminator cannot judge {height}x{width} px: sides must be at least {least}; "
                "enlarge the target crop"
            )
        logits: Tensor = self.model(x)
        return logits

    def _logits(self, side: int) -> int:
        for stride in self.strides:
            side = (side + 2 * self.padding - 4) // stride + 1
            if side < 1:
                return 0
        return side
