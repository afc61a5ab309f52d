"""Which pictures of an evaluation belong together, and what is read or made of them."""

from pathlib import Path

import numpy as np
import pytest
import torch

from realesr_cli.errors import UnreadableInput, UnsupportedInput
from realesr_cli.image_io import Image, write_image
from realesr_train.eval_set import Pixels, Sample, clean_only, degrader, guess_scale, load, paired, reduced_only
from recording import Events


def _picture(path: Path, height: int = 12, width: int = 16, level: int = 0, channels: int = 3) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.arange(height * width * channels).reshape(height, width, channels) * 7 % 256
    write_image(path, Image(pixels=(pixels + level).astype(np.uint8)))
    return path


def _named(folder: Path, *names: str) -> Path:
    for name in names:
        _picture(folder / name)
    return folder


def _partners(samples: tuple[Sample, ...]) -> list[tuple[str, str]]:
    return [(sample.lr.name, sample.hr.name) for sample in samples if sample.lr and sample.hr]


@pytest.mark.parametrize(
    ("low", "clean"),
    [
        ("baby.png", "baby.png"),
        ("baby.png", "baby.bmp"),
        ("baby_LR_x4.png", "baby.png"),
        ("baby_LRBI_x4.png", "baby_HR_x4.png"),
        ("baby_x4.png", "baby.png"),
        ("0801x4.png", "0801.png"),
        ("img_001_SRF_4_LR.png", "img_001_SRF_4_HR.png"),
        ("a b-lr.png", "a b.png"),
    ],
)
def test_names_of_benchmarks_find_their_partner(tmp_path: Path, low: str, clean: str) -> None:
    others = ("bird.png", "x4.png", "LR.png")
    samples, failed = paired(
        _named(tmp_path / "lr", low, *others), _named(tmp_path / "hr", clean, *others), found := Events()
    )
    assert (low, clean) in _partners(samples) and len(samples) == 4
    assert not failed and not found.all


def test_equal_names_go_before_similar_ones(tmp_path: Path) -> None:
    low = _named(tmp_path / "lr", "fox_x2.png", "fox.png")
    clean = _named(tmp_path / "hr", "fox.png", "fox_x2.png")
    samples, failed = paired(low, clean, Events())
    assert set(_partners(samples)) == {("fox.png", "fox.png"), ("fox_x2.png", "fox_x2.png")} and not failed


def test_what_has_no_partner_or_several_is_named(tmp_path: Path) -> None:
    low = _named(tmp_path / "lr", "a.png", "b.png", "c_LR.png", "c_x4.png", "d.png")
    clean = _named(tmp_path / "hr", "a.png", "c.png", "d_HR.png", "d_x4.png", *(f"z{i}.png" for i in range(7)))
    samples, failed = paired(low, clean, found := Events())
    assert _partners(samples) == [("a.png", "a.png"), ("c_LR.png", "c.png")]
    messages = {path.name: error.message for path, error in failed}
    assert "is called like it" in messages["b.png"]
    assert "already the partner of c_LR.png" in messages["c_x4.png"]
    assert "d_HR.png and d_x4.png are both" in messages["d.png"]
    (warning,) = found.of("warning")
    assert (
        warning["code"] == "unpaired" and "d_HR.png, d_x4.png, z0.png, z1.png, z2.png and 4 more" in warning["message"]
    )


def test_folders_without_pictures_or_pairs_are_refused(tmp_path: Path) -> None:
    low, clean = _named(tmp_path / "set" / "LR", "a.png"), _named(tmp_path / "set" / "HR", "b.png")
    with pytest.raises(UnreadableInput, match=r"no picture of .*LR has a partner"):
        paired(low, clean, Events())
    with pytest.raises(UnreadableInput, match="only folders") as caught:
        clean_only(tmp_path / "set")
    assert caught.value.hint == "name one: HR, LR"
    with pytest.raises(UnreadableInput, match="does not exist"):
        reduced_only(tmp_path / "nowhere")


def test_subfolders_are_left_out(tmp_path: Path) -> None:
    folder = _named(tmp_path / "set", "b.png", "a.png", "other/c.png", ".hidden.png")
    assert [(sample.number, sample.name) for sample in clean_only(folder)] == [(0, "a"), (1, "b")]


