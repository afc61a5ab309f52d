"""YUV <-> RGB agrees with the formulas, with another converter, and with itself."""

import itertools
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
import torch
from av.filter import Graph
from numpy.typing import NDArray

from realesr_cli.video import colour as colour_module
from realesr_cli.video.colour import ChromaLocation, Colour, Matrix, PixelFormat, from_rgb, to_rgb
from realesr_cli.video.frames import frame_of, pixel_format, planes_of
from realesr_cli.video.swscale import Swscale, is_exact

LOCATIONS: tuple[ChromaLocation, ...] = ("left", "center", "topleft", "top", "bottomleft", "bottom")
WEIGHTS: dict[Matrix, tuple[float, float]] = {
    "bt601": (0.299, 0.114),
    "bt709": (0.2126, 0.0722),
    "bt2020": (0.2627, 0.0593),
    "smpte240m": (0.212, 0.087),
    "fcc": (0.30, 0.11),
}
# place of chroma in pixels, (x, y)
PLACES = {
    "left": (0, 0.5),
    "center": (0.5, 0.5),
    "topleft": (0, 0),
    "top": (0.5, 0),
    "bottomleft": (0, 1),
    "bottom": (0.5, 1),
}
Arrays = tuple[NDArray[np.integer], ...]


def _random(
    rng: np.random.Generator, form: PixelFormat, height: int, width: int, *, chroma: float = 1.0, smooth: bool = False
) -> Arrays:
    """Planes over the codes of limited range, chroma within a share of it around grey."""
    dtype = np.uint8 if form.bit_depth == 8 else np.uint16
    planes = []
    for index in range(form.planes):
        shape = form.shape(index, height, width)
        low, high = (16, 235) if index == 0 else (128 - 112 * chroma, 128 + 112 * chroma)
        noise = rng.random((max(2, shape[0] // 8), max(2, shape[1] // 8)) if smooth else shape)
        noise = cv2.resize(noise, shape[::-1], interpolation=cv2.INTER_CUBIC).clip(0, 1) if smooth else noise
        planes.append(np.round((low + noise * (high - low)) * 2 ** (form.bit_depth - 8)).astype(dtype))
    return tuple(planes)


def _tensors(planes: Arrays) -> tuple[torch.Tensor, ...]:
    return tuple(torch.from_numpy(np.ascontiguousarray(plane)) for plane in planes)


def _steps(form: PixelFormat, full: bool) -> tuple[float, float, float]:
    one = 2.0 ** (form.bit_depth - 8)
    return (0, 256 * one - 1, 256 * one - 1) if full else (16 * one, 219 * one, 224 * one)


def _textbook_rgb(planes: Arrays, form: PixelFormat, colour: Colour) -> NDArray[np.float64]:
    """Float64, one pixel's chroma at a time from the coordinates; (3, H, W), clamped."""
    (height, width), (down, across) = planes[0].shape, form.divisors
    offset, scale, chroma_scale = _steps(form, colour.full_range)
    x, y = PLACES[colour.chroma_location]
    chroma = []
    for plane in planes[1:]:
        wide, high = (np.arange(width) - x) / 2, (np.arange(height) - y) / 2
        values = plane.astype(np.float64)
        if across == 2:
            values = np.stack([np.interp(wide, np.arange(plane.shape[1]), row) for row in values])
        if down == 2:
            values = np.stack([np.interp(high, np.arange(plane.shape[0]), column) for column in values.T], 1)
        chroma.append((values - 2 ** (form.bit_depth - 1)) / chroma_scale)
    luma = (planes[0] - offset) / scale
    red, blue = WEIGHTS[colour.matrix]
    r, b = luma + 2 * (1 - red) * chroma[1], luma + 2 * (1 - blue) * chroma[0]
    g = (luma - red * r - blue * b) / (1 - red - blue)
    return np.stack([r, g, b]).clip(0, 1)


def _textbook_planes(rgb: NDArray[np.float64], form: PixelFormat, colour: Colour) -> Arrays:
    """Float64, each sample of chroma as the mean with weights that fall over two pixels, edges repeated."""
    (height, width), (down, across) = rgb.shape[1:], form.divisors
    offset, scale, chroma_scale = _steps(form, colour.full_range)
    red, blue = WEIGHTS[colour.matrix]
    luma = red * rgb[0] + (1 - red - blue) * rgb[1] + blue * rgb[2]
    chroma = [(rgb[2] - luma) / (2 - 2 * blue), (rgb[0] - luma) / (2 - 2 * red)]

    def mean(length: int, place: float) -> NDArray[np.float64]:
        weights = np.zeros(((length + 1) // 2, length))
        for sample in range(len(weights)):
            for pixel in range(2 * sample - 2, 2 * sample + 4):
                weights[sample, min(max(pixel, 0), length - 1)] += max(0, 2 - abs(pixel - 2 * sample - place)) / 4
        return weights

    x, y = PLACES[colour.chroma_location]
    for index in range(2):
        chroma[index] = mean(height, y) @ chroma[index] if down == 2 else chroma[index]
        chroma[index] = chroma[index] @ mean(width, x).T if across == 2 else chroma[index]
    most = 2**form.bit_depth - 1
    codes = [luma * scale + offset, *(plane * chroma_scale + 2 ** (form.bit_depth - 1) for plane in chroma)]
    return tuple(np.round(plane).clip(0, most).astype(np.uint16) for plane in codes)


def _swscale(frame: av.VideoFrame, name: str, **options: str) -> Arrays:
    """The frame in another format by FFmpeg's converter, told everything."""
    graph = Graph()
    flags = "bilinear+accurate_rnd+full_chroma_int+full_chroma_inp+bitexact"
    told = "".join(f":{key}={value}" for key, value in options.items())
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format.name, time_base=Fraction(1, 25)
    )
    steps = [source, graph.add("scale", f"flags={flags}{told}"), graph.add("format", name), graph.add("buffersink")]
    for first, second in itertools.pairwise(steps):
        first.link_to(second)
    graph.configure()
    graph.push(frame)
    result = graph.pull()
    assert isinstance(result, av.VideoFrame)
    return planes_of(result)


def _largest(first: Arrays, second: Arrays) -> int:
    return max(int(np.abs(a.astype(int) - b.astype(int)).max()) for a, b in zip(first, second, strict=True))


CASES: list[tuple[str, Matrix, bool, ChromaLocation]] = [
    *(("yuv444p", matrix, False, "left") for matrix in WEIGHTS),
    *(("yuv420p", "bt709", False, location) for location in LOCATIONS),
    ("yuv444p", "bt709", True, "left"),
    ("yuv422p", "bt709", False, "left"),
    ("yuv420p", "bt601", True, "center"),
    ("yuv420p10le", "bt2020", False, "topleft"),
    ("yuv422p10le", "bt709", False, "left"),
    ("yuv444p12le", "bt709", True, "left"),
]


@pytest.mark.parametrize(("name", "matrix", "full", "location"), CASES)
def test_agrees_with_ffmpegs_converter_within_one_code_of_8_bits(
    name: str, matrix: Matrix, full: bool, location: ChromaLocation, rng: np.random.Generator
) -> None:
    form, colour = pixel_format(name), Colour(matrix=matrix, full_range=full, chroma_location=location)
    planes = _random(rng, form, 66, 90)
    deep = "gbrp" if form.bit_depth == 8 else f"gbrp{form.bit_depth}le"
    allowed = 2 ** (form.bit_depth - 8)
    limits = "pc" if full else "tv"
    theirs = _swscale(frame_of(planes, name), deep,
                      in_color_matrix=matrix, in_range=limits, out_range="pc", in_chroma_loc=location)  # fmt: skip
    ours = to_rgb(_tensors(planes), form, colour).mul(2**form.bit_depth - 1).round().numpy().astype(int)
    assert _largest(theirs, tuple(ours)) <= allowed
    back = _swscale(frame_of(theirs, deep), name,
                    out_color_matrix=matrix, out_range=limits, in_range="pc", out_chroma_loc=location)  # fmt: skip
    rgb = torch.from_numpy(np.stack(theirs).astype(np.float32)) / (2**form.bit_depth - 1)
    mine = tuple(plane.numpy() for plane in from_rgb(rgb, form, colour))
    # their luma of 12 bits is off by up to 10 codes
    assert _largest(mine, back) <= (1 if form.bit_depth == 8 else allowed)


@pytest.mark.parametrize("size", [(34, 46), (35, 47), (1, 1), (2, 3), (5, 2)])
@pytest.mark.parametrize(("name", "matrix", "full", "location"), [*CASES, ("yuv420p12le", "fcc", True, "bottom")])
def test_agrees_with_the_formulas_to_the_last_bit_at_any_size(
    name: str, matrix: Matrix, full: bool, location: ChromaLocation, size: tuple[int, int], rng: np.random.Generator
) -> None:
    form, colour = pixel_format(name), Colour(matrix=matrix, full_range=full, chroma_location=location)
    planes = _random(rng, form, *size)
    np.testing.assert_allclose(
        to_rgb(_tensors(planes), form, colour).numpy(), _textbook_rgb(planes, form, colour), atol=2e-6
    )
    rgb = rng.random((3, *size))
    mine = from_rgb(torch.from_numpy(rgb.astype(np.float32)), form, colour)
    wanted = _textbook_planes(rgb, form, colour)
    for plane, expected in zip(mine, wanted, strict=True):
        difference = np.abs(plane.numpy().astype(int) - expected)
        # float32 may fall to the other side of a half
        assert difference.max(initial=0) <= 1
        assert (difference > 0).mean() <= 0.01


def test_strips_are_invisible(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    form, colour = pixel_format("yuv420p"), Colour(matrix="bt709", full_range=False)
    planes = _tensors(_random(rng, form, 35, 47))
    rgb = to_rgb(planes, form, colour)
    back = [from_rgb(rgb, form, colour, dither=dither) for dither in (False, True)]
    monkeypatch.setattr(colour_module, "_STRIP_VALUES", {True: 47 * 4})
    assert torch.equal(to_rgb(planes, form, colour), rgb)
    for dither in (False, True):
        assert all(map(torch.equal, from_rgb(rgb, form, colour, dither=dither), back[dither]))


@pytest.mark.parametrize(
    ("matrix", "colours"),
    [
        # (Y, Cb, Cr) of white, yellow, cyan, green, magenta, red, blue, black bars at 100 %, limited range, 8 bits
        ("bt601", [(235, 128, 128), (210, 16, 146), (170, 166, 16), (145, 54, 34),
                   (106, 202, 222), (81, 90, 240), (41, 240, 110), (16, 128, 128)]),
        ("bt709", [(235, 128, 128), (219, 16, 138), (188, 154, 16), (173, 42, 26),
                   (78, 214, 230), (63, 102, 240), (32, 240, 118), (16, 128, 128)]),
        ("bt2020", [(235, 128, 128), (222, 16, 137), (177, 159, 16), (164, 47, 25),
                    (87, 209, 231), (74, 97, 240), (29, 240, 119), (16, 128, 128)]),
    ],
)  # fmt: skip
def test_colour_bars_have_their_textbook_values(matrix: Matrix, colours: list[tuple[int, int, int]]) -> None:
    bars = [(1, 1, 1), (1, 1, 0), (0, 1, 1), (0, 1, 0), (1, 0, 1), (1, 0, 0), (0, 0, 1), (0, 0, 0)]
    form, colour = pixel_format("yuv444p"), Colour(matrix=matrix, full_range=False)
    rgb = torch.tensor(bars, dtype=torch.float32).T[:, None]
    planes = from_rgb(rgb, form, colour)
    assert [tuple(int(plane[0, bar]) for plane in planes) for bar in range(8)] == colours
    assert float((to_rgb(planes, form, colour) - rgb).abs().max()) < 0.01


@pytest.mark.parametrize("name", ["yuv444p", "yuv444p10le", "yuv444p12le"])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", [*WEIGHTS, "ycgco"])
def test_codes_of_444_come_back_exactly(matrix: Matrix, full: bool, name: str, rng: np.random.Generator) -> None:
    form, colour = pixel_format(name), Colour(matrix=matrix, full_range=full)
    # colours that RGB has: chroma near grey, luma away from black and white
    planes = tuple(
        (plane * 0.5 + 2 ** (form.bit_depth - 2)).astype(plane.dtype)
        for plane in _random(rng, form, 40, 50, chroma=0.2)
    )
    back = from_rgb(to_rgb(_tensors(planes), form, colour), form, colour)
    assert _largest(tuple(plane.numpy() for plane in back), planes) == 0


@pytest.mark.parametrize("location", LOCATIONS)
@pytest.mark.parametrize("name", ["yuv420p", "yuv422p", "yuv420p10le"])
def test_smooth_subsampled_chroma_comes_back_within_one_code(
    name: str, location: ChromaLocation, rng: np.random.Generator
) -> None:
    form, colour = pixel_format(name), Colour(matrix="bt709", full_range=False, chroma_location=location)
    steps = 2 ** (form.bit_depth - 8)
    height, width = 48, 64
    slope = np.add.outer(np.arange(height) * 0.5, np.arange(width) * 0.4) + rng.random()
    planes = tuple(
        (np.array(base + sign * slope[: shape[0], : shape[1]]) * steps).round().astype(
            np.uint8 if form.bit_depth == 8 else np.uint16
        )
        for base, sign, shape in zip(
            (100, 110, 150), (1, 1, -1), (form.shape(index, height, width) for index in range(3)), strict=True
        )
    )  # fmt: skip
    back = from_rgb(to_rgb(_tensors(planes), form, colour), form, colour)
    for plane, other in zip(planes, back, strict=True):
        # at the borders the ramp is cut off
        inner = np.abs(plane.astype(int) - other.numpy())[2:-2, 2:-2]
        assert inner.max() <= 1


@pytest.mark.parametrize("location", LOCATIONS)
def test_a_ramp_of_chroma_stands_where_the_location_says(location: ChromaLocation) -> None:
    """Away from the borders, interpolation reproduces a ramp of chroma exactly, shifted by its location."""
    form, colour = pixel_format("yuv420p12le"), Colour(matrix="bt709", full_range=True, chroma_location=location)
    x, y = PLACES[location]
    high, wide = np.mgrid[:10, :12]
    cr = (2048 + 20 * (2 * wide + x) + 36 * (2 * high + y)).astype(np.uint16)
    planes = (np.full((20, 24), 2048, np.uint16), np.full((10, 12), 2048, np.uint16), cr)
    rgb = to_rgb(_tensors(planes), form, colour).numpy()
    found = (rgb[0] - 2048 / 4095) / 1.5748 * 4095  # red is luma + 1.5748 Cr
    rows, columns = np.mgrid[:20, :24]
    np.testing.assert_allclose(found[2:-2, 2:-2], (20 * columns + 36 * rows)[2:-2, 2:-2], atol=0.01)


@pytest.mark.parametrize(
    "name", ["yuv420p", "yuv422p10le", "yuv444p12le", "gray", "gray10le", "gbrp", "nv12", "p010le"]
)
@pytest.mark.parametrize("full", [False, True])
def test_grey_ramps_are_neutral_and_come_back(name: str, full: bool) -> None:
    form = pixel_format(name)
    colour = Colour(matrix="bt709", full_range=full)
    offset, scale, _ = _steps(form, full or form.chroma == "rgb")
    codes = np.arange(offset, offset + scale + 1).astype(np.uint8 if form.bit_depth == 8 else np.uint16)
    ramp = np.tile(codes, (4, 1))
    middle = np.full_like(ramp, 1 << (form.bit_depth - 1))
    planes = tuple(
        (ramp if index == 0 or form.chroma == "rgb" else middle)[: shape[0], : shape[1]]
        for index, shape in enumerate(form.shape(index, *ramp.shape) for index in range(form.planes))
    )
    if form.chroma == "rgb":
        planes = (ramp, ramp, ramp)
    rgb = to_rgb(_tensors(planes), form, colour)
    assert torch.equal(rgb[0], rgb[1])
    assert torch.equal(rgb[1], rgb[2])
    assert (float(rgb.min()), float(rgb.max())) == pytest.approx((0, 1), abs=1e-6)
    back = from_rgb(rgb, form, colour)
    assert _largest(tuple(plane.numpy() for plane in back), planes) == 0


def test_the_two_ranges_differ_by_black_and_white() -> None:
    form = pixel_format("gray")
    codes = torch.tensor([[0, 16, 235, 255]], dtype=torch.uint8)
    limited = to_rgb([codes], form, Colour(matrix="bt709", full_range=False))
    full = to_rgb([codes], form, Colour(matrix="bt709", full_range=True))
    assert limited[0, 0].tolist() == pytest.approx([0, 0, 1, 1], abs=1e-6)  # brighter than white is clamped
    assert full[0, 0].mul(255).round().tolist() == [0, 16, 235, 255]


@pytest.mark.parametrize("name", ["yuv420p", "yuv420p10le", "gbrp", "gray"])
def test_a_batch_is_its_pictures(name: str, rng: np.random.Generator) -> None:
    form, colour = pixel_format(name), Colour(matrix="bt601", full_range=False)
    frames = [_tensors(_random(rng, form, 18, 22)) for _ in range(3)] if form.chroma != "rgb" else [
        tuple(torch.from_numpy(rng.integers(0, 256, (18, 22), np.uint8)) for _ in range(3)) for _ in range(3)
    ]  # fmt: skip
    stacked = tuple(torch.stack(planes) for planes in zip(*frames, strict=True))
    batch = to_rgb(stacked, form, colour)
    assert batch.shape == (3, 3, 18, 22)
    for single, frame in zip(batch, frames, strict=True):
        assert torch.equal(single, to_rgb(frame, form, colour))
    for planes, whole in zip(from_rgb(batch, form, colour), stacked, strict=True):
        assert planes.shape == whole.shape
        assert planes.dtype == whole.dtype


def test_low_precision_is_rounded_once(rng: np.random.Generator) -> None:
    form, colour = pixel_format("yuv420p"), Colour(matrix="bt709", full_range=False)
    planes = _tensors(_random(rng, form, 18, 22))
    for dtype in (torch.float16, torch.bfloat16):
        assert torch.equal(to_rgb(planes, form, colour, dtype=dtype), to_rgb(planes, form, colour).to(dtype))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16])
def test_integer_pictures_in_rows_of_pixels_are_taken_as_they_are(dtype: torch.dtype, rng: np.random.Generator) -> None:
    form, colour = pixel_format("yuv420p10le"), Colour(matrix="bt709", full_range=False)
    most = torch.iinfo(dtype).max
    pixels = torch.from_numpy(rng.integers(0, most + 1, (20, 30, 3)).astype(np.uint8 if most == 255 else np.uint16))
    picture = pixels.permute(2, 0, 1)
    for ours, wanted in zip(
        from_rgb(picture, form, colour), from_rgb(picture.to(torch.float32) / most, form, colour), strict=True
    ):
        assert torch.equal(ours, wanted)


def test_what_a_network_overshoots_is_clamped() -> None:
    form, colour = pixel_format("yuv444p"), Colour(matrix="bt709", full_range=False)
    planes = from_rgb(torch.tensor([[[-1.0, 3.0]]] * 3), form, colour)
    assert planes[0].tolist() == [[16, 235]]


def test_dither_keeps_the_mean_that_rounding_loses() -> None:
    form, colour = pixel_format("gray"), Colour(matrix="bt709", full_range=True)
    flat = torch.full((3, 64, 64), 100.3 / 255)
    plain, dithered = (from_rgb(flat, form, colour, dither=dither)[0].float() for dither in (False, True))
    assert float(plain.mean()) == 100
    assert float(dithered.mean()) == pytest.approx(100.3, abs=0.02)
    assert dithered.unique().tolist() == [100, 101]


@pytest.mark.parametrize(("name", "matrix", "full", "location"), [case for case in CASES if case[0].endswith("p")])
def test_the_fast_way_on_a_cpu_agrees_within_one_code(
    name: str, matrix: Matrix, full: bool, location: ChromaLocation, rng: np.random.Generator
) -> None:
    form = pixel_format(name)
    colour = Colour(matrix=matrix, full_range=full, chroma_location=location, matrix_code=1, transfer=1, primaries=9)
    assert is_exact(name, 66, 90, colour)
    fast = Swscale(colour)
    for _ in range(2):  # the second time with tables that are kept
        planes = _random(rng, form, 66, 90)
        pixels = fast.to_rgb(frame_of(planes, name, colour))
        assert pixels.shape == (66, 90, 3)
        exact = to_rgb(_tensors(planes), form, colour).permute(1, 2, 0).mul(255).numpy()
        assert float(np.abs(pixels - exact).max()) < 0.6  # rounded to the nearest
        frame = fast.from_rgb(pixels, name)
        assert (frame.format.name, frame.color_range, frame.color_primaries) == (name, 2 if full else 1, 9)
        wanted = from_rgb(torch.from_numpy(pixels).permute(2, 0, 1), form, colour)
        assert _largest(planes_of(frame), tuple(plane.numpy() for plane in wanted)) <= 1


def test_the_fast_way_is_not_taken_where_it_is_not_exact() -> None:
    colour = Colour(matrix="bt709", full_range=False)
    assert is_exact("yuv420p", 64, 64, colour)
    assert is_exact("yuv444p", 65, 65, colour)
    assert not is_exact("yuv420p", 65, 64, colour)
    assert not is_exact("yuv422p", 64, 65, colour)
    assert not is_exact("yuv420p10le", 64, 64, colour)
    assert not is_exact("gray", 64, 64, colour)
    assert not is_exact("yuv420p", 64, 64, Colour(matrix="ycgco", full_range=False))
