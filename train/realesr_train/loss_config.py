"""The section `[loss]` of a training configuration, as frozen records. Light: only the standard library."""

from dataclasses import dataclass
from typing import Literal

from realesr_cli.errors import ConfigError
from realesr_train.limits import check_limits

Target = Literal["gt", "gt_usm", "teacher"]
PixelKind = Literal["l1", "mse", "charbonnier", "mse_luma"]

REAL_ESRGAN_LAYERS = (("conv1_2", 0.1), ("conv2_2", 0.1), ("conv3_4", 1.0), ("conv4_4", 1.0), ("conv5_4", 1.0))


@dataclass(frozen=True, kw_only=True, slots=True)
class PixelLossConfig:
    """Difference of the pixels."""

    weight: float = 1.0
    """0: not used."""
    kind: PixelKind = "l1"
    """l1: absolute; mse: squared; charbonnier: absolute, smooth at 0; mse_luma: squared, of luma alone."""
    target: Target = "gt"
    """gt: the clean picture; gt_usm: the same, sharpened; teacher: the output of `[loss.distill]`'s network."""

    def __post_init__(self) -> None:
        check_limits(self, weight=(0, 1e6))


@dataclass(frozen=True, kw_only=True, slots=True)
class PerceptualLossConfig:
    """Difference of the features of an ImageNet network."""

    weight: float = 0.0
    """0: not used."""
    backbone: Literal["vgg19", "vgg16", "squeezenet1_1", "none"] = "vgg19"
    """none: not used, whatever the weight."""
    weights: str = ""
    """A file, or a name of the catalogue; empty: the backbone's own, fetched once."""
    convention: Literal["torchvision", "oxford"] = "torchvision"
    """What the weights expect as input; oxford: the original VGG files, whose features are hundreds of times larger."""
    layers: tuple[tuple[str, float], ...] = REAL_ESRGAN_LAYERS
    """Pairs of a layer and its weight; conv3_4 is before the activation, relu3_4 after it; fire2 ... in SqueezeNet."""
    distance: Literal["l1", "mse"] = "l1"
    """Between features: absolute or squared."""
    style_weight: float = 0.0
    """Weight of the Gram matrices beside the features; 0: not used."""
    target: Target = "gt"
    """As that of the pixel loss."""
    crop_px: int = 0
    """Side of the middle of the patch that is compared, for this loss is the dearest on a CPU; 0: all of it."""

    def __post_init__(self) -> None:
        check_limits(self, weight=(0, 1e6), style_weight=(0, 1e9), crop_px=(0, 4096))
        if not self.layers:
            raise ConfigError("layers = [] leaves nothing to compare", hint='say backbone = "none"')

    @property
    def used(self) -> bool:
        return self.weight > 0 and self.backbone != "none"


@dataclass(frozen=True, kw_only=True, slots=True)
class AdversarialLossConfig:
    """The game against the discriminator."""

    weight: float = 0.0
    """For the generator; 0: no discriminator at all."""
    kind: Literal["vanilla", "lsgan", "wgan", "wgan_softplus", "hinge"] = "vanilla"
    """vanilla: cross entropy of the logits, as in Real-ESRGAN."""
    target: Target = "gt"
    """What the discriminator sees as real."""
    relativistic: bool = False
    """Relativistic average, as in ESRGAN."""
    joint: bool = False
    """Real and fake through the discriminator in one pass: 9 % faster, not quite the same numbers."""
    real_label: float | None = None
    """Smoothed label of real pictures, for example 0.9; default: 1."""
    fake_label: float | None = None
    """Smoothed label of the generator's pictures; default: 0."""
    generator_every: int = 1
    """The generator is updated in every n-th step only."""
    generator_after: int = 0
    """Steps at the beginning in which only the discriminator learns."""

    def __post_init__(self) -> None:
        check_limits(self, weight=(0, 1e6), generator_every=(1, 10**6), generator_after=(0, 10**9))
        if self.relativistic and (self.real_label, self.fake_label) != (None, None):
            raise ConfigError("relativistic losses take no real_label or fake_label", hint="leave them out")


@dataclass(frozen=True, kw_only=True, slots=True)
class DistillLossConfig:
    """Difference to the output of another, larger network."""

    weight: float = 0.0
    """0: not used; the teacher's output can still be the target of another loss."""
    kind: PixelKind = "l1"
    """As that of the pixel loss."""
    teacher: str = ""
    """A file, or a name of `realesr models list`; of the same scale."""
    second: str = ""
    """Another training of the same network, to blend with the teacher."""
    share: float = 0.5
    """Share of `teacher` in the blend."""
    keep_colours: bool = False
    """The low frequencies of the teacher's output are replaced by those of the clean picture, so that its drift in
    colour is not learnt."""

    def __post_init__(self) -> None:
        check_limits(self, weight=(0, 1e6), share=(0, 1))
        if (self.weight > 0 or self.second) and not self.teacher:
            raise ConfigError("teacher is missing", hint="name a model or a file, or say weight = 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class LossConfig:
    """What the generator minimises: the sum of these, each times its weight."""

    pixel: PixelLossConfig = PixelLossConfig()
    perceptual: PerceptualLossConfig = PerceptualLossConfig()
    adversarial: AdversarialLossConfig = AdversarialLossConfig()
    distill: DistillLossConfig = DistillLossConfig()

    def __post_init__(self) -> None:
        if not (self.pixel.weight or self.perceptual.used or self.adversarial.weight or self.distill.weight):
            raise ConfigError("all losses have the weight 0: nothing would be learnt")
        if not self.distill.teacher:
            for name in ("pixel", "perceptual", "adversarial"):
                if getattr(self, name).target == "teacher":
                    raise ConfigError(f'{name}.target = "teacher" needs distill.teacher')

    def targets(self) -> set[str]:
        """The targets that some loss in use pulls to."""
        used = (self.pixel.weight > 0, self.perceptual.used, self.adversarial.weight > 0)
        named = zip(used, (self.pixel.target, self.perceptual.target, self.adversarial.target), strict=True)
        return {target for on, target in named if on} | ({"teacher"} if self.distill.weight else set())
