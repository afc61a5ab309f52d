"""The way of planes through the device, played on the CPU, gives what the way through RGB and libswscale gives."""

import itertools
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import av
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from clips import read_clip, write_clip
from networks import compact, nearest, rrdb
from realesr_cli import DeviceOptions, SizeOptions, TileOptions, Upscaler, VideoOptions, upscale_video
from realesr_cli.errors import OutOfMemory
from realesr_cli.models.architectures import LoadedModel
from realesr_cli.video import paths, stream
from realesr_cli.video.colour import Chroma, ChromaLocation, Colour, Matrix
from realesr_cli.video.film import Film
from realesr_cli.video.frames import pixel_format, planes_of
from realesr_cli.video.paths import PlanePath, RgbPath, can_stay_planes, choose_path
from realesr_cli.video.reuse import FrameChanges, FrameResults, Planes
from realesr_cli.video.swscale import is_exact

_FP32 = DeviceOptions(device="cpu", precision="fp32")
SIZE = (46, 60)
LOCATIONS: tuple[ChromaLocation, ...] = ("left", "center", "topleft", "top", "bottomleft", "bottom")


def _film(name: str, colour: Colour, *, size: tuple[int, int] = SIZE, scale: float = 2, to: str | None = None) -> Film:
    """What the two ways read of a film that is enlarged by `scale`."""
    large = (round(size[0] * scale), round(size[1] * scale))
    info = SimpleNamespace(height=size[0], width=size[1])
    form = pixel_format(to or name)
    down, across = form.divisors
    encoding = SimpleNamespace(
        pixel_format=to or name, height=large[0] // down * down, width=large[1] // across * across
    )
    film = SimpleNamespace(
        info=info, encoding=encoding, size=large, pixel_format=name, colour=colour, result_colour=colour,
        is_deep=pixel_format(name).bit_depth > 8,
    )  # fmt: skip
    return cast(Film, film)


def _planes(name: str, seed: int = 0, size: tuple[int, int] = SIZE) -> Planes:
    """Codes within the limited range, chroma within a third of it, so that no colour is outside of RGB."""
    rng, form = np.random.default_rng(seed), pixel_format(name)
    dtype = np.uint8 if form.bit_depth == 8 else np.uint16
    ranges = [(70, 180), (90, 166), (90, 166)] if form.chroma != "rgb" else [(0, 255)] * 3
    return tuple(
        (rng.uniform(*ranges[index], form.shape(index, *size)) * 2 ** (form.bit_depth - 8)).astype(dtype)
        for index in range(form.planes)
    )


def _through(path: paths.Path, frames: list[Planes]) -> list[tuple[NDArray[Any], ...]]:
    results = path.enlarge([path.load(planes) for planes in frames])
    return [planes_of(path.finish(result())) for result in results]


def _largest(first: Planes, second: Planes) -> int:
    return max(int(np.abs(a.astype(int) - b.astype(int)).max()) for a, b in zip(first, second, strict=True))


def _cases() -> list[Any]:
    """Every depth with every subsampling; ranges, matrices and locations take turns."""
    matrices: tuple[Matrix, ...] = ("bt601", "bt709", "bt2020")
    chromas: tuple[Chroma, ...] = ("420", "422", "444")
    turns = zip(itertools.cycle(matrices), itertools.cycle(LOCATIONS), strict=False)
    cases = []
    for bits, chroma, full in itertools.product((8, 10, 12), chromas, (False, True)):
        places: tuple[ChromaLocation, ...] = LOCATIONS if chroma == "420" else ("left", "center")
        for place in places if not full else places[:2]:
            matrix, _ = next(turns)
            cases.append((f"yuv{chroma}p{'' if bits == 8 else f'{bits}le'}", matrix, full, place))
    return cases


@pytest.fixture(scope="module")
def doubling() -> Upscaler:
    """Its network repeats pixels: what differs are the conversions."""
    return Upscaler(nearest(2), device=_FP32)


@pytest.fixture(scope="module")
def network() -> Upscaler:
    return Upscaler(compact(scale=2), device=_FP32)


