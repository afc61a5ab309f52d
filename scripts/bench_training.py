"""Training steps in images/s, beside a plain loop of the same mathematics, and where the time of a step goes.

    python scripts/bench_training.py [--network compact rrdb] [--batch 2] [--patch 128] [--rounds 3] [--threads 1]
                                     [--device cpu] [--json]

"realesr" is what `realesr train` runs: channels_last, bf16 (fp16 on CUDA) where it is faster, fused Adam, no value read
from the device in a step. "plain" is the loop that one writes first: float32, NCHW, torch's default Adam, the moving
average parameter by parameter, features of the target with their graph, `.item()` of every loss in each step. Both have
the published sizes: compact 64 x 32 or RRDB 64 x 23, U-Net discriminator 64, VGG19 at five layers (random weights: the
time is the same). They alternate in one process; ratios are medians of the rounds' ratios. The parts of a stage-2 step
are timed apart: crops read from JPEG files of 0.7 megapixels (data), pairs made of them by the degradation pipeline,
stage 1 (the generator alone), and what the discriminator and then the VGG add. A run reads and degrades in threads
beside the network: shares are of the work, not of the time that a step waits.
"""

import argparse
import copy
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from realesr_cli.device import precision_gain
from realesr_cli.models.compact import SRVGGNetCompact
from realesr_cli.models.rrdb import RRDBNet
from realesr_train.data.source import Crops, open_pictures
from realesr_train.discriminators.unet import UNetDiscriminator
from realesr_train.ema import Ema
from realesr_train.features import FeatureNetwork
from realesr_train.feed import make_pairs
from realesr_train.losses.perceptual import REAL_ESRGAN_LAYERS, PerceptualLoss
from realesr_train.losses.pixel import l1
from realesr_train.optim import make_optimizer
from realesr_train.recipes import find_recipe, load_stages
from realesr_train.steps import Adversarial, Batch, Term, Update, gan_step, pixel_step

_GROUPS = ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4))
"""Width and number of convolutions between two poolings of VGG19."""


def vgg19_tensors() -> dict[str, Tensor]:
    """Random weights under torchvision's names, scaled so that features neither vanish nor grow."""
    tensors, number, channels = {}, 0, 3
    for width, count in _GROUPS:
        for _ in range(count):
            tensors[f"features.{number}.weight"] = torch.randn(width, channels, 3, 3) * (2 / (9 * channels)) ** 0.5
            tensors[f"features.{number}.bias"] = torch.zeros(width)
            number, channels = number + 2, width
        number += 1
    return tensors


def make_generator(name: str) -> nn.Module:
    return SRVGGNetCompact(width=64, depth=32, scale=4) if name == "compact" else RRDBNet()


class Plain:
    """float32, NCHW, everything as a first version has it."""

    def __init__(self, generator: nn.Module, discriminator: nn.Module, features: FeatureNetwork) -> None:
        self.g, self.d, self.features = generator, discriminator, features
        self.average = copy.deepcopy(generator)
        self.g_adam = torch.optim.Adam(generator.parameters(), 1e-4, betas=(0.9, 0.99))
        self.d_adam = torch.optim.Adam(discriminator.parameters(), 1e-4, betas=(0.9, 0.99))

    def stage_1(self, batch: Batch) -> None:
        self.g_adam.zero_grad()
        loss = F.l1_loss(self.g(batch.lq), batch.gt)
        loss.backward()
        self.g_adam.step()
        self.log = [loss.item()]
        self._average()

    def stage_2(self, batch: Batch) -> None:
        for parameter in self.d.parameters():
            parameter.requires_grad = False
        self.g_adam.zero_grad()
        output = self.g(batch.lq)
        pixel = F.l1_loss(output, batch.gt_usm)
        made, wanted = self.features(output), self.features(batch.gt_usm)
        perceptual = sum(
            weight * F.l1_loss(made[name], wanted[name].detach()) for name, weight in REAL_ESRGAN_LAYERS.items()
        )
        logits = self.d(output)
        adversarial = 0.1 * F.binary_cross_entropy_with_logits(logits, torch.ones_like(logits))
        (pixel + perceptual + adversarial).backward()
        self.g_adam.step()
        for parameter in self.d.parameters():
            parameter.requires_grad = True
        self.d_adam.zero_grad()
        logits = self.d(batch.gt)
        real = F.binary_cross_entropy_with_logits(logits, torch.ones_like(logits))
        real.backward()
        logits = self.d(output.detach())
        fake = F.binary_cross_entropy_with_logits(logits, torch.zeros_like(logits))
        fake.backward()
        self.d_adam.step()
        self.log = [loss.item() for loss in (pixel, perceptual, adversarial, real, fake)]
        self._average()

    def _average(self) -> None:
        with torch.no_grad():
            for mean, value in zip(self.average.parameters(), self.g.parameters(), strict=True):
                mean.mul_(0.999).add_(value, alpha=0.001)


