"""What one item of the original's data set becomes: the crop, and the three kernels of its recorded draws."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from realesr_train.degradation.kernels import FAMILIES, blur_kernels
from realesr_train.degradation.second_order import fit_crop


def _kernel(family: str, size: int, **numbers: float) -> Tensor:
    names = ("sigma_x", "sigma_y", "theta", "beta", "omega")
    return blur_kernels(
        family=torch.tensor([FAMILIES.index(family)]),
        size=torch.tensor([size]),
        **{name: torch.tensor([numbers.get(name, 1.0)], dtype=torch.float64) for name in names},
    )[0]


def _blur(draws: Iterator[tuple[str, str | float]]) -> Tensor:
    """Source: training specification, section 2, steps 6 and 7."""
    size, is_sinc = int(next(draws)[1]), float(next(draws)[1]) < 0.1
    if is_sinc:
        return _kernel("sinc", size, omega=float(next(draws)[1]))
    family = str(next(draws)[1])
    numbers = {"sigma_x": float(next(draws)[1])}
    if family.endswith("aniso"):
        numbers |= {"sigma_y": float(next(draws)[1]), "theta": float(next(draws)[1])}
    if family.startswith(("generalized", "plateau")):
        next(draws)  # below or above 1, which the next number tells too
        numbers["beta"] = float(next(draws)[1])
    return _kernel(family, size, **numbers)


@pytest.mark.parametrize("item", [0, 1, 2])
def test_an_item_is_the_originals(item: int, golden: Callable[[str], Path]) -> None:
    stored = np.load(golden("dataset_item.npz"))
    draws = iter(json.loads(str(stored[f"i{item}_draws"])))
    picture = torch.from_numpy(stored[f"i{item}_img_rgb"]).permute(2, 0, 1)
    if float(next(draws)[1]) < 0.5:
        picture = picture.flip(2)
    if bool(stored[f"i{item}_use_rot"]):
        is_flipped, is_turned = (float(next(draws)[1]) < 0.5 for _ in range(2))
        picture = picture.flip(1) if is_flipped else picture
        picture = picture.mT if is_turned else picture
    assert torch.equal(fit_crop(picture, 400), torch.from_numpy(stored[f"i{item}_gt_u8"]))
    kernels = [_blur(draws), _blur(draws)]
    if float(next(draws)[1]) < 0.8:
        kernels.append(_kernel("sinc", int(next(draws)[1]), omega=float(next(draws)[1])))
    else:
        kernels.append(_kernel("impulse", 1))
    for kernel, name in zip(kernels, ("kernel1", "kernel2", "sinc_kernel"), strict=True):
        assert float((kernel - torch.from_numpy(stored[f"i{item}_{name}"])).abs().max()) <= 1e-6
    assert next(draws, None) is None