@pytest.mark.parametrize(("name", "matrix", "full", "place"), _cases())
def test_both_ways_agree_within_one_code(
    name: str, matrix: Matrix, full: bool, place: ChromaLocation, doubling: Upscaler, network: Upscaler
) -> None:
    colour = Colour(matrix=matrix, full_range=full, chroma_location=place)
    film, planes = _film(name, colour), _planes(name)
    for upscaler in (doubling, network):
        (direct,), (by_rgb,) = (_through(kind(film, upscaler), [planes]) for kind in (PlanePath, RgbPath))
        assert [(plane.shape, plane.dtype) for plane in direct] == [(plane.shape, plane.dtype) for plane in by_rgb]
        assert direct[0].shape == (92, 120)
        if upscaler is doubling or not is_exact(name, *SIZE, colour):
            assert _largest(direct, by_rgb) <= 1
        else:  # of 8 bits the other way rounds three times, so with a network in between a few are further off
            assert _largest(direct, by_rgb) <= 2
            assert (
                max(float((np.abs(a.astype(int) - b) > 1).mean()) for a, b in zip(direct, by_rgb, strict=True)) < 3e-3
            )


@pytest.mark.parametrize(
    ("name", "to"),
    [("yuv420p", "yuv420p10le"), ("yuv420p10le", "yuv420p"), ("yuv422p10le", "yuv444p12le"), ("gray", "yuv420p"),
     ("gbrp", "gbrp"), ("gbrp10le", "gbrp10le"), ("yuv420p", "nv12"), ("p010le", "p010le"),
     ("yuv444p16le", "yuv420p10le")],
)  # fmt: skip
def test_both_ways_agree_between_formats(name: str, to: str, network: Upscaler) -> None:
    matrix: Matrix = "identity" if name.startswith("gbr") else "bt709"
    colour = Colour(matrix=matrix, full_range=matrix == "identity")
    film, planes = _film(name, colour, to=to), _planes(name)
    (direct,), (by_rgb,) = (_through(kind(film, network), [planes]) for kind in (PlanePath, RgbPath))
    # eight bits between the steps are coarser than the ten or more that come out
    coarse = pixel_format(name).bit_depth == 8 and pixel_format(to).bit_depth > 8
    assert _largest(direct, by_rgb) <= (4 if coarse else 1)


def test_values_of_sixteen_bits_cross_unharmed(doubling: Upscaler) -> None:
    """They cross as signed ones: half of them would come out dark."""
    colour = Colour(matrix="bt709", full_range=True)
    film = _film("gray16le", colour, to="yuv444p16le")
    bright = np.full(SIZE, 65000, np.uint16)
    (result,) = _through(PlanePath(film, doubling), [(bright,)])
    assert np.abs(result[0].astype(int) - 65000).max() <= 1


def _alike(name: str, upscaler: Upscaler, other: Upscaler, scale: float = 2, size: tuple[int, int] = SIZE) -> int:
    film = _film(name, Colour(matrix="bt709", full_range=False), scale=scale, size=size)
    planes = _planes(name, size=size)
    return _largest(_through(PlanePath(film, upscaler), [planes])[0], _through(PlanePath(film, other), [planes])[0])


def test_frames_larger_than_a_tile_are_cut_and_nobody_can_tell() -> None:
    tiled = Upscaler(compact(scale=2), device=_FP32, tile=TileOptions(size=16))
    assert _alike("yuv420p", tiled, Upscaler(compact(scale=2), device=_FP32)) == 0


@pytest.mark.parametrize("model", [rrdb(unshuffle=2), rrdb(unshuffle=4)], ids=["scale 2", "scale 1"])
@pytest.mark.parametrize("size", [(46, 62), (2, 3)])
def test_frames_are_padded_as_pictures_are(model: LoadedModel, size: tuple[int, int]) -> None:
    film = _film("yuv444p", Colour(matrix="bt709", full_range=False), scale=model.scale, size=size)
    upscaler, planes = Upscaler(model, device=_FP32), _planes("yuv444p", size=size)
    (direct,), (by_rgb,) = (_through(kind(film, upscaler), [planes]) for kind in (PlanePath, RgbPath))
    assert _largest(direct, by_rgb) <= 2  # this network reacts to the rounding to 8 bits before it