class Ours:
    """The parts that realesr's trainer puts together."""

    def __init__(
        self, generator: nn.Module, discriminator: nn.Module, features: FeatureNetwork, autocast: torch.dtype | None
    ) -> None:
        self.g, self.d = (x.to(memory_format=torch.channels_last) for x in (generator, discriminator))  # type: ignore[call-overload]
        features.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.autocast, self.ema = autocast, Ema(self.g, 0.999)
        scaler = torch.amp.GradScaler() if autocast == torch.float16 else None
        self.g_update, self.d_update = (
            Update(optimizer=make_optimizer(x.parameters(), learning_rate=1e-4), scaler=scaler)
            for x in (self.g, self.d)
        )
        self.pixel = Term(name="pixel", weight=1.0, loss=l1, target="gt_usm")
        self.perceptual = Term(
            name="perceptual", weight=1.0, loss=PerceptualLoss(features, REAL_ESRGAN_LAYERS), target="gt_usm"
        )

    def stage_1(self, batch: Batch) -> None:
        pixel_step(self.g, [batch], [self.pixel], self.g_update, ema=self.ema, autocast=self.autocast)

    def without_vgg(self, batch: Batch) -> None:
        self._stage_2(batch, [self.pixel])

    def stage_2(self, batch: Batch) -> None:
        self._stage_2(batch, [self.pixel, self.perceptual])

    def _stage_2(self, batch: Batch, terms: list[Term]) -> None:
        gan_step(
            self.g,
            self.d,
            [batch],
            terms,
            Adversarial(),
            self.g_update,
            self.d_update,
            ema=self.ema,
            autocast=self.autocast,
        )


def write_photos(folder: Path, count: int = 8) -> None:
    """JPEG files of 960x720 pixels with some detail everywhere."""
    for number in range(count):
        rng = np.random.default_rng(number)
        pixels = cv2.resize(rng.random((90, 120, 3)), (960, 720), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / f"{number}.jpg"), (pixels.clip(0, 1) * 255).astype(np.uint8))


def bench(name: str, photos: Crops, arguments: argparse.Namespace) -> dict[str, Any]:
    torch.manual_seed(0)
    device = torch.device(arguments.device)
    low = torch.float16 if device.type == "cuda" else torch.bfloat16
    autocast = low if device.type == "cuda" or precision_gain(low) > 1.3 else None
    sets = ["data.crop_px=400", f"data.patch_px={arguments.patch}", f"data.batch={arguments.batch}"]
    config = load_stages(find_recipe("compact_x4"), sets)[0]
    smooth = F.interpolate(torch.rand(arguments.batch, 3, 60, 60), size=(400, 400), mode="bicubic").clamp(0, 1)
    pictures = {"hr": smooth.mul(255).byte(), "samples": torch.arange(arguments.batch)}
    lq, gt = make_pairs(config, pictures, device)
    batch = Batch(lq=lq, gt=gt, gt_usm=gt)
    plain, ours = (
        maker(
            *(
                copy.deepcopy(network).to(device)
                for network in (
                    make_generator(name),
                    UNetDiscriminator(),
                    FeatureNetwork("vgg19", vgg19_tensors(), REAL_ESRGAN_LAYERS),
                )
            ),
            *extra,
        )
        for maker, extra in ((Plain, ()), (Ours, (autocast,)))
    )
    samples = itertools.count()
    paths: dict[str, Callable[[], Any]] = {
        "data": lambda: [photos.item(0, next(samples)) for _ in range(arguments.batch)],
        "degradation": lambda: make_pairs(config, pictures, device),
        "plain stage 1": lambda: plain.stage_1(batch),
        "realesr stage 1": lambda: ours.stage_1(batch),
        "plain stage 2": lambda: plain.stage_2(batch),
        "realesr stage 2": lambda: ours.stage_2(batch),
        "realesr stage 2 without VGG": lambda: ours.without_vgg(batch),
    }
    seconds: dict[str, list[float]] = {}
    for index in range(arguments.rounds + 1):
        for path, run in paths.items():
            if device.type == "cuda":
                torch.cuda.synchronize()
            started = time.perf_counter()
            run()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if index > 0:  # the first round compiles kernels and makes the optimisers' state
                seconds.setdefault(path, []).append(time.perf_counter() - started)
    median = {path: statistics.median(took) for path, took in seconds.items()}
    whole = median["realesr stage 2"] + median["degradation"] + median["data"]
    return {
        "network": name,
        "precision": str(autocast or torch.float32).removeprefix("torch."),
        "images_per_s": {path: arguments.batch / took for path, took in median.items()},
        "stage_1_ratio": statistics.median(
            a / b for a, b in zip(seconds["plain stage 1"], seconds["realesr stage 1"], strict=True)
        ),
        "stage_2_ratio": statistics.median(
            a / b for a, b in zip(seconds["plain stage 2"], seconds["realesr stage 2"], strict=True)
        ),
        "share": {
            "data": median["data"] / whole,
            "degradation": median["degradation"] / whole,
            "generator": median["realesr stage 1"] / whole,
            "discriminator": (median["realesr stage 2 without VGG"] - median["realesr stage 1"]) / whole,
            "VGG": (median["realesr stage 2"] - median["realesr stage 2 without VGG"]) / whole,
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", nargs="+", choices=("compact", "rrdb"), default=["compact", "rrdb"])
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--patch", type=int, default=128, help="side of the target in pixels; published: 256")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        write_photos(Path(folder))
        photos = open_pictures([Path(folder)], crop_px=400)
        rows = [bench(name, photos, arguments) for name in arguments.network]
    if arguments.json:
        print(json.dumps({"threads": torch.get_num_threads(), "torch": torch.__version__, "rows": rows}))
        return
    for row in rows:
        print(f"{row['network']} ({row['precision']}), batch {arguments.batch}, patch {arguments.patch}:")
        for path, rate in row["images_per_s"].items():
            print(f"    {path:28} {rate:8.3f} images/s")
        print(
            "    realesr over plain: {stage_1_ratio:.2f}x in stage 1, {stage_2_ratio:.2f}x in stage 2".format_map(row)
        )
        print(
            "    share of a stage-2 step: " + ", ".join(f"{part} {share:.0%}" for part, share in row["share"].items())
        )


if __name__ == "__main__":
    main()
