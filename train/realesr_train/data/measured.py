"""Pools of what was measured in photos: blur kernels and patches of noise, as files in a folder.

A kernel is NAME.npz with `kernel` (k, k), to be correlated, and the `scale` of the reduction it belongs to; a plain
NAME.npy of another program is taken as well. A noise patch is a PNG file.
"""

from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from realesr_cli.errors import ConfigError, UnreadableInput
from realesr_cli.image_io import read_image

SHEET = "sheet.png"
_LARGEST_PX = 255


def read_kernels(folder: Path, scale: int) -> Tensor:
    """(K, k, k) float32 of sum 1, k odd: the kernels of a folder and those below, each with its place n // 2 in the
    middle, by name.

    Raises: ConfigError (none there, or for another scale), UnreadableInput.
    """
    files = sorted(path for path in folder.rglob("*.np[yz]") if not path.name.startswith("."))
    if not files:
        raise ConfigError(f"{folder} holds no kernels (.npz)", hint="`realesr data kernels DIR -o FOLDER` makes them")
    kernels = [_read_kernel(path, scale) for path in files]
    reach = max(max(kernel.shape) // 2 for kernel in kernels)
    pool = np.zeros((len(kernels), 2 * reach + 1, 2 * reach + 1), np.float32)
    for place, kernel in zip(pool, kernels, strict=True):
        top, left = (reach - side // 2 for side in kernel.shape)
        place[top : top + kernel.shape[0], left : left + kernel.shape[1]] = kernel / kernel.sum()
    return torch.from_numpy(pool)


def _read_kernel(path: Path, scale: int) -> NDArray[np.float64]:
    try:
        with path.open("rb") as file:
            content = np.load(file, allow_pickle=False)
            made_for = int(content["scale"]) if path.suffix == ".npz" else scale
            kernel = np.asarray(content["kernel"] if path.suffix == ".npz" else content, np.float64)
    except (OSError, ValueError, LookupError, EOFError, TypeError, BadZipFile) as error:
        raise UnreadableInput(f"{path} is not a kernel: {error}", path=path) from error
    if made_for != scale:
        raise ConfigError(
            f"{path} is a kernel for scale {made_for}, not {scale}",
            hint=f"make the pool with `realesr data kernels DIR -o FOLDER --scale {scale}`",
        )
    good = kernel.ndim == 2 and min(kernel.shape) >= 1 and max(kernel.shape) <= _LARGEST_PX
    if not (good and np.isfinite(kernel).all() and kernel.sum() > 1e-3):
        raise UnreadableInput(f"{path} is not a kernel: its shape is {kernel.shape}, or its sum not above 0", path=path)
    return kernel


def read_noise(folder: Path) -> tuple[Tensor, ...]:
    """(3, h, w) uint8 for each patch of a folder and those below, by name.

    Raises: ConfigError (none there), UnreadableInput.
    """
    files = sorted(path for path in folder.rglob("*.png") if path.name != SHEET and not path.name.startswith("."))
    if not files:
        raise ConfigError(
            f"{folder} holds no noise patches (.png)",
            hint="`realesr data noise DIR -o FOLDER` makes them; a larger --max-variance finds more",
        )
    patches = []
    for path in files:
        pixels = read_image(path).pixels
        if pixels.dtype != np.uint8:
            raise UnreadableInput(f"{path} is no noise patch: it has 16 bits", path=path)
        planes = torch.from_numpy(np.ascontiguousarray(pixels[..., :3])).permute(2, 0, 1)
        patches.append(planes.expand(3, -1, -1).contiguous())
    return tuple(patches)
