"""GFPGANv1Clean: a face of fixed size made anew by a StyleGAN2 decoder, steered by a U-Net that sees the damaged one.

Source: Wang et al., "Towards Real-World Blind Face Restoration with Generative Facial Prior" (arXiv:2101.04061) and its
repository; key names are the published ones. Noise is always what the file stores, so equal inputs give equal results.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_SLOPE = 0.2
_EPSILON = 1e-8


class GFPGANv1Clean(nn.Module):
    """(N, 3, size, size) RGB in [0, 1], an aligned face -> the same shape, restored, not clamped.

    In low precision the convolutions alone run in it; styles, skip pictures, entrance and exit stay in float32.
    """

    def __init__(
        self,
        *,
        encoder: Sequence[int],
        decoder: Sequence[int],
        style: int,
        different_styles: bool,
        mapping: int,
        input_is_latent: bool,
        modulated: Sequence[int],
    ) -> None:
        """`encoder` and `decoder` are channels from 4x4 pixels up to the full size, one number for each doubling.

        `style` is the length of a style vector; with `different_styles` each layer has its own. `mapping` counts the
        linear layers that turn a vector into a style, used unless `input_is_latent`. `modulated` says how many of the
        decoder's channels the U-Net scales and shifts, for each size from 8x8 on.
        """
        super().__init__()
        levels = len(encoder) - 1
        self._styles = 2 * levels + 2
        self._style = style
        self._different_styles = different_styles
        self._input_is_latent = input_is_latent
        down = list(reversed(encoder))
        self.conv_body_first = nn.Conv2d(3, encoder[-1], 1)
        self.conv_body_down = nn.ModuleList(ResBlock(down[k], down[k + 1], factor=0.5) for k in range(levels))
        self.final_conv = nn.Conv2d(encoder[0], encoder[0], 3, padding=1)
        self.final_linear = nn.Linear(encoder[0] * 16, style * (self._styles if different_styles else 1))
        self.conv_body_up = nn.ModuleList(ResBlock(encoder[k], encoder[k + 1], factor=2) for k in range(levels))
        # pictures of each size, which only training looks at
        self.toRGB = nn.ModuleList(nn.Conv2d(channels, 3, 1) for channels in encoder[1:])
        self.condition_scale = nn.ModuleList(map(_condition, encoder[1:], modulated))
        self.condition_shift = nn.ModuleList(map(_condition, encoder[1:], modulated))
        self.stylegan_decoder = StyleDecoder(decoder, style, mapping)
        self.full_precision = (
            "conv_body_first",
            "stylegan_decoder.noises",
            "stylegan_decoder.to_rgb1",
            "stylegan_decoder.to_rgbs",
            *(name for name, module in self.named_modules() if isinstance(module, nn.Linear)),
            *(f"{name}.{part}" for name, module in self.named_modules() for part in ("weight", "bias")
              if isinstance(module, StyleConv)),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        low = self.final_conv.weight.dtype
        features = _activated(self.conv_body_first(2 * x - 1)).to(low)
        skips = []
        for block in self.conv_body_down:
            features = block(features)
            skips.append(features)
        features = _activated(self.final_conv(features))
        # channels first, whatever the layout in memory
        styles = self.final_linear(features.float().flatten(1))
        styles = styles.view(len(x), -1, self._style)
        if not self._input_is_latent:
            styles = self.stylegan_decoder.mapped(styles)
        styles = styles.expand(-1, self._styles, -1)
        conditions = []
        for block, scale, shift in zip(self.conv_body_up, self.condition_scale, self.condition_shift, strict=True):
            features = block(features + skips.pop())
            conditions.append((scale(features), shift(features)))
        return (self.stylegan_decoder(styles, conditions) + 1) / 2

    def freeze(self) -> None:
        """Promises that weights stay as they are, so that what follows from them may be kept."""
        for module in self.modules():
            if isinstance(module, ModulatedConv):
                module.freeze()


class ResBlock(nn.Module):
    """Two convolutions and a resize between them, beside a resized copy of the input."""

    def __init__(self, channels_in: int, channels_out: int, *, factor: float) -> None:
        super().__init__()
        self._factor = factor
        self.conv1 = nn.Conv2d(channels_in, channels_in, 3, padding=1)
        self.conv2 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.skip = nn.Conv2d(channels_in, channels_out, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = _resized(_activated(self.conv1(x)), self._factor)
        # a 1x1 convolution without bias may go on either side of the resize: where there are fewer pixels
        skip = _resized(self.skip(x), self._factor) if self._factor > 1 else self.skip(_resized(x, self._factor))
        return _activated(self.conv2(y)) + skip


class StyleDecoder(nn.Module):
    """StyleGAN2 without its own CUDA kernels: styles and, at each size, what the U-Net says -> a picture in [-1, 1].

    Source: Karras et al., "Analyzing and Improving the Image Quality of StyleGAN" (arXiv:1912.04958).
    """

    def __init__(self, channels: Sequence[int], style: int, mapping: int) -> None:
        super().__init__()
        # the published file numbers linear layers 1, 3, 5, ...; what stands between them has no weights
        self.style_mlp = nn.ModuleDict({str(2 * k + 1): nn.Linear(style, style) for k in range(mapping)})
        self.constant_input = ConstantInput(channels[0])
        self.style_conv1 = StyleConv(channels[0], channels[0], style)
        self.to_rgb1 = ToRGB(channels[0], style)
        convolutions: list[StyleConv] = []
        for before, after in pairwise(channels):
            convolutions += [StyleConv(before, after, style, up=True), StyleConv(after, after, style)]
        self.style_convs = nn.ModuleList(convolutions)
        self.to_rgbs = nn.ModuleList(ToRGB(after, style) for after in channels[1:])
        self.noises = nn.Module()
        for index in range(2 * len(channels) - 1):
            side = 4 * 2 ** ((index + 1) // 2)
            self.noises.register_buffer(f"noise{index}", torch.zeros(1, 1, side, side))

    def mapped(self, vectors: Tensor) -> Tensor:
        """(N, L, style) vectors of any length -> styles."""
        vectors = vectors * torch.rsqrt(vectors.square().mean(2, keepdim=True) + _EPSILON)
        for layer in self.style_mlp.values():
            vectors = F.leaky_relu(layer(vectors), _SLOPE)
        return vectors

    def forward(self, styles: Tensor, conditions: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """`styles` is (N, 2*levels + 2, style) float32; `conditions` are (scale, shift) from 8x8 on."""
        noises = list(self.noises.buffers())
        y = self.style_conv1(self.constant_input(len(styles)), styles[:, 0], noises[0])
        picture = self.to_rgb1(y, styles[:, 1], None)
        for level, (scale, shift) in enumerate(conditions):
            first, second = 2 * level, 2 * level + 1
            y = self.style_convs[first](y, styles[:, first + 1], noises[first + 1])
            y[:, -scale.shape[1] :].mul_(scale).add_(shift)
            y = self.style_convs[second](y, styles[:, second + 1], noises[second + 1])
            picture = self.to_rgbs[level](y, styles[:, second + 2], picture)
        return cast(Tensor, picture)


class ConstantInput(nn.Module):
    """The 4x4 map with which every picture begins."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, channels, 4, 4))

    def forward(self, count: int) -> Tensor:
        return self.weight.expand(count, -1, -1, -1)


