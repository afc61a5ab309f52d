"""Time of a batch of degradations, operator by operator and whole, beside a plain transcription of the dense formulas.

The transcription does what the published code does: 51x51 sharpening kernels applied directly, one JPEG table and one
`unique` for each image in a loop, one draw of sizes for the batch. Both run in turn, in one process; the figures are
medians of wall time and of processor time.

    python scripts/bench_degradation.py --threads 1 --rounds 9
"""

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from realesr_train.config import DegradationConfig
from realesr_train.degradation import filters, jpeg, noise, resize
from realesr_train.degradation.counter import keys, normal_field, uniform_field
from realesr_train.degradation.draws import draw
from realesr_train.degradation.second_order import apply, paired_crop

MODES = ("area", "bilinear", "bicubic")
COUNT, SIDE, CROP, SCALE = 12, 400, 256, 4


def pictures() -> Tensor:
    """(12, 3, 400, 400) with edges, texture and all 256 levels."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(COUNT, 3, 25, 25, generator=generator)
    picture = F.interpolate(coarse, (SIDE, SIDE), mode="bicubic")
    picture += 0.04 * torch.randn(COUNT, 3, SIDE, SIDE, generator=generator)
    return ((picture.clamp(0, 1) * 255).round() / 255).contiguous()


# --- the dense formulas ---


def dense_filter(x: Tensor, kernel: Tensor) -> Tensor:
    n, c, h, w = x.shape
    size = kernel.shape[-1]
    x = F.pad(x, (size // 2,) * 4, mode="reflect")
    if len(kernel) == 1:
        return F.conv2d(x.reshape(n * c, 1, *x.shape[2:]), kernel[:, None]).view(n, c, h, w)
    weight = kernel[:, None].repeat(1, c, 1, 1).view(n * c, 1, size, size)
    return F.conv2d(x.reshape(1, n * c, *x.shape[2:]), weight, groups=n * c).view(n, c, h, w)


def dense_usm(x: Tensor) -> Tensor:
    line = torch.exp(-(torch.arange(-25.0, 26.0) ** 2) / 128)
    kernel = (line[:, None] * line / line.sum() ** 2)[None]
    rest = x - dense_filter(x, kernel)
    soft = dense_filter((rest.abs() * 255 > 10).float(), kernel)
    return soft * (x + 0.5 * rest).clamp(0, 1) + (1 - soft) * x


def dense_gaussian(x: Tensor, sigma: Tensor, grey: Tensor) -> Tensor:
    n, _, h, w = x.shape
    sigma, grey = sigma.view(-1, 1, 1, 1) / 255, grey.view(-1, 1, 1, 1).float()
    field = torch.randn(n, 3, h, w) * sigma
    if grey.sum() > 0:
        field = field * (1 - grey) + torch.randn(h, w) * sigma * grey
    return (x + field).clamp(0, 1)


def dense_poisson(x: Tensor, scale: Tensor, grey: Tensor) -> Tensor:
    def noise_of(image: Tensor) -> Tensor:
        image = (image * 255).round().clamp(0, 255) / 255
        levels = [2 ** math.ceil(math.log2(len(torch.unique(one)))) for one in image]
        peaks = torch.tensor(levels).view(-1, 1, 1, 1).float()
        return torch.poisson(image * peaks) / peaks - image

    grey = grey.view(-1, 1, 1, 1).float()
    field = torch.zeros_like(x)
    if grey.sum() > 0:
        luma = (x * torch.tensor([0.2989, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True)
        field = noise_of(luma).expand_as(x) * grey
    field = noise_of(x) * (1 - grey) + field
    return (x + scale.view(-1, 1, 1, 1) * field).clamp(0, 1)


_TO_YCC = torch.tensor([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
_TO_RGB = torch.tensor([[1, 0, 1.402], [1, -0.344136, -0.714136], [1, 1.772, 0]])
_ANGLES = (2 * torch.arange(8.0)[:, None] + 1) * torch.arange(8.0) * math.pi / 16
_COSINES = _ANGLES.cos() / 2 * torch.tensor([0.5**0.5] + [1.0] * 7)
_BASIS = torch.einsum("xu,yv->xyuv", _COSINES, _COSINES)


def dense_jpeg(x: Tensor, quality: Tensor) -> Tensor:
    n, _, h, w = x.shape
    x = F.pad(x, (0, -w % 16, 0, -h % 16)) * 255
    ycc = torch.tensordot(x.permute(0, 2, 3, 1), _TO_YCC.T, dims=1).permute(0, 3, 1, 2)
    planes = [ycc[:, :1], F.avg_pool2d(ycc[:, 1:2] + 128, 2), F.avg_pool2d(ycc[:, 2:] + 128, 2)]
    coded = []
    for number, plane in enumerate(planes):
        table = torch.tensor(jpeg._CHROMINANCE if number else jpeg._LUMINANCE).float()
        height, width = plane.shape[2:]
        blocks = plane.view(n, height // 8, 8, width // 8, 8).permute(0, 1, 3, 2, 4).reshape(n, -1, 8, 8) - 128
        coefficients = torch.tensordot(blocks, _BASIS, dims=2)
        for i in range(n):  # one table for each image
            q = float(quality[i])
            own = table * (50 / q if q < 50 else 2 - q / 50)
            coefficients[i] = (coefficients[i] / own).round() * own
        blocks = torch.tensordot(coefficients, _BASIS.permute(2, 3, 0, 1), dims=2) + 128
        blocks = blocks.view(n, height // 8, width // 8, 8, 8).permute(0, 1, 3, 2, 4)
        coded.append(blocks.reshape(n, 1, height, width))
    chroma = [plane.repeat_interleave(2, 2).repeat_interleave(2, 3) - 128 for plane in coded[1:]]
    ycc = torch.cat((coded[0], *chroma), 1)
    rgb = torch.tensordot(ycc.permute(0, 2, 3, 1), _TO_RGB.T, dims=1).permute(0, 3, 1, 2)
    return rgb.clamp(0, 255)[:, :, :h, :w] / 255


def dense_batch(hr: Tensor, round_: int) -> Tensor:
    """The published chain: resizes, kinds and crop drawn once for the batch."""
    samples = torch.arange(COUNT) + COUNT * round_
    draws = draw(
        DegradationConfig(draws="per_batch"),
        scale=SCALE,
        seed=1,
        samples=samples,
        height=SIDE,
        width=SIDE,
        crop_px=CROP,
    )
    x = dense_usm(hr)
    for number, one in enumerate(draws.passes):
        if number == 0 or (one.blur.family != 7).any():
            x = dense_filter(x, _kernels(one.blur))
        x = F.interpolate(x, tuple(one.resize.target[0].tolist()), mode=MODES[int(one.resize.mode[0])])
        add = dense_poisson if one.noise.kind[0] else dense_gaussian
        x = add(x, one.noise.strength.float(), one.noise.grey)
        if one.quality is not None:
            x = dense_jpeg(x.clamp(0, 1), one.quality)
    final = draws.final
    if not final.jpeg_last[0]:
        x = dense_jpeg(x.clamp(0, 1), final.quality)
    x = F.interpolate(x, (SIDE // SCALE,) * 2, mode=MODES[int(final.resize.mode[0])])
    x = dense_filter(x, _kernels(final.sinc))
    if final.jpeg_last[0]:
        x = dense_jpeg(x.clamp(0, 1), final.quality)
    lq = (x * 255).round().clamp(0, 255) / 255
    top, left = draws.crop[0].tolist()
    side = CROP // SCALE
    gt = hr[:, :, top * SCALE : top * SCALE + CROP, left * SCALE : left * SCALE + CROP]
    dense_usm(gt)
    return lq[:, :, top : top + side, left : left + side]


def _kernels(blur: Any) -> Tensor:
    from realesr_train.degradation.kernels import blur_kernels

    return blur_kernels(
        family=blur.family, size=blur.size_px, sigma_x=blur.sigma_x, sigma_y=blur.sigma_y,
        theta=blur.theta, beta=blur.beta, omega=blur.omega,
    )  # fmt: skip


# --- ours ---


def our_batch(hr: Tensor, round_: int) -> Tensor:
    samples = torch.arange(COUNT) + COUNT * round_
    draws = draw(DegradationConfig(), scale=SCALE, seed=1, samples=samples, height=SIDE, width=SIDE, crop_px=CROP)
    lq, gt = paired_crop(apply(hr, draws), hr, draws)
    filters.sharpen(gt)
    return lq


def pairs(hr: Tensor) -> dict[str, tuple[Callable[[int], Any], Callable[[int], Any]]]:
    """By name: the dense and our way, each called with the number of the round."""
    draws = draw(DegradationConfig(), scale=SCALE, seed=1, samples=torch.arange(COUNT), height=SIDE, width=SIDE)
    kernels = _kernels(draws.passes[0].blur)
    sigma, scale = torch.linspace(1, 30, COUNT), torch.linspace(0.05, 3, COUNT)
    grey = torch.arange(COUNT) % 5 < 2
    quality = torch.linspace(30, 95, COUNT)
    smaller = torch.tensor([[240, 240]]).expand(COUNT, 2)
    numbers = keys(1, torch.arange(COUNT), 1)

    def our_poisson(_: int) -> Tensor:
        rates = noise.poisson_rates(hr, grey)
        counts = noise.poisson_counts(rates, uniform_field(numbers, SIDE, SIDE, 3, "cpu"), grey)
        return noise.add_poisson(hr, scale, rates, counts)

    def interpolate(mode: str) -> tuple[Callable[[int], Any], Callable[[int], Any]]:
        modes = torch.full((COUNT,), MODES.index(mode))
        return lambda _: F.interpolate(hr, (240, 240), mode=mode), lambda _: resize.resize(hr, smaller, modes)

    return {
        "sharpen 400": (lambda _: dense_usm(hr), lambda _: filters.sharpen(hr)),
        "blur": (lambda _: dense_filter(hr, kernels), lambda _: filters.blur(hr, kernels)),
        **{f"resize x0.6 {mode}": interpolate(mode) for mode in MODES},
        "Gaussian noise": (
            lambda _: dense_gaussian(hr, sigma, grey),
            lambda _: noise.add_gaussian(hr, sigma, grey, normal_field(numbers, SIDE, SIDE, 3, "cpu")),
        ),
        "Poisson noise": (lambda _: dense_poisson(hr, scale, grey), our_poisson),
        "JPEG simulator": (lambda _: dense_jpeg(hr, quality), lambda _: jpeg.jpeg(hr, quality, legacy=True)),
        "JPEG as libjpeg": (lambda _: dense_jpeg(hr, quality), lambda _: jpeg.jpeg(hr, quality)),
        "whole batch": (lambda n: dense_batch(hr, n), lambda n: our_batch(hr, n)),
    }


@torch.no_grad()
def measure(rounds: int) -> list[dict[str, Any]]:
    """One row for each operator."""
    rows = []
    for name, ways in pairs(pictures()).items():
        wall: list[list[float]] = [[], []]
        cpu: list[list[float]] = [[], []]
        for way in ways:
            way(0)
        for round_ in range(rounds):
            for i, way in enumerate(ways):
                started = time.perf_counter(), time.process_time()
                way(round_)
                wall[i].append(time.perf_counter() - started[0])
                cpu[i].append(time.process_time() - started[1])
        dense_s, ours_s = map(statistics.median, wall)
        dense_cpu_s, ours_cpu_s = map(statistics.median, cpu)
        rows.append(
            {
                "operator": name,
                "dense_s": dense_s,
                "ours_s": ours_s,
                "dense_cpu_s": dense_cpu_s,
                "ours_cpu_s": ours_cpu_s,
                "times_faster": dense_s / ours_s,
                "times_less_cpu": dense_cpu_s / ours_cpu_s,
                "ours_images_per_cpu_s": COUNT / ours_cpu_s,
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = measure(options.rounds)
    if options.json:
        facts = {"threads": options.threads, "rounds": options.rounds, "torch": torch.__version__, "rows": rows}
        sys.stdout.write(json.dumps(facts, indent=1) + "\n")
        return
    lines = [
        f"{COUNT} images of {SIDE}x{SIDE}, {options.threads} thread(s), medians of {options.rounds} rounds, seconds",
        "| operator | dense, CPU s | ours, CPU s | less CPU | dense, wall | ours, wall | images per CPU s |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            "| {operator} | {dense_cpu_s:.3f} | {ours_cpu_s:.3f} | {times_less_cpu:.1f}x | {dense_s:.3f} "
            "| {ours_s:.3f} | {ours_images_per_cpu_s:.0f} |".format_map(row)
        )
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
