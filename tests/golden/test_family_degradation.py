"""The shuffled degradation of BSRGAN and that of RealSR, against the originals' numbers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from realesr_train.config import DegradationConfig
from realesr_train.degradation import realsr, shuffled
from realesr_train.degradation.draws import BlurDraw
from realesr_train.degradation.jpeg import jpeg
from realesr_train.degradation.kernels import FAMILIES
from realesr_train.degradation.resize import area, imresize
from realesr_train.degradation.shuffled import COLOURS, FILTERS, OPERATIONS, Reduction, ShuffledDraws

Golden = Callable[[str], Path]
Arrays = dict[str, np.ndarray]
_FLAGS = {1: "bilinear", 2: "bicubic", 3: "area"}
"""OpenCV's numbers of the filters."""


@pytest.fixture(scope="module")
def arrays(golden: Golden) -> Arrays:
    with np.load(golden("bsrgan.npz"), allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


@pytest.fixture(scope="module")
def picture(arrays: Arrays) -> Tensor:
    return _planes(arrays["img_u8"]).float() / 255


def _planes(pixels: np.ndarray) -> Tensor:
    """(1, C, H, W) of (H, W, C)."""
    return torch.from_numpy(pixels).permute(2, 0, 1)[None]


def _error(ours: Tensor, theirs: np.ndarray) -> float:
    return float((ours.double() - _planes(theirs).double()).abs().max())


def _blur(size: int, sigma_x: float, sigma_y: float, theta: float) -> BlurDraw:
    family = "aniso" if sigma_x != sigma_y or theta else "iso"
    numbers = {"sigma_x": sigma_x, "sigma_y": sigma_y, "theta": theta, "beta": 0.0, "omega": 0.0}
    return BlurDraw(
        family=torch.tensor([FAMILIES.index(family)]),
        size_px=torch.tensor([size]),
        **{name: torch.tensor([value], dtype=torch.float64) for name, value in numbers.items()},
    )


def test_anisotropic_blurs_equal_the_original(arrays: Arrays, picture: Tensor) -> None:
    for number in range(3):
        size, theta, l1, l2 = arrays[f"aniso{number}_params"]
        blurred = shuffled._blurred(picture, _blur(int(size), l1**0.5, l2**0.5, theta))
        assert _error(blurred, arrays[f"aniso{number}_blurred"]) < 2e-6


def test_the_reduction_by_a_shifted_kernel_equals_the_original(arrays: Arrays, picture: Tensor) -> None:
    for number in range(4):
        _, sigma, sf = arrays[f"shift{number}_params"]
        kernel = shuffled.shifted_gaussian(sigma, int(sf))
        assert np.abs(kernel.numpy() - arrays[f"shift{number}_kernel"]).max() < 1e-7
        draw = Reduction(
            resized=torch.tensor([False]),
            factor=torch.ones(1),
            filter=torch.zeros(1),
            sigma=torch.tensor([sigma], dtype=torch.float64),
        )
        assert _error(shuffled._reduced(picture, draw, int(sf)), arrays[f"shift{number}_nearest"].clip(0, 1)) < 2e-6


def test_all_filters_equal_the_original(arrays: Arrays, picture: Tensor) -> None:
    for number in range(6):
        factor, flag, height, width = arrays[f"resize{number}_params"]
        assert (int(height), int(width)) == tuple(int(1 / factor * side) for side in picture.shape[2:])
        ours = shuffled._resized(picture, (int(height), int(width)), FILTERS.index(_FLAGS[int(flag)])).clamp(0, 1)
        assert _error(ours, arrays[f"resize{number}_out"]) < 3e-6
    for flag, name in _FLAGS.items():
        ours = shuffled._resized(picture, (32, 36), FILTERS.index(name)).clamp(0, 1)
        assert _error(ours, arrays[f"half_cv{flag}"]) < 3e-6
    assert _error(imresize(picture, size=(32, 36)).clamp(0, 1), arrays["half_matlab"]) < 3e-6


@pytest.mark.parametrize("size", [(70, 80), (64, 90), (40, 100), (100, 40), (64, 72)])
def test_area_reductions_and_enlargements_equal_opencvs(size: tuple[int, int], picture: Tensor) -> None:
    import cv2

    theirs = cv2.resize(picture[0].permute(1, 2, 0).numpy(), size[::-1], interpolation=cv2.INTER_AREA)
    assert _error(area(picture, size), theirs) < 3e-6


def test_the_correlation_of_colours_equals_the_original(arrays: Arrays) -> None:
    spread, random = (torch.from_numpy(arrays[f"gauss_cov_{name}"])[None] for name in "DA")
    ours = shuffled.covariance(spread, random)[0].numpy()
    assert np.abs(ours - arrays["gauss_cov_used"]).max() < 1e-12
    assert (arrays["gauss_cov_exact"] < 0).any()  # where the absolute value matters


def test_jpeg_equals_the_originals_codec(arrays: Arrays, picture: Tensor) -> None:
    for number in range(4):
        ours = jpeg(picture, torch.tensor([float(arrays[f"jpeg{number}_quality"])])) * 255
        assert _error(ours, arrays[f"jpeg{number}_out_u8"].astype(np.float64)) <= 2


class _Trace:
    """What the original drew, call by call."""

    def __init__(self, arrays: Arrays, name: str) -> None:
        self.arrays, self.name = arrays, name
        calls = json.loads(str(arrays[f"{name}_calls"]))
        self.calls = [call for call in calls if call[0] not in ("enter", "leave")]
        self.facts: dict[str, Any] = {
            "resized": False, "factor": 1.0, "filter": 0, "sigma": 1.0, "quality": 50.0, "compressed": False,
            "last_filter": 0, "halved": False, "halving": 0,
        }  # fmt: skip
        self.blurs: list[BlurDraw] = [_blur(7, 1, 1, 0)] * 2
        self.noise = torch.zeros(0)

    def take(self, name: str) -> Any:
        call = self.calls.pop(0)
        assert call[0] == name, (call, name)
        return call[2]

    def take_halving(self) -> None:
        self.facts["halved"] = self.take("py.random") < 0.25
        if self.facts["halved"]:
            is_matlab = self.take("np.rand") >= 0.5
            self.facts["halving"] = FILTERS.index("matlab") if is_matlab else self.take("py.choice") - 1

    def take_blur(self, number: int, sf: int) -> None:
        if self.take("py.random") < 0.5:
            l1, l2 = ((4 + sf) * self.take("py.random") for _ in range(2))
            size, theta = 2 * self.take("py.randint") + 3, self.take("py.random") * np.pi
            self.blurs[number] = _blur(size, l1**0.5, l2**0.5, theta)
        else:
            size, sigma = 2 * self.take("py.randint") + 3, (2 + 0.2 * sf) * self.take("py.random")
            self.blurs[number] = _blur(size, sigma, sigma, 0)

    def take_reduction(self) -> None:
        self.facts["resized"] = self.take("py.random") < 0.75
        if self.facts["resized"]:
            self.facts |= {"factor": self.take("py.uniform"), "filter": self.take("py.choice") - 1}
        else:
            self.facts["sigma"] = self.take("py.uniform")

    def take_noise(self) -> None:
        self.take("py.randint")
        self.take("np.rand")
        drawn = self.arrays[self.take("np.normal")]
        self.noise = _planes(np.broadcast_to(drawn, (*drawn.shape[:2], 3)).copy())

    def take_jpeg(self) -> None:
        self.facts["compressed"] = self.take("py.random") < 0.9
        if self.facts["compressed"]:
            self.facts["quality"] = float(self.take("py.randint"))


def _draws_of(arrays: Arrays, name: str) -> tuple[ShuffledDraws, Tensor]:
    """What the original drew as our draws, and its noise."""
    scale, patch = (int(value) for value in arrays[f"{name}_params"])
    height, width = (side // scale * scale for side in arrays["trace_img_u8"].shape[:2])
    trace = _Trace(arrays, name)
    if scale == 4:
        trace.take_halving()
    sf = scale // 2 if trace.facts["halved"] else scale
    sample = trace.take("py.sample")
    first, second = sorted((sample.index(2), sample.index(3)))
    sample[first], sample[second] = 2, 3
    for operation in sample:
        match operation:
            case 0 | 1:
                trace.take_blur(operation, sf)
            case 2:
                trace.take_reduction()
            case 3:
                trace.facts["last_filter"] = trace.take("py.choice") - 1
            case 4:
                trace.take_noise()
            case 5:
                trace.take_jpeg()
            case 6:  # a camera's processing, which there is no model of
                trace.take("py.random")
    last = float(trace.take("py.randint"))
    corner = [trace.take("py.randint"), trace.take("py.randint")]
    assert not trace.calls
    tensors = {key: torch.tensor([value]) for key, value in trace.facts.items()}
    reduction = Reduction(**{key: tensors.pop(key) for key in ("resized", "factor", "filter", "sigma")})
    draws = ShuffledDraws(
        samples=torch.tensor([0]),
        order=torch.tensor([[operation for operation in sample if operation != 6]]),
        blurs=tuple(trace.blurs),
        reduction=reduction,
        colour=torch.tensor([COLOURS.index("grey")]),
        mixing=torch.eye(3, dtype=torch.float64)[None],
        last_quality=torch.tensor([last]),
        crop=torch.tensor([corner]),
        seed=0,
        scale=scale,
        height=height,
        width=width,
        crop_px=patch * scale,
        **tensors,
    )
    return draws, trace.noise


@pytest.mark.parametrize("trace", ["trace0", "trace1", "trace2"])
def test_the_whole_shuffled_chain_equals_the_original(arrays: Arrays, trace: str) -> None:
    draws, noise = _draws_of(arrays, trace)
    hr = _planes(arrays["trace_img_u8"][: draws.height, : draws.width]).float() / 255
    steps: dict[str, Tensor] = {}
    lq = shuffled.apply(
        hr, draws, given={"noise": noise}, on_step=lambda name, images: steps.update({name: images[0].clone()})
    )
    names = ["half"] * bool(draws.halved) + [OPERATIONS[number] for number in draws.order[0]] + ["last_jpeg"]
    assert list(steps) == names
    side, (top, left) = int(arrays[f"{trace}_params"][1]), draws.crop[0].tolist()
    ours = lq[:, :, top : top + side, left : left + side]
    difference = (ours.double() - _planes(arrays[f"{trace}_lq"]).double()).abs() * 255
    # JPEG turns the last bits of what goes in into whole levels here and there
    assert difference.mean() < 0.05 and difference.max() <= 4
    first = next(number for number in range(3) if f"{trace}_step{number}" in arrays)
    before_jpeg = next(name for name in names if name in ("blur1", "blur2", "noise"))
    assert _error(steps[before_jpeg][None], arrays[f"{trace}_step{first}"]) < 3e-6


def test_kernels_are_correlated_in_the_originals_place(golden: Golden) -> None:
    arrays = np.load(golden("realsr_degrade.npz"), allow_pickle=False)
    hr = _planes(arrays["hr_u8"]).double()
    for name in ("asym13", "k2_17", "k4_33", "even12", "delta_r1c3"):
        kernel = torch.from_numpy(arrays[f"{name}_kernel"])[None]
        for scale in (2, 4):
            assert _error(realsr.reduce(hr, kernel, scale), arrays[f"{name}_x{scale}_float"]) < 2e-5


def test_white_stays_white_under_a_kernel_whose_sum_is_too_large(golden: Golden, tmp_path: Path) -> None:
    from realesr_train import degradations

    arrays = np.load(golden("realsr_degrade.npz"), allow_pickle=False)
    np.savez(tmp_path / "over.npz", kernel=arrays["white_over_kernel"], scale=2)
    config = DegradationConfig(kind="realsr", kernels=tmp_path)
    white = _planes(arrays["white_u8"]).float() / 255
    draws = degradations.draw(config, scale=2, seed=0, samples=torch.tensor([0]), height=64, width=64)
    result = degradations.apply(white, draws)
    wrapped = _planes(arrays["white_over_u8"] == 0)  # what the original made of white
    assert wrapped.sum() > 100 and bool((result[wrapped] == 1).all())


def test_noise_patches_are_injected_as_in_the_original(golden: Golden) -> None:
    arrays = np.load(golden("realsr_noise.npz"), allow_pickle=False)
    for number in range(4):
        index, top, left = arrays[f"inject{number}_idx_y_x"]
        patch = _planes(arrays["pool_u8"][index][top : top + 32, left : left + 32]).float() / 255
        lr = _planes(arrays[f"inject{number}_lr_u8"]).float() / 255
        ours = realsr.inject(lr, patch)[0]
        assert float((ours - torch.from_numpy(arrays[f"inject{number}_out"])).abs().max()) < 1e-6
