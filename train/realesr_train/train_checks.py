"""Whether the sections of a training configuration fit together, and in what two of them differ. Light."""

import dataclasses
from typing import Any

from realesr_cli.errors import ConfigError
from realesr_train.train_config import TrainConfig

MIN_DEGRADED_PX = 8
"""One JPEG block: no picture may be shrunk below it on its way (defect D27)."""

FREE_KEYS = frozenset(
    {
        "run.name", "run.folder", "run.device", "run.threads", "run.compile", "run.log_every", "run.max_skipped",
        "run.tensorboard",
        "data.workers", "data.prefetch", "validation.samples", "checkpoint.every", "checkpoint.keep_last",
        "checkpoint.keep_every",
    }
)  # fmt: skip
"""Keys that change nothing of what is learnt: a run may go on with others."""


def check(config: TrainConfig) -> None:
    """Whether the sections fit together.

    Raises: ConfigError naming the key, the cause and the cure.
    """
    _check_network(config)
    _check_sizes(config)
    if config.is_adversarial:
        _check_discriminator(config)
    steps, schedule = config.run.steps, config.schedule
    late = [milestone for milestone in schedule.milestones if milestone >= steps]
    if schedule.kind == "multistep" and late:
        raise ConfigError(
            f"schedule.milestones = {list(schedule.milestones)}: {late[0]} never acts in run.steps = {steps}",
            hint="a milestone acts from the step after it",
        )
    if schedule.warmup > steps:
        raise ConfigError(f"schedule.warmup = {schedule.warmup} is longer than run.steps = {steps}")
    if config.data.sharpen_target and "gt_usm" in config.loss.targets():
        raise ConfigError(
            'data.sharpen_target = true and a loss with target = "gt_usm" would sharpen twice',
            hint='say target = "gt", which is the sharpened one then',
        )
    _check_pool(config)
    if config.validation.lr_folders and not config.validation.folders:
        raise ConfigError("validation.lr_folders without validation.folders")


def _check_pool(config: TrainConfig) -> None:
    pool, batch = config.pool, config.data.batch
    if pool.reuse == 1:
        return
    if config.is_paired:
        raise ConfigError(f"pool.reuse = {pool.reuse}: pairs that exist are not kept in a pool", hint="leave it out")
    if batch % pool.reuse:
        raise ConfigError(f"data.batch = {batch} must be a multiple of pool.reuse = {pool.reuse}")
    if pool.size < batch:
        raise ConfigError(
            f"pool.reuse = {pool.reuse} needs a pool of at least one batch, {batch}; pool.size = {pool.size}",
            hint="pool.size of some hundred batches mixes well",
        )


def _check_sizes(config: TrainConfig) -> None:
    scale, data = config.scale, config.data
    sides = [("data.patch_px", data.patch_px), ("validation.crop_px", config.validation.crop_px)]
    if not config.is_paired:
        sides.append(("data.crop_px", data.crop_px))
    for name, side in sides:
        if side % scale:
            near = max(scale, round(side / scale) * scale)
            raise ConfigError(f"{name} = {side} must be a multiple of the scale {scale}", hint=f"for example {near}")
    if config.is_paired:
        return
    if data.patch_px > data.crop_px:
        raise ConfigError(f"data.patch_px = {data.patch_px} does not fit into data.crop_px = {data.crop_px}")
    if config.degradation.kind != "second_order":
        return
    for number, one in enumerate(config.degradation.passes):
        base = data.crop_px if number == 0 else data.crop_px / scale
        least = base * one.resize.down_range[0]
        if one.resize.directions.down > 0 and least < MIN_DEGRADED_PX:
            needed = MIN_DEGRADED_PX / one.resize.down_range[0] * (1 if number == 0 else scale)
            raise ConfigError(
                f"data.crop_px = {data.crop_px}: degradation.passes[{number}] shrinks it to {least:.0f} px, "
                f"below {MIN_DEGRADED_PX}",
                hint=f"take crops of at least {_multiple(needed, scale)} px, or raise resize.down_range",
            )


def _multiple(value: float, step: int) -> int:
    return -int(-value // step) * step


def _check_network(config: TrainConfig) -> None:
    if config.model.architecture == "srresnet" and config.scale not in (2, 4, 8):
        raise ConfigError(
            f'scale = {config.scale}: model.architecture = "srresnet" is for scales 2, 4 and 8',
            hint='model.architecture = "compact" is for any scale',
        )
    if config.model.architecture != "rrdb":
        return
    if config.scale not in (1, 2, 4, 8):
        raise ConfigError(
            f'scale = {config.scale}: model.architecture = "rrdb" is for scales 1, 2, 4 and 8',
            hint='model.architecture = "compact" is for any scale',
        )
    unshuffle = {1: 4, 2: 2}.get(config.scale, 1)
    for name, side in (("data.patch_px", config.data.patch_px), ("validation.crop_px", config.validation.crop_px)):
        if side // config.scale % unshuffle:
            hint = f"choose a multiple of {config.scale * unshuffle}"
            raise ConfigError(f"{name} = {side}: this network folds {unshuffle}x{unshuffle} pixels", hint=hint)


def _check_discriminator(config: TrainConfig) -> None:
    """Source: training_spec section 7 and family_spec sections 3 to 5, as discriminators/ has them."""
    kind, side = config.discriminator.kind, config.data.patch_px
    cures = {
        "unet": (side % 8 == 0, "a multiple of 8"),
        "vgg": (side in (128, 256), "128 or 256"),
        "srgan": (side % 16 == 0, "a multiple of 16"),
        "patch": (side >= 24, "at least 24"),
        "patch_spectral": (side >= 8, "at least 8"),
    }
    fits, cure = cures[kind]
    if not fits:
        raise ConfigError(
            f'data.patch_px = {side}: discriminator.kind = "{kind}" cannot judge it',
            hint=f"take {cure}, or another kind",
        )


def differences(old: Any, new: Any, where: str = "") -> list[tuple[str, Any, Any]]:
    """(key, old value, new value) of every field in which two configurations differ, `FREE_KEYS` left out."""
    found: list[tuple[str, Any, Any]] = []
    for field in dataclasses.fields(old):
        key = f"{where}.{field.name}" if where else field.name
        before, after = getattr(old, field.name), getattr(new, field.name)
        if dataclasses.is_dataclass(before):
            found += differences(before, after, key)
        elif before != after and key not in FREE_KEYS:
            found.append((key, before, after))
    return found
