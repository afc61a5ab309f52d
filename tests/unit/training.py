"""Small training runs for the tests: pictures, configurations, and the log that a run leaves."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from realesr_train import launch
from realesr_train.recipes import load_stages
from realesr_train.run_log import read_log
from realesr_train.train_config import TrainConfig
from recording import Events

TINY = """
scale = 2
[run]
seed = 3
steps = 12
log_every = 1
precision = "fp32"
threads = 1
[model]
architecture = "compact"
width = 8
depth = 1
init = "bilinear"
[data]
crop_px = 64
patch_px = 32
batch = 4
workers = 1
[pool]
size = 10
[optim]
lr = 1e-3
[ema]
decay = 0.9
[validation]
every = 6
held_out = 1
crop_px = 64
samples = 1
[checkpoint]
every = 5
"""

GAN = """
[loss.pixel]
target = "gt_usm"
[loss.adversarial]
weight = 0.1
[discriminator]
width = 4
"""


def write_photos(folder: Path, count: int = 12, height: int = 96, width: int = 112) -> Path:
    """Smooth pictures with sharp edges in them, all different."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        rng = np.random.default_rng(number)
        pixels = cv2.resize(rng.random((6, 7, 3)), (width, height), interpolation=cv2.INTER_CUBIC)
        for _ in range(6):
            x, y = (int(value) for value in rng.integers(0, (width, height)))
            cv2.circle(pixels, (x, y), int(rng.integers(4, 20)), rng.random(3).tolist(), -1)
        assert cv2.imwrite(str(folder / f"photo{number:02}.png"), (pixels.clip(0, 1) * 255).round().astype(np.uint8))
    return folder


def write_config(folder: Path, *parts: str) -> Path:
    path = folder / "run.toml"
    path.write_text("\n".join(parts), encoding="utf-8")
    return path


def configs(folder: Path, *parts: str, overrides: Sequence[str] = ()) -> tuple[TrainConfig, ...]:
    """The stages of a run on the pictures of `folder`/photos, written to `folder`/run."""
    photos, run = folder / "photos", folder / "run"
    places = [f'data.folders=["{photos}"]', f'run.folder="{run}"']
    return load_stages(write_config(folder, *(parts or (TINY,))), [*places, *overrides])


def train(stages: Sequence[TrainConfig], events: Events | None = None, **options: Any) -> launch.Result:
    before = torch.get_num_threads()
    try:
        return launch.train(stages, events or Events(), **options)
    finally:
        torch.set_num_threads(before)


def columns(folder: Path, name: str = "loss.") -> dict[str, dict[int, float]]:
    """The columns of a run's log whose names begin so, as step -> value."""
    log = read_log(folder / "log.csv")
    return {key: dict(zip(one.steps, one.values, strict=True)) for key, one in log.items() if key.startswith(name)}


FAMILY = (
    "bsrgan_x4", "bsrnet_x4", "esrgan_psnr_x4", "esrgan_x4", "realsr_dped_x4", "realsr_x4", "srcnn_x4", "srgan_x4",
    "srresnet_x4",
)  # fmt: skip
"""Recipes of the systems before and beside Real-ESRGAN, which test_family_recipes.py trains at tiny sizes."""
