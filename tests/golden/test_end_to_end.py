"""The original program's end-to-end cases. Where it has a defect, ours must differ in the way that is right."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from realesr_cli import DeviceOptions, TileOptions, Upscaler
from realesr_cli.models.architectures import build_model
from realesr_cli.models.reading import blend, read_weights
from test_networks import load_golden

Finder = Callable[[str], Path]
_FP32 = DeviceOptions(device="cpu", precision="fp32")

_PLAIN = ["01_rgb8_x4", "02_rgb8_x4_out2", "03_rgb8_x4_out3p5", "05_rgb16_x4", "06_rgb16_x4_out3p5", "07_gray8_x4",
          "08_gray16_x2", "13_rgb8_x2_modpad", "15_rgb8_x1_modpad", "16_tile_exact", "20_dni_30_70",
          "21_rgb8_x3_out4", "23_tiny_1x1", "24_rgb8_x4_out0p5"]  # fmt: skip
_PRE_PADDED = ["04_rgb8_x4_prepad10", "14_rgb8_x2_prepad_out3"]
_SEAMS = ["17_tile_pad_small", "18_tile_rrdb_seams", "19_tile_x2_modpad", "25_gray16_tile_prepad"]
_ALPHA = ["10_rgba8_alpha_bicubic", "11_rgba16_alpha_net_out2", "12_rgba8_x2_bicubic_odd"]


class Case:
    """One file of golden/e2e, turned from OpenCV's channel order to ours."""

    def __init__(self, name: str, golden: Finder, folder: Path) -> None:
        with np.load(golden(f"e2e/{name}.npz"), allow_pickle=False) as arrays:
            self.arrays = {key: arrays[key] for key in arrays.files}
        self.meta: dict[str, Any] = json.loads(str(self.arrays["meta"]))
        self.input = _rgb(self.arrays["input"])
        self.native = _rgb(self.arrays["native"])
        models = [load_golden(golden(f"networks/{network}"), folder)[0] for network in self.meta["networks"]]
        self.model = models[0]
        if self.meta.get("dni_weight"):
            first, second = (
                read_weights(folder / f"{Path(network).stem}.safetensors") for network in self.meta["networks"]
            )
            self.model = build_model(blend(first, second, self.meta["dni_weight"][0]), "blend")


def _rgb(pixels: np.ndarray) -> np.ndarray:
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    return pixels[..., [2, 1, 0, 3][: pixels.shape[2]]] if pixels.shape[2] > 1 else pixels


def _close(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
    tolerance = 4 if ours.dtype == np.uint16 else 1
    assert int(np.abs(ours.astype(int) - theirs.astype(int)).max()) <= tolerance


@pytest.mark.parametrize("name", _PLAIN)
def test_native_result_equals_the_original(name: str, golden: Finder, tmp_path: Path) -> None:
    case = Case(name, golden, tmp_path)
    tile = TileOptions(size=case.meta["tile"], pad_px=case.meta["tile_pad"]) if case.meta.get("tile") else TileOptions()
    _close(Upscaler(case.model, device=_FP32, tile=tile)(case.input), case.native)


@pytest.mark.parametrize("name", _PRE_PADDED)
def test_native_result_with_the_originals_pre_padding(name: str, golden: Finder, tmp_path: Path) -> None:
    case = Case(name, golden, tmp_path)
    height, width = case.input.shape[:2]
    pad = case.meta["pre_pad"]
    padded = cv2.copyMakeBorder(case.input, 0, pad, 0, pad, cv2.BORDER_REFLECT_101)
    scale = case.model.scale
    _close(Upscaler(case.model, device=_FP32)(padded)[: height * scale, : width * scale], case.native)


@pytest.mark.parametrize("name", _SEAMS)
def test_tiles_equal_the_untiled_result_where_the_original_has_seams(name: str, golden: Finder, tmp_path: Path) -> None:
    case = Case(name, golden, tmp_path)
    picture = case.input
    if pad := case.meta["pre_pad"]:
        picture = cv2.copyMakeBorder(picture, 0, pad, 0, pad, cv2.BORDER_REFLECT_101).reshape(
            picture.shape[0] + pad, picture.shape[1] + pad, -1
        )
    height, width = (side * case.model.scale for side in case.input.shape[:2])
    ours = Upscaler(case.model, device=_FP32, tile=TileOptions(size=16))(picture)[:height, :width]
    expected = case.arrays["untiled_float"].clip(0, 1)
    if ours.shape[2] == 1:
        expected = np.tensordot([0.299, 0.587, 0.114], expected, 1)[None]
    levels = np.iinfo(ours.dtype).max
    _close(ours, np.rint(expected * levels).astype(ours.dtype).transpose(1, 2, 0))


@pytest.mark.parametrize("name", _ALPHA)
def test_colours_beside_alpha_equal_the_original_where_nothing_is_hidden(
    name: str, golden: Finder, tmp_path: Path
) -> None:
    """We fill the colours under alpha 0; so the comparison is made with the same picture, opaque."""
    case = Case(name, golden, tmp_path)
    opaque = case.input.copy()
    opaque[..., 3] = np.iinfo(opaque.dtype).max
    ours = Upscaler(case.model, device=_FP32)(opaque)
    _close(ours[..., :3], case.native[..., :3])
    assert (ours[..., 3] == np.iinfo(opaque.dtype).max).all()  # the original gives 254


def test_colours_hidden_under_alpha_do_not_show(golden: Finder, tmp_path: Path, rng: np.random.Generator) -> None:
    """Case 09: in the original, random colours under alpha 0 bleed into the visible edge."""
    case = Case("09_rgba8_alpha_net", golden, tmp_path)
    hidden = case.input[..., 3] == 0
    assert hidden.any() and not hidden.all()
    other = case.input.copy()
    other[hidden, :3] = rng.integers(0, 256, (int(hidden.sum()), 3))
    upscaler = Upscaler(case.model, device=_FP32)
    first, second = upscaler(case.input), upscaler(other)
    np.testing.assert_array_equal(first, second)
    assert (first[..., :3] != case.native[..., :3]).any()


def test_a_dark_16_bit_picture_stays_16_bit(golden: Finder, tmp_path: Path) -> None:
    """Case 22: the original decides by value, and returns 8 bits."""
    case = Case("22_dark16_misread", golden, tmp_path)
    result = Upscaler(case.model, device=_FP32)(case.input)
    assert result.dtype == np.uint16
    assert case.native.dtype == np.uint8
    bright = case.input.astype(np.uint32) * 257  # the same picture, its values spread as if it had been 8-bit
    reference = Upscaler(case.model, device=_FP32)(bright.clip(0, 65535).astype(np.uint16))
    assert result.mean() < reference.mean() / 10
