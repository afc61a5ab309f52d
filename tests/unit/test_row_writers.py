"""Files that are written band by band: the same pixels whatever the bands, sizes and depths."""

import io
import itertools
import weakref
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from realesr_cli import row_writers
from realesr_cli.errors import EncodeFailed
from realesr_cli.image_io import Image, encode_image, read_image, write_image
from realesr_cli.metadata import Metadata
from realesr_cli.row_writers import ROW_WRITERS


def _picture(rng: np.random.Generator, height: int, width: int, channels: int, dtype: Any) -> Any:
    top = np.iinfo(dtype).max
    slope = np.linspace(0, top, height * width * channels).reshape(height, width, channels)
    return (slope * 0.9 + rng.integers(0, top // 10, slope.shape)).astype(dtype)


def _cut(pixels: Any, rng: np.random.Generator) -> list[Any]:
    cuts = sorted(rng.integers(1, pixels.shape[0], 3).tolist()) if pixels.shape[0] > 1 else []
    return [part for part in np.split(pixels, cuts) if len(part)]


@pytest.mark.parametrize("suffix", [".png", ".tif", ".ppm", ".pgm", ".pnm"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_pixels_do_not_depend_on_bands_and_slabs(
    suffix: str, dtype: Any, channels: int, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    if (channels == 4 and suffix in (".ppm", ".pgm", ".pnm")) or (channels != 1 and suffix == ".pgm"):
        pytest.skip("the format cannot hold it")
    for slab, (height, width) in itertools.product((1, 700, 2**20), ((1, 1), (37, 29), (64, 5))):
        monkeypatch.setattr(row_writers, "_SLAB_BYTES", slab)
        pixels = _picture(rng, height, width, channels, dtype)
        rows = Image(pixels=pixels).enlarged(height, width, iter(_cut(pixels, rng)))
        back = read_image(encode_image(Path(f"a{suffix}"), rows)).pixels
        expected = np.repeat(pixels, 3, axis=2) if suffix == ".ppm" and channels == 1 else pixels
        assert back.dtype == dtype
        assert np.array_equal(back, expected), (slab, height, width)


def test_a_png_file_is_one_valid_stream(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Readers may check what OpenCV does not: the checksum over all slabs, and that nothing follows."""
    monkeypatch.setattr(row_writers, "_SLAB_BYTES", 500)
    from realesr_cli.containers import png_chunks

    pixels = _picture(rng, 50, 40, 3, np.uint8)
    chunks = list(png_chunks(encode_image(Path("a.png"), Image(pixels=pixels))[8:]))
    engine = zlib.decompressobj()
    raw = engine.decompress(b"".join(body for kind, body in chunks if kind == b"IDAT"))
    assert engine.eof
    assert not engine.unused_data
    rows = np.frombuffer(raw, np.uint8).reshape(50, 1 + 40 * 3)
    assert (rows[:, 0] == 2).all()
    assert np.array_equal(np.cumsum(rows[:, 1:], axis=0, dtype=np.uint8), pixels.reshape(50, -1))


def test_other_readers_agree(rng: np.random.Generator, tmp_path: Path) -> None:
    for suffix in (".png", ".tif"):
        for channels in (1, 3) if suffix == ".tif" else (1, 3, 4):  # OpenCV multiplies the colours of TIFF by alpha
            pixels = _picture(rng, 30, 21, channels, np.uint8)
            path = tmp_path / f"{channels}{suffix}"
            write_image(path, Image(pixels=pixels))
            bgr = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
            order = {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[channels]
            assert np.array_equal(bgr.reshape(30, 21, channels)[..., order], pixels)


def test_bands_are_let_go_as_they_are_written(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_writers, "_SLAB_BYTES", 64 * 3000)  # a band each
    monkeypatch.setattr(row_writers, "_MOST_THREADS", 1)

    alive: list[weakref.ref[Any]] = []
    most = 0

    def bands() -> Any:
        nonlocal most
        for _ in range(12):
            band = rng.integers(0, 256, (64, 1000, 3), np.uint8)
            alive.append(weakref.ref(band))
            most = max(most, sum(ref() is not None for ref in alive))
            yield band

    for name in ("png", "tif", "ppm"):
        alive.clear()
        most = 0
        ROW_WRITERS[name](io.BytesIO(), (64 * 12, 1000, 3), np.dtype(np.uint8), bands(), Metadata())
        assert most <= 5, name  # two in the thread's queue, one in work, one read, one just made


def test_tiff_ends_before_its_offsets_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_writers, "in_threads", lambda function, items: (bytes(2**20) for _ in items))
    monkeypatch.setattr(row_writers, "_slabs", lambda bands, rows: range(5000))

    class Nowhere(io.BytesIO):
        def write(self, data: Any) -> int:
            return len(data)

    with pytest.raises(EncodeFailed, match="4 GiB"):
        ROW_WRITERS["tif"](Nowhere(), (9, 9, 3), np.dtype(np.uint8), [], Metadata())
