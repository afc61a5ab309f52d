"""Every picture of the test zoo through `realesr image`: one table says what must come out of each."""

import struct
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from networks import nearest
from realesr_cli import Image, read_image
from realesr_cli.image_header import read_header
from realesr_cli.metadata import orientation
from realesr_cli.models import architectures

Command = Callable[..., Any]
Finder = Callable[[str], Path]


@dataclass(frozen=True)
class Row:
    """What twice the size, by a network that repeats pixels, must look like."""

    width: int
    height: int
    channels: str
    bits: int
    mean: tuple[int, ...]
    """Of each channel, 0 to 255, as another library (Pillow 13) decodes the source, to 1."""
    keeps: str = ""
    """Metadata that the result must hold, and no other."""
    warns: str = ""
    """The code of the only warning."""
    like: str = ""
    """The source's pixels must be those of this file, by a few levels on average."""
    within: float = 4.0


@dataclass(frozen=True)
class Refused:
    """Exit status 4 and one line with these words."""

    words: str


ZOO: dict[str, Row | Refused] = {
    "animated/bird_delays.gif": Row(400, 300, "RGB", 8, (146, 144, 164)),
    "animated/bird_lossy.webp": Row(400, 300, "RGB", 8, (146, 145, 163)),
    "animated/single_frame.gif": Row(320, 240, "RGBA", 8, (239, 206, 228, 50)),
    "animated/sprite_alpha.png": Row(320, 240, "RGBA", 8, (40, 30, 35, 52)),
    "animated/sprite_alpha.webp": Row(320, 240, "RGBA", 8, (40, 30, 35, 52)),
    "animated/sprite_transparent.gif": Row(320, 240, "RGBA", 8, (239, 206, 228, 50)),
    "broken/bad_crc.png": Refused("cut off or damaged"),
    "broken/bomb_1bit_30000x30000.png": Refused("900 million pixels; the limit is 268 million"),
    "broken/bomb_rgb_30000x30000.png": Refused("900 million pixels; the limit is 268 million"),
    "broken/corrupt_middle.jpg": Row(768, 512, "RGB", 8, (238, 235, 188), warns="damaged"),
    "broken/html_saved_as.jpg": Refused("it is a web page or XML, not a picture"),
    "broken/jpeg_inside.png": Row(768, 512, "RGB", 8, (122, 112, 89), like="formats/rgb8_lzw.tif"),
    "broken/png_inside.jpg": Row(254, 186, "RGB", 8, (122, 110, 76), like="formats/odd_127x93.png", within=0),
    "broken/random_bytes.webp": Refused("it is not a picture of a known format"),
    "broken/text.png": Refused("it is not a picture of a known format"),
    "broken/truncated.jpg": Refused("cut off or damaged"),
    "broken/truncated.png": Refused("cut off or damaged"),
    "broken/truncated_header.jpg": Refused("cut off or damaged"),
    "broken/zero_byte.png": Refused("the file is empty"),
    "formats/adam7.png": Row(602, 406, "RGB", 8, (148, 111, 87)),
    "formats/adobe_rgb.png": Row(600, 400, "RGB", 8, (171, 114, 113), keeps="icc"),
    "formats/alpha.webp": Row(640, 400, "RGBA", 8, (172, 130, 149, 190)),
    "formats/avif10.avif": Row(640, 400, "RGB", 16, (171, 130, 149), like="formats/rgb16.png", within=2),
    "formats/avif8.avif": Row(768, 512, "RGB", 8, (121, 113, 88), like="formats/rgb8_lzw.tif"),
    "formats/avif_alpha.avif": Row(320, 200, "RGBA", 8, (161, 123, 140, 190)),
    "formats/bit1.png": Row(916, 830, "grey", 8, (247,)),
    "formats/bw.pbm": Row(192, 128, "grey", 8, (112,)),
    "formats/cmyk_icc.jpg": Row(
        720, 480, "RGB", 8, (187, 131, 114), like="formats/cmyk_icc_reference_rgb.png", within=1.5
    ),
    "formats/cmyk_icc_reference_rgb.png": Row(720, 480, "RGB", 8, (188, 132, 115)),
    "formats/cmyk_noicc.jpg": Row(
        720, 480, "RGB", 8, (187, 114, 113), warns="profile", like="formats/cmyk_noicc_reference_rgb.png"
    ),
    "formats/cmyk_noicc_reference_rgb.png": Row(720, 480, "RGB", 8, (186, 114, 113)),
    "formats/display_p3.png": Row(600, 400, "RGB", 8, (178, 118, 115), keeps="icc"),
    "formats/gray.jpg": Row(1280, 800, "grey", 8, (144,)),
    "formats/gray.pgm": Row(192, 128, "grey", 8, (113,)),
    "formats/gray16.png": Row(640, 400, "grey", 16, (144,)),
    "formats/gray_alpha8.png": Row(640, 400, "RGBA", 8, (144, 144, 144, 190)),
    "formats/lossless.jp2": Row(384, 256, "RGB", 8, (122, 112, 89), like="formats/rgb24.bmp", within=1),
    "formats/lossless.webp": Row(384, 256, "RGB", 8, (122, 112, 89), like="formats/rgb24.bmp", within=0),
    "formats/lossy.jp2": Row(768, 512, "RGB", 8, (122, 113, 89), like="formats/rgb8_lzw.tif", within=6),
    "formats/lossy.webp": Row(768, 512, "RGB", 8, (122, 113, 89)),
    "formats/lowquality_q10.jpg": Row(640, 424, "RGB", 8, (159, 86, 53)),
    "formats/odd_127x93.png": Row(254, 186, "RGB", 8, (122, 110, 76)),
    "formats/palette_4bit.png": Row(640, 400, "RGB", 8, (171, 131, 149)),
    "formats/palette_transparent.png": Row(640, 400, "RGBA", 8, (199, 103, 179, 194)),
    "formats/palette_trns_graded.png": Row(640, 400, "RGBA", 8, (171, 130, 149, 173)),
    "formats/photo_12mp.jpg": Row(8000, 6000, "RGB", 8, (173, 160, 147), keeps="icc"),
    "formats/progressive.jpg": Row(1536, 1024, "RGB", 8, (122, 110, 76)),
    "formats/rec2020.png": Row(600, 400, "RGB", 8, (157, 110, 102), keeps="icc"),
    "formats/rgb.ppm": Row(192, 128, "RGB", 8, (122, 112, 89)),
    "formats/rgb16.png": Row(640, 400, "RGB", 16, (171, 130, 149)),
    "formats/rgb16.ppm": Row(160, 100, "RGB", 16, (171, 130, 149)),
    "formats/rgb16_lzw.tif": Row(640, 400, "RGB", 16, (171, 130, 149), like="formats/rgb16.png", within=0),
    "formats/rgb24.bmp": Row(384, 256, "RGB", 8, (122, 112, 89), keeps="dpi"),
    "formats/rgb8_lzw.tif": Row(768, 512, "RGB", 8, (122, 112, 89)),
    "formats/rgb_colorkey.png": Row(640, 400, "RGBA", 8, (151, 153, 130, 215)),
    "formats/rgba16.png": Row(640, 400, "RGBA", 16, (171, 130, 149, 190)),
    "formats/rgba8.png": Row(640, 400, "RGBA", 8, (171, 130, 149, 190)),
    "formats/srgb_reference.png": Row(600, 400, "RGB", 8, (186, 114, 113)),
    "formats/strip_1x64.png": Row(2, 128, "RGB", 8, (122, 110, 76)),
    "formats/strip_300x2.png": Row(600, 4, "RGB", 8, (124, 110, 76)),
    "formats/text_gamma_dpi.png": Row(480, 320, "RGB", 8, (186, 114, 113), keeps="dpi text"),
    "formats/tiny_1x1.png": Row(2, 2, "RGB", 8, (122, 110, 76)),
    "formats/tiny_2x3.png": Row(4, 6, "RGB", 8, (122, 110, 76)),
    "formats/tiny_7x5.png": Row(14, 10, "RGB", 8, (122, 110, 76)),
    "formats/two_pages.tif": Row(384, 256, "RGB", 8, (122, 112, 89), warns="frames"),
    "names/-leading-dash.png": Row(320, 214, "RGB", 8, (104, 110, 59)),
    "names/.hidden.png": Row(320, 214, "RGB", 8, (104, 110, 59)),
    "names/UPPERCASE.JPG": Row(320, 214, "RGB", 8, (104, 110, 59)),
    f"names/{'a' * 120}.png": Row(320, 214, "RGB", 8, (104, 110, 59)),
    "names/apostrophe's.png": Row(320, 214, "RGB", 8, (104, 110, 59)),
    "names/emoji 📷✨.png": Row(320, 214, "RGB", 8, (104, 110, 59)),
    "names/größe übung ß.jpg": Row(320, 214, "RGB", 8, (104, 110, 59)),
    "names/name with spaces.png": Row(320, 214, "RGB", 8, (104, 110, 59)),
    "names/no_extension": Row(320, 214, "RGB", 8, (104, 110, 59)),
    "names/percent%20and#hash.png": Row(320, 214, "RGB", 8, (104, 110, 59)),
    "names/trailing space .png": Row(320, 214, "RGB", 8, (104, 110, 59)),
    "names/two.dots.in.name.jpeg": Row(320, 214, "RGB", 8, (104, 110, 59)),
    "names/写真 テスト.png": Row(320, 214, "RGB", 8, (104, 110, 59)),
    "names/한글 그림.webp": Row(320, 214, "RGB", 8, (104, 111, 58)),
    "orientation/orientation_1.jpg": Row(
        960, 640, "RGB", 8, (54, 132, 160), keeps="exif xmp icc", like="orientation/upright_reference.png"
    ),
    "orientation/orientation_2.jpg": Row(
        960, 640, "RGB", 8, (54, 132, 160), keeps="exif xmp icc", like="orientation/upright_reference.png"
    ),
    "orientation/orientation_3.jpg": Row(
        960, 640, "RGB", 8, (54, 132, 160), keeps="exif xmp icc", like="orientation/upright_reference.png"
    ),
    "orientation/orientation_4.jpg": Row(
        960, 640, "RGB", 8, (54, 132, 160), keeps="exif xmp icc", like="orientation/upright_reference.png"
    ),
    "orientation/orientation_5.jpg": Row(
        960, 640, "RGB", 8, (54, 132, 160), keeps="exif xmp icc", like="orientation/upright_reference.png"
    ),
    "orientation/orientation_6.jpg": Row(
        960, 640, "RGB", 8, (54, 132, 160), keeps="exif xmp icc", like="orientation/upright_reference.png"
    ),
    "orientation/orientation_6.png": Row(
        960, 640, "RGB", 8, (54, 132, 160), keeps="exif", like="orientation/upright_reference.png"
    ),
    "orientation/orientation_6.webp": Row(
        960, 640, "RGB", 8, (55, 132, 160), keeps="exif", like="orientation/upright_reference.png"
    ),
    "orientation/orientation_7.jpg": Row(
        960, 640, "RGB", 8, (54, 132, 160), keeps="exif xmp icc", like="orientation/upright_reference.png"
    ),
    "orientation/orientation_8.jpg": Row(
        960, 640, "RGB", 8, (54, 132, 160), keeps="exif xmp icc", like="orientation/upright_reference.png"
    ),
    "orientation/upright_reference.png": Row(960, 640, "RGB", 8, (54, 132, 160)),
}

