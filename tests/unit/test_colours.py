"""--keep-colours: a result has the low frequencies of its picture, and nothing else of it changes."""

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from networks import compact, rrdb
from realesr_cli import DeviceOptions, TileOptions, Upscaler
from realesr_cli.models.architectures import LoadedModel
from realesr_cli.models.colours import REACH_PX, correction, keep_colours, low

_FP32 = DeviceOptions(device="cpu", precision="fp32")


def _upscale(model: LoadedModel, pixels: np.ndarray, **options: object) -> np.ndarray:
    return Upscaler(model, device=_FP32, tile=TileOptions(**options))(pixels)  # type: ignore[arg-type]


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_the_correction_is_a_bilinear_enlargement_of_a_gaussian(scale: int) -> None:
    lost = torch.rand(2, 3, 20, 17, generator=torch.Generator().manual_seed(0))
    line = torch.exp(-0.5 * torch.arange(-3, 4.0) ** 2)
    gauss = (line[:, None] * line / line.sum() ** 2).expand(3, 1, -1, -1)
    smooth = F.conv2d(F.pad(lost, (3,) * 4, mode="replicate"), gauss, groups=3)
    wanted = F.interpolate(smooth, scale_factor=scale, mode="bilinear")
    result = F.pixel_shuffle(correction(lost, scale), scale)
    inside = slice(REACH_PX * scale, -REACH_PX * scale)  # borders are continued before, not between, the two
    torch.testing.assert_close(result[..., inside, inside], wanted[..., inside, inside])


def test_a_smooth_drift_is_taken_back_and_detail_stays() -> None:
    generator = torch.Generator().manual_seed(1)
    clean = torch.rand(1, 3, 64, 64, generator=generator) * 0.5 + 0.25
    down, right = torch.meshgrid(torch.linspace(0, 1, 64), torch.linspace(0, 1, 64), indexing="ij")
    drift = 0.05 * torch.stack((down, right, 1 - down))[None]
    result = keep_colours(clean + drift, low(clean, 4), 4)
    assert (result - clean).abs().max() < 0.004 < drift.abs().max() / 10
    torch.testing.assert_close(keep_colours(clean, low(clean, 4), 4), clean)


@pytest.mark.parametrize(
    "model", [compact(), compact(scale=2), rrdb(), rrdb(unshuffle=2)], ids=["c4", "c2", "r4", "r2"]
)
def test_tiles_change_nothing(model: LoadedModel, rng: np.random.Generator) -> None:
    pixels = rng.integers(0, 65536, (70, 61, 3), np.uint16)
    whole = _upscale(model, pixels, keep_colours=True)
    tiled = _upscale(model, pixels, keep_colours=True, size=16)
    assert int(np.abs(whole.astype(int) - tiled.astype(int)).max()) <= 1
    assert int(np.abs(whole.astype(int) - _upscale(model, pixels).astype(int)).max()) > 300


@pytest.mark.parametrize("model", [compact(), rrdb()], ids=["compact", "rrdb"])
@pytest.mark.parametrize("self_ensemble", [False, True])
def test_the_result_is_that_of_the_formula(model: LoadedModel, self_ensemble: bool, rng: np.random.Generator) -> None:
    pixels = cv2.GaussianBlur(rng.integers(0, 65536, (24, 20, 3), np.uint16), (0, 0), 1.5)
    plain = _upscale(model, pixels, self_ensemble=self_ensemble)
    inside = (plain > 0) & (plain < 65535)  # the formula is about values that were not clamped
    assert inside.mean() > 0.9
    as_tensor = [torch.from_numpy(one.astype(np.float32) / 65535).permute(2, 0, 1)[None] for one in (plain, pixels)]
    wanted = keep_colours(*as_tensor, scale=model.scale)[0].permute(1, 2, 0).clamp(0, 1).numpy() * 65535
    result = _upscale(model, pixels, self_ensemble=self_ensemble, keep_colours=True)
    near = cv2.erode(inside.astype(np.uint8), np.ones((33, 33), np.uint8)) > 0
    assert near.any() and np.abs(result - wanted)[near].max() < 3


def test_grey_stays_grey_and_alpha_is_kept(rng: np.random.Generator) -> None:
    grey = rng.integers(0, 256, (20, 22, 1), np.uint8).repeat(3, 2)
    result = _upscale(compact(), grey, keep_colours=True)
    assert (result == result[..., :1]).all()
    picture = np.dstack((rng.integers(0, 256, (20, 22, 3), np.uint8), np.full((20, 22), 200, np.uint8)))
    assert (_upscale(compact(), picture, keep_colours=True)[..., 3] == 200).all()
