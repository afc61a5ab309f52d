"""The shuffled degradation of BSRGAN: two blurs, two reductions, noise and JPEG in random order, and a last JPEG.

Draws are separate from what they do, as in draws.py and second_order.py. Orders differ from image to image, so images
go through one by one. Left out, because nobody has released it: the model of a camera's processing (probability 0.25).

Traps: `l1` and `l2` of anisotropic blurs are variances, not standard deviations; the noise with correlated colours has
the largest strength always, and the absolute values of its covariance, as published.

Source: Zhang et al. 2021, "Designing a Practical Degradation Model for Deep Blind Image Super-Resolution"
(arXiv:2103.14006), in the form of its code; family specification, section 7.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from realesr_train.config import DegradationConfig
from realesr_train.degradation import filters, jpeg
from realesr_train.degradation.canvas import pad
from realesr_train.degradation.counter import keys, normal_field, uniform
from realesr_train.degradation.draws import (
    IMPULSE,
    MIN_SIDE_PX,
    BlurDraw,
    Stream,
    check_request,
    draw_crop,
    select,
)
from realesr_train.degradation.kernels import FAMILIES, blur_kernels
from realesr_train.degradation.resize import area, imresize, resize
from realesr_train.degradation.second_order import Hook, check_pictures, plain_arithmetic

OPERATIONS = ("blur1", "blur2", "reduce1", "reduce2", "noise", "jpeg")
"""Their numbers in `order`; `reduce2`, to the final size, always comes after `reduce1`."""
FILTERS = ("bilinear", "bicubic", "area", "matlab")
COLOURS = ("colour", "grey", "correlated")
_WIDTH_PX = 25
_HALVING, _REDUCING, _COMPRESSING = 0.25, 0.75, 0.9  # probabilities
_CORRELATED_LEVEL = 25
_QUALITIES = (30, 95)


@dataclass(frozen=True, kw_only=True, slots=True)
class Reduction:
    """One on the way: by a filter to 1 / `factor`, or by a shifted Gaussian and every sf-th pixel."""

    resized: Tensor
    """(N,) bool."""
    factor: Tensor
    """(N,) float64."""
    filter: Tensor
    """(N,) int64, place in FILTERS."""
    sigma: Tensor
    """(N,) float64, pixels, of the shifted Gaussian."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ShuffledDraws:
    """All that decides what `apply` makes of a batch; tensors are on the host, their first axis is the image."""

    samples: Tensor
    halved: Tensor
    """(N,) bool: to half the size before all else, and then as for scale 2."""
    halving: Tensor
    """(N,) int64, place in FILTERS."""
    order: Tensor
    """(N, 6) int64, places in OPERATIONS."""
    blurs: tuple[BlurDraw, ...]
    reduction: Reduction
    last_filter: Tensor
    """(N,) int64, place in FILTERS: of the reduction to the final size."""
    colour: Tensor
    """(N,) int64, place in COLOURS."""
    mixing: Tensor
    """(N, 3, 3) float64: what independent standard normal numbers of three channels are multiplied with."""
    compressed: Tensor
    """(N,) bool: whether JPEG is among the shuffled operations."""
    quality: Tensor
    """(N,) float64, of that; whole numbers."""
    last_quality: Tensor
    """(N,) float64, of the JPEG at the end."""
    crop: Tensor
    """(N, 2) int64, as in `Draws`."""
    seed: int
    scale: int
    height: int
    width: int
    crop_px: int | None
    kind: str = "shuffled"

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: Tensor | Sequence[int] | slice) -> "ShuffledDraws":
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
) -> ShuffledDraws:
    """The random choices for a batch, as `draws.draw` makes them for the second-order model; `scale` is 2 or 4.

    Raises: ValueError naming the argument.
    """
    check_request(scale, samples, height, width, crop_px)
    samples = samples.cpu()

    def numbers(stream: int, count: int) -> list[Tensor]:
        return list(uniform(keys(seed, samples, Stream.SHUFFLED + stream), count).unbind(1))

    u_halved, u_matlab, u_filter = numbers(0, 3)
    halved = (u_halved < _HALVING) & (scale == 4)
    halving = torch.where(u_matlab < 0.5, _whole(u_filter, 0, 2), FILTERS.index("matlab"))
    sf = torch.where(halved, 2.0, float(scale)).double()
    order = torch.stack(numbers(1, len(OPERATIONS)), 1).argsort(1)
    u_resized, u_factor, u_down, u_sigma, u_last = numbers(4, 5)
    u_level, u_colour, *u_covariance = numbers(5, 14)
    u_compressed, u_quality, u_last_quality = numbers(6, 3)
    colour = torch.where(u_colour > 0.6, 0, torch.where(u_colour < 0.4, 1, 2))
    return ShuffledDraws(
        samples=samples,
        halved=halved,
        halving=halving,
        order=in_sequence(order),
        blurs=tuple(_draw_blur(numbers(stream, 6), sf) for stream in (2, 3)),
        reduction=Reduction(
            resized=u_resized < _REDUCING,
            factor=1 + (2 * sf - 1) * u_factor,
            filter=_whole(u_down, 0, 2),
            sigma=0.1 + (0.6 * sf - 0.1) * u_sigma,
        ),
        last_filter=_whole(u_last, 0, 2),
        colour=colour,
        mixing=_mixing(colour, _whole(u_level, 2, 25), torch.stack(u_covariance, 1)),
        compressed=u_compressed < _COMPRESSING,
        quality=_whole(u_quality, *_QUALITIES).double(),
        last_quality=_whole(u_last_quality, *_QUALITIES).double(),
        crop=draw_crop(
            list(uniform(keys(seed, samples, Stream.CROP), 2).unbind(1)),
            torch.tensor([[height // scale, width // scale]]).expand(len(samples), 2),
            0 if crop_px is None else crop_px // scale,
        ),
        seed=seed,
        scale=scale,
        height=height,
        width=width,
        crop_px=crop_px,
    )


def in_sequence(order: Tensor) -> Tensor:
    """(N, 6) with the two reductions exchanged where the second came first."""
    first, second = ((order == OPERATIONS.index(name)).int().argmax(1) for name in ("reduce1", "reduce2"))
    wrong = (second < first).nonzero()[:, 0]
    order = order.clone()
    order[wrong, first[wrong]], order[wrong, second[wrong]] = (
        order[wrong, second[wrong]],
        order[wrong, first[wrong]],
    )
    return order


def covariance(spread: Tensor, random: Tensor) -> Tensor:
    """(N, 3, 3) absolute covariance of correlated noise, in squares of the range [0, 1].

    `spread` (N, 3) and `random` (N, 3, 3) are uniform in [0, 1].
    """
    basis = torch.linalg.svd(random).U
    result: Tensor = (_CORRELATED_LEVEL / 255) ** 2 * basis.mT @ torch.diag_embed(spread) @ basis
    return result.abs()


def _mixing(colour: Tensor, level: Tensor, u: Tensor) -> Tensor:
    strength = (level / 255).double()[:, None, None]
    values, vectors = torch.linalg.eigh(covariance(u[:, :3], u[:, 3:].reshape(-1, 3, 3)))
    correlated = vectors * values.clamp(min=0).sqrt()[:, None]
    grey = torch.tensor([1.0, 0, 0], dtype=torch.float64).expand(3, 3)
    kind = colour[:, None, None]
    eye = torch.eye(3, dtype=torch.float64)
    return torch.where(kind == 0, strength * eye, torch.where(kind == 1, strength * grey, correlated))


def _draw_blur(u: list[Tensor], sf: Tensor) -> BlurDraw:
    u_kind, u_size, u_angle, u_1, u_2, u_sigma = u
    aniso = u_kind < 0.5
    sigma = (u_sigma * (2 + 0.2 * sf)).clamp(min=0.05)
    # published variances begin at 0, where the matrix cannot be inverted
    axes = [torch.where(aniso, (one * (4 + sf)).clamp(min=0.05).sqrt(), sigma) for one in (u_1, u_2)]
    nothing = torch.zeros_like(sigma)
    return BlurDraw(
        family=torch.where(aniso, FAMILIES.index("aniso"), FAMILIES.index("iso")),
        size_px=2 * _whole(u_size, 2, 11) + 3,
        sigma_x=axes[0],
        sigma_y=axes[1],
        theta=torch.where(aniso, u_angle * math.pi, nothing),
        beta=nothing,
        omega=nothing,
    )


def _whole(u: Tensor, low: int, high: int) -> Tensor:
    """Whole numbers from `low` to `high`, each as often."""
    return low + (u * (high - low + 1)).floor().to(torch.int64)


@torch.no_grad()
def apply(
    hr: Tensor, draws: ShuffledDraws, *, given: Mapping[str, Tensor] | None = None, on_step: Hook | None = None
) -> Tensor:
    """The degraded pictures (N, 3, H/scale, W/scale), exactly k/255, of clean ones `hr` (N, 3, H, W) float32 in [0, 1].

    `on_step` sees each step by its name: `half`, OPERATIONS, `last_jpeg`. `given["noise"]` (N, 3, h, w) is added in
    place of the noise that would be made.

    Raises: ValueError naming the argument.
    """
    check_pictures(hr, len(draws), draws.height, draws.width)
    with plain_arithmetic(hr.device):
        return torch.cat([_apply_one(hr[i : i + 1], draws[[i]], i, given or {}, on_step) for i in range(len(draws))])


def _apply_one(
    picture: Tensor, draws: ShuffledDraws, place: int, given: Mapping[str, Tensor], on_step: Hook | None
) -> Tensor:
    """`draws` are those of the one picture (1, 3, H, W); `place` is its place in the batch."""

    def shown(step: str, pixels: Tensor) -> Tensor:
        if on_step is not None:
            on_step(step, {place: pixels[0]})
        return pixels

    sf = draws.scale
    final = (draws.height // sf, draws.width // sf)
    if bool(draws.halved):
        half = (picture.shape[2] // 2, picture.shape[3] // 2)
        picture = shown("half", _resized(picture, half, int(draws.halving)).clamp(0, 1))
        sf //= 2

    def noise(x: Tensor) -> Tensor:
        if "noise" in given:
            field = given["noise"][place : place + 1]
        else:
            key = keys(draws.seed, draws.samples, Stream.SHUFFLED + 7)
            field = normal_field(key, x.shape[2], x.shape[3], 3, x.device)
            field = torch.einsum("nij,njhw->nihw", draws.mixing.to(x), field)
        return (x + field).clamp(0, 1)

    steps: dict[str, Callable[[Tensor], Tensor]] = {
        "blur1": lambda x: _blurred(x, draws.blurs[0]),
        "blur2": lambda x: _blurred(x, draws.blurs[1]),
        "reduce1": lambda x: _reduced(x, draws.reduction, sf),
        "reduce2": lambda x: _resized(x, final, int(draws.last_filter)).clamp(0, 1),
        "noise": noise,
        "jpeg": lambda x: jpeg.jpeg(x, draws.quality) if bool(draws.compressed) else x,
    }
    for number in draws.order[0].tolist():
        name = OPERATIONS[number]
        picture = shown(name, steps[name](picture))
    picture = shown("last_jpeg", jpeg.jpeg(picture, draws.last_quality))
    return picture.mul(255).round_().clamp_(0, 255).div_(255)


def _blurred(x: Tensor, draw: BlurDraw) -> Tensor:
    if int(draw.family) == IMPULSE:
        return x
    numbers = {name: getattr(draw, name) for name in ("family", "sigma_x", "sigma_y", "theta", "beta", "omega")}
    return filters.blur(x, blur_kernels(size=draw.size_px, width=_WIDTH_PX, **numbers))


def _reduced(x: Tensor, draw: Reduction, sf: int) -> Tensor:
    if bool(draw.resized):
        # a reduction by 8 may leave nothing of a small picture
        height, width = (max(int(1 / float(draw.factor) * side), min(side, MIN_SIDE_PX)) for side in x.shape[2:])
        return _resized(x, (height, width), int(draw.filter)).clamp(0, 1)
    kernel = shifted_gaussian(float(draw.sigma), sf)
    padded = pad(x, torch.tensor([x.shape[2:]]), _WIDTH_PX // 2)
    # a convolution turns the kernel round
    weight = kernel.flip(0, 1).to(x)[None, None].expand(x.shape[1], 1, -1, -1)
    return F.conv2d(padded, weight, stride=sf, groups=x.shape[1]).clamp(0, 1)


def shifted_gaussian(sigma: float, sf: int) -> Tensor:
    """(25, 25) float64 Gaussian resampled (sf - 1) / 2 pixels further on: its convolution, of which every `sf`-th pixel
    is taken, lies in the middle of each block of sf x sf.
    """
    offset = torch.arange(_WIDTH_PX, dtype=torch.float64) - _WIDTH_PX // 2
    weights = torch.exp(-(offset[:, None] ** 2 + offset**2) / (2 * sigma**2))
    weights = torch.where(weights < torch.finfo(torch.float64).eps * weights.max(), 0.0, weights)
    weights = weights / weights.sum()
    place = (torch.arange(_WIDTH_PX, dtype=torch.float64) + (sf - 1) / 2).clamp(max=_WIDTH_PX - 1)
    low = place.floor().long()
    high, share = (low + 1).clamp(max=_WIDTH_PX - 1), place - place.floor()
    rows = weights[low] * (1 - share)[:, None] + weights[high] * share[:, None]
    moved = rows[:, low] * (1 - share) + rows[:, high] * share
    return moved / moved.sum()


def _resized(x: Tensor, size: tuple[int, int], number: int) -> Tensor:
    name = FILTERS[number]
    if name == "matlab":
        return imresize(x, size=size)
    if name == "area":
        return area(x, size)
    return resize(x, torch.tensor([size]), torch.tensor([("area", *FILTERS[:2]).index(name)]))