_EXACT = {"png", "tif", "bmp", "pnm", "jp2"}
_CHANNELS = {1: "grey", 3: "RGB", 4: "RGBA"}


@pytest.fixture
def doubled(realesr: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Any]:
    """`realesr image SOURCE -o FOLDER` with a network whose result is known; gives (outcome, files written)."""
    monkeypatch.setattr(architectures, "load_model", lambda *arguments, **options: nearest(2))
    folder = tmp_path / "out"

    def run(source: Path, *flags: str) -> tuple[Any, list[Path]]:
        done = realesr("image", "-m", "nearest", "--json", "-o", folder, *flags, "--", source)
        return done, sorted(folder.iterdir()) if folder.is_dir() else []

    return run


def _name(path: Path, folder: Path) -> str:
    return unicodedata.normalize("NFC", path.relative_to(folder).as_posix())


def test_every_file_has_a_row(media: Finder) -> None:
    folder = media("images")
    there = {_name(path, folder) for path in folder.rglob("*") if path.is_file() and path.name != "facts.json"}
    assert there == ZOO.keys()


@pytest.mark.parametrize("name", [name for name, row in ZOO.items() if isinstance(row, Row)])
def test_pictures_come_out_right(name: str, doubled: Callable[..., Any], media: Finder) -> None:
    row = ZOO[name]
    assert isinstance(row, Row)
    source = media(f"images/{name}")
    done, written = doubled(source)
    assert (done.status, done.err, len(written)) == (0, "", 1)
    assert [event["code"] for event in done.events("warning")] == row.warns.split()

    before, after = read_image(source), read_image(written[0])
    header = read_header(written[0].read_bytes())
    assert header is not None
    assert after.pixels.shape[:2] == (row.height, row.width)
    assert (_CHANNELS[after.pixels.shape[2]], after.pixels.dtype.itemsize * 8) == (row.channels, row.bits)
    assert orientation(after.metadata.exif) == 1
    assert _kept(after) == row.keeps
    assert after.metadata.icc == before.metadata.icc

    np.testing.assert_allclose(_levels(before).mean((0, 1)), row.mean, atol=1.01)
    if row.like:
        assert np.abs(_levels(before) - _levels(read_image(media(f"images/{row.like}")))).mean() <= row.within
    small = after.pixels[::2, ::2]
    visible = small[..., 3] > 0 if small.shape[2] == 4 else np.ones(small.shape[:2], bool)
    if header.format in _EXACT or header.lossless:
        np.testing.assert_array_equal(small[visible], before.pixels[visible])
    else:
        assert np.abs(_levels(after)[::2, ::2] - _levels(before))[visible].mean() < 4