class ModulatedConv(nn.Module):
    """A convolution whose input channels are scaled by a style and, if `normed`, its output channels back to norm 1."""

    def __init__(self, channels_in: int, channels_out: int, style: int, *, side: int, normed: bool) -> None:
        super().__init__()
        self._normed = normed
        self.modulation = nn.Linear(style, channels_in)
        self.weight = nn.Parameter(
            torch.randn(1, channels_out, channels_in, side, side) / (channels_in * side**2) ** 0.5
        )
        if not self.modulation.weight.is_meta:  # why not: see rrdb.py
            nn.init.kaiming_normal_(self.modulation.weight, a=1)
        nn.init.ones_(self.modulation.bias)
        self._norms: Tensor | None = None

    def forward(self, x: Tensor, style: Tensor, bias: Tensor, gain: float = 1.0) -> Tensor:
        """gain * convolution + bias: (N, in, H, W) of any dtype, (N, style) -> (N, out, H, W) in the weights' dtype.

        `bias` is (1, out, 1, 1); it and `style` are float32 whatever the weights are.
        """
        kernel = self.weight.view(self.weight.shape[-4:])
        dtype = kernel.dtype
        scale = self.modulation(style)
        back = torch.full((1, len(kernel)), gain, device=x.device)
        if self._normed:
            # the size of a style does not matter, for the norm is divided out again: so low precision cannot overflow
            largest = scale.abs().amax(1, keepdim=True).clamp_min(1e-4)
            scale = scale / largest
            norms = _norms(kernel) if self._norms is None else self._norms
            back = gain * largest * torch.rsqrt(largest.square() * (scale.square() @ norms) + _EPSILON)
        x, padding = x.to(dtype), kernel.shape[2] // 2
        if len(x) == 1:
            own = (kernel * (back[0, :, None] * scale)[..., None, None]).to(dtype)
            return F.conv2d(x, own, bias.flatten().to(dtype), padding=padding)
        # scaling the maps around one common convolution gives the same as a convolution for each picture
        y = F.conv2d(x * _maps(scale, dtype), kernel, padding=padding)
        return y * _maps(back, dtype) + bias.to(dtype)

    def freeze(self) -> None:
        """Takes away the weights' axis of one, which keeps them from being channels_last, and computes their norms."""
        self.weight.data = self.weight.data.view(self.weight.shape[-4:])
        self._norms = _norms(self.weight)


