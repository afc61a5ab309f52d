"""Pictures through small networks: tiling is exact, and grey, alpha, depth and size come out right."""

import weakref
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from networks import compact, nearest, rrdb
from realesr_cli import DeviceOptions, TileOptions, Upscaler
from realesr_cli.alpha import flatten
from realesr_cli.errors import OutOfMemory, UnsupportedInput, UsageError
from realesr_cli.models.architectures import LoadedModel
from realesr_cli.options import AlphaMode

_FP32 = DeviceOptions(device="cpu", precision="fp32")


def _upscale(model: LoadedModel, pixels: np.ndarray, *, tile: TileOptions | None = None, **how: Any) -> np.ndarray:
    return Upscaler(model, device=_FP32, tile=tile)(pixels, **how)


def _noise(rng: np.random.Generator, *shape: int, dtype: type = np.uint8) -> np.ndarray:
    return rng.integers(0, np.iinfo(dtype).max + 1, shape, dtype)


@pytest.mark.parametrize(
    "model", [compact(), rrdb(), rrdb(unshuffle=2), rrdb(unshuffle=4)], ids=lambda m: f"x{m.scale}"
)
@pytest.mark.parametrize("size", [(97, 61), (40, 130), (1, 1), (1, 50), (3, 2), (5, 7)])
def test_tiles_change_nothing(model: LoadedModel, size: tuple[int, int], rng: np.random.Generator) -> None:
    pixels = _noise(rng, *size, 3, dtype=np.uint16)
    whole = _upscale(model, pixels)
    tiled = _upscale(model, pixels, tile=TileOptions(size=16))
    assert whole.shape == (size[0] * model.scale, size[1] * model.scale, 3)
    # another order of summation may move a value by one step of 16 bits
    assert int(np.abs(whole.astype(int) - tiled.astype(int)).max()) <= 1


def test_a_band_is_gone_before_the_next_one_is_made(monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    alive: list[weakref.ref[Any]] = []

    def bands(*arguments: Any, **keywords: Any) -> Iterator[np.ndarray]:
        for _ in range(3):
            assert all(band() is None for band in alive)
            band = np.zeros((10, 20, 3), np.uint8)
            alive.append(weakref.ref(band))
            yield band
            del band

    upscaler = Upscaler(nearest(), device=_FP32)
    monkeypatch.setattr(upscaler._engine, "bands", bands)
    assert upscaler(_noise(rng, 15, 10, 3)).shape == (30, 20, 3)
    assert len(alive) == 3


def test_pictures_of_moderate_size_are_one_tile() -> None:
    engine = Upscaler(compact(), device=_FP32)._engine
    assert len(engine.plan(496, 752)) == 1
    assert len(engine.plan(1000, 1000)) > 1


def test_too_little_context_does_show(rng: np.random.Generator) -> None:
    """The test above can fail: without context there are seams."""
    pixels = _noise(rng, 97, 61, 3)
    tiled = _upscale(compact(), pixels, tile=TileOptions(size=16, pad_px=0))
    assert int(np.abs(_upscale(compact(), pixels).astype(int) - tiled.astype(int)).max()) > 1


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(9, 7), (9, 7, 1), (9, 7, 3), (9, 7, 4)])
def test_depth_and_channels_are_kept(shape: tuple[int, ...], dtype: type, rng: np.random.Generator) -> None:
    pixels = _noise(rng, *shape, dtype=dtype)
    result = _upscale(nearest(), pixels)
    assert result.dtype == dtype
    assert result.shape == (18, 14, *shape[2:])
    opaque = result[::2, ::2]
    if len(shape) == 3 and shape[2] == 4:
        visible = pixels[..., 3] > 0
        np.testing.assert_array_equal(opaque[visible], pixels[visible])
    else:
        np.testing.assert_array_equal(opaque, pixels)


def test_a_dark_16_bit_picture_is_16_bit() -> None:
    pixels = np.full((8, 8, 3), 200, np.uint16)
    result = _upscale(nearest(), pixels)
    assert (result.dtype, int(result.max()), int(result.min())) == (np.uint16, 200, 200)


def test_a_network_for_one_channel_takes_colour_and_grey(rng: np.random.Generator) -> None:
    model = compact(channels=1)
    colour = _noise(rng, 12, 10, 3)
    result = _upscale(model, colour)
    for channel in range(3):
        np.testing.assert_array_equal(result[..., channel], _upscale(model, colour[..., channel]))


