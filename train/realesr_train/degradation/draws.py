"""Every random choice of the degradation, as plain numbers: drawn here, applied by second_order.py, kept by replay.py.

All choices of an image follow from the run's seed and the number of its sample, so that an image is degraded alike in
any batch, worker or process. Fields too large to store (noise) are made where they are used, from the same two numbers.

Traps: the numbers of streams, and of the draws within a stream, are part of every result: add at the end, change none.
`draws = "per_batch"` takes the shared choices from the first sample of the batch, and so depends on the batch.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from realesr_train.config import (
    DegradationConfig,
    DirectionWeights,
    FamilyWeights,
    FinalConfig,
    KernelConfig,
    ModeWeights,
    NoiseConfig,
    PassConfig,
    Range,
    ResizeConfig,
    ablated,
)
from realesr_train.degradation.counter import keys, uniform
from realesr_train.degradation.kernels import FAMILIES, is_any
from realesr_train.degradation.resize import MODES

Record = TypeVar("Record")

DIRECTIONS = ("up", "down", "keep")
NOISES = ("gaussian", "poisson")
SINC, IMPULSE = FAMILIES.index("sinc"), FAMILIES.index("impulse")
MIN_SIDE_PX = 8
"""No resize between goes below this side (one JPEG block), unless the image was smaller before it."""


class Stream(IntEnum):
    """One row of random numbers each. Those of pass p (from 0) are 16 p further on, up to 16 passes.

    Below 16 are those drawn once an image, from 512 on those of other kinds of degradation; what comes before the
    degradation (flips, crops of pictures) is numbered from 1000 on, by those who draw it.
    """

    FINAL_RESIZE = 1
    FINAL_SINC = 2
    FINAL_JPEG = 3
    CROP = 4
    PLAIN = 5
    BLUR = 16
    RESIZE = 17
    NOISE = 18
    JPEG = 19
    NOISE_FIELD = 20
    SHUFFLED = 512
    """Of shuffled.py, and some after it."""
    REALSR = 576


@dataclass(frozen=True, kw_only=True, slots=True)
class BlurDraw:
    """Kernels as kernels.py makes them; `impulse` is no blur at all. Unused numbers are 0."""

    family: Tensor
    """(N,) int64, place in FAMILIES."""
    size_px: Tensor
    """(N,) int64, odd."""
    sigma_x: Tensor
    """(N,) float64, pixels, like sigma_y."""
    sigma_y: Tensor
    theta: Tensor
    """(N,) float64, radians, -pi to pi."""
    beta: Tensor
    """(N,) float64."""
    omega: Tensor
    """(N,) float64, radians per pixel."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ResizeDraw:
    """What a resize makes of each image."""

    mode: Tensor
    """(N,) int64, place in MODES."""
    target: Tensor
    """(N, 2) int64: height, width."""
    direction: Tensor | None = None
    """(N,) int64, place in DIRECTIONS; None for the last resize, whose size is given."""
    factor: Tensor | None = None
    """(N,) float64."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NoiseDraw:
    """Kind and strength; the field itself follows from seed, `field` and pass."""

    kind: Tensor
    """(N,) int64, place in NOISES."""
    strength: Tensor
    """(N,) float64: standard deviation in 8-bit levels (gaussian), or factor of the noise (poisson)."""
    grey: Tensor
    """(N,) bool: the same noise in all channels."""
    field: Tensor
    """(N,) int64: whose field it is, that of the image's own sample; in `per_batch` mode grey Gaussian noise has one
    for the whole batch (defect D3), with a number below 0 that belongs to no sample."""
    poisson_levels: str
    """rule or fixed, as in the configuration."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PassDraw:
    """One degradation; `quality` (N,) float64 is None in the last pass, whose JPEG is the final one."""

    blur: BlurDraw
    resize: ResizeDraw
    noise: NoiseDraw
    quality: Tensor | None