class StyleConv(nn.Module):
    """A modulated convolution, at twice the input's size if `up`, with noise, bias and activation."""

    def __init__(self, channels_in: int, channels_out: int, style: int, *, up: bool = False) -> None:
        super().__init__()
        self._up = up
        self.modulated_conv = ModulatedConv(channels_in, channels_out, style, side=3, normed=True)
        self.weight = nn.Parameter(torch.zeros(1))
        self.bias = nn.Parameter(torch.zeros(1, channels_out, 1, 1))

    def forward(self, x: Tensor, style: Tensor, noise: Tensor) -> Tensor:
        y = self.modulated_conv(_resized(x, 2) if self._up else x, style, self.bias, gain=2**0.5)
        return _activated(y + (self.weight * noise).to(y.dtype))


class ToRGB(nn.Module):
    """The picture of one size: float32, added to the enlarged one of the size before."""

    def __init__(self, channels: int, style: int) -> None:
        super().__init__()
        self.modulated_conv = ModulatedConv(channels, 3, style, side=1, normed=False)
        self.bias = nn.Parameter(torch.zeros(1, 3, 1, 1))

    def forward(self, x: Tensor, style: Tensor, before: Tensor | None) -> Tensor:
        picture: Tensor = self.modulated_conv(x, style, self.bias)
        return picture if before is None else picture + _resized(before, 2)


def _condition(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_in, 3, padding=1),
        nn.LeakyReLU(_SLOPE, inplace=True),
        nn.Conv2d(channels_in, channels_out, 3, padding=1),
    )


def _maps(factors: Tensor, dtype: torch.dtype) -> Tensor:
    """(N, C) -> (N, C, 1, 1)."""
    return factors[:, :, None, None].to(dtype)


def _norms(kernel: Tensor) -> Tensor:
    """(out, in, k, k) -> float32 (in, out): the sum of squares of each part."""
    return kernel.float().square().sum((2, 3)).T.contiguous()


def _activated(x: Tensor) -> Tensor:
    return F.leaky_relu(x, _SLOPE, inplace=not torch.is_grad_enabled())


def _resized(x: Tensor, factor: float) -> Tensor:
    return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)
