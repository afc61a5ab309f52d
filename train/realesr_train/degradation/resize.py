"""Resampling: area, bilinear and bicubic with a size, a mode and a step per image; MATLAB-like bicubic.

Formulation: an axis is resampled by a banded matrix (output sample x few input samples). The matrix is cut into blocks
of output samples; each block is one small dense product with the window of input rows that it needs. So all modes,
sizes and ratios are one batched product, and the cost follows the pixels, not their square. It takes as long as torch's
`interpolate` for one size (12x3x400x400 to 200 and 400 on one core: 13 and 39 ms; bicubic of torch 10 and 38 ms).
Indices and weights are made on the host in float64 (a few thousand numbers).

Trap: coordinates are rounded to float32 as torch's `interpolate` rounds them (fused multiply-add); exact ones differ
from it by up to 3e-5 of a pixel at a width of 500.
"""

import math

import torch
from torch import Tensor

from realesr_train.degradation.canvas import checked_host, checked_sizes, take_rows

MODES: tuple[str, ...] = ("area", "bilinear", "bicubic")

_BLOCK = 32  # output samples per product
_TERMS = 256  # largest sum in one product: above 384 terms MKL splits a sum at a place that depends on its length


def resize(
    pixels: Tensor,
    target_sizes: Tensor,
    modes: Tensor,
    sizes: Tensor | None = None,
    *,
    steps: Tensor | None = None,
    canvas: tuple[int, int] | None = None,
) -> Tensor:
    """(N, C, H', W') with image i resampled to `target_sizes[i]` by `MODES[modes[i]]`; not clamped, not antialiased.

    `target_sizes` (N, 2) int64, `modes` (N,) int64 and `steps` (N, 2) float64 are on the host. A step is the distance
    of neighbouring output samples in input pixels, per axis; by default input size / output size, and 1 / factor for
    the legacy "resize by factor" (defect D2). Area ignores it. `canvas` = (H', W'), by default the largest target.
    Bilinear resampling to the same length returns the input. Differentiable.

    Raises:
        ValueError: a host tensor of another shape, dtype or device; a target below 1 or outside `canvas`; a mode or
            step out of range; see `checked_sizes`.

    Source: training specification, section 4.2.
    """
    sizes = checked_sizes(pixels, sizes)
    count = pixels.shape[0]
    checked_host("target_sizes", target_sizes, (count, 2), torch.int64)
    checked_host("modes", modes, (count,), torch.int64)
    if target_sizes.amin() < 1:
        raise ValueError(f"target_sizes: {int(target_sizes.amin())}; each must be at least 1")
    if modes.amin() < 0 or modes.amax() >= len(MODES):
        raise ValueError(f"modes: {int(modes.amin())} to {int(modes.amax())}; each indexes {MODES}")
    if steps is None:
        steps = sizes.double() / target_sizes.double()
    checked_host("steps", steps, (count, 2), torch.float64)
    if not bool((torch.isfinite(steps) & (steps > 0)).all()):
        raise ValueError("steps: each must be a positive number of input pixels per output pixel")
    largest = target_sizes.amax(0).tolist()
    height, width = canvas if canvas is not None else largest
    if height < largest[0] or width < largest[1]:
        raise ValueError(f"canvas: {(height, width)} is smaller than the largest target {tuple(largest)}")
    for axis, length in ((0, height), (1, width)):
        taps = _taps(sizes[:, axis], target_sizes[:, axis], steps[:, axis], modes, length)
        pixels = _resample_rows(pixels, *taps).transpose(2, 3)
    return pixels.contiguous()


