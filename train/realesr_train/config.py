"""How pictures are degraded: the section `[degradation]` of a training configuration, as frozen records.

An impossible value is a `ConfigError` that names the key and the cure. Light: only the standard library, so that a file
can be checked before torch is loaded.
"""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from realesr_cli.errors import ConfigError

Range = tuple[float, float]
"""[low, high], both ends included."""

_SUM_TOLERANCE = 1e-6
_ODD_SIZES_PX = (7, 9, 11, 13, 15, 17, 19, 21)


def _check_range(name: str, value: Range, low: float, high: float) -> None:
    start, end = value
    if not low <= start <= end <= high:  # also refuses NaN
        raise ConfigError(f"{name} = [{start:g}, {end:g}] must be two rising numbers from {low:g} to {high:g}")


def _check_probability(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ConfigError(f"{name} = {value:g} must be a probability from 0 to 1")


def _check_weights(record: Any) -> None:
    """Fields of the record are the probabilities of its names."""
    weights = dataclasses.asdict(record)
    for name, value in weights.items():
        _check_probability(name, value)
    total = math.fsum(weights.values())
    if abs(total - 1) > _SUM_TOLERANCE:
        named = ", ".join(f"{name} {value:g}" for name, value in weights.items())
        raise ConfigError(f"probabilities sum to {total:g}, not 1: {named}", hint="give all of them, 0 where unused")


def _check_sizes(name: str, sizes: tuple[int, ...]) -> None:
    bad = [size for size in sizes if not 1 <= size <= 21 or size % 2 == 0]
    if not sizes or bad:
        raise ConfigError(f"{name} = {list(sizes)} must be odd numbers from 1 to 21, at least one")


@dataclass(frozen=True, kw_only=True, slots=True)
class FamilyWeights:
    """How often each family of blur kernels is drawn where it is no sinc; the sum is 1. Source: spec section 2."""

    iso: float = 0.45
    aniso: float = 0.25
    generalized_iso: float = 0.12
    generalized_aniso: float = 0.03
    plateau_iso: float = 0.12
    plateau_aniso: float = 0.03

    def __post_init__(self) -> None:
        _check_weights(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class KernelConfig:
    """How a blur kernel is drawn. Source: spec section 2, steps 6 and 7."""

    families: FamilyWeights = FamilyWeights()
    sinc_probability: float = 0.1
    """Probability of a circular low-pass instead of one of the families."""
    sizes_px: tuple[int, ...] = _ODD_SIZES_PX
    """Kernel sides, each as probable; odd, up to 21."""
    sigma_range_px: Range = (0.2, 3.0)
    """Standard deviation along each axis, pixels, above 0."""
    generalized_beta_range: Range = (0.5, 4.0)
    """Shape of generalised Gaussians: 1 is the Gaussian, above is boxier."""
    plateau_beta_range: Range = (1.0, 2.0)
    """Shape of plateau kernels."""
    beta_sampling: Literal["split", "uniform"] = "split"
    """split: half of the betas below 1, half above, as the published code; uniform: as the paper (D17)."""
    small_omega_range: Range = (math.pi / 3, math.pi)
    """Cutoff of sinc kernels below 13 pixels, radians per pixel, up to pi."""
    large_omega_range: Range = (math.pi / 5, math.pi)
    """Cutoff of sinc kernels from 13 pixels on, radians per pixel, up to pi."""

    def __post_init__(self) -> None:
        _check_probability("sinc_probability", self.sinc_probability)
        _check_sizes("sizes_px", self.sizes_px)
        _check_range("sigma_range_px", self.sigma_range_px, 0.01, 100)
        for name in ("generalized_beta_range", "plateau_beta_range"):
            low, high = getattr(self, name)
            _check_range(name, (low, high), 0.01, 100)
            if self.beta_sampling == "split" and not low <= 1 <= high:
                raise ConfigError(f'{name} = [{low:g}, {high:g}] must hold 1 where beta_sampling is "split"')
        _check_range("small_omega_range", self.small_omega_range, 0.01, math.pi)
        _check_range("large_omega_range", self.large_omega_range, 0.01, math.pi)


@dataclass(frozen=True, kw_only=True, slots=True)
class DirectionWeights:
    """How often a resize enlarges, shrinks or keeps the size; the sum is 1."""

    up: float = 0.2
    down: float = 0.7
    keep: float = 0.1

    def __post_init__(self) -> None:
        _check_weights(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class ModeWeights:
    """How often each interpolation is drawn; the sum is 1."""

    area: float = 1 / 3
    bilinear: float = 1 / 3
    bicubic: float = 1 / 3

    def __post_init__(self) -> None:
        _check_weights(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class ResizeConfig:
    """How a resize is drawn. Source: spec section 5, steps 2 and 6."""

    directions: DirectionWeights = DirectionWeights()
    up_range: Range = (1.0, 1.5)
    """Factor of an enlargement, 1 to 8."""
    down_range: Range = (0.15, 1.0)
    """Factor of a reduction, 0.01 to 1."""
    modes: ModeWeights = ModeWeights()

    def __post_init__(self) -> None:
        _check_range("up_range", self.up_range, 1, 8)
        _check_range("down_range", self.down_range, 0.01, 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class NoiseConfig:
    """How noise is drawn: Gaussian, or else Poisson. Source: spec sections 4.3, 4.4 and 5, steps 3 and 7."""

    gaussian_probability: float = 0.5
    sigma_range: Range = (1.0, 30.0)
    """Standard deviation of Gaussian noise in 8-bit levels, 0 to 255."""
    poisson_scale_range: Range = (0.05, 3.0)
    """Factor of Poisson noise, 0 to 100."""
    grey_probability: float = 0.4
    """Probability of the same noise in all three channels."""
    poisson_levels: Literal["rule", "fixed"] = "rule"
    """rule: photons follow from the number of levels in the picture, as published; fixed: 256 always (D5)."""

    def __post_init__(self) -> None:
        _check_probability("gaussian_probability", self.gaussian_probability)
        _check_range("sigma_range", self.sigma_range, 0, 255)
        _check_range("poisson_scale_range", self.poisson_scale_range, 0, 100)
        _check_probability("grey_probability", self.grey_probability)


@dataclass(frozen=True, kw_only=True, slots=True)
class JpegConfig:
    """How JPEG compression is drawn. Source: spec section 4.5."""

    quality_range: Range = (30.0, 95.0)
    """Quality, 1 to 100."""

    def __post_init__(self) -> None:
        _check_range("quality_range", self.quality_range, 1, 100)


@dataclass(frozen=True, kw_only=True, slots=True)
class PassConfig:
    """One degradation: blur, resize, noise, JPEG. The defaults are those of the first published pass.

    The JPEG of the last pass is not used: `FinalConfig.jpeg` takes its place, exchanged at random with the sinc filter.
    """

    blur_probability: float = 1.0
    kernel: KernelConfig = KernelConfig()
    resize: ResizeConfig = ResizeConfig()
    noise: NoiseConfig = NoiseConfig()
    jpeg: JpegConfig = JpegConfig()

    def __post_init__(self) -> None:
        _check_probability("blur_probability", self.blur_probability)


FIRST_PASS = PassConfig()
SECOND_PASS = PassConfig(
    blur_probability=0.8,
    kernel=KernelConfig(sigma_range_px=(0.2, 1.5)),
    resize=ResizeConfig(
        directions=DirectionWeights(up=0.3, down=0.4, keep=0.3), up_range=(1.0, 1.2), down_range=(0.3, 1.0)
    ),
    noise=NoiseConfig(sigma_range=(1.0, 25.0), poisson_scale_range=(0.05, 2.5)),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class FinalConfig:
    """How the way to the final size is drawn: resize, sinc filter, and JPEG before or after both. Source: spec 5, 8."""

    sinc_probability: float = 0.8
    sizes_px: tuple[int, ...] = _ODD_SIZES_PX
    """Sides of the sinc kernel, each as probable; odd, up to 21."""
    omega_range: Range = (math.pi / 3, math.pi)
    """Cutoff of the sinc kernel, radians per pixel, up to pi."""
    modes: ModeWeights = ModeWeights()
    jpeg: JpegConfig = JpegConfig()
    jpeg_last_probability: float = 0.5
    """Probability of resize, sinc, JPEG; otherwise JPEG, resize, sinc."""

    def __post_init__(self) -> None:
        _check_probability("sinc_probability", self.sinc_probability)
        _check_sizes("sizes_px", self.sizes_px)
        _check_range("omega_range", self.omega_range, 0.01, math.pi)
        _check_probability("jpeg_last_probability", self.jpeg_last_probability)


@dataclass(frozen=True, kw_only=True, slots=True)
class DegradationConfig:
    """From a clean crop to the network's input: passes, then the final part. The ranges are those of every scale."""

    kind: Literal["second_order", "shuffled", "bicubic", "realsr"] = "second_order"
    """second_order: of Real-ESRGAN, all keys below but the last two; shuffled: of BSRGAN, scales 2 and 4; bicubic: only
    reduced, as by MATLAB; realsr: reduced by a kernel of `kernels`, or bicubic, with noise of `noise`."""
    kernels: Path | None = None
    """Only realsr: folder of `realesr data kernels`, made for this scale; none: bicubic."""
    noise: Path | None = None
    """Only realsr: folder of `realesr data noise`; none: no noise."""
    order: int = 0
    """So many of the passes, from the first on: 1 is the first-order ablation; 0: all."""
    sinc: bool = True
    """false: no sinc filter anywhere, whatever the probabilities say: the ablation without ringing."""
    plain_probability: float = 0.0
    """Probability that a picture is only reduced, by antialiased bicubic interpolation as in benchmarks of
    super-resolution: no pass and nothing else."""
    sharpen_input: bool = True
    """Unsharp-mask the clean picture before the first pass."""
    passes: tuple[PassConfig, ...] = (FIRST_PASS, SECOND_PASS)
    """Two passes are the second-order model, one is the classical one. A pass in a file starts from the first one's
    values. Resize factors of the first pass refer to the clean size, those of later passes to the final size."""
    final: FinalConfig = FinalConfig()
    draws: Literal["per_image", "per_batch"] = "per_image"
    """per_batch shares in a batch what the published code shares: resizes, kind of noise, second blur, final order and
    crop (D1), and the field of grey Gaussian noise (D3). A batch is that of one device, as published: another number of
    devices, which otherwise changes nothing, gives other pictures."""
    resize_step: Literal["size", "factor"] = "size"
    """factor: the first resize steps by 1 / factor, as published, which shifts the far edge (D2)."""
    jpeg_model: Literal["libjpeg", "legacy"] = "libjpeg"
    """libjpeg: within a level of the real codec; legacy: the published simulator (D7 to D9)."""

    def __post_init__(self) -> None:
        _check_probability("plain_probability", self.plain_probability)
        if not 1 <= len(self.passes) <= 16:
            raise ConfigError(f"passes: {len(self.passes)} of them; there must be 1 to 16")
        if not 0 <= self.order <= len(self.passes):
            raise ConfigError(f"order = {self.order} must be from 0 to the number of passes, {len(self.passes)}")
        jpegs = [*(one.jpeg for one in self.passes), self.final.jpeg]
        if self.jpeg_model == "legacy" and any(one.quality_range[1] >= 100 for one in jpegs):
            raise ConfigError('quality_range: 100 divides by zero where jpeg_model is "legacy"', hint="end it at 99")


def ablated(config: DegradationConfig) -> DegradationConfig:
    """The same in its passes and probabilities, as its switches `order` and `sinc` say."""
    passes, final = config.passes[: config.order or None], config.final
    if not config.sinc:
        final = dataclasses.replace(final, sinc_probability=0.0)
        plain = [dataclasses.replace(one.kernel, sinc_probability=0.0) for one in passes]
        passes = tuple(dataclasses.replace(one, kernel=kernel) for one, kernel in zip(passes, plain, strict=True))
    return dataclasses.replace(config, passes=passes, final=final)


def with_order(config: DegradationConfig, order: int) -> DegradationConfig:
    """The same with `order` passes: the first ones, and the last one repeated where there are not enough."""
    if not 1 <= order <= 16:
        raise ConfigError(f"order {order} must be from 1 to 16")
    passes = config.passes[:order] + config.passes[-1:] * (order - len(config.passes))
    return dataclasses.replace(config, passes=passes, order=0)


def legacy(config: DegradationConfig) -> DegradationConfig:
    """The same as the published code does it, with its defects D1 to D3 and D7 to D9."""
    return dataclasses.replace(config, draws="per_batch", resize_step="factor", jpeg_model="legacy")