def test_a_network_of_other_channels_is_refused() -> None:
    with pytest.raises(UnsupportedInput, match="1 channels into 2"):
        Upscaler(nearest(channels_in=1, channels_out=2), device=_FP32)


@pytest.mark.parametrize("pixels", [np.zeros((4, 4, 3)), np.zeros((4, 4, 2), np.uint8), np.zeros((0, 4, 3), np.uint8)])
def test_other_arrays_are_refused(pixels: np.ndarray) -> None:
    with pytest.raises(UnsupportedInput):
        _upscale(nearest(), pixels)


@pytest.mark.parametrize(
    ("scale", "expected"), [(2.0, (20, 30)), (0.5, (5, 8)), (1.15, (12, 17)), (3.0, (30, 45)), (7.9, (79, 119))]
)
def test_any_scale(scale: float, expected: tuple[int, int], rng: np.random.Generator) -> None:
    """Beyond the network's own scale it runs again on its result."""
    result = _upscale(nearest(), _noise(rng, 10, 15, 3), scale=scale)
    assert result.shape == (*expected, 3)


def test_a_second_pass_starts_from_the_first_passs_result(rng: np.random.Generator) -> None:
    pixels = _noise(rng, 6, 5, 3)
    np.testing.assert_array_equal(_upscale(nearest(), pixels, scale=4), pixels.repeat(4, 0).repeat(4, 1))


def test_a_restoring_network_cannot_enlarge(rng: np.random.Generator) -> None:
    with pytest.raises(UsageError, match="cannot enlarge"):
        _upscale(nearest(1), _noise(rng, 6, 5, 3), scale=2)


def test_reduction_does_not_alias() -> None:
    """Stripes of one pixel, enlarged four times and brought back to half size, are grey."""
    stripes = np.tile(np.array([0, 255], np.uint8), (64, 32))
    result = _upscale(nearest(4), stripes, scale=0.5)
    assert int(result.max()) - int(result.min()) <= 1
    assert abs(float(result.mean()) - 127.5) <= 0.5


def test_zone_plate_reductions_match_area_means() -> None:
    """The original, which shrinks by Lanczos without a filter, reaches 28, 21 and 13 dB here."""
    y, x = np.mgrid[:128, :128] - 64
    plate = np.rint(127.5 + 127.5 * np.cos(np.pi * (x * x + y * y) / 128)).astype(np.uint8)
    full = _upscale(nearest(4), plate).astype(np.float32)
    for scale in (2, 1, 0.5):
        side = int(128 * scale)
        reference = cv2.resize(full, (side, side), interpolation=cv2.INTER_AREA)
        error = _upscale(nearest(4), plate, scale=scale).astype(np.float32) - reference
        assert np.square(error).mean() <= 255**2 / 10**3.5