def imresize(
    pixels: Tensor, *, scale: float | None = None, size: tuple[int, int] | None = None, antialias: bool = True
) -> Tensor:
    """(N, C, ceil(H scale), ceil(W scale)) or (N, C, *size): bicubic as MATLAB's imresize; not clamped.

    Cubic convolution with a = -0.5, widened by 1 / scale for a reduction with `antialias`, weights normalised, borders
    continued symmetrically (edge pixel repeated). Differentiable.

    Raises:
        ValueError: not exactly one of `scale` and `size`, or one not positive; see `checked_sizes`.

    Source: training specification, section 18.
    """
    sizes = checked_sizes(pixels, None)
    count, _, height, width = pixels.shape
    if (scale is None) == (size is None):
        raise ValueError("scale, size: give exactly one of them")
    if scale is not None:
        if not (math.isfinite(scale) and scale > 0):
            raise ValueError(f"scale: {scale} is not a positive number")
        plan = [(math.ceil(length * scale), scale) for length in (height, width)]
    else:
        assert size is not None
        if min(size) < 1:
            raise ValueError(f"size: {size}; each side must be at least 1")
        plan = [(target, target / length) for target, length in zip(size, (height, width), strict=True)]
    for axis, (target, ratio) in enumerate(plan):
        index, weights = _matlab_taps(int(sizes[0, axis]), target, ratio, antialias)
        pixels = _resample_rows(pixels, index.expand(count, -1, -1), weights.expand(count, -1, -1)).transpose(2, 3)
    return pixels.contiguous()