@dataclass(frozen=True, kw_only=True, slots=True)
class FinalDraw:
    """The way to the final size."""

    resize: ResizeDraw
    sinc: BlurDraw
    quality: Tensor
    """(N,) float64."""
    jpeg_last: Tensor
    """(N,) bool: resize, sinc, JPEG; otherwise JPEG, resize, sinc."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Draws:
    """All that decides what `apply` makes of a batch; tensors are on the host, their first axis is the image."""

    samples: Tensor
    """(N,) int64, global numbers of the samples."""
    plain: Tensor
    """(N,) bool: only reduced; nothing else of what is drawn applies, but the crop."""
    passes: tuple[PassDraw, ...]
    final: FinalDraw
    crop: Tensor
    """(N, 2) int64: top, left of the crop in pixels of the result; those of the clean picture are `scale` times it."""
    seed: int
    scale: int
    height: int
    """Of the clean pictures, pixels, like width."""
    width: int
    crop_px: int | None
    """Side of the crop in the clean picture; None: no crop."""
    sharpen_input: bool
    resize_step: str
    jpeg_model: str

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: Tensor | Sequence[int] | slice) -> "Draws":
        """The draws of some of the images."""
        return select(self, index)


class Cropped(Protocol):
    """Draws of any kind, as far as a crop needs them."""

    @property
    def crop(self) -> Tensor: ...
    @property
    def crop_px(self) -> int | None: ...
    @property
    def scale(self) -> int: ...


def select(draws: Record, index: Tensor | Sequence[int] | slice) -> Record:
    """The draws of some of the images, of any kind of draws."""
    chosen = index if isinstance(index, Tensor | slice) else torch.tensor(index, dtype=torch.int64)
    selected: Record = _map(draws, lambda values: values[chosen])
    return selected


def draw(
    config: DegradationConfig,
    *,
    scale: int,
    seed: int,
    samples: Tensor,
    height: int,
    width: int,
    crop_px: int | None = None,
) -> Draws:
    """The random choices for a batch of clean pictures of `height` x `width` pixels, multiples of `scale`.

    `samples` (N,) int64 are the global numbers of the samples. An image's draws depend on seed, number, size, and, for
    `per_batch`, on the first number of the batch. `crop_px` is the side of the crop in the clean picture, a multiple
    of `scale`.

    Raises: ValueError naming the argument.
    Source: training specification, sections 2 and 5.
    """
    check_request(scale, samples, height, width, crop_px)
    config = ablated(config)
    source = _Source(seed, samples.cpu(), config.draws == "per_batch")
    clean = torch.tensor([[height, width]]).expand(len(samples), 2)
    result = clean // scale
    sizes = clean
    passes = []
    for number, one in enumerate(config.passes):
        is_last = number == len(config.passes) - 1
        base = clean if number == 0 else clean / scale
        resize = _draw_resize(one.resize, source, Stream.RESIZE + 16 * number, base, sizes)
        passes.append(_draw_pass(one, source, number, resize, is_last=is_last))
        sizes = resize.target
    return Draws(
        samples=source.samples,
        plain=source.shared(Stream.PLAIN, 1)[0] < config.plain_probability,
        passes=tuple(passes),
        final=_draw_final(config.final, source, result),
        crop=draw_crop(source.shared(Stream.CROP, 2), result, 0 if crop_px is None else crop_px // scale),
        seed=seed,
        scale=scale,
        height=height,
        width=width,
        crop_px=crop_px,
        sharpen_input=config.sharpen_input,
        resize_step=config.resize_step,
        jpeg_model=config.jpeg_model,
    )


def check_request(scale: int, samples: Tensor, height: int, width: int, crop_px: int | None) -> None:
    """Raises: ValueError naming the argument of `draw` that is impossible."""
    if samples.dtype != torch.int64 or samples.ndim != 1 or len(samples) == 0:
        raise ValueError(f"samples: {samples.dtype} {tuple(samples.shape)}; give int64 (N,), not empty")
    if scale < 1:
        raise ValueError(f"scale: {scale}; must be at least 1")
    if min(height, width) < scale or height % scale or width % scale:
        raise ValueError(f"height, width: {height}x{width}; must be multiples of the scale, {scale}")
    if crop_px is not None and not (0 < crop_px <= min(height, width) and crop_px % scale == 0):
        raise ValueError(f"crop_px: {crop_px}; must be a multiple of the scale, {scale}, and fit into {height}x{width}")


@dataclass(frozen=True, slots=True)
class _Source:
    """Uniform numbers by stream."""

    seed: int
    samples: Tensor
    per_batch: bool

    def own(self, stream: int, count: int) -> list[Tensor]:
        """`count` tensors (N,) float64 in [0, 1), different for each image."""
        return list(uniform(keys(self.seed, self.samples, stream), count).unbind(1))

    def shared(self, stream: int, count: int) -> list[Tensor]:
        """The same, but equal for the whole batch in `per_batch` mode."""
        if not self.per_batch:
            return self.own(stream, count)
        first = uniform(keys(self.seed, self.samples[:1], stream), count)
        return list(first.expand(len(self.samples), count).unbind(1))


def _draw_pass(config: PassConfig, source: _Source, number: int, resize: ResizeDraw, *, is_last: bool) -> PassDraw:
    offset = 16 * number
    quality = None if is_last else _between(source.own(Stream.JPEG + offset, 1)[0], config.jpeg.quality_range)
    return PassDraw(
        blur=_draw_blur(config.kernel, config.blur_probability, source, Stream.BLUR + offset),
        resize=resize,
        noise=_draw_noise(config.noise, source, Stream.NOISE + offset),
        quality=quality,
    )


def _draw_blur(config: KernelConfig, probability: float, source: _Source, stream: int) -> BlurDraw:
    """Source: spec section 2, steps 6 and 7; section 5, step 5."""
    # number 0 of the stream decides whether to blur: the only one that a batch may share
    _, u_size, u_sinc, u_family, u_x, u_y, u_theta, u_side, u_beta, u_omega = source.own(stream, 10)
    u_apply = source.shared(stream, 1)[0]
    size = _pick(u_size, config.sizes_px)
    family = _choose(u_family, config.families, FAMILIES[:SINC])
    family = torch.where(u_sinc < config.sinc_probability, SINC, family)
    family = torch.where(u_apply < probability, family, IMPULSE)
    generalised = is_any(family, "generalized_iso", "generalized_aniso")
    has_beta = generalised | is_any(family, "plateau_iso", "plateau_aniso")
    has_sigma = has_beta | is_any(family, "iso", "aniso")
    aniso = is_any(family, "aniso", "generalized_aniso", "plateau_aniso")
    sigma_x = _between(u_x, config.sigma_range_px)
    sigma_y = torch.where(aniso, _between(u_y, config.sigma_range_px), sigma_x)
    beta = torch.where(
        generalised,
        _beta(u_side, u_beta, config.generalized_beta_range, config.beta_sampling),
        _beta(u_side, u_beta, config.plateau_beta_range, config.beta_sampling),
    )
    omega = torch.where(
        size < 13, _between(u_omega, config.small_omega_range), _between(u_omega, config.large_omega_range)
    )
    return BlurDraw(
        family=family,
        size_px=torch.where(family == IMPULSE, 1, size),
        sigma_x=sigma_x * has_sigma,
        sigma_y=sigma_y * has_sigma,
        theta=torch.where(aniso, (2 * u_theta - 1) * torch.pi, 0.0),
        beta=beta * has_beta,
        omega=omega * (family == SINC),
    )


def _draw_resize(config: ResizeConfig, source: _Source, stream: int, base: Tensor, sizes: Tensor) -> ResizeDraw:
    """`base` (N, 2) is the size to which factors refer, `sizes` what the images have. Source: spec 5, steps 2 and 6."""
    u_direction, u_factor, u_mode = source.shared(stream, 3)
    direction = _choose(u_direction, config.directions, DIRECTIONS)
    is_up, is_kept = (direction == DIRECTIONS.index(name) for name in ("up", "keep"))
    factor = torch.where(is_up, _between(u_factor, config.up_range), _between(u_factor, config.down_range))
    factor = torch.where(is_kept, 1.0, factor)
    target = (base * factor[:, None]).floor().to(torch.int64)
    target = torch.maximum(target, sizes.clamp(max=MIN_SIDE_PX))
    return ResizeDraw(mode=_choose(u_mode, config.modes, MODES), target=target, direction=direction, factor=factor)


def _draw_noise(config: NoiseConfig, source: _Source, stream: int) -> NoiseDraw:
    """Source: spec sections 4.3 and 4.4."""
    # number 0 of the stream is the kind: the only one that a batch may share
    _, u_strength, u_grey = source.own(stream, 3)
    is_poisson = source.shared(stream, 1)[0] >= config.gaussian_probability
    sigma, scale = (_between(u_strength, limits) for limits in (config.sigma_range, config.poisson_scale_range))
    grey = u_grey < config.grey_probability
    is_shared = grey & ~is_poisson if source.per_batch else torch.zeros_like(grey)
    return NoiseDraw(
        kind=is_poisson.to(torch.int64),
        strength=torch.where(is_poisson, scale, sigma),
        grey=grey,
        field=torch.where(is_shared, -1 - source.samples[0], source.samples),
        poisson_levels=config.poisson_levels,
    )


def _draw_final(config: FinalConfig, source: _Source, target: Tensor) -> FinalDraw:
    """Source: spec section 2, step 8, and section 5, step 8."""
    u_order, u_mode = source.shared(Stream.FINAL_RESIZE, 2)
    u_sinc, u_size, u_omega = source.own(Stream.FINAL_SINC, 3)
    is_sinc = u_sinc < config.sinc_probability
    nothing = torch.zeros_like(u_sinc)
    sinc = BlurDraw(
        family=torch.where(is_sinc, SINC, IMPULSE),
        size_px=torch.where(is_sinc, _pick(u_size, config.sizes_px), 1),
        sigma_x=nothing,
        sigma_y=nothing,
        theta=nothing,
        beta=nothing,
        omega=_between(u_omega, config.omega_range) * is_sinc,
    )
    return FinalDraw(
        resize=ResizeDraw(mode=_choose(u_mode, config.modes, MODES), target=target.clone()),
        sinc=sinc,
        quality=_between(source.own(Stream.FINAL_JPEG, 1)[0], config.jpeg.quality_range),
        jpeg_last=u_order < config.jpeg_last_probability,
    )


def draw_crop(places: list[Tensor], result: Tensor, side: int) -> Tensor:
    """(N, 2) int64 corners of a crop of `side` in pictures of `result` (N, 2), from two uniform numbers (N,) in [0, 1).

    Source: spec section 5, step 10.
    """
    room = result - side + 1 if side else torch.ones_like(result)
    return (torch.stack(places, 1) * room).floor().to(torch.int64)


def _between(u: Tensor, limits: Range) -> Tensor:
    low, high = limits
    return low + (high - low) * u


def _choose(u: Tensor, weights: FamilyWeights | DirectionWeights | ModeWeights, names: tuple[str, ...]) -> Tensor:
    """(N,) int64: the place of a name in `names`, as often as the field of that name says."""
    ends = torch.tensor([getattr(weights, name) for name in names], dtype=torch.float64).cumsum(0)
    return torch.searchsorted(ends / ends[-1], u.contiguous(), right=True)


def _pick(u: Tensor, values: tuple[int, ...]) -> Tensor:
    return torch.tensor(values)[(u * len(values)).floor().to(torch.int64)]


def _beta(side: Tensor, u: Tensor, limits: Range, sampling: str) -> Tensor:
    """split: half of them below 1, half above (D17)."""
    if sampling == "uniform":
        return _between(u, limits)
    return torch.where(side < 0.5, _between(u, (limits[0], 1.0)), _between(u, (1.0, limits[1])))


def _map(record: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The record with every tensor in it changed."""
    if isinstance(record, Tensor):
        return change(record)
    if isinstance(record, tuple):
        return tuple(_map(item, change) for item in record)
    if dataclasses.is_dataclass(record) and not isinstance(record, type):
        fields = {field.name: _map(getattr(record, field.name), change) for field in dataclasses.fields(record)}
        return dataclasses.replace(record, **fields)
    return record
