"""What faces cost: detection, restoration in each number format, putting them back; memory; exactness of landmarks.

    python scripts/bench_faces.py YUNET PICTURE [--threads 1] [--rounds 5] [--memory]

PICTURE shows one face. The restorer has GFPGAN's published size and random weights, for time does not depend on them.
Paths take turns in one process; figures are medians, in processor seconds, because other programs may run. `--memory`
measures the growth of fresh processes instead. "Landmarks" turns and scales the picture and compares what is found.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch

from realesr_cli import read_image
from realesr_cli.device import choose_device
from realesr_cli.faces.align import inverse, moved
from realesr_cli.faces.detect import FaceDetector
from realesr_cli.faces.enhance import FaceEnhancer
from realesr_cli.inference import Inference
from realesr_cli.memory import keep_freed_memory
from realesr_cli.models.architectures import LoadedModel
from realesr_cli.models.gfpgan import GFPGANv1Clean
from realesr_cli.options import DeviceOptions
from realesr_cli.reporting import NULL
from realesr_cli.tiling import Box

DECODER = (512, 512, 512, 512, 512, 256, 128, 64)


def random_restorer() -> LoadedModel:
    torch.manual_seed(0)
    network = GFPGANv1Clean(
        encoder=[channels // 2 for channels in DECODER], decoder=DECODER, style=512, different_styles=True, mapping=8,
        input_is_latent=True, modulated=[channels // 2 for channels in DECODER[1:]],
    )  # fmt: skip
    return LoadedModel(
        network=network.eval().requires_grad_(False), name="random", architecture="GFPGANv1Clean", scale=1,
        channels_in=3, channels_out=3, side_px=512, supports_low_precision=True,
    )  # fmt: skip


def restoring(model: LoadedModel, precision: str, count: int) -> Callable[[], object]:
    choice = choose_device(DeviceOptions(device="cpu", precision=precision), model)  # type: ignore[arg-type]
    inference = Inference(model, choice, NULL)
    batch = np.random.default_rng(0).integers(0, 65536, (count, 512, 512, 3), np.uint16)
    kept = [Box(0, 0, 512, 512)] * count

    def run() -> object:
        return inference.start(batch, kept, 65535, precise=False, on_step=lambda share: None)()

    return run


def plain(model: LoadedModel) -> Callable[[], object]:
    x = torch.rand(1, 3, 512, 512)

    def run() -> object:
        with torch.inference_mode():
            return model.network(x)

    return run


def timed(paths: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    seconds: dict[str, list[float]] = {name: [] for name in paths}
    for number in range(rounds + 1):
        for name, run in paths.items():
            started = time.process_time()
            run()
            if number:
                seconds[name].append(time.process_time() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


def landmarks(detector: FaceDetector, pixels: np.ndarray) -> dict[str, float]:
    """Spread of the landmarks over 14 turned and scaled copies, in percent of the distance of the eyes."""
    height, width = pixels.shape[:2]
    (face,) = detector(pixels)
    first, again = [], []
    for turn in (-30, -15, -5, 0, 5, 15, 30):
        for scale in (0.9, 1.1):
            matrix = cv2.getRotationMatrix2D(tuple(face.landmarks.mean(0)), turn, scale)
            copy = cv2.warpAffine(pixels, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)
            candidates, found = detector._candidates(np.ascontiguousarray(copy[..., ::-1])), detector(copy)
            if candidates and found:
                first.append(moved(candidates[0][1], inverse(matrix)))
                again.append(moved(found[0].landmarks, inverse(matrix)))
    eyes = np.hypot(*(face.landmarks[1] - face.landmarks[0]))
    spreads = [100 * np.sqrt(((np.array(p) - np.median(p, 0)) ** 2).sum(2).mean()) / eyes for p in (first, again)]
    return {"one look %": spreads[0], "refined %": spreads[1]}


def grown_mib(precision: str, count: int) -> float:
    command = [sys.executable, __file__, "--child", precision, str(count)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def child(precision: str, count: int) -> None:
    keep_freed_memory()
    run = restoring(random_restorer(), precision, count)
    with torch.inference_mode():
        torch.nn.functional.conv2d(torch.rand(1, 8, 64, 64), torch.rand(8, 8, 3, 3))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run()
    run()
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], int(sys.argv[3]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("yunet", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory", action="store_true")
    arguments = parser.parse_args()
    if arguments.memory:
        for precision in ("fp32", "bf16"):
            print(precision, {count: round(grown_mib(precision, count)) for count in (1, 2, 4)}, "faces: MiB")
        return
    torch.set_num_threads(arguments.threads)
    cv2.setNumThreads(arguments.threads)
    keep_freed_memory()
    detector, model = FaceDetector(arguments.yunet), random_restorer()
    pixels = read_image(arguments.picture).pixels
    faces = detector(pixels)
    large = cv2.resize(pixels, (4000, round(4000 * pixels.shape[0] / pixels.shape[1])))
    enhancer = FaceEnhancer(model, detector, device=DeviceOptions(device="cpu", precision="fp32"))
    restored = enhancer.restore(pixels, faces)
    result = large.copy()
    paths: dict[str, Callable[[], object]] = {
        "find": lambda: detector(pixels),
        "find in 4000 px": lambda: detector(large),
        "paste into 4000 px": lambda: enhancer.pasting(restored, pixels.shape[:2], large.shape[:2])(result, 0),
        "network, plain": plain(model),
        **{f"network, {precision}": restoring(model, precision, 1) for precision in ("fp32", "bf16")},
    }
    for name, seconds in timed(paths, arguments.rounds).items():
        print(f"{name:20} {1000 * seconds:7.0f} ms")
    for precision in ("fp32", "bf16"):
        batches = timed({str(count): restoring(model, precision, count) for count in (1, 2, 4)}, 3)
        print(f"batches, {precision}: ", {k: round(1000 * s / int(k)) for k, s in batches.items()}, "ms a face")
    for name, side in (("landmarks", pixels.shape[1]), ("landmarks at 128 px", 128)):
        copy = cv2.resize(pixels, (side, side * pixels.shape[0] // pixels.shape[1]), interpolation=cv2.INTER_AREA)
        print(name, {key: round(value, 1) for key, value in landmarks(detector, copy).items()})


if __name__ == "__main__":
    main()