def area(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """(N, C, *size): means of the pixels that an output pixel covers, in parts too, as OpenCV's INTER_AREA.

    Where an axis becomes longer, both are resampled linearly between output cells, as there. Differentiable.
    """
    count = checked_sizes(pixels, None).shape[0]
    lengths = pixels.shape[2:]
    shrinks = all(target <= length for target, length in zip(size, lengths, strict=True))
    for length, target in zip(lengths, size, strict=True):
        index, weights = _covered(length, target) if shrinks else _between_cells(length, target)
        pixels = _resample_rows(pixels, index.expand(count, -1, -1), weights.expand(count, -1, -1)).transpose(2, 3)
    return pixels.contiguous()


def _covered(length: int, target: int) -> tuple[Tensor, Tensor]:
    """(1, target, T) input samples and float64 weights: the share of each in the cell of an output sample."""
    ratio = length / target
    start = torch.arange(target, dtype=torch.float64)[:, None] * ratio
    index = start.floor().long() + torch.arange(math.ceil(ratio) + 1)
    covered = torch.minimum(start + ratio, index + 1.0) - torch.maximum(start, index.double())
    weights = covered.clamp(min=0) / ratio
    return index.clamp(max=length - 1)[None], weights[None]


def _between_cells(length: int, target: int) -> tuple[Tensor, Tensor]:
    inverse = target / length
    place = torch.arange(target, dtype=torch.float64)
    low = (place * (1 / inverse)).floor()  # rounded as there: where cells begin together, it decides which one counts
    share = place + 1 - (low + 1) * inverse
    share = torch.where(share <= 0, 0.0, share - share.floor())
    index = torch.stack((low, low + 1), 1).long().clamp(max=length - 1)
    return index[None], torch.stack((1 - share, share), 1)[None]


def _taps(inputs: Tensor, outputs: Tensor, steps: Tensor, modes: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """For `length` output samples: which input samples (N, length, T) and their float64 weights.

    Inputs n, outputs m, steps and modes are per image, (N,). Samples beyond an image's own m repeat its last one.
    """
    last = (inputs - 1)[:, None, None]
    n, m = inputs[:, None], outputs[:, None]
    i = torch.minimum(torch.arange(length)[None], m - 1)

    # exact in float64 and then rounded once to float32: the fused multiply-add of torch's kernels
    step32 = steps.float().double()[:, None]
    u = (step32 * (i + 0.5) - 0.5).float().double()
    line = torch.where(n == m, i.double(), u.clamp(min=0))
    floor = line.floor()
    linear_index = floor.long()[..., None] + torch.arange(4)
    fraction = line - floor
    zero = torch.zeros_like(fraction)
    linear_weights = torch.stack((1 - fraction, fraction, zero, zero), 2)

    floor = u.floor()
    cubic_index = floor.long()[..., None] + torch.arange(-1, 3)
    cubic_weights = _cubic((u - floor)[..., None] - torch.arange(-1.0, 3.0, dtype=torch.float64), -0.75)

    is_cubic = (modes == MODES.index("bicubic"))[:, None, None]
    index = torch.where(is_cubic, cubic_index, linear_index)
    weights = torch.where(is_cubic, cubic_weights, linear_weights)

    is_area = (modes == MODES.index("area"))[:, None, None]
    if bool(is_area.any()):
        start = (i * n).div(m, rounding_mode="floor")[..., None]
        stop = ((i + 1) * n + m - 1).div(m, rounding_mode="floor")[..., None]
        span = stop - start
        offset = torch.arange(max(4, int(span[is_area[:, 0, 0]].amax())))
        more = offset.numel() - 4
        index = torch.where(is_area, start + offset, torch.nn.functional.pad(index, (0, more)))
        weights = torch.where(is_area, (offset < span) / span, torch.nn.functional.pad(weights, (0, more)))
    index = torch.where(weights == 0, index[..., 1:2], index)  # an unused tap must not widen a block's window
    return torch.minimum(index.clamp(min=0), last), weights


def _matlab_taps(length: int, target: int, scale: float, antialias: bool) -> tuple[Tensor, Tensor]:
    """(1, target, T) input samples and float64 weights of one axis."""
    stretch = min(scale, 1.0) if antialias else 1.0
    u = (torch.arange(target, dtype=torch.float64) + 0.5) / scale - 0.5
    support = 4 / stretch
    index = (u - support / 2).floor().long()[:, None] + torch.arange(math.ceil(support) + 2)
    weights = _cubic((u[:, None] - index) * stretch, -0.5)
    weights = weights / weights.sum(1, keepdim=True)
    phase = index.remainder(2 * length)  # symmetric extension repeats with period 2 n
    return torch.minimum(phase, 2 * length - 1 - phase)[None], weights[None]


def _cubic(distance: Tensor, a: float) -> Tensor:
    """Cubic convolution weight at `distance` (samples).

    Source: R. Keys, "Cubic convolution interpolation for digital image processing", 1981, eq. 15 with free a.
    """
    x = distance.abs()
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = a * (((x - 5) * x + 8) * x - 4)
    return torch.where(x <= 1, near, torch.where(x < 2, far, 0.0))


def _resample_rows(pixels: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    """(N, C, M, W): output row j of image i is the sum over t of weights[i, j, t] times input row index[i, j, t].

    `index` and `weights` (N, M, T) are on the host.
    """
    count, channels, _, width = pixels.shape
    rows = index.shape[1]
    blocks = -(-rows // _BLOCK)
    fill = blocks * _BLOCK - rows
    if fill:  # the last block is filled up with copies of the last row
        index = torch.cat((index, index[:, -1:].expand(-1, fill, -1)), 1)
        weights = torch.cat((weights, weights[:, -1:].expand(-1, fill, -1)), 1)
    taps = index.shape[2]
    index = index.reshape(count, blocks, _BLOCK, taps)
    first = index.amin((2, 3))
    # The longest window of the batch decides; the zeros that it adds to another image's sums must not change their
    # rounding: hence `_TERMS`, and no remainder of 16 as a precaution.
    window = (int((index.amax((2, 3)) - first).amax()) // 16 + 1) * 16
    matrix = torch.zeros(count, blocks, _BLOCK, window, dtype=torch.float64)
    matrix.scatter_add_(3, index - first[..., None, None], weights.reshape(count, blocks, _BLOCK, taps))
    matrix = matrix.to(pixels.dtype).to(pixels.device, non_blocking=True)
    source = (first[..., None] + torch.arange(window)).clamp(max=pixels.shape[2] - 1)
    windows = take_rows(pixels, source.view(count, -1)).view(count, channels, blocks, window, width)
    matrix = matrix[:, None]
    out = torch.matmul(matrix[..., :_TERMS], windows[..., :_TERMS, :])
    for start in range(_TERMS, window, _TERMS):
        terms = slice(start, start + _TERMS)
        out = out + torch.matmul(matrix[..., terms], windows[..., terms, :])
    return out.view(count, channels, blocks * _BLOCK, width)[:, :, :rows]
