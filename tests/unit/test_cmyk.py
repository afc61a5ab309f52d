"""CMYK: inks out of JPEG and TIFF files, and their colours by the profile."""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from realesr_cli import cmyk, tiff
from realesr_cli.image_io import Image, encode_image, read_image
from realesr_cli.metadata import Metadata

Finder = Callable[[str], Path]


def _profile(kind: bytes = b"mft2", *, tag: bytes = b"A2B0", space: bytes = b"Lab ") -> bytes:
    """A profile whose lightness falls with black alone, and whose other inks change nothing."""
    deep = kind == b"mft2"
    values = [0, 0x8000, 0x8000] if deep else [0, 128, 128]
    white = [0xFF00, 0x8000, 0x8000] if deep else [255, 128, 128]
    grid = [value for corner in range(16) for value in (values if corner % 2 else white)]
    ramp = [0, 65535] if deep else list(range(256))
    numbers = ramp * 4 + grid + ramp * 3
    head = kind + bytes(4) + bytes([4, 3, 2, 0]) + bytes(36)
    body = (
        head + (struct.pack(">HH", 2, 2) if deep else b"") + struct.pack(f">{len(numbers)}{'HB'[not deep]}", *numbers)
    )
    start = 132 + 12
    icc = bytes(16) + b"CMYK" + space + bytes(104) + struct.pack(">I", 1)
    return icc + tag + struct.pack(">II", start, len(body)) + body


@pytest.mark.parametrize("kind", [b"mft1", b"mft2"])
@pytest.mark.parametrize("tag", [b"A2B0", b"A2B1"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_profile_is_evaluated(kind: bytes, tag: bytes, dtype: type) -> None:
    top = np.iinfo(dtype).max
    inks = np.zeros((1, 3, 4), dtype)
    inks[0, :, 3] = (0, round(top / 2), top)
    rgb, used = cmyk.to_srgb(inks, _profile(kind, tag=tag))
    assert used and rgb.dtype == dtype
    # L* = 50 is the grey 118.9 of 255 in sRGB
    np.testing.assert_allclose(rgb[0] / top * 255, [[255] * 3, [118.9] * 3, [0] * 3], atol=1.5)


@pytest.mark.parametrize("icc", [b"", bytes(300), _profile()[:200], _profile(b"mAB "), _profile(space=b"RGB ")])
def test_without_a_usable_profile_the_plain_formula_is_taken(icc: bytes) -> None:
    inks = np.array([[[0, 0, 0, 0], [255, 0, 0, 0], [0, 0, 0, 255], [0, 51, 0, 51]]], np.uint8)
    rgb, used = cmyk.to_srgb(inks, icc)
    assert not used
    assert rgb[0].tolist() == [[255, 255, 255], [0, 255, 255], [0, 0, 0], [204, 163, 204]]


def test_the_profile_never_goes_into_an_rgb_result(media: Finder, events: Any) -> None:
    image = read_image(media("images/formats/cmyk_icc.jpg"), reporter=events)
    assert image.metadata.icc == b""
    assert not events.of("warning")


def test_a_cmyk_tiff_is_not_taken_for_rgba(events: Any) -> None:
    inks = np.zeros((20, 30, 4), np.uint8)
    inks[..., 0], inks[..., 3] = 255, 51
    data = encode_image(Path("a.tif"), Image(pixels=inks))
    data = tiff.patched(data, tiff.PHOTOMETRIC, 5)
    image = read_image(data, reporter=events)
    assert image.pixels.shape == (20, 30, 3)
    assert image.pixels[0, 0].tolist() == [0, 204, 204]
    assert [warning["code"] for warning in events.of("warning")] == ["profile"]
    profiled = encode_image(Path("a.tif"), Image(pixels=inks[..., :3]))
    assert read_image(profiled).metadata == Metadata()


def test_ycck_is_cmyk_in_other_words(media: Finder) -> None:
    """The same bytes declared as YCCK: white paper (stored 255 each) has Y = 255 and Cb = Cr = 255 then."""
    stored = np.array([[[255, 128, 128, 255], [0, 128, 128, 0], [76, 85, 255, 255]]], np.uint8)
    assert cmyk.inks_of_jpeg(stored, 2)[0].tolist() == [[255, 255, 255, 0], [0, 0, 0, 255], [254, 0, 0, 0]]
    assert cmyk.inks_of_jpeg(stored, 0)[0, 0].tolist() == [0, 127, 127, 0]
    assert cmyk.adobe_transform(media("images/formats/cmyk_icc.jpg").read_bytes()) == 0
    assert cmyk.adobe_transform(b"\xff\xd8") is None
