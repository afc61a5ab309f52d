"""A batch of pictures as it looks after JPEG compression (4:2:0), each with its own quality.

The default does in whole numbers what libjpeg does, so that its result is the same 8-bit picture on every device;
`legacy` is the simulator with which the published models were trained. Traps:
* A picture's border is its own (`sizes`), not the canvas's; libjpeg treats rows and columns differently there.
* Whole numbers travel in floating point. Where they pass 2^24 the tensors are float64, so that sums are exact.
* Between the two passes of its transforms libjpeg rounds, so that they cannot be merged into one matrix.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from realesr_train.degradation.canvas import checked_sizes, inside

# Quantisation at quality 50, rows = vertical frequency. Source: ITU-T T.81, Annex K, tables K.1 and K.2.
_LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
_CHROMINANCE = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * 8,) * 4,
)
# sqrt(8) times the orthonormal DCT-II in units of 2^-13. Entries that differ by one from the rounded cosines are sums
# of the twelve rounded constants of the fast form (Loeffler, Ligtenberg, Moschytz, "Practical fast 1-D DCT algorithms
# with 11 multiplications", ICASSP 1989), which is what libjpeg's accurate integer transform evaluates.
_INTEGER_DCT = (
    (8192, 8192, 8192, 8192, 8192, 8192, 8192, 8192),
    (11363, 9633, 6437, 2260, -2260, -6437, -9633, -11363),
    (10703, 4433, -4433, -10703, -10703, -4433, 4433, 10703),
    (9633, -2259, -11362, -6436, 6436, 11362, 2259, -9633),
    (8192, -8192, -8192, 8192, 8192, -8192, -8192, 8192),
    (6437, -11362, 2261, 9633, -9633, -2261, 11362, -6437),
    (4433, -10704, 10704, -4433, -4433, 10704, -10704, 4433),
    (2260, -6436, 9633, -11363, 11363, -9633, 6436, -2260),
)
_LEGACY_TO_YCC = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))
_LEGACY_TO_RGB = ((1.0, 0.0, 1.402), (1.0, -0.344136, -0.714136), (1.0, 1.772, 0.0))


def jpeg(
    pixels: Tensor, quality: Tensor, sizes: Tensor | None = None, *, legacy: bool = False, differentiable: bool = False
) -> Tensor:
    """The pictures after encoding and decoding, (N, 3, H, W) float32 RGB in [0, 1]; outside of `sizes` anything finite.

    `pixels` (N, 3, H, W) float32 RGB is clamped to [0, 1]; picture i is its upper left `sizes[i]` = (height, width),
    int64 on the CPU. `quality` (N,) lies in (0, 100]. The default rounds it to the nearest whole number (a codec knows
    no other), and gives exactly k/255, equal to libjpeg's pictures where they are at least 5 pixels wide (narrower
    ones libjpeg enlarges by repetition). `legacy` takes it as it is, below 100, and does not round its result.

    Without `differentiable` the result carries no gradient. With it the gradient passes through every rounding as if
    that were not there, except for the coefficients t, whose derivative is that of round(t) + (t - round(t))^3. The
    value stays that of the codec by default; `legacy` returns the value of the cubic, as the original does.

    Raises: ValueError naming the argument.
    Source: training specification, sections 4.5, 15 (D7 to D10) and 16; ITU-T T.81; JFIF 1.02 for the colours.
    """
    sizes = _check(pixels, quality, sizes, legacy)
    with torch.set_grad_enabled(differentiable and torch.is_grad_enabled()):
        quality = quality.detach().to(pixels.device, torch.float32, non_blocking=True)
        return _legacy(pixels, quality, sizes, differentiable) if legacy else _libjpeg(pixels, quality, sizes)


def _libjpeg(pixels: Tensor, quality: Tensor, sizes: Tensor) -> Tensor:
    height, width = pixels.shape[2:]
    red, green, blue = _extend(_pad(_round(pixels.clamp(0, 1).mul_(255))), sizes).unbind(1)
    # 128 is taken away from all three.
    luma = _floor(_weighted(0.5 - 128, (red, 19595), (green, 38470), (blue, 7471))).unsqueeze(1)
    chroma = torch.stack(
        (
            _means(_floor(_weighted(0.5 - 2.0**-16, (red, -11059), (green, -21709), (blue, 32768)))),
            _means(_floor(_weighted(0.5 - 2.0**-16, (red, 32768), (green, -27439), (blue, -5329)))),
        ),
        1,
    )
    halves = (sizes + 1) // 2
    factor = quality.round().clamp(1, 100).view(-1, 1, 1)
    factor = torch.where(factor < 50, (5000 / factor).floor(), 200 - 2 * factor)
    luma_table, chroma_table = (
        (_constant(table, pixels) * factor + 50).div_(100).floor_().clamp_(1, 255)
        for table in (_LUMINANCE, _CHROMINANCE)
    )
    luma = _code_exactly(luma, luma_table).clamp_(-128, 127).add_(128)[:, 0, :height, :width]
    chroma = _code_exactly(_extend(chroma, halves, rows_only=True), chroma_table).clamp_(-128, 127)
    blue_difference, red_difference = _enlarge(_extend(chroma, halves))[:, :, :height, :width].unbind(1)
    rgb = torch.stack(
        (
            _floor(_weighted(0.5, (red_difference, 91881))).add_(luma),
            _floor(_weighted(0.5, (blue_difference, -22554), (red_difference, -46802))).add_(luma),
            _floor(_weighted(0.5, (blue_difference, 116130))).add_(luma),
        ),
        1,
    )
    return rgb.clamp_(0, 255).div_(255)


def _weighted(offset: float, first: tuple[Tensor, int], *others: tuple[Tensor, int]) -> Tensor:
    """`offset` plus planes times weights, these in units of 2^-16; below 256 every partial sum is exact in float32."""
    total = torch.tensor(offset).add(first[0], alpha=first[1] * 2.0**-16)
    for planes, weight in others:
        total.add_(planes, alpha=weight * 2.0**-16)
    return total


def _pad(planes: Tensor) -> Tensor:
    """On a canvas of whole 16x16 blocks."""
    height, width = planes.shape[-2:]
    return F.pad(planes, (0, -width % 16, 0, -height % 16)) if height % 16 or width % 16 else planes


def _extend(planes: Tensor, sizes: Tensor, *, rows_only: bool = False) -> Tensor:
    """`planes` (changed in place) with each picture's last column and row repeated to the end of the canvas."""
    pictures = torch.arange(len(planes), device=planes.device)
    for axis in (2,) if rows_only else (3, 2):
        lengths = sizes[:, axis - 2]
        start, canvas = int(lengths.min()), planes.shape[axis]
        if start == canvas:
            continue
        ends = lengths.to(planes.device, non_blocking=True)
        edges = planes[pictures, :, ends - 1] if axis == 2 else planes[pictures, :, :, ends - 1]
        positions = torch.arange(start, canvas, device=planes.device)
        inside = (positions < ends[:, None]).unsqueeze(1).unsqueeze(5 - axis)
        beyond = planes.narrow(axis, start, canvas - start)
        beyond.copy_(torch.where(inside, beyond, edges.unsqueeze(axis)))
    return planes