@pytest.mark.parametrize("name", [name for name, row in ZOO.items() if isinstance(row, Refused)])
def test_broken_files_are_refused_in_one_line(name: str, doubled: Callable[..., Any], media: Finder) -> None:
    row = ZOO[name]
    assert isinstance(row, Refused)
    done, written = doubled(media(f"images/{name}"))
    assert (done.status, written) == (4, [])
    (failed,) = done.events("failed")
    assert row.words in failed["message"]
    assert "\n" not in failed["message"]
    assert not done.events("begin")
    assert done.events("summary")[0]["seconds"] < 5


def test_the_whole_zoo_in_one_call(
    realesr: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, media: Finder
) -> None:
    """A bad file does not stop the others, and each says its own line."""
    monkeypatch.setattr(architectures, "load_model", lambda *arguments, **options: nearest(2))
    names = [name for name in ZOO if name.startswith("broken/")]
    sources = [media(f"images/{name}") for name in names]
    done = realesr("image", "-m", "nearest", "--json", "-o", tmp_path / "out", "--", *sources)
    refused = sum(isinstance(ZOO[name], Refused) for name in names)
    assert done.status == 1
    assert len(done.events("failed")) == refused
    assert len(done.events("done")) == len(names) - refused == len(list((tmp_path / "out").iterdir()))


