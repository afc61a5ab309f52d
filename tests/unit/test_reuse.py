"""Frames of films: what did not change is not computed again, and nobody can tell."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from networks import compact
from realesr_cli.models.architectures import LoadedModel
from realesr_cli.video.colour import ChromaLocation, Colour, from_rgb, to_rgb
from realesr_cli.video.frames import pixel_format
from realesr_cli.video.reuse import FrameChanges, FrameResults, Planes

RADIUS, SCALE = 9, 2  # the radius is no multiple of anything


class FrameReuse:
    """`upscale` for the frames of a film, and the pixels that it was spared."""

    def __init__(self, upscale: Callable[[Planes], Planes], *, margin_px: int, scale: int) -> None:
        self._upscale = upscale
        self._changes, self._results = FrameChanges(margin_px), FrameResults(scale)

    def __call__(self, planes: Planes) -> tuple[Planes, int]:
        change = self._changes(planes)
        return self._results(change, [self._upscale(part) for part in change.parts()]), change.spared_px


class _Far:
    """Each result pixel is a hash of all source pixels at most RADIUS away: nothing wrong stays hidden."""

    def __init__(self) -> None:
        self.computed_px = 0
        self.calls = 0

    def __call__(self, planes: Planes) -> Planes:
        self.calls += 1
        self.computed_px += planes[0].shape[0] * planes[0].shape[1]
        (pixels,) = planes
        mixed = pixels.astype(np.int64)
        for axis in (0, 1):
            border = [(RADIUS, RADIUS) if axis == other else (0, 0) for other in range(mixed.ndim)]
            wide = np.pad(mixed, border)
            length = mixed.shape[axis]
            shifted = (wide.take(range(step, step + length), axis) * (7 * step + 1) for step in range(2 * RADIUS + 1))
            mixed = sum(shifted) % 65521
        return (mixed.astype(np.uint16).repeat(SCALE, 0).repeat(SCALE, 1),)


def _check(frames: list[np.ndarray]) -> tuple[int, int]:
    """(pixels saved, pixels of all frames); every result is that of the whole frame."""
    spy = _Far()
    reuse, plain = FrameReuse(spy, margin_px=RADIUS, scale=SCALE), _Far()
    total, results = 0, []
    for frame in frames:
        result, saved = reuse((frame,))
        results.append((result[0], result[0].copy()))
        np.testing.assert_array_equal(result[0], plain((frame,))[0])
        assert 0 <= saved <= frame.shape[0] * frame.shape[1]
        total += saved
    for result, then in results:
        np.testing.assert_array_equal(result, then)  # no result was changed by a later frame
    everything = sum(frame.shape[0] * frame.shape[1] for frame in frames)
    assert spy.computed_px == everything - total
    return total, everything


def _background(rng: np.random.Generator, height: int, width: int, dtype: type = np.uint8) -> np.ndarray:
    return rng.integers(0, 256 if dtype == np.uint8 else 1024, (height, width, 3)).astype(dtype)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32), height=st.integers(1, 200), width=st.integers(1, 260))
def test_random_films_come_out_as_if_every_frame_were_computed(seed: int, height: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    dtype = np.uint8 if rng.random() < 0.5 else np.uint16
    still = _background(rng, height, width, dtype)
    frames = []
    for _ in range(6):
        match rng.integers(0, 8):
            case 0:
                still = _background(rng, height, width, dtype)  # a cut
            case 1:
                still = np.roll(still, rng.integers(-3, 4, 2), (0, 1))  # a pan
            case 2 if frames:
                frames.append(frames[-1].copy())
            case 3 if len(frames) > 1:
                frames.append(frames[-2].copy())
        frame = still.copy()
        for _ in range(rng.integers(0, 4)):
            top, left = rng.integers(0, height), rng.integers(0, width)
            high, wide = rng.integers(1, 30, 2)
            frame[top : top + high, left : left + wide] += 1
        frames.append(frame)
    _check(frames)


@pytest.mark.parametrize(
    "place", [(0, 0), (0, 199), (99, 0), (99, 199), (0, 77), (50, 0), (16, 16), (15, 31), (47, 100)]
)
def test_a_single_changed_pixel_is_seen_and_costs_little(place: tuple[int, int], rng: np.random.Generator) -> None:
    still = _background(rng, 100, 200)
    dotted = still.copy()
    dotted[place][1] ^= 1
    saved, total = _check([still, dotted])
    assert saved >= 0.75 * total / 2


def test_a_sprite_over_a_still_background_saves_most_of_the_work(rng: np.random.Generator) -> None:
    still = _background(rng, 240, 320)
    frames = []
    for step in range(20):
        frame = still.copy()
        frame[30 + 3 * step :, 20 + 7 * step :][:24, :24] = 255
        frames.append(frame)
    saved, total = _check(frames)
    assert saved > 0.8 * total


def test_changes_far_apart_are_not_computed_as_one(rng: np.random.Generator) -> None:
    still = _background(rng, 320, 480)
    frames = [still]
    for number in range(1, 4):
        frame = still.copy()
        for corner in ((0, 0), (0, 470), (310, 0), (310, 470)):
            frame[corner[0] : corner[0] + 10, corner[1] : corner[1] + 10] = number
        frames.append(frame)
    saved, total = _check(frames)
    assert saved > 0.9 * total * 3 / 4


def test_animation_on_twos_costs_half(rng: np.random.Generator) -> None:
    drawings = [_background(rng, 96, 128) for _ in range(5)]
    saved, total = _check([drawing.copy() for drawing in drawings for _ in range(2)])
    assert saved == total / 2


def test_pictures_that_take_turns_are_computed_once(rng: np.random.Generator) -> None:
    first, second = _background(rng, 96, 128), _background(rng, 96, 128)
    saved, total = _check([first, second] * 6)
    assert saved == total * 10 / 12


def test_a_cursor_that_blinks_beside_something_moving_is_computed_once(rng: np.random.Generator) -> None:
    still = _background(rng, 96, 256)
    frames = []
    for number in range(10):
        frame = still.copy()
        frame[40:50, 10:14] = 255 if number % 2 else 0
        frame[40:44, 200 + number : 204 + number] = 100
        frames.append(frame)
    spy = _Far()
    reuse = FrameReuse(spy, margin_px=RADIUS, scale=SCALE)
    for frame in frames:
        reuse((frame,))
    assert spy.calls == 1 + 2 + 8  # the first frame; both changes; only what moves
    _check(frames)


def test_a_still_film_calls_the_network_once(rng: np.random.Generator) -> None:
    still = _background(rng, 90, 160)
    spy = _Far()
    reuse = FrameReuse(spy, margin_px=RADIUS, scale=SCALE)
    saved = sum(reuse((still.copy(),))[1] for _ in range(1000))
    assert (spy.calls, saved) == (1, 999 * 90 * 160)


def test_cuts_and_pans_save_nothing_and_cost_one_call_a_frame(rng: np.random.Generator) -> None:
    cuts = [_background(rng, 96, 128) for _ in range(4)]
    pan = [np.roll(cuts[0], 5 * step, 1) for step in range(1, 5)]
    assert _check(cuts + pan)[0] == 0


def test_a_change_of_size_or_depth_starts_anew(rng: np.random.Generator) -> None:
    small = _background(rng, 40, 60)
    frames = [small, _background(rng, 60, 40), small, small.astype(np.uint16), small]
    assert _check(frames)[0] == 0


def test_the_callers_memory_is_not_kept(rng: np.random.Generator) -> None:
    """A decoder may write the next frame where the last one was."""
    buffer = _background(rng, 64, 96)
    reuse, plain = FrameReuse(_Far(), margin_px=RADIUS, scale=SCALE), _Far()
    for _ in range(4):
        np.testing.assert_array_equal(reuse((buffer,))[0][0], plain((buffer,))[0])
        buffer[20:30, 20:30] += 1


# --- with real conversions and networks -------------------------------------------------------------------------------


def _film(rng: np.random.Generator, name: str, height: int, width: int) -> Iterator[Planes]:
    """A sprite of colour over a still background, with changes of a single sample of chroma between."""
    form = pixel_format(name)
    dtype = np.uint8 if form.bit_depth == 8 else np.uint16
    still = tuple(
        rng.integers(60 << form.bit_depth - 8, 180 << form.bit_depth - 8, form.shape(index, height, width)).astype(
            dtype
        )
        for index in range(form.planes)
    )
    for step in range(4):
        planes = tuple(plane.copy() for plane in still)
        for plane in planes:
            down, across = -(-height // plane.shape[0]), -(-width // plane.shape[1])
            plane[(10 + 9 * step) // down : (40 + 9 * step) // down, (13 + 30 * step) // across :][:, :15] = 77
        planes[1][-1 - step, -1 - 3 * step] ^= 1
        yield planes


@pytest.mark.parametrize(
    ("name", "location"),
    [
        ("yuv420p", "left"),
        ("yuv420p", "center"),
        ("yuv420p", "topleft"),
        ("yuv420p10le", "bottom"),
        ("yuv422p", "left"),
        ("gbrp", "left"),
    ],
)
def test_planes_through_a_compact_network_are_the_same_bit_by_bit(
    name: str, location: ChromaLocation, rng: np.random.Generator
) -> None:
    model = compact(scale=2)
    upscale = _by_planes(model, name, Colour(matrix="bt709", full_range=False, chroma_location=location))
    reuse = FrameReuse(upscale, margin_px=model.pad_px, scale=2)
    saved = []
    for planes in _film(rng, name, 131, 243):
        result, pixels = reuse(planes)
        saved.append(pixels)
        for mine, whole in zip(result, upscale(planes), strict=True):
            np.testing.assert_array_equal(mine, whole)
    assert all(pixels > 0.3 * 131 * 243 for pixels in saved[1:])


def _by_planes(model: LoadedModel, name: str, colour: Colour) -> Callable[[Planes], Planes]:
    form = pixel_format(name)

    def upscale(planes: Planes) -> Planes:
        with torch.inference_mode():
            rgb = to_rgb([torch.from_numpy(np.ascontiguousarray(plane)) for plane in planes], form, colour)
            large = model.network(rgb[None].contiguous(memory_format=torch.channels_last))[0]
            return tuple(plane.numpy() for plane in from_rgb(large, form, colour))

    return upscale
