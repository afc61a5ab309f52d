"""EXIF, XMP, profiles and resolution: what is carried, in which format, and what is corrected on the way."""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from realesr_cli import boxes, tiff
from realesr_cli.containers import png_chunks, png_metadata, read_metadata
from realesr_cli.image_header import read_header
from realesr_cli.image_io import Image, encode_image, read_image
from realesr_cli.metadata import Metadata, orientation

Finder = Callable[[str], Path]

_XMP = (
    b'<x:xmpmeta><rdf:Description tiff:Orientation="6" exif:PixelXDimension = \'40\' dc:title="a"/>'
    b"<exif:PixelYDimension>30</exif:PixelYDimension></x:xmpmeta>"
)


def _profile(space: bytes, size: int = 300) -> bytes:
    return bytes(16) + space + bytes(range(256)) * (size // 256 + 1)


def _exif(order: str, *, thumbnail: bytes = b"") -> bytes:
    """A block with orientation 6, the size 40x30 as SHORTs, a maker's note with odd bytes, and a thumbnail."""

    def entry(tag: int, kind: int, count: int, value: int) -> bytes:
        value_format = "H2x" if kind == 3 and count == 1 else "I"
        return struct.pack(f"{order}HHI{value_format}", tag, kind, count, value)

    header = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8)
    below = 8 + 2 + 2 * 12 + 4
    after = below + 2 + 3 * 12 + 4
    first = struct.pack(f"{order}H", 2) + entry(0x0112, 3, 1, 6) + entry(0x8769, 4, 1, below)
    second = struct.pack(f"{order}H", 3) + entry(0x927C, 7, 4, 0x01020304)
    second += entry(0xA002, 3, 1, 40) + entry(0xA003, 3, 1, 30) + bytes(4)
    third = (
        struct.pack(f"{order}H", 2) + entry(0x0201, 4, 1, after + 30) + entry(0x0202, 4, 1, len(thumbnail)) + bytes(4)
    )
    block = header + first + struct.pack(f"{order}I", after if thumbnail else 0) + second
    return block + (third + thumbnail if thumbnail else b"")


@pytest.mark.parametrize("order", "<>")
def test_exif_is_corrected_in_place(order: str) -> None:
    exif = _exif(order, thumbnail=b"\xff\xd8 a secret \xff\xd9")
    assert orientation(exif) == 6
    result = Metadata(exif=exif).for_result(120, 100_000, 3).exif
    tags = tiff.read(result)
    below = tags[tiff.EXIF]
    assert isinstance(below, dict)
    assert orientation(result) == 1
    assert (tiff.number(below, 0xA002), tiff.number(below, 0xA003)) == (100_000, 120)
    assert below[0x927C] == tiff.read(exif)[tiff.EXIF][0x927C]  # type: ignore[index]
    assert b"secret" not in result
    assert tiff.next_directory(result, 8)[1] == 0
    assert Metadata(exif=result).for_result(120, 100_000, 3).exif == result


def test_xmp_is_corrected() -> None:
    result = Metadata(xmp=_XMP).for_result(60, 80, 3).xmp
    assert b'tiff:Orientation="1"' in result
    assert b"exif:PixelXDimension = '80'" in result
    assert b"<exif:PixelYDimension>60</exif:PixelYDimension>" in result
    assert b'dc:title="a"' in result


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp", ".avif"])
@pytest.mark.parametrize("order", "<>")
def test_everything_survives_in_formats_that_can_hold_it(suffix: str, order: str) -> None:
    metadata = Metadata(exif=_exif(order), xmp=_XMP, icc=_profile(b"RGB "), dpi=(300, 150))
    image = Image(pixels=np.full((30, 40, 3), 99, np.uint8)).replace(np.full((30, 40, 3), 99, np.uint8))
    image = Image(pixels=image.pixels, metadata=metadata.for_result(30, 40, 3))
    back = read_image(encode_image(Path(f"a{suffix}"), image)).metadata
    assert (back.xmp, back.icc) == (image.metadata.xmp, image.metadata.icc)
    kept, given = tiff.read(back.exif), tiff.read(image.metadata.exif)
    assert kept[tiff.EXIF] == given[tiff.EXIF]
    if suffix in (".jpg", ".png", ".tif"):
        assert back.dpi == pytest.approx((300, 150), abs=0.02)


@pytest.mark.parametrize("suffix", [".webp", ".avif"])
def test_resolution_goes_into_exif_where_the_format_has_no_place_for_it(suffix: str) -> None:
    image = Image(pixels=np.full((30, 40, 3), 99, np.uint8), metadata=Metadata(dpi=(300, 150)))
    assert read_image(encode_image(Path(f"a{suffix}"), image)).metadata.dpi == (300, 150)


def test_a_large_profile_takes_several_jpeg_segments() -> None:
    icc = _profile(b"RGB ", 200_000)
    image = Image(pixels=np.zeros((8, 8, 3), np.uint8), metadata=Metadata(icc=icc))
    data = encode_image(Path("a.jpg"), image)
    assert data.count(b"ICC_PROFILE\0") == 4
    assert read_image(data).metadata.icc == icc


def test_png_holds_xmp_where_readers_look_for_it() -> None:
    image = Image(pixels=np.zeros((8, 8, 3), np.uint8), metadata=Metadata(xmp=_XMP))
    chunks = list(png_chunks(encode_image(Path("a.png"), image)[8:]))
    assert (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + _XMP) in chunks
    assert [kind for kind, _ in chunks][-2:] == [b"IDAT", b"IEND"]


