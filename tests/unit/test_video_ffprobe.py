"""Films, looked at by a prober that shares no code and no version with us; skipped where FFmpeg's tools are absent."""

import json
import shutil
import subprocess
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch

from clips import write_clip
from networks import nearest
from realesr_cli import DeviceOptions, SizeOptions, Upscaler, VideoOptions, upscale_video
from realesr_cli.video.matroska import set_display_size

pytestmark = pytest.mark.skipif(shutil.which("ffprobe") is None, reason="ffprobe is not installed")
_VARIABLE = [0, 3600, 7200, 18000, 21600, 45000, 46800, 50400, 90000, 93600]


def _probed(path: Path) -> dict[str, Any]:
    """What ffprobe says; it decodes every frame of the pictures and complains about nothing."""
    checks = ["-v", "error", "-err_detect", "crccheck"]
    command = ["ffprobe", *checks, "-of", "json", "-show_streams", "-show_chapters", "-show_format"]
    done = subprocess.run([*command, str(path)], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    facts: dict[str, Any] = json.loads(done.stdout)
    command = ["ffprobe", *checks, "-of", "json", "-select_streams", "v:0", "-show_frames"]
    done = subprocess.run([*command, str(path)], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    facts["frames"] = json.loads(done.stdout)["frames"]
    return facts


def _times(facts: dict[str, Any]) -> list[float]:
    return [float(frame.get("pts_time") or frame["best_effort_timestamp_time"]) for frame in facts["frames"]]


def _tags(stream: dict[str, Any]) -> tuple[str | None, ...]:
    names = ("color_range", "color_space", "color_transfer", "color_primaries", "chroma_location", "pix_fmt")
    return tuple(stream.get(name) for name in names)


def _upscaled(source: Path, target: Path, **options: Any) -> dict[str, Any]:
    torch.manual_seed(0)
    with Upscaler(nearest(2), device=DeviceOptions(device="cpu", precision="fp32")) as upscaler:
        result = upscale_video(
            source, target, upscaler, size=SizeOptions(scale=2), options=VideoOptions(segment_frames=4, **options)
        )
    assert result.differences == ()
    return _probed(target)


@pytest.mark.parametrize("suffix", [".mkv", ".mp4", ".mov", ".ts"])
def test_times_streams_shape_and_colours_are_those_of_the_source(suffix: str, tmp_path: Path) -> None:
    transport = suffix == ".ts"
    source = write_clip(
        tmp_path / f"a{suffix}", times=_VARIABLE if suffix != ".mkv" else [t // 90 for t in _VARIABLE],
        tick=Fraction(1, 90000 if suffix != ".mkv" else 1000), colour=(5, 1, 5, 6), sample_aspect=Fraction(16, 15),
        rotation=None if transport else 90, audio_at=[Fraction(0), Fraction(1, 5)], extras=not transport,
    )  # fmt: skip
    before, after = _probed(source), _upscaled(source, tmp_path / f"b{suffix}", codec="h264", preset="ultrafast")
    assert _times(after) == pytest.approx(_times(before), abs=1e-6)
    assert len(after["streams"]) == len(before["streams"])
    for old, new in zip(before["streams"], after["streams"], strict=True):
        for key in ("codec_name", "codec_type", "disposition", "sample_aspect_ratio"):
            assert new.get(key) == old.get(key), key
        assert new.get("tags", {}).get("language") == old.get("tags", {}).get("language")
        assert float(new.get("start_time", 0)) == pytest.approx(float(old.get("start_time", 0)), abs=2e-3)
    old, new = before["streams"][0], after["streams"][0]
    assert _tags(new) == _tags(old)
    assert (new["width"], new["height"]) == (2 * old["width"], 2 * old["height"])
    assert [side.get("rotation") for side in new.get("side_data_list", [])] == [
        side.get("rotation") for side in old.get("side_data_list", [])
    ]
    assert [(c["start_time"], c["end_time"], c["tags"]) for c in after["chapters"]] == [
        (c["start_time"], c["end_time"], c["tags"]) for c in before["chapters"]
    ]
    assert after["format"].get("tags", {}).get("title") == before["format"].get("tags", {}).get("title")


@pytest.mark.parametrize(
    ("codec", "suffix", "pixels", "preset"),
    [("hevc", ".mp4", "yuv420p10le", "ultrafast"), ("av1", ".webm", "yuv420p10le", "12"),
     ("prores", ".mov", "yuv422p10le", None), ("ffv1", ".mkv", "yuv444p12le", None)],
)  # fmt: skip
def test_every_codec_is_read_with_its_depth_and_tags(
    codec: Any, suffix: str, pixels: str, preset: str | None, tmp_path: Path
) -> None:
    source = write_clip(
        tmp_path / "a.mkv", count=9, pixel_format=pixels, encoder="ffv1", colour=(9, 1, 9, 16), size=(64, 64),
        tick=Fraction(1, 1000), rate=Fraction(25),
    )  # fmt: skip
    if suffix != ".webm":
        assert set_display_size(source, 96, 64)
    after = _upscaled(source, tmp_path / f"b{suffix}", codec=codec, preset=preset)
    picture = after["streams"][0]
    assert picture["sample_aspect_ratio"] == ("1:1" if suffix == ".webm" else "3:2")
    assert (picture["codec_name"], picture["pix_fmt"]) == (codec, pixels)
    assert _tags(picture)[:4] == ("tv", "bt2020nc", "smpte2084", "bt2020")
    assert len(after["frames"]) == 9
    assert _times(after) == pytest.approx([0.04 * number for number in range(9)], abs=1e-6)


def test_hdr_metadata_are_seen(tmp_path: Path) -> None:
    mastering = (
        "hdr10=1:master-display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,50):max-cll=900,180"
    )
    source = write_clip(
        tmp_path / "a.mp4", count=3, size=(64, 64), encoder="libx265", pixel_format="yuv420p10le", colour=(9, 1, 9, 16),
        options={"x265-params": f"log-level=error:{mastering}"},
    )  # fmt: skip
    after = _upscaled(source, tmp_path / "b.mp4", codec="hevc", preset="ultrafast")
    before = _probed(source)
    seen, wanted = (
        {side["side_data_type"]: side for side in facts["frames"][0]["side_data_list"]} for facts in (after, before)
    )
    for kind in ("Mastering display metadata", "Content light level metadata"):
        assert seen[kind] == wanted[kind]
