"""What many photos and films take, from measured figures: the tables of docs/scaling.md.

    python scripts/cost_model.py                      # the tables
    python scripts/cost_model.py --measure PHOTO... [-m MODEL]    # what codecs take of a processor, and bytes

All speeds are of one machine (docs/performance.md); for another one, and for every GPU, measure `rate` there with
`realesr directory ... --json`: megapixels of the results over the seconds of the run.
"""

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np

from realesr_cli import DeviceOptions, Image, Upscaler, read_image, write_image


@dataclass(frozen=True)
class Photos:
    """A model on a device, and pictures of one size."""

    model: str
    width: int
    height: int
    rate: float
    """Megapixels of results a second (docs/performance.md, "Speed, memory and agreement on a CPU")."""


# two threads of a server Xeon with AMX: the whole of a machine of two virtual cores
DEVICE = "2 virtual cores (AMX)"
PHOTOS = (
    Photos("realesr-animevideov3", 640, 512, 18.9),
    Photos("realesr-general-x4v3", 640, 512, 11.1),
    Photos("realesrgan-x4plus-anime", 240, 160, 2.15),
)
SCALE = 4
# docs/performance.md, "Films": 480x272, animevideov3, the whole program with two network threads; and without a network
FILM_RATE, FILM_REST_RATE, FILM_FRAMES = 6.61, 21.4, 100 * 60 * 25
# measured by --measure: bytes of a file for each megapixel, and megapixels a second of one core's time
IN_BYTES_PER_MP, JPEG_BYTES_PER_MP, PNG_BYTES_PER_MP = 0.287e6, 0.216e6, 1.137e6
JPEG_RATE, PNG_RATE, READ_RATE = 159.7, 25.7, 121.6
# assumptions of the example, not measurements
PRICE_PER_HOUR, STORAGE_MB_PER_S, MILLION = 0.10, 500.0, 1_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", nargs="+", type=Path, metavar="PHOTO")
    parser.add_argument("-m", "--model", default="realesr-general-x4v3")
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.measure, arguments.model)
        return
    print(f"| model, photo | photos/hour on {DEVICE} | MB/s in | MB/s out, JPEG | PNG | a million: hours | cost |")
    print("|---|---|---|---|---|---|---|")
    for row in PHOTOS:
        source = row.width * row.height / 1e6
        result = source * SCALE**2
        per_s = row.rate / result
        flows = (source * IN_BYTES_PER_MP, result * JPEG_BYTES_PER_MP, result * PNG_BYTES_PER_MP)
        hours = MILLION / per_s / 3600
        print(
            f"| {row.model}, {row.width}x{row.height} | {per_s * 3600:,.0f} | "
            + " | ".join(f"{per_s * flow / 1e6:.2f}" for flow in flows)
            + f" | {hours:,.0f} | {hours * PRICE_PER_HOUR:,.2f} |"
        )
    print(f"\nfilms of {FILM_FRAMES:,} frames of 480x272 an hour: {FILM_RATE * 3600 / FILM_FRAMES:.2f}")
    frame = 480 * 272 * SCALE**2 / 1e6
    print(f"a film without the network: {FILM_REST_RATE * frame:.0f} MP/s of results on these two cores")
    fastest = max(row.rate for row in PHOTOS)
    jpeg = STORAGE_MB_PER_S * 1e6 / (fastest * JPEG_BYTES_PER_MP)
    png = STORAGE_MB_PER_S * 1e6 / (fastest * PNG_BYTES_PER_MP)
    print(
        f"storage of {STORAGE_MB_PER_S:.0f} MB/s is full with the results of {jpeg:.0f} workers (JPEG), {png:.0f} (PNG)"
    )
    for name, rate in (("JPEG", JPEG_RATE), ("PNG", PNG_RATE)):
        cores = 1 / rate + 1 / (READ_RATE * SCALE**2)
        print(f"cores that read and write {name} for a device of R MP/s: R x {cores:.4f}")


def measure(photos: list[Path], model: str) -> None:
    """Photos cut to 640x512 at most, as JPEG of quality 90, and their enlargements; one thread; processor time."""
    cv2.setNumThreads(1)
    sizes = {"in": 0.0, ".jpg": 0.0, ".png": 0.0}
    seconds = dict.fromkeys(sizes, 0.0)
    pixels_in = pixels_out = 0.0
    with TemporaryDirectory() as folder, Upscaler(model, device=DeviceOptions(device="cpu", threads=1)) as upscaler:
        for photo in photos:
            source = Path(folder) / "in.jpg"
            cut = np.ascontiguousarray(read_image(photo).pixels[:512, :640, :3])
            write_image(source, Image(pixels=cut), overwrite=True, quality=90)
            sizes["in"] += source.stat().st_size
            started = time.process_time()
            image = read_image(source)
            seconds["in"] += time.process_time() - started
            large = image.replace(upscaler(image.pixels))
            pixels_in += cut.shape[0] * cut.shape[1] / 1e6
            pixels_out += large.pixels.shape[0] * large.pixels.shape[1] / 1e6
            for suffix in (".jpg", ".png"):
                started = time.process_time()
                write_image(Path(folder) / f"out{suffix}", large, overwrite=True)
                seconds[suffix] += time.process_time() - started
                sizes[suffix] += (Path(folder) / f"out{suffix}").stat().st_size
    for name, pixels in (("in", pixels_in), (".jpg", pixels_out), (".png", pixels_out)):
        print(
            f"{name:5} {sizes[name] / pixels / 1e6:6.3f} MB for each MP, {pixels / seconds[name]:6.1f} MP/s of a core"
        )


if __name__ == "__main__":
    main()
