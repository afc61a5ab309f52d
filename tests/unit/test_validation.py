"""Validation on fixed pairs, and the sheets that show them."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from networks import Nearest, compact
from numpy.typing import NDArray
from realesr_train.config import DegradationConfig
from realesr_train.degradation.draws import draw
from realesr_train.degradation.resize import imresize
from realesr_train.degradation.second_order import apply
from realesr_train.ema import Ema
from realesr_train.metrics.psnr_ssim import psnr, ssim
from realesr_train.sheets import draw_sheet, sample_path, write_sheet
from realesr_train.validation import (
    Pair,
    bicubic_outputs,
    make_pairs,
    outputs,
    pitch_pattern,
    scores,
    to_pixels,
    to_tensor,
    validate,
)
from torch import Tensor, nn

from realesr_cli.errors import TrainingDiverged, UnsupportedInput
from realesr_cli.image_io import read_image

Pixels = NDArray[np.uint8]


def _photo(height: int, width: int, seed: int = 0) -> Pixels:
    """Smooth, but with detail at every scale."""
    rng = np.random.default_rng(seed)
    picture = np.zeros((height, width, 3), np.float32)
    for cells in (3, 6, 12, 24):
        coarse = rng.normal(0, 1 / cells, (cells, cells, 3)).astype(np.float32)
        picture += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    levels: Pixels = np.clip(128 + 160 * picture, 0, 255).round().astype(np.uint8)
    return levels


def _half(hr: Tensor, number: int) -> Tensor:
    return imresize(hr, scale=0.5)


def _pairs(count: int = 2) -> tuple[Pair, ...]:
    return make_pairs({f"photo{i}": _photo(40, 48, i) for i in range(count)}, _half, scale=2)


def _second_order(hr: Tensor, number: int) -> Tensor:
    height, width = hr.shape[2:]
    samples = torch.tensor([number])
    return apply(hr, draw(DegradationConfig(), scale=2, seed=7, samples=samples, height=height, width=width))


def test_pairs_are_the_same_in_every_run_and_differ_between_pictures() -> None:
    pictures = {"a": _photo(40, 48), "b": _photo(40, 48)}
    torch.manual_seed(1)
    first = make_pairs(pictures, _second_order, scale=2)
    torch.manual_seed(2)
    second = make_pairs(pictures, _second_order, scale=2)
    assert [pair.name for pair in first] == ["a", "b"]
    assert all(np.array_equal(one.lq, other.lq) for one, other in zip(first, second, strict=True))
    assert np.array_equal(first[0].hr, first[1].hr)
    assert not np.array_equal(first[0].lq, first[1].lq), "each picture has its own draws"


def test_pictures_are_cut_to_what_the_network_takes() -> None:
    (pair,) = make_pairs({"a": _photo(47, 53)}, _half, scale=2, multiple_of=4)
    assert pair.hr.shape == (40, 48, 3)
    assert pair.lq.shape == (20, 24, 3)
    assert pair.scale == 2
    assert np.array_equal(pair.hr, _photo(47, 53)[:40, :48])


@pytest.mark.parametrize(
    ("name", "picture", "message"),
    [
        ("a", _photo(14, 40), "too small"),
        ("a", _photo(40, 48)[..., :1], "8-bit RGB"),
        ("a", _photo(40, 48).astype(np.uint16), "8-bit RGB"),
        ("folder/a", _photo(40, 48), "without folders"),
    ],
)
def test_a_picture_that_cannot_be_used_is_named(name: str, picture: Pixels, message: str) -> None:
    with pytest.raises(UnsupportedInput) as caught:
        make_pairs({name: picture}, _half, scale=2)
    assert message in f"{caught.value.message} {caught.value.hint}"
    assert name in caught.value.message


def test_the_smallest_picture_that_is_taken_can_be_scored() -> None:
    side = 15  # what is left of 16 px without a border of 2 would be 12, and of 14 px 10
    with pytest.raises(UnsupportedInput, match="too small"):
        make_pairs({"a": _photo(side, side)}, _half, scale=2)
    pairs = make_pairs({"a": _photo(16, 16)}, _half, scale=2)
    assert scores(bicubic_outputs(pairs), pairs)["ssim_y"] > 0.5


def test_a_degradation_of_the_wrong_size_is_named() -> None:
    with pytest.raises(ValueError, match=r"degrade: gives \(40, 48, 3\)"):
        make_pairs({"a": _photo(40, 48)}, lambda hr, number: hr, scale=2)


def test_eight_bits_go_through_tensors_unchanged() -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, 2)
    assert np.array_equal(to_pixels(to_tensor(levels)), levels)
    assert to_pixels(torch.tensor([-0.2, 1.7, 0.5]).view(1, 3, 1, 1)).tolist() == [[[0, 255, 128]]]


def test_scores_are_the_means_of_the_metrics_on_rounded_pictures_without_border() -> None:
    network = compact(scale=2).network
    pairs = _pairs()
    values = validate(network, pairs)
    expected = []
    for pair in pairs:
        with torch.no_grad():
            picture = network(to_tensor(pair.lq)).clamp(0, 1).mul(255).round().to(torch.uint8)
        pixels = picture[0].permute(1, 2, 0).numpy()
        inside = pixels[2:-2, 2:-2].astype(float) - pair.hr[2:-2, 2:-2]
        expected.append(
            {
                "psnr_y_db": psnr(pixels, pair.hr, border=2, luma=True),
                "ssim_y": ssim(pixels, pair.hr, border=2, luma=True),
                "psnr_rgb_db": psnr(pixels, pair.hr, border=2),
                "ssim_rgb": ssim(pixels, pair.hr, border=2),
                **{f"shift_{name}_levels": inside[..., i].mean() for i, name in enumerate("rgb")},
            }
        )
    for key in expected[0]:
        assert values[key] == pytest.approx((expected[0][key] + expected[1][key]) / 2, abs=1e-9), key


def test_another_border_can_be_cut_and_none() -> None:
    pairs = _pairs(1)
    (bicubic,) = bicubic_outputs(pairs)
    for border in (0, 5):
        expected = psnr(bicubic, pairs[0].hr, border=border)
        assert scores([bicubic], pairs, border=border)["psnr_rgb_db"] == pytest.approx(expected)


def test_the_base_line_is_bicubic_and_better_than_repeated_pixels() -> None:
    pairs = _pairs()
    bicubic, nearest = scores(bicubic_outputs(pairs), pairs), validate(Nearest(2), pairs)
    assert bicubic["psnr_y_db"] > nearest["psnr_y_db"] + 1
    assert bicubic["ssim_rgb"] > nearest["ssim_rgb"]
    assert bicubic.keys() == nearest.keys()


def test_a_perfect_network_has_finite_scores() -> None:
    pairs = _pairs()
    values = scores([pair.hr for pair in pairs], pairs)
    assert values["psnr_y_db"] == values["psnr_rgb_db"] == 100
    assert values["ssim_y"] == pytest.approx(1)
    assert values["shift_r_levels"] == 0


def test_a_tint_is_told_by_channel_and_with_its_sign() -> None:
    pairs = _pairs()
    tinted = [np.clip(pair.hr.astype(int) + np.array([3, 0, -5]), 0, 255).astype(np.uint8) for pair in pairs]
    values = scores(tinted, pairs)
    assert values["shift_r_levels"] == pytest.approx(3, abs=0.1)
    assert values["shift_g_levels"] == 0
    assert values["shift_b_levels"] == pytest.approx(-5, abs=0.1)


def test_dots_at_the_pitch_of_input_pixels_are_told_from_noise() -> None:
    photo = _photo(64, 64)
    dots = photo.copy()
    dots[::4, ::4] = np.minimum(dots[::4, ::4], 245) + 10
    noise = np.clip(photo + np.random.default_rng(0).normal(0, 3, photo.shape), 0, 255).astype(np.uint8)
    assert pitch_pattern(photo, 4) < 0.2
    assert pitch_pattern(noise, 4) < 0.2
    assert pitch_pattern(dots, 4) > 0.7
    assert pitch_pattern(np.zeros((20, 20, 3), np.uint8), 4) == 0


class _Failing(nn.Module):
    """A part in training mode, a frozen part in eval mode; what it gives depends on the mode."""

    def __init__(self, value: float = 0.0) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.frozen = nn.BatchNorm2d(3).eval()
        self.value = value

    def forward(self, x: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        result: Tensor = Nearest(2)(self.frozen(self.norm(x)))
        result[0, 1, 2, 3] += self.value
        return result


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_every_part_of_the_network_gets_its_mode_back_also_after_an_error(value: float) -> None:
    network = _Failing(value).train()
    network.frozen.eval()
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    if value == 0:
        assert validate(network, _pairs())["psnr_y_db"] > 20
    else:
        with pytest.raises(TrainingDiverged, match="photo0"):
            validate(network, _pairs())
    assert network.training
    assert network.norm.training
    assert not network.frozen.training
    assert all(torch.equal(tensor, before[key]) for key, tensor in network.state_dict().items())


def test_gradients_are_on_between_two_pictures() -> None:
    for _pixels in outputs(Nearest(2), _pairs()):
        assert torch.is_grad_enabled()


def test_the_average_of_a_training_is_validated_like_any_network() -> None:
    network = compact(scale=2).network
    assert validate(Ema(network, 0.9).network, _pairs()) == validate(network, _pairs())


def test_no_pictures_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one"):
        validate(Nearest(2), ())


# --- sheets -----------------------------------------------------------------------------------------------------------


def test_a_sheet_shows_the_four_pictures_side_by_side() -> None:
    (pair,) = make_pairs({"a": _photo(120, 160)}, _half, scale=2)
    (bicubic,) = bicubic_outputs([pair])
    output = np.full_like(pair.hr, 77)
    sheet = draw_sheet(pair, output)
    repeated = pair.lq.repeat(2, 0).repeat(2, 1)
    for index, panel in enumerate((repeated, bicubic, output, pair.hr)):
        left = index * (160 + 6)
        assert np.array_equal(sheet[26:, left : left + 160], panel), index
        assert (sheet[:26, left : left + 160] < 128).sum() > 50, "a label"
    assert sheet.shape == (26 + 120, 4 * 160 + 3 * 6, 3)


def test_of_a_large_picture_the_part_with_most_detail_is_shown() -> None:
    hr = np.full((400, 600, 3), 90, np.uint8)
    hr[210:300, 350:450] = _photo(90, 100)
    (pair,) = make_pairs({"a": hr}, _half, scale=2)
    sheet = draw_sheet(pair, pair.hr, side_px=200)
    shown = sheet[26:, -200:]
    assert shown.shape == (200, 200, 3)
    assert (shown != 90).any(2).sum() > 0.9 * (hr != 90).any(2).sum()


def test_sheets_are_written_per_step_and_validated_while_being_drawn(tmp_path: Path) -> None:
    pairs = _pairs()

    def keep(pair: Pair, pixels: Pixels) -> None:
        write_sheet(sample_path(tmp_path, 5000, pair.name), pair, pixels)

    values = validate(Nearest(2), pairs, on_output=keep)
    validate(Nearest(2), pairs, on_output=keep)  # a resumed run writes the same sheet again
    assert values == validate(Nearest(2), pairs)
    files = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png"))
    assert files == ["samples/step-00005000/photo0.png", "samples/step-00005000/photo1.png"]
    written = read_image(tmp_path / files[0]).pixels
    assert np.array_equal(written, draw_sheet(pairs[0], pairs[0].lq.repeat(2, 0).repeat(2, 1)))
