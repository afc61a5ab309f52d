"""Two thousand damaged picture files: each ends in a picture or in one `RealesrError`, soon and in bounded memory."""

import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from realesr_cli.errors import RealesrError
from realesr_cli.image_io import Image, encode_image, read_image
from realesr_cli.metadata import Metadata
from realesr_cli.tiff import build_block, long, short, with_resolution

_FILES = 2_000
_MAX_PIXELS = 2**22
_SECONDS_EACH = 5.0
_MEMORY_BYTES = 2**30
_SMALL = 50_000
_SUFFIXES = (".png", ".jpg", ".webp", ".tif", ".bmp", ".avif", ".jp2", ".ppm", ".pgm")


def _originals() -> list[bytes]:
    """Small files of every format that is read, with metadata."""
    ramp = np.linspace(0, 255, 48 * 40 * 4).reshape(48, 40, 4).astype(np.uint8)
    exif = build_block(with_resolution({0x0112: short(6), 0x8769: {0xA002: long(40)}}, (300, 300)))
    metadata = Metadata(exif=exif, xmp=b'<x:xmpmeta tiff:Orientation="6"/>', icc=bytes(16) + b"RGB " + bytes(200))
    files = []
    for suffix in _SUFFIXES:
        colour = Image(pixels=ramp[..., :3], metadata=metadata)
        pictures = [colour.replace(ramp[..., :1]) if suffix == ".pgm" else colour]
        if suffix in (".png", ".tif", ".jp2"):
            pictures.append(colour.replace(ramp.astype(np.uint16) * 257))
        files += [encode_image(Path(f"a{suffix}"), picture) for picture in pictures]
    animation = cv2.Animation()
    animation.frames = [ramp, ramp[::-1].copy()]
    animation.durations = np.array([100, 100], np.int32)
    for suffix in (".gif", ".webp", ".png", ".avif"):
        files.append(cv2.imencodeanimation(suffix, animation)[1].tobytes())
    return files


def _mutations(files: list[bytes], rng: np.random.Generator) -> Iterator[bytes]:
    """Flipped bits, more of them near the start where headers are; cuts; and the head of one file on another."""
    while True:
        data = bytearray(files[rng.integers(len(files))])
        match rng.integers(4):
            case 0 | 1:
                reach = len(data) if rng.integers(2) else min(len(data), 200)
                for place in rng.integers(0, reach, rng.integers(1, 12)):
                    data[place] ^= 1 << rng.integers(8)
            case 2:
                del data[rng.integers(len(data)) :]
            case 3:
                other = files[rng.integers(len(files))]
                cut = int(rng.integers(4, min(len(data), len(other), 300)))
                data = bytearray(other[:cut]) + data[cut:]
        if rng.integers(4) == 0 and len(data) > 40:  # a number that is far too large
            place = int(rng.integers(len(data) - 4))
            data[place : place + 4] = b"\xff\xff\xff\x7f"
        yield bytes(data)


def test_damaged_files_end_in_a_picture_or_one_error(
    capfd: pytest.CaptureFixture[str], media: Callable[[str], Path]
) -> None:
    rng = np.random.default_rng(20261121)
    real = [path.read_bytes() for path in sorted(media("images/formats").iterdir()) if path.stat().st_size < _SMALL]
    files = _originals() + real
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    pictures = 0
    for number, data in zip(range(_FILES), _mutations(files, rng), strict=False):
        started = time.monotonic()
        try:
            image = read_image(data, max_pixels=_MAX_PIXELS)
        except RealesrError as error:
            assert "\n" not in error.message, number
        else:
            pictures += 1
            height, width, channels = image.pixels.shape
            assert 0 < height * width <= _MAX_PIXELS, number
            assert channels in (1, 3, 4), number
            encode_image(Path("a.png"), image)
        assert time.monotonic() - started < _SECONDS_EACH, number
    assert _FILES / 10 < pictures < _FILES  # both ends are tested
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert grown < _MEMORY_BYTES
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


def test_metadata_of_damaged_files_does_not_break_the_result(tmp_path: Path) -> None:
    """What is read of damaged EXIF and XMP blocks can be written into every format and read again."""
    rng = np.random.default_rng(7)
    exif = build_block(with_resolution({0x0112: short(6), 0x8769: {0xA002: long(40)}, 0x8825: {}}, (300, 300)))
    for _ in range(300):
        block = bytearray(exif)
        for place in rng.integers(4, len(block), 4):
            block[place] = rng.integers(256)
        metadata = Metadata(exif=bytes(block), xmp=rng.bytes(50)).for_result(8, 8, 3)
        picture = Image(pixels=np.zeros((8, 8, 3), np.uint8), metadata=metadata)
        for suffix in (".png", ".jpg", ".tif", ".webp"):
            assert read_image(encode_image(Path(f"a{suffix}"), picture)).pixels.shape == (8, 8, 3)