@pytest.mark.parametrize(("scale", "name"), [(1, "yuv420p"), (2, "yuv420p"), (2, "yuv422p10le")])
def test_a_network_is_reduced_on_the_device_where_it_makes_too_much(scale: int, name: str) -> None:
    upscaler = Upscaler(compact(scale=4), device=_FP32)
    film, planes = _film(name, Colour(matrix="bt709", full_range=False), scale=scale), _planes(name)
    assert can_stay_planes(film, upscaler)
    (direct,), (by_rgb,) = (_through(kind(film, upscaler), [planes]) for kind in (PlanePath, RgbPath))
    assert direct[0].shape == (46 * scale, 60 * scale)
    assert _largest(direct, by_rgb) <= 1


def test_several_frames_at_once_are_each_what_they_are_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    upscaler = Upscaler(compact(scale=2), device=_FP32)
    film = _film("yuv420p10le", Colour(matrix="bt709", full_range=False))
    frames = [_planes("yuv420p10le", seed) for seed in range(7)]
    alone = [_through(PlanePath(film, upscaler), [planes])[0] for planes in frames]
    assert PlanePath(film, upscaler).frames_at_once == 1
    upscaler._engine._largest_batch, upscaler._engine._ahead = 3, 1  # as on a GPU
    together = PlanePath(film, upscaler)
    assert together.frames_at_once == 3
    counts: list[int] = []
    start = upscaler._engine._inference.start

    def counting(batch: Any, *rest: Any, **more: Any) -> Any:
        counts.append(len(batch))
        return start(batch, *rest, **more)

    monkeypatch.setattr(upscaler._engine._inference, "start", counting)
    for one, both in zip(alone, _through(together, frames), strict=True):
        assert _largest(one, both) <= 1
    assert counts == [3, 3, 1]


