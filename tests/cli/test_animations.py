"""Animated GIF, WebP, APNG and AVIF files through `realesr image`: timing, loops, transparency, and every frame."""

import io
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from networks import nearest
from realesr_cli import Image, read_image, write_image
from realesr_cli.animation import Animation, FrameRows, Timing, read_animation, write_animation
from realesr_cli.errors import UnreadableInput
from realesr_cli.image_header import read_header
from realesr_cli.metadata import Metadata
from realesr_cli.models import architectures

Command = Callable[..., Any]
Finder = Callable[[str], Path]

BIRD_MS = (40, 80, 80, 120, 200, 80, 80, 40, 500, 80, 80, 80, 160, 80, 80, 80, 80, 1000)
SPRITE_MS = (100, 100, 50, 50, 200, 100, 100, 50, 50, 300)


def _read(path: Path) -> Animation:
    animation = read_animation(path.read_bytes(), name=path.name)
    assert animation is not None
    return animation


def _write(path: Path, frames: list[NDArray[Any]], durations_ms: tuple[int, ...], loops: int = 0) -> Path:
    timing = Timing(durations_ms=durations_ms, loops=loops)
    shape = frames[0].shape
    rows = FrameRows(shape=shape, timing=timing, frames=frames, metadata=Metadata(), lossless=True)
    write_animation(path, rows, overwrite=True)
    return path


def _moving(count: int, channels: int = 3, height: int = 20, width: int = 30) -> list[NDArray[Any]]:
    """A ramp that moves; with alpha, a disc in it that can be seen."""
    y, x = np.mgrid[:height, :width]
    frames = []
    for number in range(count):
        frame = np.stack([(x * 8 + number * 9) % 256, y * 12, x * 0 + 90], axis=2).astype(np.uint8)
        alpha = np.where(np.hypot(y - 10, x - 8 - number) < 6, 255, 0).astype(np.uint8)
        frames.append(np.dstack([frame, alpha]) if channels == 4 else frame)
    return frames


