"""Discriminators in the style of VGG, with a dense head: one logit per picture, one size of picture only."""

from torch import Tensor, nn
from torch.nn import functional as F


class VGGDiscriminator(nn.Module):
    """(N, channels_in, 128, 128) RGB in [0, 1] -> (N, 1) logits; with `side_px=256` one more group of layers.

    Pairs of 3x3 and 4x4 stride 2 convolutions, batch normalisation after all but the first.

    Raises: ValueError for pictures of another size, or another `side_px`.
    Source: ESRGAN (arXiv:1809.00219); family_spec section 4. Key names are BasicSR's.
    """

    def __init__(self, *, channels_in: int = 3, width: int = 64, side_px: int = 128) -> None:
        super().__init__()
        if side_px not in (128, 256):
            raise ValueError(f"side_px {side_px}: the VGG discriminator has a dense head for 128 or 256 px")
        self.side_px = side_px
        self.groups = 5 if side_px == 128 else 6
        before = channels_in
        for group in range(self.groups):
            after = width * min(2**group, 8)
            self.add_module(f"conv{group}_0", nn.Conv2d(before, after, 3, padding=1, bias=group == 0))
            if group > 0:
                self.add_module(f"bn{group}_0", nn.BatchNorm2d(after))
            self.add_module(f"conv{group}_1", nn.Conv2d(after, after, 4, 2, 1, bias=False))
            self.add_module(f"bn{group}_1", nn.BatchNorm2d(after))
            before = after
        self.linear1 = nn.Linear(before * 16, 100)
        self.linear2 = nn.Linear(100, 1)

    def forward(self, x: Tensor) -> Tensor:
        _check(x, self.side_px, "VGG")
        for group in range(self.groups):
            for part in range(2):
                x = self.get_submodule(f"conv{group}_{part}")(x)
                if group + part > 0:
                    x = self.get_submodule(f"bn{group}_{part}")(x)
                x = F.leaky_relu(x, 0.2, inplace=True)
        logits: Tensor = self.linear2(F.leaky_relu(self.linear1(x.flatten(1)), 0.2, inplace=True))
        return logits


class SRGANDiscriminator(nn.Module):
    """(N, channels_in, side_px, side_px) -> (N, 1) logits; `side_px` a multiple of 16. Pictures in [-1, 1], or with
    `signed_input` in [0, 1], which it turns into that.

    Eight 3x3 convolutions with bias, strides 1 and 2 in turn, batch normalisation after all but the first.

    Raises: ValueError for pictures of another size, or another `side_px`.
    Source: Ledig et al. 2017 (arXiv:1609.04802), figure 4; family_spec section 3.
    """

    def __init__(
        self,
        *,
        channels_in: int = 3,
        width: int = 64,
        side_px: int = 96,
        dense: int = 1024,
        signed_input: bool = False,
    ) -> None:
        super().__init__()
        self.signed_input = signed_input
        if side_px < 16 or side_px % 16:
            raise ValueError(f"side_px {side_px}: the SRGAN discriminator needs a multiple of 16")
        self.side_px = side_px
        self.convs = nn.ModuleList()
        self.bns = nn.ModuleList()
        before = channels_in
        for step in range(8):
            after = width * 2 ** (step // 2)
            self.convs.append(nn.Conv2d(before, after, 3, 1 + step % 2, 1))
            self.bns.append(nn.BatchNorm2d(after) if step else nn.Identity())
            before = after
        self.fc1 = nn.Linear(before * (side_px // 16) ** 2, dense)
        self.fc2 = nn.Linear(dense, 1)

    def forward(self, x: Tensor) -> Tensor:
        _check(x, self.side_px, "SRGAN")
        if self.signed_input:
            x = 2 * x - 1
        for conv, bn in zip(self.convs, self.bns, strict=True):
            x = F.leaky_relu(bn(conv(x)), 0.2, inplace=True)
        logits: Tensor = self.fc2(F.leaky_relu(self.fc1(x.flatten(1)), 0.2, inplace=True))
        return logits


def _check(x: Tensor, side_px: int, name: str) -> None:
    height, width = x.shape[-2:]
    if (height, width) != (side_px, side_px):
        raise ValueError(
            f"this {name} discriminator cannot judge {height}x{width} px: its dense head takes {side_px}x{side_px} "
            "only; change the target crop or take a U-Net or patch discriminator"
        )
