"""All that decides a training run, as frozen records: one for each section of the TOML file, checked as they are made.

Light: only the standard library. recipes.py makes them of files, recipes and overrides; the degradation's records are
in config.py; whether sections fit together, train_checks.py knows. Steps count updates of the weights and begin at 1.
A size in pixels is one of the clean picture, unless it says otherwise. 0 switches a number off, so that an override can
switch everything off.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from realesr_cli.errors import ConfigError
from realesr_train.config import DegradationConfig
from realesr_train.limits import check_limits, check_scale, check_seed
from realesr_train.loss_config import LossConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """The run as a whole."""

    name: str = "run"
    """Name of the run and of the model that comes of it."""
    folder: Path | None = None
    """Where everything is written; default: runs/NAME. `-o` on the command line replaces it."""
    seed: int = 0
    """Every random number follows from it and the number of the sample or step; 0 to 2^63 - 1."""
    steps: int = 400_000
    """Updates of the weights; exactly so many are run."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N, mps or xpu."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Of the networks; weights, losses and averages are always fp32. auto: bf16 where it is fast, else fp32."""
    threads: int = 0
    """CPU threads of each process; 0: one for each core."""
    compile: bool = False
    """Let torch.compile translate the generator: it takes minutes at the start."""
    log_every: int = 100
    """Steps from one line of the log to the next; the device is waited for only then."""
    tensorboard: bool = False
    """Write the log for TensorBoard as well, into the folder `tensorboard` (extra `train`)."""
    max_skipped: int = 100
    """So many steps in a row without a finite gradient end the run with status 7."""

    def __post_init__(self) -> None:
        check_seed(self.seed)
        check_limits(self, steps=(1, 10**9), threads=(0, 4096), log_every=(1, 10**6), max_skipped=(1, 10**6))
        if not self.name.strip(" .") or not self.name.isprintable() or set(self.name) & set("/\\:"):
            raise ConfigError(f"name = {self.name!r} must be a name, not a path", hint="use folder for the place")


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """The network that is trained, the generator."""

    architecture: Literal["compact", "rrdb", "srresnet", "srcnn"] = "rrdb"
    """compact: SRVGGNetCompact, small and fast; rrdb: RRDBNet, the large network of ESRGAN and Real-ESRGAN; srresnet:
    of SRResNet and SRGAN, with batch normalisation, scales 2, 4 and 8; srcnn: three convolutions on luma."""
    width: int = 64
    """Channels of the features, 4 to 512."""
    depth: int = 32
    """Only compact: convolutions between the first and the last one, 1 to 256."""
    blocks: int = 23
    """Only rrdb and srresnet: residual blocks, 1 to 128."""
    growth: int = 32
    """Only rrdb: channels that a convolution adds inside a dense block, 4 to 256."""
    activation: Literal["prelu", "relu", "leakyrelu"] = "prelu"
    """Only compact."""
    kernels: tuple[int, int, int] = (9, 5, 5)
    """Only srcnn: sides of its convolutions, odd; the second one gives half of `width` channels."""
    init: Literal["default", "bilinear", "gaussian"] = "default"
    """bilinear, only compact: starts as a bilinear enlargement, without which it learns next to nothing at first;
    gaussian, only srcnn: standard deviation 0.001 and no bias, as in its paper. Dense blocks of rrdb always start at
    a tenth of He's weights."""
    start_from: str = ""
    """Weights to begin with: a file, or a name of `realesr models list`; empty: random ones."""
    start_partly: bool = False
    """Tensors of `start_from` that do not fit stay random, instead of being an error (x2 from x4)."""

    def __post_init__(self) -> None:
        check_limits(self, width=(4, 512), depth=(1, 256), blocks=(1, 128), growth=(4, 256))
        owner = {"bilinear": "compact", "gaussian": "srcnn"}.get(self.init, self.architecture)
        if owner != self.architecture:
            raise ConfigError(f'init = "{self.init}" is for architecture = "{owner}" only', hint='say init = "default"')
        if any(not 1 <= side <= 31 or side % 2 == 0 for side in self.kernels):
            raise ConfigError(f"kernels = {list(self.kernels)} must be odd numbers from 1 to 31")


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """The pictures and how they become batches."""

    folders: tuple[Path, ...] = ()
    """Folders of clean pictures, list files, or packed files of `realesr data prepare`."""
    lr_folders: tuple[Path, ...] = ()
    """Existing low-resolution pictures, one for each clean one and of its name: no degradation then, and no pool."""
    paired: bool = False
    """Without `lr_folders`: `folders` are lists with lines "clean, low-resolution", used as those would be."""
    crop_px: int = 400
    """Side of the clean crop that is degraded, pixels; not used for pairs."""
    patch_px: int = 256
    """Side of the target that is trained on, pixels, cut out of the crop after it has been degraded."""
    batch: int = 48
    """Pictures of one update, over all devices."""
    accumulate: int = 1
    """Parts in which a device takes its share of the batch one after the other, to save memory."""
    workers: int = 4
    """Threads that read pictures for each device."""
    prefetch: int = 4
    """Steps whose pictures are read ahead, 1 to 64."""
    flips: bool = True
    """Mirror half of the crops left to right."""
    rotations: bool = False
    """Turn crops by multiples of 90 degrees."""
    sharpen_target: bool = False
    """Sharpen the target before it is cut out, as in stage 1 of Real-ESRGAN; `target = "gt"` then means this."""
    sharpen: bool = True
    """false: no target is sharpened, whatever `sharpen_target` and `target = "gt_usm"` say: Real-ESRGAN without "+"."""

    def __post_init__(self) -> None:
        check_limits(
            self,
            crop_px=(16, 4096),
            patch_px=(8, 4096),
            batch=(1, 65536),
            accumulate=(1, 4096),
            workers=(1, 256),
            prefetch=(1, 64),
        )
        if self.batch % self.accumulate:
            raise ConfigError(f"batch = {self.batch} must be a multiple of accumulate = {self.accumulate}")


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolConfig:
    """The store of past pairs, which mixes the pictures of many batches."""

    size: int = 180
    """Pairs; 0: none."""
    reuse: int = 1
    """How often a pair is trained on before a new one takes its place. Above 1 only every n-th pair is degraded, and
    seen by a teacher: on a CPU that is most of the work."""

    def __post_init__(self) -> None:
        check_limits(self, size=(0, 10**6), reuse=(1, 1000))


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimConfig:
    """How gradients become new weights; the discriminator has a rate of its own."""

    name: Literal["adam", "adamw", "sgd"] = "adam"
    """adamw: the weight decay is apart from the gradient; sgd: the first of `betas` is its momentum."""
    lr: float = 1e-4
    """Learning rate of the generator, before the schedule."""
    last_share: float = 1.0
    """Share of `lr` that the generator's last layer learns with; 0.1 in SRCNN."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Decay of the averages of the gradient and of its square, for both networks."""
    weight_decay: float = 0.0
    """Pull of the weights towards 0, for both networks."""
    clip_norm: float = 0.0
    """Gradients with a larger norm are scaled down to it; 0: never."""

    def __post_init__(self) -> None:
        check_limits(self, lr=(1e-12, 10), last_share=(1e-6, 1), weight_decay=(0, 10), clip_norm=(0, 1e9))
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError(f"betas = {list(self.betas)} must be from 0 to below 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class ScheduleConfig:
    """How the learning rates change with the step; both follow the same curve."""

    kind: Literal["constant", "multistep", "cosine"] = "constant"
    """multistep: falls at milestones; cosine: falls along half a cosine from the first to the last step."""
    milestones: tuple[int, ...] = ()
    """multistep: steps after which the rate is multiplied by `gamma`."""
    gamma: float = 0.5
    """multistep: factor at each milestone."""
    minimum: float = 1e-7
    """cosine: rate at the end."""
    warmup: int = 0
    """Steps over which the rate rises from 0; 0: at once."""

    def __post_init__(self) -> None:
        check_limits(self, gamma=(0, 1), minimum=(0, 10), warmup=(0, 10**9))
        if self.kind == "multistep" and not self.milestones:
            raise ConfigError("milestones = [] leaves multistep without a step", hint='say kind = "constant"')
        if list(self.milestones) != sorted(self.milestones) or any(milestone < 1 for milestone in self.milestones):
            raise ConfigError(f"milestones = {list(self.milestones)} must be rising steps from 1 on")


@dataclass(frozen=True, kw_only=True, slots=True)
class DiscriminatorConfig:
    """The network that tells real pictures from the generator's; only with `loss.adversarial.weight` above 0."""

    kind: Literal["unet", "vgg", "patch", "patch_spectral", "srgan"] = "unet"
    """unet: of Real-ESRGAN; vgg: of ESRGAN; patch: of RealSR; patch_spectral: of BSRGAN; srgan: of SRGAN."""
    width: int = 64
    """Channels of the first layer, 2 to 512."""
    lr: float = 1e-4
    """Learning rate, before the schedule."""
    start_from: str = ""
    """Weights to begin with: a file, or a name of the catalogue; empty: random ones."""

    def __post_init__(self) -> None:
        check_limits(self, width=(2, 512), lr=(1e-12, 10))


@dataclass(frozen=True, kw_only=True, slots=True)
class EmaConfig:
    """The moving average of the weights, which is validated and exported."""

    decay: float = 0.999
    """Share of the old average that each step keeps; 0: the weights themselves."""

    def __post_init__(self) -> None:
        check_limits(self, decay=(0, 0.9999999))


@dataclass(frozen=True, kw_only=True, slots=True)
class ValidationConfig:
    """Pictures that are never trained on, degraded once with a seed of their own, and measured now and then."""

    every: int = 5000
    """Steps from one validation to the next; 0: none."""
    folders: tuple[Path, ...] = ()
    """Clean pictures, or lists of pairs as in `data`; none: `held_out` pictures are taken out of the training set."""
    lr_folders: tuple[Path, ...] = ()
    """Their low-resolution pictures; none: they are degraded as in training."""
    held_out: int = 8
    """Pictures kept back from training, at most a tenth of them; 0: none, and no validation without `folders`."""
    crop_px: int = 512
    """Side of the middle of each picture that is measured, pixels; a multiple of the scale."""
    samples: int = 4
    """Pictures on the sample sheet of each validation; 0: no sheet."""
    seed: int = 0
    """Of the degradation."""

    def __post_init__(self) -> None:
        check_seed(self.seed)
        check_limits(self, every=(0, 10**9), held_out=(0, 10**4), crop_px=(16, 8192), samples=(0, 64))


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointConfig:
    """What is kept on disk so that the run can go on after anything."""

    every: int = 5000
    """Steps from one checkpoint to the next; there is always one at the end and after Ctrl-C."""
    keep_last: int = 3
    """The newest ones that are kept; from 2 on, a damaged one costs little."""
    keep_every: int = 0
    """Checkpoints at multiples of so many steps are kept for ever; 0: none."""

    def __post_init__(self) -> None:
        check_limits(self, every=(1, 10**9), keep_last=(1, 10**6), keep_every=(0, 10**9))


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """All that decides a training run. `train_checks.check` tells whether they fit together."""

    scale: int = 4
    """Enlargement of the network, 1 to 8."""
    run: RunConfig = RunConfig()
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    degradation: DegradationConfig = field(default_factory=DegradationConfig)
    pool: PoolConfig = PoolConfig()
    optim: OptimConfig = OptimConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    loss: LossConfig = field(default_factory=LossConfig)
    discriminator: DiscriminatorConfig = DiscriminatorConfig()
    ema: EmaConfig = EmaConfig()
    validation: ValidationConfig = ValidationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()

    def __post_init__(self) -> None:
        check_scale(self.scale)

    @property
    def is_paired(self) -> bool:
        """Whether the low-resolution pictures exist already."""
        return self.data.paired or bool(self.data.lr_folders)

    @property
    def has_pool(self) -> bool:
        return self.pool.size > 0 and not self.is_paired

    @property
    def new_per_step(self) -> int:
        """Pictures that are read and degraded for one update, over all devices."""
        return self.data.batch // (self.pool.reuse if self.has_pool else 1)

    @property
    def is_adversarial(self) -> bool:
        return self.loss.adversarial.weight > 0
