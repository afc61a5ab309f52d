"""The things that a training is made of, built from its configuration: networks, losses, optimizers, number formats.

Trap: random weights follow from the seed alone, so that all ranks, and a run that starts again, have the same ones.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn

from realesr_cli import weights
from realesr_cli.device import precision_gain
from realesr_cli.errors import ConfigError, ModelError
from realesr_cli.models.colours import keep_colours, low
from realesr_cli.models.compact import SRVGGNetCompact
from realesr_cli.models.reading import read_weights
from realesr_cli.models.rrdb import RRDBNet
from realesr_cli.models.srcnn import SRCNN
from realesr_cli.models.srresnet import SRResNet
from realesr_cli.reporting import Reporter
from realesr_train.discriminators.patch import PatchDiscriminator
from realesr_train.discriminators.unet import UNetDiscriminator
from realesr_train.discriminators.vgg import SRGANDiscriminator, VGGDiscriminator
from realesr_train.features import FeatureNetwork
from realesr_train.loss_config import PixelKind
from realesr_train.losses.perceptual import PerceptualLoss
from realesr_train.losses.pixel import charbonnier, l1, mse, mse_luma
from realesr_train.optim import learning_rate
from realesr_train.start import bilinear_start, gaussian_start, load_start
from realesr_train.steps import Adversarial, Term
from realesr_train.teacher import make_teacher
from realesr_train.train_config import TrainConfig

_CHOICES = (
    'loss.perceptual.weights = "FILE" (torchvision\'s own, or any that holds these layers), fewer '
    "loss.perceptual.layers, another loss.perceptual.backbone (vgg19, vgg16, squeezenet1_1), or "
    'loss.perceptual.backbone = "none" to train without'
)
Network = TypeVar("Network", bound=nn.Module)

_WORTHWHILE = 1.3  # how much faster a CPU must be in bf16
_PIXEL_LOSSES: dict[PixelKind, Callable[[Tensor, Tensor], Tensor]] = {
    "l1": l1, "mse": mse, "charbonnier": charbonnier, "mse_luma": mse_luma,
}  # fmt: skip
_BACKBONES = {"vgg19": "vgg19", "vgg16": "vgg16", "squeezenet1_1": "squeezenet1.1"}
"""Names of the catalogue."""
_RRDB_SHAPES = {1: (4, 2), 2: (2, 2), 4: (1, 2), 8: (1, 3)}
"""Scale -> sides of the pixels folded into channels, and doublings."""


def placed(network: Network, device: torch.device) -> Network:
    """The network itself, on the device, in the memory format that convolutions are fastest in."""
    network.to(device)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


def input_multiple(config: TrainConfig) -> int:
    """Of what the sides of the network's input must be multiples."""
    return _RRDB_SHAPES[config.scale][0] if config.model.architecture == "rrdb" else 1


def make_network(config: TrainConfig, reporter: Reporter) -> nn.Module:
    """The generator with its first weights, float32 on the CPU.

    Raises: UsageError (`start_from` is another network), ModelError.
    """
    model = config.model
    with _seeded(config.run.seed, 0):
        network = _make_network(config)
        if isinstance(network, SRVGGNetCompact) and model.init == "bilinear":
            bilinear_start(network)
        if model.init == "gaussian":
            gaussian_start(network)
    if model.start_from:
        load_start(network, model.start_from, match="shape" if model.start_partly else "all", reporter=reporter)
    return network