class TestAlpha:
    @staticmethod
    def disc(hidden: int = 0) -> tuple[np.ndarray, np.ndarray]:
        y, x = np.mgrid[:48, :48] - 24
        opacity = (np.clip(16 - np.hypot(x, y), 0, 1) * 255).astype(np.uint8)
        colour = np.broadcast_to(np.array([200, 120, 40], np.uint8), (48, 48, 3)).copy()
        colour[opacity == 0] = hidden
        return np.dstack((colour, opacity)), opacity

    @pytest.mark.parametrize("ground", [0, 255])
    def test_no_halo_on_black_or_white(self, ground: int) -> None:
        """Composited, every pixel is a mixture of the disc's colour and the ground, whatever lies under alpha 0."""
        picture, _ = self.disc(hidden=255 - ground)
        result = _upscale(compact(), picture).astype(float)
        flat = _upscale(compact(), np.broadcast_to(picture[24, 24, :3], (48, 48, 3)).copy()).astype(float)
        share = result[..., 3:] / 255
        composite = result[..., :3] * share + ground * (1 - share)
        expected = flat * share + ground * (1 - share)
        inner = slice(40, -40)  # the network's own zero padding shows at the picture's border
        assert np.abs(composite - expected)[inner, inner].max() <= 1

    def test_opaque_and_transparent_parts_stay_exact(self) -> None:
        picture, opacity = self.disc()
        result = _upscale(compact(), picture)[..., 3]
        big = opacity.repeat(4, 0).repeat(4, 1)
        core = cv2.erode((big == 255).astype(np.uint8), np.ones((17, 17), np.uint8)) > 0
        assert core.any()
        assert (result[core] == 255).all()
        outside = cv2.erode((big == 0).astype(np.uint8), np.ones((17, 17), np.uint8)) > 0
        assert (result[outside] == 0).all()

    @pytest.mark.parametrize("scale", [0.1, 0.25, 1])
    def test_thin_shapes_survive_a_reduction(self, scale: float) -> None:
        """Alpha is held between its neighbours before the reduction, where they still are neighbours."""
        opacity = np.zeros((80, 80), np.uint8)
        opacity[::10] = 255
        picture = np.dstack((np.full((80, 80, 3), 90, np.uint8), opacity))
        result = _upscale(nearest(4, channels_in=3), picture, scale=scale)[..., 3]
        assert result.mean() == pytest.approx(opacity.mean(), abs=1)

    @pytest.mark.parametrize("value", [0, 128, 255])
    def test_flat_alpha_stays_flat(self, value: int, rng: np.random.Generator) -> None:
        picture = np.dstack((_noise(rng, 9, 9, 3), np.full((9, 9), value, np.uint8)))
        assert (_upscale(compact(), picture)[..., 3] == value).all()

    def test_hidden_colours_change_nothing(self, rng: np.random.Generator) -> None:
        picture, opacity = self.disc()
        other = picture.copy()
        other[opacity == 0, :3] = _noise(rng, int((opacity == 0).sum()), 3)
        np.testing.assert_array_equal(_upscale(compact(), picture), _upscale(compact(), other))


def test_self_ensemble_is_the_mean_of_eight_views(rng: np.random.Generator) -> None:
    pixels = _noise(rng, 12, 9, 3, dtype=np.uint16)
    model = compact()
    views = []
    for turns in range(4):
        for mirrored in (False, True):
            view = np.rot90(pixels[:, ::-1] if mirrored else pixels, turns)
            result = np.rot90(_upscale(model, np.ascontiguousarray(view)), -turns)
            views.append(result[:, ::-1] if mirrored else result)
    mean = np.mean([view.astype(float) for view in views], axis=0)
    result = _upscale(model, pixels, tile=TileOptions(self_ensemble=True))
    whole = np.all([(view > 0) & (view < 65535) for view in views], axis=0)  # the views here are clamped one by one
    assert whole.mean() > 0.5
    assert np.abs(result - mean)[whole].max() <= 2


@pytest.mark.parametrize("model", [compact(), rrdb()], ids=["compact", "rrdb"])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_low_precision_stays_close(model: LoadedModel, precision: Any, rng: np.random.Generator) -> None:
    pixels = cv2.GaussianBlur(_noise(rng, 40, 40, 3), (0, 0), 2)
    exact = _upscale(model, pixels).astype(float)
    low = Upscaler(model, device=DeviceOptions(device="cpu", precision=precision))(pixels).astype(float)
    assert exact.std() > 5
    assert np.square(low - exact).mean() <= 255**2 / 10**4.5


def test_16_bit_pictures_are_computed_in_float32_unless_told_otherwise(rng: np.random.Generator) -> None:
    pixels = _noise(rng, 20, 20, 3, dtype=np.uint16)
    automatic = Upscaler(compact(), device=DeviceOptions(device="cpu"))
    np.testing.assert_array_equal(automatic(pixels), _upscale(compact(), pixels))
    low = Upscaler(compact(), device=DeviceOptions(device="cpu", precision="bf16"))(pixels)
    assert (low != automatic(pixels)).any()


def test_a_result_that_cannot_fit_is_refused_before_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    upscaler = Upscaler(nearest(), device=_FP32)
    monkeypatch.setattr("realesr_cli.upscaler.free_memory_bytes", lambda device: 10_000)
    with pytest.raises(OutOfMemory, match="GiB"):
        upscaler(np.zeros((100, 100, 3), np.uint8))


@pytest.mark.parametrize("size", [(0, 5), (-3, 5), (2.5, 4), (4,)])
def test_impossible_sizes_are_refused(size: Any) -> None:
    with pytest.raises(UsageError, match="size="):
        _upscale(nearest(), np.zeros((4, 4, 3), np.uint8), size=size)


