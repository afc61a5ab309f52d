"""Sample sheets: what the network sees and makes, beside bicubic interpolation and the true picture, for the eye."""

from pathlib import Path

import cv2
import numpy as np

from realesr_cli.atomic import output_error
from realesr_cli.image_io import Image, write_image
from realesr_train.metrics.psnr_ssim import psnr
from realesr_train.validation import Pair, Pixels, bicubic_outputs

_GAP_PX = 6
_LABEL_PX = 26
_TEXT_PX = 15
_PAPER, _INK = 255, (0, 0, 0)


def sample_path(run_folder: Path, step: int, name: str) -> Path:
    """Where the sheet of a validation picture belongs."""
    return run_folder / "samples" / f"step-{step:08d}" / f"{name}.png"


def write_sheet(path: Path, pair: Pair, output: Pixels, *, side_px: int = 512) -> None:
    """Writes `draw_sheet` as PNG, over an older one; makes the folder. Raises: DiskFull, OutputError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise output_error(error, path.parent) from error
    write_image(path, Image(pixels=draw_sheet(pair, output, side_px=side_px)), overwrite=True)


def draw_sheet(pair: Pair, output: Pixels, *, side_px: int = 512) -> Pixels:
    """(H, W, 3) uint8: LR (pixels repeated) | bicubic | output | HR under their names and PSNR.

    Of a large picture the window of at most `side_px` pixels with most detail is shown, the same in every step; PSNR is
    that of the whole picture, on luma, without a border of `scale` pixels.
    """
    scale = pair.scale
    (bicubic,) = bicubic_outputs([pair])
    repeated = pair.lq.repeat(scale, 0).repeat(scale, 1)
    panels = {"LR": repeated, "bicubic": bicubic, "output": output, "HR": pair.hr}
    top, left, height, width = _window(pair.hr, scale, side_px)
    strips = []
    for name, pixels in panels.items():
        label = name if name == "HR" else f"{name}  {psnr(pixels, pair.hr, border=scale, luma=True):.2f} dB"
        strip = np.full((_LABEL_PX + height, max(width, 9 * len(label)), 3), _PAPER, np.uint8)
        strip[_LABEL_PX:, :width] = pixels[top : top + height, left : left + width]
        cv2.putText(strip, label, (2, _LABEL_PX - 8), _INK, cv2.FontFace("sans"), _TEXT_PX)
        strips += [strip, np.full((_LABEL_PX + height, _GAP_PX, 3), _PAPER, np.uint8)]
    return np.concatenate(strips[:-1], 1)


def _window(hr: Pixels, scale: int, side_px: int) -> tuple[int, int, int, int]:
    """Top, left, height and width of the window with the largest variance, on the grid of LR pixels."""
    side = max(1, side_px // scale) * scale
    height, width = min(side, hr.shape[0]), min(side, hr.shape[1])
    places = [
        (top, left)
        for top in _starts(hr.shape[0] - height, height // 2, scale)
        for left in _starts(hr.shape[1] - width, width // 2, scale)
    ]
    spread = {place: hr[place[0] : place[0] + height, place[1] : place[1] + width].std() for place in places}
    top, left = max(places, key=lambda place: spread[place])
    return top, left, height, width


def _starts(last: int, step: int, scale: int) -> list[int]:
    return [*range(0, last, max(scale, step // scale * scale)), last]
