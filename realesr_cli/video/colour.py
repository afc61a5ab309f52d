"""YUV <-> RGB, exactly, on the device where the planes are.

A frame crosses to the device as its planes: 1.5 samples a pixel where RGB has 3. Traps: FFmpeg's own conversion takes
untagged films for BT.601 whatever their size, and its fast paths repeat chroma instead of interpolating it; full and
limited range differ by 16 % of contrast, BT.601 and BT.709 by up to 30 levels of colour.

Source of all formulas: ITU-T H.273 (07/2021), sections 8.3 (matrices, quantisation) and 8.7 (chroma locations).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal, get_args

import torch
from torch import Tensor

from realesr_cli.video.chroma import CONTEXT, doubled, halved, part

Chroma = Literal["420", "422", "444", "grey", "rgb"]
Matrix = Literal["bt601", "bt709", "bt2020", "smpte240m", "fcc", "ycgco", "identity"]
ChromaLocation = Literal["left", "center", "topleft", "top", "bottomleft", "bottom"]

UNSPECIFIED = 2
"""The code of H.273 for a matrix, transfer or primaries that nobody tagged."""

# weights of red and blue in luma
_WEIGHTS = {
    "bt601": (0.299, 0.114),
    "bt709": (0.2126, 0.0722),
    "bt2020": (0.2627, 0.0593),
    "smpte240m": (0.212, 0.087),
    "fcc": (0.30, 0.11),
}
# (horizontal, vertical) place of a chroma sample in its group of 2x2 pixels, which stand at 0 and 1
_PLACES: dict[ChromaLocation, tuple[float, float]] = {
    "left": (0, 0.5),
    "center": (0.5, 0.5),
    "topleft": (0, 0),
    "top": (0.5, 0),
    "bottomleft": (0, 1),
    "bottom": (0.5, 1),
}
# Values of a plane that are computed at once: on a CPU (True) so few that what lies between stays in its caches,
# elsewhere so few that they take little of a small device's memory.
_STRIP_VALUES = {True: 2**17, False: 2**24}
_GREY = ("grey", "rgb")


@dataclass(frozen=True, kw_only=True, slots=True)
class PixelFormat:
    """What planes hold. Those of "rgb" are red, green, blue, in this order; their range is always full."""

    bit_depth: int
    chroma: Chroma

    def __post_init__(self) -> None:
        assert 8 <= self.bit_depth <= 16, self.bit_depth
        assert self.chroma in get_args(Chroma), self.chroma

    @property
    def divisors(self) -> tuple[int, int]:
        """Rows and columns of pixels for a sample of chroma."""
        return {"420": (2, 2), "422": (1, 2)}.get(self.chroma, (1, 1))

    @property
    def planes(self) -> int:
        return 1 if self.chroma == "grey" else 3

    def shape(self, plane: int, height: int, width: int) -> tuple[int, int]:
        """Of a plane for a picture of this size; odd sizes count as the next even one."""
        down, across = self.divisors if plane else (1, 1)
        return -(-height // down), -(-width // across)


@dataclass(frozen=True, kw_only=True, slots=True)
class Colour:
    """How planes mean colours. Codes are those of H.273, as FFmpeg gives and takes them; they are carried only."""

    matrix: Matrix
    full_range: bool
    chroma_location: ChromaLocation = "left"
    matrix_code: int = UNSPECIFIED
    transfer: int = UNSPECIFIED
    primaries: int = UNSPECIFIED

    @property
    def range_code(self) -> int:
        """What FFmpeg calls AVCOL_RANGE_MPEG or _JPEG."""
        return 2 if self.full_range else 1

    def __post_init__(self) -> None:
        assert self.matrix in get_args(Matrix), self.matrix
        assert self.chroma_location in get_args(ChromaLocation), self.chroma_location


def to_rgb(
    planes: Sequence[Tensor], pixel_format: PixelFormat, colour: Colour, *, dtype: torch.dtype = torch.float32
) -> Tensor:
    """The picture (3, H, W), or (N, 3, H, W) of planes with a batch axis, in [0, 1].

    `planes` are codes of `pixel_format`, uint8, uint16 or int32, (h, w) each or (N, h, w). Chroma is interpolated
    linearly from where it stands. Everything is computed in float32 and then rounded to `dtype`. Colours that RGB does
    not have, among them those brighter than white, are clamped: networks were trained on [0, 1].
    """
    batch = [plane if plane.ndim == 3 else plane[None] for plane in planes]
    count, height, width = batch[0].shape
    out = torch.empty((count, 3, height, width), dtype=dtype, device=batch[0].device)
    for top, bottom in _strips(out):
        y = batch[0][:, None, top:bottom].float()
        if pixel_format.chroma in _GREY:
            offset, scale, _ = _quantisation(pixel_format, colour)
            values = torch.cat([plane[:, None, top:bottom].float() for plane in batch], 1)
            values.sub_(offset).mul_(1 / scale)
        else:
            values = _colours(batch[1:], top, bottom, pixel_format, colour)
            values = values[:, :, : bottom - top, :width].add_(y, alpha=1 / _quantisation(pixel_format, colour)[1])
        out[:, :, top:bottom] = values.clamp_(0, 1)
    return out if planes[0].ndim == 3 else out[0]


def from_rgb(rgb: Tensor, pixel_format: PixelFormat, colour: Colour, *, dither: bool = False) -> tuple[Tensor, ...]:
    """The planes of `pixel_format`, uint8 or uint16, for (3, H, W), or for (N, 3, H, W) with a batch axis.

    `rgb` is floating point in [0, 1], and clamped to it, or integers over the range of their dtype. Chroma is averaged
    around where it is to stand, with weights that fall linearly over two pixels. Values are rounded to the nearest
    code; `dither` adds a pattern of 8x8 pixels before, so that slow gradients do not fall into bands.
    """
    pictures = rgb if rgb.ndim == 4 else rgb[None]
    count, _, height, width = pictures.shape
    dtype = torch.uint8 if pixel_format.bit_depth == 8 else torch.uint16
    out = [
        torch.empty((count, *pixel_format.shape(index, height, width)), dtype=dtype, device=rgb.device)
        for index in range(pixel_format.planes)
    ]
    offset, scale, chroma_scale = _quantisation(pixel_format, colour)
    middle = 1 << (pixel_format.bit_depth - 1)
    down, across = pixel_format.divisors
    weights = _forward(colour.matrix).tolist()
    for top, bottom in _strips(pictures):
        high, wide = -(-(bottom - top) // down), -(-width // across)
        context = CONTEXT if down == 2 else 0
        x = _unit(part(pictures, 2, top - context, top + high * down + context))
        inner = x[:, :, context : context + bottom - top]
        if pixel_format.chroma == "rgb":
            for plane, values in zip(out, inner.unbind(1), strict=True):
                plane[:, top:bottom] = _codes(values * scale, pixel_format, top, dither)
            continue
        out[0][:, top:bottom] = _codes(_mixed(inner, weights[0], scale, offset), pixel_format, top, dither)
        if pixel_format.chroma == "grey":
            continue
        across_place, down_place = _PLACES[colour.chroma_location]
        if down == 2:
            x = halved(x, 2, down_place)
        if across == 2:
            x = halved(part(x, 3, -CONTEXT, 2 * wide + CONTEXT), 3, across_place)
        for plane, row in zip(out[1:], weights[1:], strict=True):
            first = top // down
            values = _mixed(x, row, chroma_scale, middle)
            plane[:, first : first + high] = _codes(values, pixel_format, first, dither)
    return tuple(out) if rgb.ndim == 4 else tuple(plane[0] for plane in out)


def _colours(chroma: Sequence[Tensor], top: int, bottom: int, pixel_format: PixelFormat, colour: Colour) -> Tensor:
    """What is to be added to luma to give red, green and blue (N, 3, at least bottom - top, at least W).

    The matrix is applied where there are fewest samples, which is the same: interpolation is linear too.
    """
    (down, across), (across_place, down_place) = pixel_format.divisors, _PLACES[colour.chroma_location]
    context = CONTEXT if down == 2 else 0
    offset, scale, chroma_scale = _quantisation(pixel_format, colour)
    u, v = (
        part(plane, 1, top // down - context, -(-bottom // down) + context)
        .float()
        .sub_(1 << pixel_format.bit_depth - 1)
        for plane in chroma
    )
    rows = (_inverse(colour.matrix)[:, 1:] / chroma_scale).tolist()
    values = u.new_empty((u.shape[0], 3, *u.shape[1:]))
    for index, (by_u, by_v) in enumerate(rows):
        torch.mul(u, by_u, out=values[:, index]).add_(v, alpha=by_v).sub_(offset / scale)
    if across == 2:
        values = doubled(part(values, 3, -CONTEXT, values.shape[3] + CONTEXT), 3, across_place)
    return doubled(values, 2, down_place) if down == 2 else values


def _quantisation(pixel_format: PixelFormat, colour: Colour) -> tuple[int, int, int]:
    """(black, white - black, largest - least chroma) as codes. Source: H.273, equations 23 to 34."""
    bits = pixel_format.bit_depth
    if colour.full_range or pixel_format.chroma == "rgb":
        return 0, (1 << bits) - 1, (1 << bits) - 1
    return 16 << bits - 8, 219 << bits - 8, 224 << bits - 8


@cache
def _forward(matrix: Matrix) -> Tensor:
    """(3, 3) float64: red, green, blue -> luma in [0, 1], two of chroma in [-1/2, 1/2]. Source: H.273, section 8.3."""
    if matrix == "identity":
        return torch.eye(3, dtype=torch.float64)
    if matrix == "ycgco":
        return torch.tensor([[0.25, 0.5, 0.25], [-0.25, 0.5, -0.25], [0.5, 0, -0.5]], dtype=torch.float64)
    red, blue = _WEIGHTS[matrix]
    luma = torch.tensor([red, 1 - red - blue, blue], dtype=torch.float64)
    axes = torch.eye(3, dtype=torch.float64)
    return torch.stack([luma, (axes[2] - luma) / (2 * (1 - blue)), (axes[0] - luma) / (2 * (1 - red))])


@cache
def _inverse(matrix: Matrix) -> Tensor:
    """The way back; its first column is 1, as grey has no chroma."""
    inverse: Tensor = torch.linalg.inv(_forward(matrix))
    return inverse


def _mixed(x: Tensor, weights: Sequence[float], scale: float, offset: float) -> Tensor:
    """(N, 3, h, w) -> (N, h, w): the weighted sum of colours, times `scale`, plus `offset`."""
    red, green, blue = x.unbind(1)
    total = (red * (weights[0] * scale)).add_(green, alpha=weights[1] * scale)
    return total.add_(blue, alpha=weights[2] * scale).add_(offset)


def _codes(values: Tensor, pixel_format: PixelFormat, top: int, dither: bool) -> Tensor:
    """Values rounded to codes, in place; row 0 is row `top` of its plane."""
    if dither:
        where = torch.arange(top, top + values.shape[-2], device=values.device) % 8
        pattern = _pattern().to(values.device)[where]
        values.add_(pattern.repeat(1, -(-values.shape[-1] // 8))[:, : values.shape[-1]])
    values.round_().clamp_(0, (1 << pixel_format.bit_depth) - 1)
    return values.to(torch.uint8 if pixel_format.bit_depth == 8 else torch.uint16)


@cache
def _pattern() -> Tensor:
    """(8, 8) offsets within half a code, of mean 0. Source: B. E. Bayer, ICC 1973, ordered dither."""
    pattern = torch.zeros(1, 1)
    for _ in range(3):
        pattern = torch.cat(
            [torch.cat([4 * pattern, 4 * pattern + 2], 1), torch.cat([4 * pattern + 3, 4 * pattern + 1], 1)]
        )
    return (pattern + 0.5) / 64 - 0.5


def _unit(x: Tensor) -> Tensor:
    """(N, 3, h, w) as float32 in [0, 1], planes contiguous, in memory of its own."""
    if x.is_floating_point():
        return x.clamp(0, 1).float().contiguous()
    return x.contiguous().float().mul_(1 / torch.iinfo(x.dtype).max)


def _strips(picture: Tensor) -> list[tuple[int, int]]:
    """(top, bottom) of the rows (N, 3, H, W) to be computed at once; tops are even."""
    height, width = picture.shape[2:]
    rows = max(2, _STRIP_VALUES[picture.device.type == "cpu"] // (picture.shape[0] * width) // 2 * 2)
    return [(top, min(height, top + rows)) for top in range(0, height, rows)]
