"""PyAV frames and planes, there and back in every format, and what films say about their colours."""

import os
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest

from realesr_cli.errors import UnsupportedInput
from realesr_cli.video import frames
from realesr_cli.video.colour import Colour
from realesr_cli.video.frames import frame_of, has_alpha, pixel_format, planes_of
from realesr_cli.video.tags import colour_of, stated_chroma_location

LOCATIONS = ("left", "center", "topleft", "top", "bottomleft", "bottom")  # in the order of their codes
Finder = Callable[[str], Path]


def _random_planes(name: str, height: int, width: int, rng: np.random.Generator) -> list[np.ndarray]:
    form = pixel_format(name)
    dtype = np.uint8 if form.bit_depth == 8 else np.uint16
    return [
        rng.integers(0, 1 << form.bit_depth, form.shape(index, height, width)).astype(dtype)
        for index in range(form.planes)
    ]


@pytest.mark.parametrize("size", [(21, 37), (64, 64), (1, 1)])
def test_planes_of_every_format_come_back(size: tuple[int, int], rng: np.random.Generator) -> None:
    for name in frames.FORMATS:
        planes = _random_planes(name, *size, rng)
        frame = frame_of(planes, name)
        assert (frame.format.name, frame.height, frame.width) == (name, *size)
        for plane, back in zip(planes, planes_of(frame), strict=True):
            np.testing.assert_array_equal(plane, back, err_msg=name)


def test_planes_are_views_of_the_frame() -> None:
    frame = av.VideoFrame(37, 21, "yuv420p")
    for plane in planes_of(frame):
        plane[...] = 77
    assert all((plane == 77).all() for plane in planes_of(frame))


@pytest.mark.parametrize(
    ("name", "array", "wanted"),
    [
        ("rgb24", np.full((4, 4, 3), (1, 2, 3), np.uint8), (1, 2, 3)),
        ("bgr24", np.full((4, 4, 3), (1, 2, 3), np.uint8), (3, 2, 1)),
        ("gbrp", np.full((4, 4, 3), (1, 2, 3), np.uint8), (1, 2, 3)),
        ("rgba", np.full((4, 4, 4), (1, 2, 3, 9), np.uint8), (1, 2, 3)),
        ("rgb48le", np.full((4, 4, 3), (1, 2, 300), np.uint16), (1, 2, 300)),
        ("gray10le", np.full((4, 4), 1000, np.uint16), (1000,)),
    ],
)
def test_planes_are_red_green_blue_in_this_order(name: str, array: np.ndarray, wanted: tuple[int, ...]) -> None:
    planes = planes_of(av.VideoFrame.from_ndarray(array, format=name))
    assert tuple(int(plane[0, 0]) for plane in planes) == wanted
    assert all(int(plane.min()) == int(plane.max()) for plane in planes)


@pytest.mark.parametrize(
    ("name", "through"),
    [("uyvy422", "yuv422p"), ("yuyv422", "yuv422p"), ("yuva420p", "yuv420p"), ("yuva444p10le", "yuv444p10le"),
     ("yuv422p10be", "yuv422p10le"), ("gbrap", "gbrp"), ("0rgb", "gbrp"), ("ya8", "gray")],
)  # fmt: skip
@pytest.mark.parametrize("color_range", [1, 2])
def test_other_layouts_of_the_same_values_lose_nothing(
    name: str, through: str, color_range: int, rng: np.random.Generator
) -> None:
    planes = _random_planes(through, 20, 38, rng)
    frame = frame_of(planes, through)
    frame.color_range, frame.colorspace = color_range, 1
    other = frame.reformat(format=name, threads=1)  # several spoil each other's rows, once in a thousand times
    assert pixel_format(name) == pixel_format(through)
    for plane, back in zip(planes, planes_of(other), strict=True):
        np.testing.assert_array_equal(plane, back)


def _threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted by Linux only")
def test_other_layouts_are_taken_apart_by_one_thread() -> None:
    """Several may write beyond the ends of their rows, into what another has written already."""
    before = _threads()
    frame = av.VideoFrame(64, 64, "uyvy422")
    planes_of(frame)
    assert _threads() == before
    frame.reformat(format="yuv422p")  # FFmpeg's own choice; its threads live as long as the frame
    assert _threads() > before or os.cpu_count() == 1


_STRESS = """
import numpy as np
from realesr_cli.video.frames import frame_of, planes_of
rng, kept = np.random.default_rng(0), []
for number in range(8000):
    height, width = (20, 38) if number % 2 else 2 * rng.integers(1, 50, 2)
    planes = [rng.integers(0, 256, (height, w), np.uint8) for w in (width, width // 2, width // 2)]
    other = frame_of(planes, "yuv422p").reformat(format=("uyvy422", "yuyv422")[number // 2 % 2], threads=1)
    kept = [(planes, planes_of(other)), *kept[:20]]
    for wanted, found in (kept[0], kept[-1]):
        for plane, back in zip(wanted, found, strict=True):
            assert np.array_equal(plane, back), (number, height, width)
"""