def test_the_scale_is_that_of_the_first_pair_that_has_headers(tmp_path: Path) -> None:
    (bad := tmp_path / "bad.png").write_bytes(b"nothing")
    low, clean = _picture(tmp_path / "low.png"), _picture(tmp_path / "clean.png", 37, 49)
    broken, good = Sample(number=0, name="b", lr=bad, hr=clean), Sample(number=1, name="g", lr=low, hr=clean)
    assert guess_scale([broken, good]) == 3
    assert guess_scale([broken]) is None and guess_scale([Sample(number=0, name="x", hr=clean)]) is None


def _load(sample: Sample, scale: int = 4, kind: str | None = None, seed: int = 0) -> tuple[Pixels, Pixels | None]:
    degrade = kind and degrader(kind, scale=scale, seed=seed)  # type: ignore[arg-type]
    return load(sample, scale=scale, degrade=degrade or None, reporter=Events())


def test_clean_pictures_lose_what_is_left_over(tmp_path: Path) -> None:
    low, clean = _picture(tmp_path / "low.png", 5, 6), _picture(tmp_path / "clean.png", 23, 27)
    small, large = _load(Sample(number=0, name="x", lr=low, hr=clean))
    assert large is not None and small.shape == (5, 6, 3) and large.shape == (20, 24, 3)
    assert _load(Sample(number=0, name="x", lr=low))[1] is None


@pytest.mark.parametrize(("low", "clean"), [((5, 6), (24, 24)), ((5, 6), (19, 24)), ((24, 24), (5, 6))])
def test_pairs_of_other_sizes_are_refused_with_both_sizes(
    tmp_path: Path, low: tuple[int, int], clean: tuple[int, int]
) -> None:
    sample = Sample(
        number=0, name="x", lr=_picture(tmp_path / "low.png", *low), hr=_picture(tmp_path / "clean.png", *clean)
    )
    with pytest.raises(UnsupportedInput, match=rf"{clean[1]}x{clean[0]} pixels, .* {low[1]}x{low[0]}.* 4 to 1"):
        _load(sample)


def test_a_clean_picture_smaller_than_the_scale_is_refused(tmp_path: Path) -> None:
    sample = Sample(number=0, name="x", hr=_picture(tmp_path / "tiny.png", 3, 16))
    with pytest.raises(UnsupportedInput, match="16x3 pixels, the scale is 4"):
        _load(sample, kind="bicubic")


def test_grey_alpha_and_16_bits_become_8_bit_rgb(tmp_path: Path) -> None:
    grey = _picture(tmp_path / "grey.png", channels=1)
    small, _ = _load(Sample(number=0, name="x", lr=grey))
    assert small.shape == (12, 16, 3) and (small[..., 0] == small[..., 2]).all()
    alpha = _picture(tmp_path / "alpha.png", channels=4)
    events = Events()
    small, _ = load(Sample(number=0, name="x", lr=alpha), scale=4, degrade=None, reporter=events)
    assert small.shape == (12, 16, 3) and events.of("warning")[0]["code"] == "alpha"
    write_image(tmp_path / "deep.png", Image(pixels=np.full((4, 4, 3), 257 * 99 + 100, np.uint16)))
    small, _ = _load(Sample(number=0, name="x", lr=tmp_path / "deep.png"))
    assert small.dtype == np.uint8 and (small == 99).all()


def test_made_pictures_follow_from_seed_and_place(tmp_path: Path) -> None:
    clean = _picture(tmp_path / "clean.png", 64, 80)

    def made(number: int, kind: str, seed: int = 0) -> Pixels:
        return _load(Sample(number=number, name="x", hr=clean), kind=kind, seed=seed)[0]

    second = made(0, "second")
    assert second.shape == (16, 20, 3)
    assert np.array_equal(second, made(0, "second"))
    for other in (made(1, "second"), made(0, "second", seed=1), made(0, "first"), made(0, "bicubic")):
        assert not np.array_equal(second, other)
    assert np.array_equal(made(0, "bicubic"), made(1, "bicubic", seed=5))


def test_plain_reduction_keeps_what_a_bicubic_filter_keeps() -> None:
    ramp = torch.linspace(0.2, 0.8, 64).view(1, 1, 1, 64).expand(1, 3, 16, 64).contiguous()
    low = degrader("bicubic", scale=4, seed=0)(ramp, 0)
    assert low.shape == (1, 3, 4, 16)
    assert low[0, 0, 1, 2:-2] == pytest.approx(ramp[0, 0, 0].view(16, 4).mean(1)[2:-2], abs=1 / 255)
