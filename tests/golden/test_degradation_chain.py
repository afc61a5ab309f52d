"""The whole chain against 19 chains of the original program, step by step and from end to end."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from realesr_train.degradation.draws import (
    DIRECTIONS,
    IMPULSE,
    NOISES,
    BlurDraw,
    Draws,
    FinalDraw,
    NoiseDraw,
    PassDraw,
    ResizeDraw,
)
from realesr_train.degradation.filters import sharpen
from realesr_train.degradation.resize import MODES
from realesr_train.degradation.second_order import apply, paired_crop

CHAINS = range(19)
STEP_TOLERANCE = 5e-6
"""float32 sums in another order; DEGRADATION.md."""


class Chain:
    """One recorded chain: its draws in our form, what was drawn as arrays, and its steps."""

    def __init__(self, stored: Any, number: int) -> None:
        def get(name: str) -> Tensor:
            return torch.from_numpy(stored[f"c{number:02d}__{name}"])

        self.meta = meta = json.loads(str(stored[f"c{number:02d}__meta"]))
        self.get = get
        self.hr = get("hr").float() / 255
        count, _, height, width = self.hr.shape
        scale = meta["scale"]

        def same(value: float, dtype: torch.dtype = torch.int64) -> Tensor:
            return torch.full((count,), value, dtype=dtype)

        def resize(n: int, height: int, width: int) -> ResizeDraw:
            mode, target = same(MODES.index(meta[f"mode{n}"])), torch.tensor([[height, width]]).expand(count, 2)
            if n == 3:
                return ResizeDraw(mode=mode, target=target)
            factor = same(meta[f"scale{n}"], torch.float64)
            return ResizeDraw(
                mode=mode, target=target, direction=same(DIRECTIONS.index(meta[f"updown{n}"])), factor=factor
            )

        def noise(n: int) -> NoiseDraw:
            if not meta["noise_on"]:  # then the step is only its clamp
                self.given[f"noise{n}"] = torch.zeros(count, 3, 1, 1)
                kind, strength, grey = same(0), same(0, torch.float64), same(0, torch.bool)
            else:
                kind, strength = same(NOISES.index(meta[f"noise{n}"])), get(f"n{n}_level").double()
                grey = get(f"n{n}_gray") > 0
                self.given[f"noise{n}"] = self._field(n, grey)
            return NoiseDraw(kind=kind, strength=strength, grey=grey, field=torch.arange(count), poisson_levels="rule")

        zero = same(0, torch.float64)
        kernel = BlurDraw(
            family=same(IMPULSE), size_px=same(1), sigma_x=zero, sigma_y=zero, theta=zero, beta=zero, omega=zero
        )
        self.given: dict[str, Tensor] = {"blur1": get("kernel1"), "sinc": get("sinc_kernel")}
        if meta["second_blur"]:
            self.given["blur2"] = get("kernel2")
        f1, f2 = meta["scale1"], meta["scale2"]
        first = resize(1, int(height * f1), int(width * f1))
        second = resize(2, int(height / scale * f2), int(width / scale * f2))
        self.draws = Draws(
            samples=torch.arange(count),
            plain=torch.zeros(count, dtype=torch.bool),
            passes=(
                PassDraw(blur=kernel, resize=first, noise=noise(1), quality=get("jpeg1_quality").double()),
                PassDraw(blur=kernel, resize=second, noise=noise(2), quality=None),
            ),
            final=FinalDraw(
                resize=resize(3, height // scale, width // scale),
                sinc=kernel,
                quality=get("jpeg2_quality").double(),
                jpeg_last=same(meta["order"] == "resize_sinc_jpeg", torch.bool),
            ),
            crop=torch.tensor([[meta["crop_top_lq"], meta["crop_left_lq"]]]).expand(count, 2),
            seed=0,
            scale=scale,
            height=height,
            width=width,
            crop_px=meta["gt_size"],
            sharpen_input=True,
            resize_step="factor",
            jpeg_model="legacy",
        )

    def _field(self, n: int, grey: Tensor) -> Tensor:
        """The recorded numbers of each image: its own colour field, or the grey one in three channels."""
        name = "z" if self.meta[f"noise{n}"] == "gaussian" else "counts"
        field = self.get(f"n{n}_{name}_color").float()
        if grey.any():
            grey_field = self.get(f"n{n}_{name}_gray").float()
            grey_field = grey_field.view(-1, 1, *field.shape[2:]).expand_as(field)
            field = torch.where(grey.view(-1, 1, 1, 1), grey_field, field)
        return field


@pytest.fixture(scope="module")
def chains(golden: Callable[[str], Path]) -> list[Chain]:
    stored = np.load(golden("pipeline_scripted.npz"))
    assert int(stored["chains"]) == len(CHAINS)
    return [Chain(stored, number) for number in CHAINS]


def _steps_of(chain: Chain, hook: Callable[[str, Tensor, dict[int, Tensor]], None]) -> list[str]:
    """Runs the chain; `hook(step, images, views)` for each of its steps. Returns their names."""
    names = []

    def on_step(step: str, images: dict[int, Tensor]) -> None:
        assert sorted(images) == [0, 1]
        names.append(step)
        hook(step, torch.stack([images[0], images[1]]), images)

    apply(chain.hr, chain.draws, given=chain.given, on_step=on_step)
    return names


@pytest.mark.parametrize("number", CHAINS)
def test_each_step_gives_what_the_original_gave(chains: list[Chain], number: int) -> None:
    chain = chains[number]

    def compare(step: str, ours: Tensor, views: dict[int, Tensor]) -> None:
        theirs = chain.get("s_usm_full" if step == "usm" else f"s_{step}")
        difference = (ours - theirs).abs()
        if step == "usm":  # a mask value on the threshold moves its neighbourhood
            assert difference.mean() < 2e-6 and difference.max() < 1e-3
        elif step.startswith("jpeg"):  # a coefficient on a rounding tie
            assert difference.mean() < 1e-4 and (difference < 1e-5).double().mean() >= 0.999
        else:
            assert difference.max() < STEP_TOLERANCE, step
        for i, view in views.items():
            view.copy_(theirs[i])

    names = _steps_of(chain, compare)
    recorded = ["usm" if name == "usm_full" else name for name in chain.meta["steps"] if name != "usm_crop"]
    assert names == recorded


def test_whole_chains_give_the_originals_bytes(chains: list[Chain]) -> None:
    exact = 0
    for chain in chains:
        ours = apply(chain.hr, chain.draws, given=chain.given)
        levels = ours * 255
        assert torch.equal(levels, levels.round())
        difference = (levels - chain.get("lq_full_u8").float()).abs()
        exact += int(difference.max() == 0)
        assert difference.mean() < 0.5 and difference.max() <= 8
    assert exact >= 15


@pytest.mark.parametrize("number", CHAINS)
def test_the_crop_is_the_originals(chains: list[Chain], number: int) -> None:
    chain = chains[number]
    whole = chain.get("lq_full_u8").float() / 255
    gt = sharpen(chain.hr) if chain.meta["net"] else chain.hr
    lq, gt = paired_crop(whole, gt, chain.draws)
    assert torch.equal((lq * 255).round().byte(), chain.get("lq_u8"))
    if chain.meta["net"]:
        assert (gt - chain.get("gt")).abs().max() < 1e-3
    else:
        assert torch.equal((gt * 255).round().byte(), chain.get("gt_u8"))
        assert (sharpen(gt) - chain.get("s_usm_crop")).abs().max() < 1e-3


def test_without_the_recorded_defect_the_step_differs(chains: list[Chain]) -> None:
    """The legacy switches do something: chain 0 without D2's step is another picture."""
    from dataclasses import replace

    chain = next(c for c in chains if c.meta["mode1"] != "area" and c.meta["updown1"] == "down")
    seen: dict[str, Tensor] = {}

    def keep(step: str, images: dict[int, Tensor]) -> None:
        seen[step] = images[0]

    apply(chain.hr, replace(chain.draws, resize_step="size"), given=chain.given, on_step=keep)
    assert (seen["resize1"] - chain.get("s_resize1")[0]).abs().max() > 0.01
    legacy = seen["jpeg1"]
    apply(chain.hr, replace(chain.draws, resize_step="size", jpeg_model="libjpeg"), given=chain.given, on_step=keep)
    assert (seen["jpeg1"] - legacy).abs().max() > 0.01