@pytest.mark.parametrize("name", ["display_p3", "adobe_rgb", "rec2020"])
def test_wide_gamuts_look_the_same(name: str, doubled: Callable[..., Any], media: Finder) -> None:
    """The result, converted to sRGB by its own profile, is the picture that the source's makers converted."""
    source = media(f"images/formats/{name}.png")
    _, (written,) = doubled(source)
    after = read_image(written)
    assert after.metadata.icc == read_image(source).metadata.icc
    shown = _in_srgb(after.pixels[::2, ::2], after.metadata.icc)
    expected = read_image(media("images/formats/srgb_reference.png")).pixels
    without = np.abs(after.pixels[::2, ::2].astype(float) - expected).mean()
    assert np.abs(shown - expected).mean() < 1.5
    assert without > 4  # the test would notice a lost profile


def test_jpeg_carries_a_profile_too(doubled: Callable[..., Any], media: Finder) -> None:
    source = media("images/formats/adobe_rgb.png")
    for format_ in ("jpg", "webp", "tif", "avif"):
        _, files = doubled(source, "--format", format_)
        written = next(path for path in files if path.suffix == f".{format_}")
        assert read_image(written).metadata.icc == read_image(source).metadata.icc


def _levels(image: Image) -> NDArray[Any]:
    """Pixels from 0 to 255."""
    return image.pixels / (257.0 if image.pixels.dtype == np.uint16 else 1.0)


