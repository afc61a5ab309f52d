"""The classical degradation with what was measured: reduced by a kernel of a pool, or bicubic, plus noise of a pool.

x = (y * k) down s + n. Without pools it is the bicubic reduction that SRCNN to ESRGAN are trained on. Kernels are
correlated (not turned round) with the centre at n // 2, borders repeat the edge pixel, and rows and columns 0, s, 2s,
... are kept: so a kernel's centre of mass at n // 2 + (s - 1) / 2 is what keeps both pictures aligned.

Source: Ji et al. 2020, "Real-World Super-Resolution via Kernel Estimation and Noise Injection" (CVPR workshops); family
specification, sections 5.2 and 5.3, without the truncation to whole numbers of the published code.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from realesr_train.config import DegradationConfig
from realesr_train.degradation.canvas import reflected
from realesr_train.degradation.counter import keys, uniform
from realesr_train.degradation.draws import Stream, check_request, draw_crop, select
from realesr_train.degradation.resize import imresize
from realesr_train.degradation.second_order import check_pictures, plain_arithmetic


@dataclass(frozen=True, kw_only=True, slots=True)
class Pools:
    """Measured kernels and noise; an empty one is not used."""

    kernels: Tensor
    """(K, k, k) float32 of sum 1, k odd."""
    noise: tuple[Tensor, ...]
    """(3, h, w) uint8 each: patches of flat parts of photos."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RealsrDraws:
    """All that decides what `apply` makes of a batch; tensors are on the host, their first axis is the image."""

    samples: Tensor
    kernel: Tensor
    """(N,) int64, place in the pool; -1: bicubic."""
    noise: Tensor
    """(N,) int64, place in the pool; -1: none."""
    corner: Tensor
    """(N, 2) float64 in [0, 1): where in the patch the noise is cut out."""
    crop: Tensor
    """(N, 2) int64, as in `Draws`."""
    kernels_folder: str
    noise_folder: str
    """Where the pools are; empty: not used."""
    seed: int
    scale: int
    height: int
    width: int
    crop_px: int | None
    kind: str = "realsr"

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: Tensor | Sequence[int] | slice) -> "RealsrDraws":
        """The draws of some of the images."""
        return select(self, index)


def draw(
    config: DegradationConfig,
    *,
    scale: int,
    seed: int,
    samples: Tensor,
    height: int,
    width: int,
    crop_px: int | None = None,
    pools: Pools,
) -> RealsrDraws:
    """The random choices for a batch, as `draws.draw` makes them for the second-order model.

    Raises: ValueError naming the argument.
    """
    check_request(scale, samples, height, width, crop_px)
    samples = samples.cpu()
    u_kernel, u_noise, u_top, u_left = uniform(keys(seed, samples, Stream.REALSR), 4).unbind(1)

    def picked(u: Tensor, count: int) -> Tensor:
        return (u * count).floor().to(torch.int64) if count else torch.full_like(u, -1).to(torch.int64)

    return RealsrDraws(
        samples=samples,
        kernel=picked(u_kernel, len(pools.kernels)),
        noise=picked(u_noise, len(pools.noise)),
        corner=torch.stack((u_top, u_left), 1),
        crop=draw_crop(
            list(uniform(keys(seed, samples, Stream.CROP), 2).unbind(1)),
            torch.tensor([[height // scale, width // scale]]).expand(len(samples), 2),
            0 if crop_px is None else crop_px // scale,
        ),
        kernels_folder=str(config.kernels) if len(pools.kernels) else "",
        noise_folder=str(config.noise) if pools.noise else "",
        seed=seed,
        scale=scale,
        height=height,
        width=width,
        crop_px=crop_px,
    )


@torch.no_grad()
def apply(hr: Tensor, draws: RealsrDraws, pools: Pools) -> Tensor:
    """The degraded pictures (N, 3, H/scale, W/scale), exactly k/255, of clean ones `hr` (N, 3, H, W) float32 in [0, 1].

    Raises: ValueError naming the argument.
    """
    check_pictures(hr, len(draws), draws.height, draws.width)
    with plain_arithmetic(hr.device):
        if draws.kernels_folder:
            lr = reduce(hr, pools.kernels[draws.kernel], draws.scale)
        else:
            lr = imresize(hr, size=(draws.height // draws.scale, draws.width // draws.scale))
        if draws.noise_folder:
            height, width = lr.shape[2:]
            cut = [
                _cut(pools.noise[number], corner, height, width)
                for number, corner in zip(draws.noise.tolist(), draws.corner, strict=True)
            ]
            lr = inject(lr, torch.stack(cut).to(lr.device, non_blocking=True).float().div_(255))
        return lr.mul(255).round_().clamp_(0, 255).div_(255)


def reduce(hr: Tensor, kernels: Tensor, scale: int) -> Tensor:
    """(N, C, ceil(H/scale), ceil(W/scale)): each image correlated with its kernel (N, k, k), every `scale`-th pixel.

    Borders repeat the edge pixel once (half-sample symmetry); not clamped, not rounded.
    """
    count, channels, height, width = hr.shape
    side = kernels.shape[1]
    before, after = side // 2, side - 1 - side // 2
    rows, columns = (_symmetric(length, before, after).to(hr.device) for length in (height, width))
    padded = hr[:, :, rows][:, :, :, columns].reshape(1, count * channels, len(rows), len(columns))
    weight = kernels.to(hr).repeat_interleave(channels, 0)[:, None]
    out = F.conv2d(padded, weight, stride=scale, groups=count * channels)
    return out.view(count, channels, *out.shape[2:])


def inject(lr: Tensor, patches: Tensor) -> Tensor:
    """`lr` plus `patches` (N, C, h, w) without their mean of each channel, in [0, 1]."""
    return (lr + patches - patches.mean((2, 3), keepdim=True)).clamp(0, 1)


def _symmetric(length: int, before: int, after: int) -> Tensor:
    """Places -before ... length + after - 1 of an axis, mirrored between its edge pixel and what is beyond."""
    phase = torch.arange(-before, length + after).remainder(2 * length)
    return torch.minimum(phase, 2 * length - 1 - phase)


def _cut(patch: Tensor, corner: Tensor, height: int, width: int) -> Tensor:
    """(3, height, width) of the patch; one that is too small is mirrored."""
    for axis, (length, place) in enumerate(zip((height, width), corner.tolist(), strict=True), 1):
        room = patch.shape[axis] - length
        if room >= 0:
            patch = patch.narrow(axis, int(place * (room + 1)), length)
        else:
            patch = patch.index_select(axis, reflected(torch.tensor([patch.shape[axis]]), length, 0)[0])
    return patch
