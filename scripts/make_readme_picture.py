"""Makes the README's before/after picture: the photo enlarged by bicubic interpolation, and by realesr.

python scripts/make_readme_picture.py assets/budgie.jpg docs/pictures/before_after.jpg [-m MODEL]
"""

import argparse
from pathlib import Path

import cv2
import numpy as np

from realesr_cli import Image, Upscaler, read_image, write_image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("-m", "--model", default="realesrgan-x4plus")
    arguments = parser.parse_args()
    small = read_image(arguments.source).pixels
    large = Upscaler(arguments.model)(small)
    bicubic = cv2.resize(small, large.shape[1::-1], interpolation=cv2.INTER_CUBIC)
    # a narrow part with the most detail, so that the difference is visible in a page's width
    height, width = large.shape[:2]
    part = (slice(height // 16, height * 13 // 16), slice(width // 8, width * 5 // 8))
    gap = np.full((large[part].shape[0], 8, 3), 255, np.uint8)
    write_image(arguments.target, Image(pixels=np.hstack((bicubic[part], gap, large[part]))), overwrite=True)


if __name__ == "__main__":
    main()
