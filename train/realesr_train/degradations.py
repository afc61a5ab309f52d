"""One door to all kinds of degradation: `[degradation] kind` decides which module draws, the draws which one applies.

Pools of measured kernels and noise are read once in a process.
"""

import functools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from realesr_cli.errors import ConfigError
from realesr_train.config import DegradationConfig
from realesr_train.data.measured import read_kernels, read_noise
from realesr_train.degradation import draws as second_order_draws
from realesr_train.degradation import realsr, second_order, shuffled
from realesr_train.degradation.draws import Draws
from realesr_train.degradation.realsr import Pools, RealsrDraws
from realesr_train.degradation.replay import AnyDraws
from realesr_train.degradation.shuffled import ShuffledDraws


def draw(
    config: DegradationConfig,
    *,
    scale: int,
    seed: int,
    samples: Tensor,
    height: int,
    width: int,
    crop_px: int | None = None,
) -> AnyDraws:
    """The random choices for a batch of clean pictures of `height` x `width` pixels, multiples of `scale`; see
    `degradation.draws.draw`.

    Raises: ValueError naming the argument; as `check`.
    """
    check(config, scale)
    request: dict[str, Any] = {
        "scale": scale, "seed": seed, "samples": samples, "height": height, "width": width, "crop_px": crop_px,
    }  # fmt: skip
    match config.kind:
        case "second_order":
            return second_order_draws.draw(config, **request)
        case "shuffled":
            return shuffled.draw(config, **request)
        case "bicubic":
            return realsr.draw(config, **request, pools=_pools(None, None, scale))
        case "realsr":
            return realsr.draw(config, **request, pools=_pools(config.kernels, config.noise, scale))


def apply(hr: Tensor, draws: AnyDraws) -> Tensor:
    """The degraded pictures (N, 3, H/scale, W/scale), exactly k/255, of clean ones (N, 3, H, W) float32 in [0, 1].

    Raises: ValueError naming the argument; ConfigError, UnreadableInput for pools that have gone since.
    """
    match draws:
        case Draws():
            return second_order.apply(hr, draws)
        case ShuffledDraws():
            return shuffled.apply(hr, draws)
        case RealsrDraws():
            kernels, noise = (Path(name) if name else None for name in (draws.kernels_folder, draws.noise_folder))
            return realsr.apply(hr, draws, _pools(kernels, noise, draws.scale))


def check(config: DegradationConfig, scale: int) -> None:
    """Whether pictures can be degraded so, pools included.

    Raises: ConfigError, UnreadableInput.
    """
    if config.kind == "shuffled" and scale not in (2, 4):
        raise ConfigError(f'degradation.kind = "shuffled" is for scales 2 and 4, not {scale}')
    if config.kind == "realsr":
        if config.kernels is None and config.noise is None:
            raise ConfigError(
                'degradation.kind = "realsr" needs degradation.kernels, degradation.noise, or both',
                hint='make them with `realesr data kernels` and `realesr data noise`, or say kind = "bicubic"',
            )
        _pools(config.kernels, config.noise, scale)


@functools.lru_cache(maxsize=4)
def _pools(kernels: Path | None, noise: Path | None, scale: int) -> Pools:
    return Pools(
        kernels=torch.empty(0, 1, 1) if kernels is None else read_kernels(kernels, scale),
        noise=() if noise is None else read_noise(noise),
    )
