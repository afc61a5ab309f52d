"""Patches of noise out of the flat parts of photos: `realesr data noise`."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from realesr_cli.errors import DiskFull, RealesrError, UnsupportedInput
from realesr_cli.image_io import Image, read_image, write_image
from realesr_cli.reporting import Reporter, progress
from realesr_train.data.degrade import Done, Fail, Job, make_folder
from realesr_train.data.kernels import grid_of, labelled
from realesr_train.data.measured import SHEET

_SHEET_TILES = 48
_SHOWN_PX = 120
_AMPLIFIED = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Tile:
    """A square of a picture: its corner, pixels, and the variance and mean of its grey, in 8-bit levels."""

    top: int
    left: int
    variance: float
    mean: float


def collect_files(
    jobs: Sequence[Job],
    output: Path,
    *,
    patch_px: int,
    stride_px: int,
    max_variance: float,
    min_mean: float,
    overwrite: bool,
    reporter: Reporter,
    done: Done,
    fail: Fail,
) -> int:
    """Writes the flat tiles of all pictures as PNG files NAME_TOP_LEFT.png, and the picture `sheet.png`; how many.

    Raises: UnsupportedInput (no picture has one), DiskFull, OutputError.
    """
    shown: list[tuple[str, NDArray[np.uint8]]] = []
    count, used, least = 0, 0, float("inf")
    with progress(reporter, len(jobs), "files") as advance:
        for job in jobs:
            started = time.monotonic()
            try:
                pixels = _read(job.source, patch_px)
                for tile in tiles(pixels, patch_px, stride_px):
                    if not (tile.variance < max_variance and tile.mean > min_mean):
                        least = min(least, tile.variance) if tile.mean > min_mean else least
                        continue
                    patch = pixels[tile.top : tile.top + patch_px, tile.left : tile.left + patch_px]
                    target = job.target.with_name(f"{job.target.stem}_{tile.top}_{tile.left}.png")
                    make_folder(target.parent)
                    write_image(target, Image(pixels=patch), overwrite=overwrite, reporter=reporter)
                    shown.append((target.stem, patch))
                    count += 1
            except DiskFull:
                raise
            except RealesrError as error:
                fail(job.id, job.source, error)
            else:
                used += 1
                height, width = pixels.shape[:2]
                reporter.emit(
                    "done",
                    id=job.id,
                    input=str(job.source),
                    output=str(output),
                    width=width,
                    height=height,
                    seconds=round(time.monotonic() - started, 3),
                )
                done()
            advance(1)
    if used and not count:
        is_dark = least == float("inf")
        raise UnsupportedInput(
            f"no patch of {patch_px} pixels is "
            + ("bright enough" if is_dark else f"flat enough: the least variance is {least:.1f}"),
            hint="lower --min-mean"
            if is_dark
            else f"--max-variance {np.ceil(least + 1):.0f} takes it; a smaller --patch finds more",
        )
    if shown:
        write_image(output / SHEET, Image(pixels=draw_sheet(shown)), overwrite=True, reporter=reporter)
    return count


def tiles(pixels: NDArray[np.uint8], patch_px: int, stride_px: int) -> Iterator[Tile]:
    """Every window of `patch_px` that lies inside, from the upper left on, `stride_px` apart.

    `pixels` (H, W, 3). Source: family specification, section 5.3, with the last row and column that fit exactly.
    """
    red, green, blue = (pixels[..., channel].astype(np.int64) for channel in range(3))
    grey = (19595 * red + 38470 * green + 7471 * blue + 32768) >> 16
    for top in range(0, pixels.shape[0] - patch_px + 1, stride_px):
        for left in range(0, pixels.shape[1] - patch_px + 1, stride_px):
            window = grey[top : top + patch_px, left : left + patch_px]
            yield Tile(top=top, left=left, variance=float(window.var()), mean=float(window.mean()))


def draw_sheet(shown: Sequence[tuple[str, NDArray[np.uint8]]]) -> NDArray[np.uint8]:
    """(H, W, 3): at most 48 patches, evenly taken; beside each what is injected, eight times as strong."""
    step = max(1, -(-len(shown) // _SHEET_TILES))
    drawn = []
    for name, patch in shown[::step]:
        noise = (patch - patch.mean((0, 1))) * _AMPLIFIED + 128
        pair = [cv2.resize(one.clip(0, 255).astype(np.uint8), (_SHOWN_PX, _SHOWN_PX), interpolation=cv2.INTER_NEAREST)
                for one in (patch, noise)]  # fmt: skip
        drawn.append(labelled(np.concatenate(pair, 1), [name[-24:], f"std {patch.std((0, 1)).mean():.2f}"]))
    return grid_of(drawn)


def _read(path: Path, patch_px: int) -> NDArray[np.uint8]:
    """(H, W, 3) uint8. Raises: UnreadableInput, UnsupportedInput."""
    pixels = read_image(path).pixels
    if pixels.dtype == np.uint16:
        pixels = (pixels.astype(np.uint32) * 255 + 32767) // 65535
    if min(pixels.shape[:2]) < patch_px:
        size = f"{pixels.shape[1]}x{pixels.shape[0]}"
        raise UnsupportedInput(
            f"{path} has {size} pixels, less than a patch of {patch_px}", hint="give a smaller --patch"
        )
    colours = pixels[..., :3] if pixels.shape[2] >= 3 else np.repeat(pixels[..., :1], 3, 2)
    return np.ascontiguousarray(colours.astype(np.uint8))