def _make_network(config: TrainConfig) -> nn.Module:
    model = config.model
    match model.architecture:
        case "compact":
            return SRVGGNetCompact(
                width=model.width, depth=model.depth, scale=config.scale, activation=model.activation
            )
        case "rrdb":
            unshuffle, up_steps = _RRDB_SHAPES[config.scale]
            return RRDBNet(
                width=model.width, blocks=model.blocks, growth=model.growth, unshuffle=unshuffle, up_steps=up_steps
            )
        case "srresnet":
            # towards [-1, 1], as in the paper; losses and files see [0, 1]
            return SRResNet(
                width=model.width, blocks=model.blocks, up_steps=config.scale.bit_length() - 1, signed_output=True
            )
        case "srcnn":
            return SRCNN(widths=(model.width, max(1, model.width // 2)), kernels=model.kernels, scale=config.scale)


def make_discriminator(config: TrainConfig, reporter: Reporter) -> nn.Module:
    """The discriminator with its first weights, float32 on the CPU. Raises: as `make_network`."""
    wanted, side = config.discriminator, config.data.patch_px
    with _seeded(config.run.seed, 1):
        network: nn.Module
        match wanted.kind:
            case "unet":
                network = UNetDiscriminator(width=wanted.width)
            case "vgg":
                network = VGGDiscriminator(width=wanted.width, side_px=side)
            case "srgan":
                network = SRGANDiscriminator(width=wanted.width, side_px=side, signed_input=True)
            case "patch":
                network = PatchDiscriminator(width=wanted.width)
            case "patch_spectral":
                network = PatchDiscriminator(width=wanted.width, normalisation="spectral")
    if wanted.start_from:
        load_start(network, wanted.start_from, reporter=reporter)
    return network


def make_terms(config: TrainConfig, device: torch.device, reporter: Reporter) -> tuple[Term, ...]:
    """The generator's losses but the adversarial one, their networks on `device`. Raises: ConfigError, ModelError."""
    loss = config.loss
    terms = []
    if loss.pixel.weight:
        terms.append(
            Term(name="pixel", weight=loss.pixel.weight, loss=_PIXEL_LOSSES[loss.pixel.kind], target=loss.pixel.target)
        )
    if loss.perceptual.used:
        features = placed(_features(config, reporter), device)
        compare = PerceptualLoss(
            features,
            dict(loss.perceptual.layers),
            distance=loss.perceptual.distance,
            style_weight=loss.perceptual.style_weight,
        )
        target, side = loss.perceptual.target, loss.perceptual.crop_px
        in_the_middle = (lambda a, b: compare(_middle(a, side), _middle(b, side))) if side else compare
        terms.append(Term(name="perceptual", weight=loss.perceptual.weight, loss=in_the_middle, target=target))
    if loss.distill.weight:
        distance = _PIXEL_LOSSES[loss.distill.kind]
        terms.append(Term(name="distill", weight=loss.distill.weight, loss=distance, target="teacher"))
    return tuple(terms)


def _middle(pictures: Tensor, side: int) -> Tensor:
    """(N, C, H, W) -> its middle, at most `side` high and wide."""
    top, left = (max(0, (length - side) // 2) for length in pictures.shape[2:])
    return pictures[:, :, top : top + side, left : left + side]


def _features(config: TrainConfig, reporter: Reporter) -> FeatureNetwork:
    """Raises: ConfigError naming the choices, where the weights cannot be had or do not hold the layers."""
    wanted = config.loss.perceptual
    assert wanted.backbone != "none"
    name = wanted.weights or _BACKBONES[wanted.backbone]
    try:
        return FeatureNetwork(
            wanted.backbone,
            read_weights(weights.resolve(name, reporter=reporter)).tensors,
            [layer for layer, _ in wanted.layers],
            convention=wanted.convention,
            source=name,
        )
    except ModelError as error:
        raise ConfigError(
            f"loss.perceptual: {error.message}",
            hint=_CHOICES + (f"; {error.hint}" if error.hint else ""),
        ) from error


def make_game(config: TrainConfig) -> Adversarial:
    """The adversarial loss of `[loss.adversarial]`."""
    game = config.loss.adversarial
    return Adversarial(
        weight=game.weight,
        kind=game.kind,
        target=game.target,
        relativistic=game.relativistic,
        joint=game.joint,
        real_label=game.real_label,
        fake_label=game.fake_label,
    )


def make_distiller(
    config: TrainConfig, device: torch.device, autocast: torch.dtype | None, reporter: Reporter
) -> Callable[[Tensor, Tensor], Tensor] | None:
    """`teach(lq, gt)`, the teacher's target for such pairs, if a loss pulls to it. Raises: UsageError, ModelError."""
    if "teacher" not in config.loss.targets():
        return None
    wanted = config.loss.distill
    names = [wanted.teacher, wanted.second] if wanted.second else [wanted.teacher]
    teacher = make_teacher(
        names, scale=config.scale, blend=wanted.share, device=device, autocast=autocast, reporter=reporter
    )

    def teach(lq: Tensor, gt: Tensor) -> Tensor:
        target = teacher(lq)
        return keep_colours(target, low(gt, config.scale), config.scale).clamp(0, 1) if wanted.keep_colours else target

    return teach


def rates(config: TrainConfig, step: int) -> tuple[float, float]:
    """The learning rates of generator and discriminator in `step` (1, 2, ...)."""
    schedule = config.schedule

    def rate(base: float) -> float:
        return learning_rate(
            step,
            base=base,
            schedule=schedule.kind,
            milestones=schedule.milestones,
            gamma=schedule.gamma,
            periods=(config.run.steps,),
            minimum=schedule.minimum,
            warmup=schedule.warmup,
        )

    return rate(config.optim.lr), rate(config.discriminator.lr)


def choose_precision(wanted: str, device: torch.device) -> str:
    """fp32, bf16 or fp16: what is wanted, or for "auto" the fastest that trains safely on `device`."""
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if device.type == "cpu" and precision_gain(torch.bfloat16) >= _WORTHWHILE:
        return "bf16"
    return "fp32"


@contextmanager
def _seeded(seed: int, stream: int) -> Iterator[None]:
    """torch's generator follows from the run's seed inside, and is as it was afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed((seed * 2 + stream) % 2**63)
        yield
