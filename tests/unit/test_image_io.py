"""Picture files: what is decoded, what is written, and the one line that a bad file gets."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from realesr_cli.errors import OutputExists, UnreadableInput, UnsupportedInput
from realesr_cli.image_header import sniff
from realesr_cli.image_io import Image, read_image, write_image
from realesr_cli.metadata import Metadata, orientation

Finder = Callable[[str], Path]


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp", ".jpg", ".webp"])
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_round_trip(suffix: str, channels: int, dtype: type, tmp_path: Path, rng: np.random.Generator) -> None:
    levels = np.iinfo(dtype).max
    ramp = np.linspace(0, levels, 40 * 50 * channels).reshape(channels, 40, 50).transpose(1, 2, 0)
    image = Image(pixels=ramp.astype(dtype))
    path = tmp_path / f"a{suffix}"
    if channels == 4 and suffix == ".jpg":
        with pytest.raises(UnsupportedInput, match="transparency"):
            write_image(path, image)
        assert not path.exists()
        return
    write_image(path, image)
    back = read_image(path).pixels
    deep = suffix in (".png", ".tif")
    assert back.dtype == (dtype if deep else np.uint8)
    if suffix == ".webp" and channels == 1:
        back = back[..., :1]  # the format knows no grey
    assert back.shape == image.pixels.shape
    expected = image.pixels if back.dtype == dtype else np.rint(image.pixels / 257)
    tolerance = 0 if deep or suffix == ".bmp" else 12
    visible = back[..., 3] > 0 if channels == 4 else np.ones(back.shape[:2], bool)
    assert np.abs(back.astype(float) - expected)[visible].max() <= tolerance


@pytest.mark.parametrize("number", range(1, 9))
def test_orientation_is_applied_and_reset(number: int, media: Finder, tmp_path: Path) -> None:
    upright = read_image(media("images/orientation/upright_reference.png")).pixels.astype(int)
    image = read_image(media(f"images/orientation/orientation_{number}.jpg"))
    assert image.pixels.shape == upright.shape
    assert np.abs(image.pixels - upright).mean() < 3  # JPEG; another turn gives 60 and more
    assert orientation(image.metadata.exif) == 1
    for suffix in (".jpg", ".png", ".webp"):
        write_image(tmp_path / f"out{suffix}", image)
        back = read_image(tmp_path / f"out{suffix}")
        assert np.abs(back.pixels - upright).mean() < 5


@pytest.mark.parametrize("name", ["orientation_6.png", "orientation_6.webp"])
def test_orientation_of_other_formats(name: str, media: Finder) -> None:
    upright = read_image(media("images/orientation/upright_reference.png")).pixels.astype(int)
    assert np.abs(read_image(media(f"images/orientation/{name}")).pixels - upright).mean() < 4


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_metadata_travels(suffix: str, media: Finder, tmp_path: Path) -> None:
    image = read_image(media("images/orientation/orientation_3.jpg"))
    assert image.metadata.exif and image.metadata.xmp.startswith(b"<") and image.metadata.icc
    write_image(tmp_path / f"a{suffix}", image)
    back = read_image(tmp_path / f"a{suffix}")
    assert back.metadata.exif == image.metadata.exif
    assert back.metadata.xmp == image.metadata.xmp
    assert back.metadata.icc == image.metadata.icc


def test_the_suffix_does_not_decide_what_a_file_is(media: Finder) -> None:
    assert read_image(media("images/broken/jpeg_inside.png")).format == "jpg"
    assert read_image(media("images/broken/png_inside.jpg")).format == "png"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("zero_byte.png", "empty"),
        ("text.png", "not a picture"),
        ("html_saved_as.jpg", "web page"),
        ("random_bytes.webp", "not a picture"),
        ("truncated.png", "cut off"),
        ("truncated.jpg", "cut off"),
        ("truncated_header.jpg", "cut off"),
        ("bad_crc.png", "damaged"),
    ],
)
def test_broken_files_get_one_line(name: str, words: str, media: Finder) -> None:
    with pytest.raises(UnreadableInput, match=words) as caught:
        read_image(media(f"images/broken/{name}"))
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(UnreadableInput, match="no such file"):
        read_image(tmp_path / "none.png")
    with pytest.raises(UnreadableInput, match="folder"):
        read_image(tmp_path)


def test_floating_point_pictures_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(cv2.imencode(".tif", np.zeros((4, 4, 3), np.float32))[1].tobytes())
    with pytest.raises(UnsupportedInput, match="float32"):
        read_image(path)


def test_a_picture_may_come_from_memory(media: Finder) -> None:
    path = media("images/formats/rgb16.png")
    np.testing.assert_array_equal(read_image(path).pixels, read_image(path.read_bytes()).pixels)


def test_existing_files_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"mine")
    with pytest.raises(OutputExists):
        write_image(path, Image(pixels=np.zeros((2, 2, 3), np.uint8)))
    assert path.read_bytes() == b"mine"
    write_image(path, Image(pixels=np.zeros((2, 2, 3), np.uint8)), overwrite=True)
    assert read_image(path).pixels.shape == (2, 2, 3)


@pytest.mark.parametrize("name", ["a.xyz", "a", "a.heic"])
def test_unknown_suffixes_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedInput, match=r"does not write"):
        write_image(tmp_path / name, Image(pixels=np.zeros((2, 2, 3), np.uint8)))


def test_names_of_every_kind(media: Finder, tmp_path: Path) -> None:
    for path in sorted(media("images/names").iterdir()):
        if path.suffix != ".json":
            image = read_image(path)
            write_image(tmp_path / f"{path.stem}.png", image)
            np.testing.assert_array_equal(read_image(tmp_path / f"{path.stem}.png").pixels, image.pixels)


def test_sniff_and_exif_of_nonsense() -> None:
    assert sniff(b"") is None
    assert sniff(b"P6\n1 1\n255\n...") == "pnm"
    for block in (b"", b"II", b"II*\0\xff\xff\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\xff\xff" + b"\0" * 20):
        assert orientation(block) == 1
        assert Metadata(exif=block).for_result(3, 4, 3).exif in (b"", block)