def test_memory_that_is_full_is_survived_on_the_device_too(monkeypatch: pytest.MonkeyPatch) -> None:
    upscaler = Upscaler(compact(scale=2), device=_FP32)
    film = _film("yuv420p", Colour(matrix="bt709", full_range=False), size=(90, 110))
    frames = [_planes("yuv420p", seed, (90, 110)) for seed in range(3)]
    wanted = _through(PlanePath(film, upscaler), frames)
    start = upscaler._engine._inference.start

    def scarce(batch: Any, *rest: Any, **more: Any) -> Any:
        if batch.shape[0] * batch.shape[1] * batch.shape[2] > 80 * 110:
            raise MemoryError
        return start(batch, *rest, **more)

    upscaler._engine._largest_batch = 2
    monkeypatch.setattr(upscaler._engine._inference, "start", scarce)
    for result, planes in zip(_through(PlanePath(film, upscaler), frames), wanted, strict=True):
        assert _largest(result, planes) == 0
    monkeypatch.setattr(paths, "from_rgb", lambda *_: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(OutOfMemory, match="frames of 220x180"):
        _through(PlanePath(film, upscaler), frames[:1])


def test_values_that_overflow_are_computed_again_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    film, planes = _film("yuv420p", Colour(matrix="bt709", full_range=False)), _planes("yuv420p")
    low = Upscaler(compact(scale=2), device=DeviceOptions(device="cpu", precision="bf16"))
    inference = low._engine._inference
    values = inference._values

    def spoilt(x: torch.Tensor, dtype: torch.dtype) -> Any:
        computed, parts = values(x, dtype)
        return (computed * float("inf") if dtype == torch.bfloat16 else computed), parts

    monkeypatch.setattr(inference, "_values", spoilt)
    exact = Upscaler(compact(scale=2), device=_FP32)
    (result,), (wanted,) = _through(PlanePath(film, low), [planes]), _through(PlanePath(film, exact), [planes])
    assert _largest(result, wanted) == 0


@pytest.mark.parametrize("name", ["yuv420p", "yuv422p10le"])
def test_windows_of_changed_frames_give_what_whole_frames_give(name: str, network: Upscaler) -> None:
    film = _film(name, Colour(matrix="bt709", full_range=False), size=(90, 120))
    path = PlanePath(film, network)
    changes, results = FrameChanges(path.margin_px), FrameResults(path.scale)
    still = _planes(name, size=(90, 120))
    frames = [tuple(plane.copy() for plane in still) for _ in range(5)]
    for number, planes in enumerate(frames[1:4]):
        for plane in planes:
            plane[3 * number : 3 * number + 4, 30:40] += 7
    for planes in frames:
        change = changes(planes)
        parts = path.enlarge([path.load(part) for part in change.parts()])
        result = results(change, [part() for part in parts])
        assert _largest(result, _through(path, [planes])[0]) == 0
    assert change.spared_px > 0


@pytest.mark.parametrize(
    ("change", "stays"),
    [
        ({}, True),
        ({"scale": 2.5}, False),  # no whole multiple
        ({"scale": 4}, False),  # a second pass
        ({"scale": 1, "size": (47, 61)}, False),  # the last row and column are cut off
        ({"scale": 2, "size": (47, 61)}, True),
    ],
)
def test_planes_stay_planes_only_where_they_can(change: dict[str, Any], stays: bool, network: Upscaler) -> None:
    film = _film("yuv420p", Colour(matrix="bt709", full_range=False), **change)
    assert can_stay_planes(film, network) is stays
    assert isinstance(choose_path(film, network, needs_rgb=False), RgbPath)  # on a CPU


def test_on_a_gpu_planes_cross(monkeypatch: pytest.MonkeyPatch, network: Upscaler) -> None:
    monkeypatch.setattr(paths, "_DEVICES", ("cpu",))
    film = _film("yuv420p", Colour(matrix="bt709", full_range=False))
    assert isinstance(choose_path(film, network, needs_rgb=False), PlanePath)
    assert isinstance(choose_path(film, network, needs_rgb=True), RgbPath)


# --- whole films ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pixels", "still"), [("yuv420p", False), ("yuv422p10le", False), ("yuv420p", True)], ids=["8", "10", "still"]
)
def test_films_are_the_same_either_way(
    pixels: str, still: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In groups of four frames, with pieces that end within a group."""
    source = write_clip(
        tmp_path / "a.mkv", count=23, pixel_format=pixels, encoder="ffv1", tick=Fraction(1, 1000),
        still=still, noise=not still,
    )  # fmt: skip
    options = VideoOptions(codec="ffv1", segment_frames=5)
    films, spared = [], []
    for devices in ((), ("cpu",)):
        monkeypatch.setattr(paths, "_DEVICES", devices)
        with Upscaler(compact(scale=2), device=_FP32) as upscaler:
            upscaler._engine._largest_batch = 4 if devices else 1
            target = tmp_path / f"{len(films)}.mkv"
            result = upscale_video(source, target, upscaler, options=options)
        assert (result.frames, result.differences) == (23, ())
        films.append([tuple(plane.copy() for plane in planes) for planes in _decoded(target)])
        spared.append(result.spared)
    assert [_largest(a, b) for a, b in zip(*films, strict=True)] == pytest.approx([0] * 23, abs=1)
    assert spared[0] == spared[1]
    assert (spared[0] > 0.9) is still


def _decoded(path: Path) -> list[Planes]:
    with av.open(str(path)) as container:
        return [planes_of(frame) for frame in container.decode(video=0)]


@pytest.mark.parametrize("size", [SizeOptions(scale=1), SizeOptions(scale=1.5), SizeOptions(scale=3)])
def test_every_size_is_made_where_planes_cross(
    size: SizeOptions, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(paths, "_DEVICES", ("cpu",))
    source = write_clip(tmp_path / "a.mp4", count=3)
    with Upscaler(nearest(2), device=_FP32) as upscaler:
        result = upscale_video(
            source, tmp_path / "b.mp4", upscaler, size=size, options=VideoOptions(preset="ultrafast", crf=12)
        )
    assert result.differences == ()
    for before, after in zip(read_clip(source).frames, read_clip(tmp_path / "b.mp4").frames, strict=True):
        assert after.shape[:2] == (round(48 * (size.scale or 1)), round(64 * (size.scale or 1)))
        assert np.abs(before.mean((0, 1)) - after.mean((0, 1))).max() < 3


def test_an_error_within_a_group_ends_the_film(monkeypatch: pytest.MonkeyPatch, network: Upscaler) -> None:
    class Broken:
        written_bytes = 0

        def write(self, *_: Any) -> None:
            raise OutOfMemory("no room")

    monkeypatch.setattr(paths, "_DEVICES", ("cpu",))
    colour = Colour(matrix="bt709", full_range=False)
    frames = (SimpleNamespace(image=paths.frame_of(_planes("yuv420p", seed), "yuv420p")) for seed in range(9))
    with pytest.raises(OutOfMemory, match="no room"):
        stream.stream_frames(
            _film("yuv420p", colour), cast(Any, frames), network, cast(Any, Broken()), on_frame=lambda _: None
        )