def _kept(image: Image) -> str:
    found = image.metadata
    kinds = {"exif": found.exif, "xmp": found.xmp, "icc": found.icc, "dpi": found.dpi, "text": found.png_texts}
    return " ".join(name for name, value in kinds.items() if value)


def _in_srgb(pixels: NDArray[Any], icc: bytes) -> NDArray[Any]:
    """8-bit RGB by a matrix profile (ICC.1:2010, annex F.3) as sRGB levels; out-of-gamut colours are clipped."""
    tags = {icc[at : at + 4]: struct.unpack_from(">II", icc, at + 4) for at in range(132, 132 + 12 * icc[131], 12)}
    columns, linear = [], np.empty(pixels.shape)
    for index, letter in enumerate("rgb"):
        start = tags[f"{letter}XYZ".encode()][0]
        columns.append([value / 65536 for value in struct.unpack_from(">3i", icc, start + 8)])
        linear[..., index] = _curve(icc[tags[f"{letter}TRC".encode()][0] :], pixels[..., index] / 255)
    # sRGB primaries adapted to D50, as in the ICC's own sRGB profile
    to_xyz = np.array([[0.4360747, 0.3850649, 0.1430804], [0.2225045, 0.7168786, 0.0606169],
                       [0.0139322, 0.0971045, 0.7141733]])  # fmt: skip
    light = np.clip(linear @ np.array(columns) @ np.linalg.inv(to_xyz).T, 0, 1)
    shown: NDArray[Any] = 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return shown


def _curve(tag: bytes, x: NDArray[Any]) -> NDArray[Any]:
    """A tone curve (ICC.1:2010, sections 10.5 and 10.15) at x from 0 to 1."""
    if tag[:4] == b"para":
        kind = struct.unpack_from(">H", tag, 8)[0]
        g, a, b, c, d = (*(v / 65536 for v in struct.unpack_from(f">{(1, 3, 4, 5)[kind]}i", tag, 12)), 1, 0, 0, 0)[:5]
        return np.where(x >= d, np.maximum(a * x + b, 0) ** g, c * x) if kind == 3 else np.maximum(a * x + b, 0) ** g
    (count,) = struct.unpack_from(">I", tag, 8)
    if count == 1:
        power: NDArray[Any] = x ** (struct.unpack_from(">H", tag, 12)[0] / 256)
        return power
    table = np.array(struct.unpack_from(f">{count}H", tag, 12)) / 65535
    return np.interp(x, np.linspace(0, 1, count), table)