def test_thin_pictures_get_long_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """A square window would waste most of the memory that a strip of pixels leaves."""
    monkeypatch.setattr("realesr_cli.engine.free_memory_bytes", lambda device: 60_000_000)
    upscaler = Upscaler(compact(), device=_FP32)
    plan = upscaler.plan(np.zeros((40, 20_000, 3), np.uint8), (160, 80_000))
    assert plan.tile_height == 40
    assert plan.tile_width > 200
    assert plan.tile_height * plan.tile_width * 800 < 60_000_000


def test_plan_tells_what_happens(rng: np.random.Generator) -> None:
    upscaler = Upscaler(compact(), device=_FP32, tile=TileOptions(size=32))
    plan = upscaler.plan(_noise(rng, 100, 70, 3), (150, 105))
    assert (plan.height, plan.width, plan.passes, plan.tiles) == (150, 105, 1, 6)
    assert plan.overhead == pytest.approx(6 * plan.tile_height * plan.tile_width / 7000)
    assert plan.seconds > 0
    assert plan.memory_bytes > 400 * 280 * 3


def test_the_network_given_is_not_changed(rng: np.random.Generator) -> None:
    model = compact()
    before = {key: value.clone() for key, value in model.network.state_dict().items()}
    Upscaler(model, device=DeviceOptions(device="cpu", precision="bf16"))(_noise(rng, 9, 9, 3))
    for key, value in model.network.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, before[key])


@pytest.mark.parametrize("channels", [3, 4])
def test_equal_channels_stay_exactly_equal(channels: int, rng: np.random.Generator) -> None:
    grey = rng.integers(0, 256, (20, 24, 1), np.uint8)
    pixels = np.repeat(grey, channels, axis=2)
    with Upscaler(compact(scale=2), device=_FP32) as upscaler:
        large = upscaler(pixels)
        alone = upscaler(grey)
    for channel in range(3):
        np.testing.assert_array_equal(large[..., channel], large[..., 0])
    if channels == 3:
        np.testing.assert_array_equal(large[..., :1], alone)


@pytest.mark.parametrize("mode", ["model", "resize"])
@pytest.mark.parametrize("behind", [0, 255])
def test_an_edge_has_no_halo_on_any_background(mode: AlphaMode, behind: int) -> None:
    """A disc of one colour over hidden black or white: laid on black or white, nothing darker or lighter appears."""
    y, x = np.mgrid[:40, :40]
    inside = (y - 20) ** 2 + (x - 20) ** 2 < 150
    for hidden in (0, 255):
        pixels = np.full((40, 40, 4), hidden, np.uint8)
        pixels[inside] = (180, 90, 40, 255)
        pixels[~inside, 3] = 0
        with Upscaler(nearest(2), device=_FP32) as upscaler:
            large = upscaler(pixels, scale=2, alpha_mode=mode)
        shown = flatten(large, (behind, behind, behind))
        for channel, colour in enumerate((180, 90, 40)):
            low, high = sorted((colour, behind))
            assert shown[..., channel].min() >= low
            assert shown[..., channel].max() <= high
        assert set(np.unique(large[38:42, 38:42, 3])) == {255}
        assert large[0, 0, 3] == 0


def test_alpha_can_be_resized_instead(rng: np.random.Generator) -> None:
    pixels = rng.integers(0, 256, (16, 16, 4), np.uint8)
    with Upscaler(compact(scale=2), device=_FP32) as upscaler:
        by_model, resized = upscaler(pixels), upscaler(pixels, alpha_mode="resize")
    np.testing.assert_array_equal(by_model[..., :3], resized[..., :3])
    expected = cv2.resize(pixels[..., 3], (32, 32), interpolation=cv2.INTER_CUBIC)
    assert np.abs(resized[..., 3].astype(int) - expected).mean() < 2


def test_tiles_of_large_pictures_stay_moderate() -> None:
    """A hundred megapixels must not need gigabytes of activations because they happen to be free."""
    upscaler = Upscaler(compact(depth=32), device=_FP32)
    plan = upscaler.plan(np.zeros((2048, 3072, 3), np.uint8), (8192, 12288))
    assert max(plan.tile_height, plan.tile_width) <= 30 * 34 + 40
    assert plan.overhead <= 1.16
    assert plan.memory_bytes < 1.5 * 2**30
