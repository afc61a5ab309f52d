"""How much context a tile needs: largest difference between a tile and the same place of the untiled result.

    python scripts/measure_context.py MODEL PICTURE... [--pads 48 64 80 96 128] [--side 416]

Takes the middle of each picture and a tile of 64 pixels in its middle, in float32. Prints one line for each picture
with the largest difference in 8-bit levels before rounding, for each context.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from realesr_cli import load_model, read_image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("pictures", nargs="+", type=Path)
    parser.add_argument("--pads", nargs="+", type=int, default=[48, 64, 80, 96, 128])
    parser.add_argument("--side", type=int, default=416)
    parser.add_argument("--tile", type=int, default=64)
    arguments = parser.parse_args()
    model = load_model(arguments.model)
    network = model.network.to(memory_format=torch.channels_last)
    print("picture".ljust(32), *(f"pad {pad:4d}" for pad in arguments.pads), flush=True)
    for path in arguments.pictures:
        started = time.monotonic()
        pixels = read_image(path).pixels[..., :3]
        pixels = np.repeat(pixels, 3, 2) if pixels.shape[2] == 1 else pixels
        top, left = (max(0, (side - arguments.side) // 2) for side in pixels.shape[:2])
        pixels = np.ascontiguousarray(pixels[top : top + arguments.side, left : left + arguments.side])
        x = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / np.iinfo(pixels.dtype).max
        centre = tuple((side - arguments.tile) // 2 // 8 * 8 for side in x.shape[2:])
        scale = model.scale
        differences = []
        with torch.inference_mode():
            whole = network(x)
            place = [slice(at * scale, (at + arguments.tile) * scale) for at in centre]
            expected = whole[:, :, place[0], place[1]].clamp(0, 1)
            for pad in arguments.pads:
                window = [slice(max(0, at - pad), at + arguments.tile + pad) for at in centre]
                inner = [slice(min(at, pad) * scale, (min(at, pad) + arguments.tile) * scale) for at in centre]
                part = network(x[:, :, window[0], window[1]])[:, :, inner[0], inner[1]].clamp(0, 1)
                differences.append(float((part - expected).abs().max()) * 255)
        print(
            path.name.ljust(32),
            *(f"{d:8.3f}" for d in differences),
            f"  {time.monotonic() - started:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