def _means(plane: Tensor) -> Tensor:
    """Means of 2x2 pixels, rounded down and up in turn along the row, as libjpeg does it to stay unbiased."""
    rows = plane[:, 0::2] + plane[:, 1::2]
    bias = torch.arange(plane.shape[2] // 2, device=plane.device) % 2 + 1
    return _floor((rows[..., 0::2] + rows[..., 1::2]).add_(bias).mul_(0.25))


def _enlarge(planes: Tensor) -> Tensor:
    """Twice the size by the triangle filter (3/4 near, 1/4 far in each direction), in libjpeg's rounding."""
    padded = F.pad(planes * (1 / 16), (1, 1, 1, 1), mode="replicate")
    near = padded[:, :, 1:-1] * 3
    tall = torch.stack((near + padded[:, :, :-2], near + padded[:, :, 2:]), 3).flatten(2, 3)
    near = tall[..., 1:-1] * 3
    left = _floor((near + tall[..., :-2]).add_(8 / 16))
    right = _floor((near + tall[..., 2:]).add_(7 / 16))
    # A complex number is a pair of neighbours: this interleaves nine times as fast as `stack` does on a CPU.
    return torch.view_as_real(torch.complex(left, right)).flatten(3, 4)


def _code_exactly(planes: Tensor, table: Tensor) -> Tensor:
    """Planes of levels -128..127 after transform, quantisation and back, all roundings as in libjpeg."""
    exact = planes.to(_exact_dtype(planes))
    matrix = _constant(_INTEGER_DCT, exact)
    rows = _floor(_along_rows(exact, matrix * 2.0**-11).add_(0.5))
    coefficients = _floor(_along_columns(rows, matrix * 2.0**-15).add_(0.5))
    # The transform is 8 times the orthonormal one. libjpeg rounds a tie away from zero: the quotient is made larger
    # by less than what lies between a tie and its neighbours (coefficients are below 2^15).
    table = _tile(table.to(exact.dtype), planes)
    quotients = _blocks(coefficients).mul_((1 + 2.0**-17) / (8 * table))
    coefficients = _quantise(quotients).mul_(table).view_as(planes)
    columns = _floor(_along_columns(coefficients, matrix.T * 2.0**-11).add_(0.5))
    return _floor(_along_rows(columns, matrix.T * 2.0**-18).add_(0.5)).to(planes.dtype)


def _legacy(pixels: Tensor, quality: Tensor, sizes: Tensor, differentiable: bool) -> Tensor:
    height, width = pixels.shape[2:]
    levels = _pad((pixels.clamp(0, 1) * inside(sizes, height, width, pixels.device)).mul_(255))
    ycc = _mix(levels, _LEGACY_TO_YCC)
    # Of luma, 128 is taken away for the transform and given back; chroma would get it before, only to lose it there.
    factor = torch.where(quality < 50, 50 / quality, 2 - quality / 50).view(-1, 1, 1)
    luma = _code_legacy(ycc[:, :1] - 128, _constant(_LUMINANCE, pixels).T * factor, differentiable) + 128
    chroma = _code_legacy(F.avg_pool2d(ycc[:, 1:], 2), _constant(_CHROMINANCE, pixels) * factor, differentiable)
    chroma = chroma.repeat_interleave(2, 2).repeat_interleave(2, 3)
    ycc = torch.cat((luma, chroma), 1)[:, :, :height, :width]
    return _mix(ycc, _LEGACY_TO_RGB).clamp_(0, 255).div_(255)


def _mix(planes: Tensor, matrix: tuple[tuple[float, ...], ...]) -> Tensor:
    """The three planes times `matrix`; element by element, as the rounding of a product of matrices varies with N."""
    first, second, third = planes.unbind(1)
    return torch.stack([(first * a).add_(second * b).add_(third * c) for a, b, c in matrix], 1)


def _code_legacy(planes: Tensor, table: Tensor, differentiable: bool) -> Tensor:
    exact = planes.to(_exact_dtype(planes))
    matrix = torch.cos(torch.arange(8.0).outer(torch.arange(8) * 2 + 1).double() * (torch.pi / 16)) / 2
    matrix[0] *= 2**-0.5
    matrix = matrix.to(exact.device, exact.dtype, non_blocking=True)
    table = _tile(table, planes)
    quotients = _blocks(_along_columns(_along_rows(exact, matrix), matrix)) / table
    rounded = quotients.detach().round()
    if differentiable:
        rounded = rounded + (quotients - rounded) ** 3
    coefficients = (rounded * table).view_as(planes)
    return _along_columns(_along_rows(coefficients, matrix.T), matrix.T).to(planes.dtype)


def _along_rows(planes: Tensor, matrix: Tensor) -> Tensor:
    """`matrix` times every run of eight pixels in a row."""
    return torch.matmul(planes.reshape(-1, 8), matrix.T).view_as(planes)


def _along_columns(planes: Tensor, matrix: Tensor) -> Tensor:
    """`matrix` times every run of eight pixels in a column."""
    return torch.matmul(matrix, planes.view(-1, 8, planes.shape[3])).view_as(planes)


def _blocks(planes: Tensor) -> Tensor:
    """(N, C, H, W) as (N, C * H/8, 8, W)."""
    return planes.view(planes.shape[0], -1, 8, planes.shape[3])


def _tile(table: Tensor, planes: Tensor) -> Tensor:
    """Tables (N, 8, 8) repeated along the rows of `_blocks`."""
    return table.repeat(1, 1, planes.shape[3] // 8).unsqueeze(1)


def _floor(values: Tensor) -> Tensor:
    """Rounded down (in place where no gradient is needed); the gradient passes unchanged."""
    return values.detach().floor() + (values - values.detach()) if values.requires_grad else values.floor_()


def _round(values: Tensor) -> Tensor:
    return values.detach().round() + (values - values.detach()) if values.requires_grad else values.round_()


def _quantise(values: Tensor) -> Tensor:
    """Rounded (in place where no gradient is needed); the gradient is that of round(t) + (t - round(t))^3."""
    if not values.requires_grad:
        return values.round_()
    rounded = values.detach().round()
    rest = (values - rounded) ** 3
    return rounded + (rest - rest.detach())


def _constant(rows: tuple[tuple[float, ...], ...], like: Tensor) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64).to(like.device, like.dtype, non_blocking=True)


def _exact_dtype(pixels: Tensor) -> torch.dtype:
    """Float64, whose products no setting shortens; float32 on Apple's GPUs, which have nothing longer."""
    return torch.float32 if pixels.device.type == "mps" else torch.float64


def _check(pixels: Tensor, quality: Tensor, sizes: Tensor | None, legacy: bool) -> Tensor:
    """The sizes, as `checked_sizes` returns them."""
    if pixels.ndim != 4 or pixels.shape[1] != 3 or pixels.dtype != torch.float32 or 0 in pixels.shape:
        raise ValueError(f"pixels: {pixels.dtype} {tuple(pixels.shape)}; give float32 (N, 3, height, width), not empty")
    count = len(pixels)
    if quality.shape != (count,) or not quality.is_floating_point():
        raise ValueError(
            f"quality: {quality.dtype} {tuple(quality.shape)}; give one floating-point number per picture, ({count},)"
        )
    # On another device the values are not looked at: that would wait for it.
    if quality.device.type == "cpu" and not bool(((quality > 0) & (quality < 100 if legacy else quality <= 100)).all()):
        raise ValueError(f"quality: {quality.tolist()}; give numbers above 0, {'below' if legacy else 'at most'} 100")
    return checked_sizes(pixels, sizes)