@pytest.fixture
def doubled(realesr: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    """Runs `realesr image SOURCE` with a network that doubles pixels: the outcome and the result's path."""
    monkeypatch.setattr(architectures, "load_model", lambda *arguments, **options: nearest(2))

    def run(source: Path, *flags: object) -> tuple[Any, Path]:
        done = realesr("image", source, "-m", "nearest", "--json", "-o", tmp_path / "out", *flags)
        return done, next((tmp_path / "out").glob("*"), tmp_path)

    return run


@pytest.mark.parametrize(
    ("name", "durations_ms", "loops", "channels"),
    [
        ("bird_delays.gif", BIRD_MS, 0, 3),
        ("bird_lossy.webp", BIRD_MS, 3, 3),
        ("sprite_alpha.png", SPRITE_MS, 2, 4),
        ("sprite_alpha.webp", SPRITE_MS, 0, 4),
        ("sprite_transparent.gif", SPRITE_MS, 0, 4),
    ],
)
def test_golden_animations_keep_their_frames_times_loops_and_transparency(
    name: str, durations_ms: tuple[int, ...], loops: int, channels: int, doubled: Command, media: Finder
) -> None:
    source = media(f"images/animated/{name}")
    done, path = doubled(source)
    assert (done.status, done.events("warning")) == (0, [])
    assert done.events("begin")[0]["frames"] == len(durations_ms)
    before, after = _read(source), _read(path)
    assert after.timing == before.timing == Timing(durations_ms=durations_ms, loops=loops)
    assert (after.shape[2], after.shape[:2]) == (channels, tuple(2 * side for side in before.shape[:2]))
    for old, new in zip(before.frames(), after.frames(), strict=True):
        small = new[::2, ::2]
        seen = old[..., 3] > 0 if channels == 4 else np.ones(old.shape[:2], bool)
        if channels == 4:
            np.testing.assert_array_equal(small[..., 3] > 0, seen)
        difference = np.abs(small[seen].astype(int) - old[seen])
        exact = path.suffix == ".png" or name == "sprite_alpha.webp"
        assert difference.max() == 0 if exact else difference.mean() < 2.5


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp", ".avif"])
@pytest.mark.parametrize("channels", [3, 4])
def test_every_format_becomes_every_other(suffix: str, channels: int, doubled: Command, tmp_path: Path) -> None:
    times = (30, 100, 500, 20)
    source = _write(tmp_path / "a.png", _moving(4, channels), times, loops=5)
    done, path = doubled(source, "--format", suffix)
    assert done.status == 0 and path.suffix == suffix
    after = _read(path)
    assert after.timing.durations_ms == times
    assert after.timing.loops == (0 if suffix == ".avif" else 5)
    assert [event["code"] for event in done.events("warning")] == (["loop"] if suffix == ".avif" else [])
    for old, new in zip(_moving(4, channels), after.frames(), strict=True):
        seen = old[..., -1] > 0 if channels == 4 else np.ones(old.shape[:2], bool)
        assert np.abs(new[::2, ::2][seen][:, :3].astype(int) - old[seen][:, :3]).mean() < 9
        if channels == 4:
            assert ((new[::2, ::2, 3] > 127) == seen).mean() > 0.99


@pytest.mark.parametrize("suffix", [".gif", ".png"])
def test_another_decoder_sees_the_same(suffix: str, tmp_path: Path) -> None:
    """FFmpeg's, which composes frames by itself."""
    frames = _moving(5, 4)
    path = _write(tmp_path / f"a{suffix}", frames, (40, 80, 0, 120, 200))
    with av.open(str(path)) as container:
        decoded = [frame.to_ndarray(format="rgba") for frame in container.decode(video=0)]
    assert len(decoded) == 5
    for old, new in zip(frames, decoded, strict=True):
        seen = old[..., 3] > 0
        np.testing.assert_array_equal(new[..., 3] > 0, seen)
        assert np.abs(new[seen].astype(int) - old[seen]).mean() < (6 if suffix == ".gif" else 1e-9)


def test_times_in_gif_files_add_up(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.gif", _moving(6), (33, 33, 33, 33, 33, 33))
    durations_ms = _read(path).timing.durations_ms
    assert sum(durations_ms) == 200 and set(durations_ms) <= {30, 40}
    assert _read(_write(tmp_path / "b.gif", _moving(3), (0, 0, 700_000))).timing.durations_ms[:2] == (0, 0)


def test_loops_are_counted_alike_in_all_formats(tmp_path: Path) -> None:
    for loops in (0, 1, 2, 7):
        for suffix in (".gif", ".png", ".webp"):
            path = _write(tmp_path / f"a{suffix}", _moving(2), (50, 50), loops=loops)
            assert _read(path).timing.loops == loops, suffix
    # once is what a GIF without the extension does
    assert b"NETSCAPE" not in _write(tmp_path / "a.gif", _moving(2), (50, 50), loops=1).read_bytes()


def test_what_stays_of_a_frame_is_in_the_frames(tmp_path: Path) -> None:
    """A GIF whose frames are patches over what was there before comes out composed."""
    first, second = np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8, 3), np.uint8)
    first[...], second[...] = (255, 0, 0), (255, 0, 0)
    second[2:4, 2:4] = (0, 0, 255)
    path = _write(tmp_path / "a.gif", [first, second], (50, 50))
    data = bytearray(path.read_bytes())
    assert read_header(bytes(data)).frames == 2  # type: ignore[union-attr]
    frames = list(_read(path).frames())
    assert frames[1][3, 3].tolist() == [0, 0, 255] and frames[1][6, 6].tolist() == [255, 0, 0]


def test_single_pictures_go_into_gif_and_come_out_of_it(doubled: Command, tmp_path: Path) -> None:
    write_image(tmp_path / "still.png", Image(pixels=_moving(1, 4)[0]))
    done, path = doubled(tmp_path / "still.png", "--format", "gif")
    assert (done.status, path.name) == (0, "still_x2.gif")
    made = read_image(path).pixels
    assert made.shape == (40, 60, 4)
    path.unlink()
    done, path = doubled(_write(tmp_path / "one.gif", _moving(1), (50,)))
    assert (done.status, path.name, read_image(path).pixels.shape) == (0, "one_x2.png", (40, 60, 3))


def test_into_a_format_without_animation_goes_the_first_frame(doubled: Command, tmp_path: Path) -> None:
    done, path = doubled(_write(tmp_path / "a.png", _moving(3), (50, 50, 50)), "--format", "bmp")
    assert [event["code"] for event in done.events("warning")] == ["frames"]
    np.testing.assert_array_equal(read_image(path).pixels[::2, ::2], _moving(1)[0])