def test_texts_and_gamma_of_a_png_stay_in_a_png(media: Finder) -> None:
    source = media("images/formats/text_gamma_dpi.png")
    image = read_image(source)
    assert image.metadata.dpi == pytest.approx((300, 300), abs=0.02)
    before = [chunk for chunk in png_chunks(source.read_bytes()[8:]) if chunk[0] in (b"tEXt", b"iTXt", b"gAMA")]
    after = list(png_chunks(encode_image(Path("a.png"), image)[8:]))
    assert len(before) >= 2
    assert all(chunk in after for chunk in before)


@pytest.mark.parametrize(
    ("suffix", "lost"),
    [
        (".bmp", "EXIF, XMP, the colour profile"),
        (".jp2", "EXIF, XMP, the colour profile, the resolution"),
        (".ppm", "EXIF, XMP, the colour profile, the resolution"),
    ],
)
def test_what_a_format_cannot_hold_is_said(suffix: str, lost: str, events: Any) -> None:
    metadata = Metadata(exif=_exif("<"), xmp=_XMP, icc=_profile(b"RGB "), dpi=(300, 300))
    image = Image(pixels=np.zeros((40, 40, 3), np.uint8), metadata=metadata)
    encode_image(Path(f"a{suffix}"), image, reporter=events)
    (warning,) = events.of("warning")
    assert warning["code"] == "metadata"
    assert f": {lost} left out" in warning["message"]


def test_a_grey_profile_stays_with_grey_pixels_only(events: Any) -> None:
    metadata = Metadata(icc=_profile(b"GRAY"))
    grey = Image(pixels=np.zeros((8, 8, 1), np.uint8), metadata=metadata)
    assert read_image(encode_image(Path("a.png"), grey)).metadata.icc == metadata.icc
    assert metadata.for_result(8, 8, 3).icc == b""
    assert read_image(encode_image(Path("a.webp"), grey, reporter=events)).metadata.icc == b""
    assert "the colour profile" in events.of("warning")[0]["message"]


def test_damaged_metadata_is_left_out() -> None:
    data = cv2.imencode(".png", np.zeros((4, 4), np.uint8))[1].tobytes()
    whole = data[:33] + png_metadata(Metadata(icc=_profile(b"GRAY"))) + data[33:]
    assert read_metadata("png", whole) != Metadata()
    broken = whole.replace(b"icc\0\0x", b"icc\0\0y")
    assert read_metadata("png", broken) == Metadata()


def test_pages_of_a_tiff_file_do_not_count_reduced_copies(media: Finder) -> None:
    assert tiff.pages(media("images/formats/two_pages.tif").read_bytes()) == 2
    assert tiff.pages(media("images/formats/rgb8_lzw.tif").read_bytes()) == 1


@pytest.mark.parametrize(("stored", "extra"), [(2, [200, 100, 50]), (1, [255, 199, 100])])
def test_transparency_of_a_tiff_file(stored: int, extra: list[int]) -> None:
    """Plain colours are left alone, those multiplied by alpha are divided by it."""
    image = Image(pixels=np.full((4, 4, 4), (200, 100, 50, 128), np.uint8))
    data = tiff.patched(encode_image(Path("a.tif"), image), tiff.EXTRA_SAMPLES, stored)
    assert read_image(data).pixels[0, 0].tolist() == [*extra, 128]


def test_transparency_that_the_decoder_drops_is_said(events: Any) -> None:
    grey = Image(pixels=np.zeros((4, 4, 1), np.uint8))
    data = encode_image(Path("a.tif"), grey)
    read_image(data, reporter=events)
    assert not events.all
    directory = tiff.read(data) | {
        tiff.SAMPLES: tiff.short(2), tiff.EXTRA_SAMPLES: tiff.short(2), 258: tiff.short(8, 8), 339: tiff.short(1, 1),
        259: tiff.short(1), 273: tiff.long(8), 279: tiff.long(32),
    }  # fmt: skip
    del directory[317]
    read_image(b"II*\0" + struct.pack("<I", 40) + bytes(32) + tiff.build(directory, 40), reporter=events)
    assert [warning["code"] for warning in events.of("warning")] == ["alpha"]


@pytest.mark.parametrize(
    ("properties", "turn"),
    [([], 1), ([(b"irot", 1)], 8), ([(b"irot", 3)], 6), ([(b"imir", 1)], 2), ([(b"irot", 1), (b"imir", 1)], 7)],
)
def test_turns_of_avif(properties: list[tuple[bytes, int]], turn: int) -> None:
    def box(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", 8 + len(body)) + kind + body

    inside = b"".join(box(kind, bytes([value])) for kind, value in properties)
    assert boxes.avif_turn(box(b"meta", bytes(4) + box(b"iprp", box(b"ipco", inside)))) == turn


def test_headers_of_files_that_say_their_depth() -> None:
    deep = Image(pixels=np.zeros((33, 40, 3), np.uint16))
    for suffix, white in ((".avif", 4095), (".jp2", 65535), (".ppm", 65535)):
        header = read_header(encode_image(Path(f"a{suffix}"), deep))
        assert header is not None
        assert (header.height, header.width, header.white) == (33, 40, white)


def test_depths_between_8_and_16_bits_fill_the_range() -> None:
    assert read_image(b"P5\n2 1\n1023\n" + struct.pack(">HH", 1023, 0)).pixels.tolist() == [[[65535], [0]]]
    assert read_image(b"P5\n2 1\n100\n" + bytes([100, 50])).pixels.tolist() == [[[255], [128]]]