def test_planes_outlive_their_frame_and_nothing_writes_to_them() -> None:
    """Freed and fresh memory is filled with a pattern, so that nothing is right by chance."""
    environment = os.environ | {"MALLOC_PERTURB_": "165"}
    done = subprocess.run([sys.executable, "-c", _STRESS], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_formats_with_other_subsampling_become_444() -> None:
    assert pixel_format("yuv411p").chroma == pixel_format("yuv440p").chroma == "444"
    assert pixel_format("v30xle").bit_depth == 10


def test_alpha_is_noticed() -> None:
    assert [has_alpha(name) for name in ("rgba", "yuva444p10le", "ya8", "pal8")] == [True] * 4
    assert not any(has_alpha(name) for name in ("rgb0", "yuv420p", "gray", "p010le", "gbrp"))


@pytest.mark.parametrize("name", ["cuda", "vaapi", "nonsense"])
def test_frames_that_are_no_pixels_are_refused(name: str) -> None:
    with pytest.raises(UnsupportedInput):
        pixel_format(name)


def test_only_known_formats_are_made() -> None:
    with pytest.raises(UnsupportedInput, match="yuva420p"):
        frame_of([np.zeros((4, 4), np.uint8)], "yuva420p")


def test_frames_stored_from_the_bottom_up_are_upright(tmp_path: Path, rng: np.random.Generator) -> None:
    picture = rng.integers(0, 256, (6, 8, 3), np.uint8)
    with av.open(tmp_path / "raw.avi", "w") as out:
        stream = out.add_stream("rawvideo", rate=25, width=8, height=6, pix_fmt="bgr24")
        out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        out.mux(stream.encode())
    with av.open(tmp_path / "raw.avi") as source:
        frame = next(source.decode(video=0))
        np.testing.assert_array_equal(np.stack(planes_of(frame), 2), picture)


def test_frames_carry_their_tags() -> None:
    colour = Colour(matrix="bt2020", full_range=False, matrix_code=9, transfer=16, primaries=9)
    frame = frame_of([np.zeros((4, 4), np.uint16), *[np.zeros((2, 2), np.uint16)] * 2], "yuv420p10le", colour)
    assert (frame.colorspace, frame.color_range, frame.color_trc, frame.color_primaries) == (9, 1, 16, 9)
    again, notes = colour_of(frame, frame.height)
    assert (again, notes) == (colour, [])


def _tagged(
    name: str = "yuv420p", *, width: int = 720, matrix: int = 2, limits: int = 1, transfer: int = 2, primaries: int = 2
) -> Any:
    return SimpleNamespace(
        format=SimpleNamespace(name=name), width=width, colorspace=matrix, color_range=limits, color_trc=transfer,
        color_primaries=primaries,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("source", "height", "matrix", "code", "noted"),
    [
        (_tagged(), 576, "bt601", 6, True),
        (_tagged(width=1280), 544, "bt709", 1, True),
        (_tagged(width=406), 720, "bt709", 1, True),
        (_tagged(width=3840), 2160, "bt709", 1, True),
        (_tagged(width=3840, transfer=16), 2160, "bt2020", 9, True),
        (_tagged(width=3840, transfer=18), 2160, "bt2020", 9, True),
        (_tagged(primaries=9), 480, "bt2020", 9, True),
        (_tagged(width=1920, primaries=5), 1080, "bt601", 6, True),
        (_tagged(matrix=5), 1080, "bt601", 5, False),
        (_tagged(matrix=1), 120, "bt709", 1, False),
        (_tagged(matrix=7), 480, "smpte240m", 7, False),
        (_tagged(matrix=14, primaries=9), 480, "bt2020", 14, True),  # ICtCp: the tag stays, the matrix is said
        (_tagged(matrix=0), 480, "bt601", 6, True),  # "RGB" on planes that are not
        (_tagged("gbrp", matrix=0, limits=0), 480, "identity", 0, False),
    ],
)
def test_a_matrix_is_taken_from_tags_and_else_guessed_and_said(
    source: Any, height: int, matrix: str, code: int, noted: bool
) -> None:
    colour, notes = colour_of(source, height)
    assert (colour.matrix, colour.matrix_code, bool(notes)) == (matrix, code, noted)


@pytest.mark.parametrize(
    ("name", "limits", "full", "noted"),
    [
        ("yuv420p", 1, False, False),
        ("yuv420p", 2, True, False),
        ("yuv420p", 0, False, True),
        ("yuvj420p", 0, True, False),
        ("gray", 1, False, False),
        ("gray", 0, True, True),
        ("gbrp", 0, True, False),
    ],
)
def test_a_range_is_taken_from_tags_and_else_guessed_and_said(name: str, limits: int, full: bool, noted: bool) -> None:
    colour, notes = colour_of(_tagged(name, matrix=1, limits=limits), 480)
    assert (colour.full_range, colour.range_code, bool(notes)) == (full, 2 if full else 1, noted)


@pytest.mark.parametrize(
    ("file", "location"),
    [
        ("hevc_hdr10_pq.mp4", "topleft"),
        ("av1_10bit.mp4", "left"),
        ("mjpeg_pcm.avi", "center"),
        ("untagged.mp4", None),
        ("vp9_opus.webm", None),
    ],
)
def test_chroma_locations_are_read_from_the_streams_headers(file: str, location: str | None, media: Finder) -> None:
    assert stated_chroma_location(media(f"clips/{file}")) == location


@pytest.mark.parametrize(("number", "location"), [*enumerate(LOCATIONS)][1:])
def test_every_location_but_the_default_is_written_by_an_encoder_and_read(
    number: int, location: str, tmp_path: Path
) -> None:
    path = tmp_path / "clip.mkv"
    with av.open(path, "w") as out:
        stream = out.add_stream("libx264", rate=Fraction(25), options={"x264-params": f"chromaloc={number}"})
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        out.mux(stream.encode(av.VideoFrame(32, 32, "yuv420p")))
        out.mux(stream.encode())
    assert stated_chroma_location(path) == location