def test_a_background_and_metadata_hold_for_animations(doubled: Command, tmp_path: Path) -> None:
    frames = _moving(3, 4)
    source = _write(tmp_path / "a.png", frames, (50, 50, 50))
    done, path = doubled(source, "--background", "#102030", "--format", "webp", "--lossless")
    assert done.status == 0
    made = list(_read(path).frames())
    assert made[2].shape == (40, 60, 3) and made[2][-1, -1].tolist() == [0x10, 0x20, 0x30]
    exif = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"  # turned by 90 degrees
    timing = Timing(durations_ms=(50, 50), loops=0)
    for suffix in (".webp", ".png"):
        rows = FrameRows(
            shape=(20, 30, 3), timing=timing, frames=_moving(2), metadata=Metadata(exif=exif, xmp=b"<x/>"),
            lossless=True,
        )  # fmt: skip
        write_animation(tmp_path / f"m{suffix}", rows)
        read = _read(tmp_path / f"m{suffix}")
        assert (read.metadata.exif, read.metadata.xmp, read.shape) == (exif, b"<x/>", (30, 20, 3))
        np.testing.assert_array_equal(next(read.frames()), np.rot90(_moving(1)[0], -1))


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_animations_that_are_cut_off_are_refused(suffix: str, share: float, doubled: Command, tmp_path: Path) -> None:
    path = _write(tmp_path / f"a{suffix}", _moving(6), (50,) * 6)
    data = path.read_bytes()
    path.write_bytes(data[: round(share * len(data))])
    done, _ = doubled(path)
    assert done.status == 4 and not done.events("done")
    assert done.events("failed")[0]["message"].startswith("cannot decode")


def test_frames_that_get_lost_after_the_header_are_noticed(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.png", _moving(4), (50,) * 4)
    data = path.read_bytes()
    at = data.index(b"acTL")
    lying = bytearray(data)
    lying[at + 4 : at + 8] = struct.pack(">I", 9)
    with pytest.raises(UnreadableInput):
        read_animation(bytes(lying), name="a.png")


def test_a_dry_run_counts_the_frames(doubled: Command, tmp_path: Path) -> None:
    done, _ = doubled(_write(tmp_path / "a.gif", _moving(3), (50, 50, 50)), "--dry-run")
    (plan,) = done.events("plan")
    assert plan["frames"] == 3 and "3 frames, each in one piece" in plan["text"] and plan["output"].endswith("a_x2.gif")


def test_long_animations_are_decoded_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from realesr_cli import animation

    path = _write(tmp_path / "a.png", _moving(11), (50,) * 11)
    whole = [frame.copy() for frame in _read(path).frames()]
    counts: list[int] = []
    known = cv2.imdecodeanimation

    def counted(data: Any, start: int, count: int) -> Any:
        done, part = known(data, start, count)
        counts.append(len(part.frames))
        return done, part

    monkeypatch.setattr(animation, "_DECODED_BYTES", 4 * 20 * 30 * 4)
    monkeypatch.setattr(cv2, "imdecodeanimation", counted)
    parts = list(_read(path).frames())
    assert max(counts) == 4 and len(parts) == 11
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_animation_that_memory_cannot_hold_is_refused_before_the_work(
    doubled: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from realesr_cli import image_jobs

    source = _write(tmp_path / "a.png", _moving(3), (50, 50, 50))
    monkeypatch.setattr(image_jobs, "free_memory_bytes", lambda device: 1000)
    done, _ = doubled(source, "--format", "avif")
    assert (done.status, "takes all frames at once" in done.events("failed")[0]["message"]) == (4, True)
    assert doubled(source, "--format", "webp")[0].status == 0


def test_animations_go_through_a_pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from realesr_cli.animation import encode_animation

    timing = Timing(durations_ms=(50, 50), loops=0)
    rows = FrameRows(shape=(20, 30, 3), timing=timing, frames=_moving(2), metadata=Metadata())
    data = encode_animation(Path("stdout.gif"), rows)
    assert read_header(data).frames == 2  # type: ignore[union-attr]
    assert io.BytesIO(data).read(6) == b"GIF89a"
