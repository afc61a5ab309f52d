"""`realesr video`: what it writes, says, refuses, and how it ends."""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from clips import read_clip, write_clip
from realesr_cli import read_image
from realesr_cli.auto import EMBEDDED

Command = Callable[..., Any]
ALIKE = ("-s", "1", "--preset", "ultrafast", "--device", "cpu", "--precision", "fp32")


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_clip(tmp_path / "a film.mp4", count=30, audio_at=[Fraction(0)])


def test_a_film_lies_beside_its_input(realesr_process: Command, model_file: Path, clip: Path) -> None:
    done = realesr_process("video", clip, "-m", model_file, "--preset", "ultrafast")
    assert (done.status, done.out) == (0, "")
    assert re.search(r"a film_x4\.mp4 \(256x192, 30 frames, .*\): verified", done.err)
    after = read_clip(clip.with_name("a film_x4.mp4"))
    assert after.frames[0].shape == (192, 256, 3)
    assert [kind for kind, _ in after.streams] == ["video", "audio"]
    assert sorted(path.name for path in clip.parent.glob("a film*")) == ["a film.mp4", "a film_x4.mp4"]


def test_events(realesr: Command, model_file: Path, clip: Path, tmp_path: Path) -> None:
    done = realesr("video", clip, "-m", model_file, *ALIKE, "-o", tmp_path / "out.mkv", "--json")
    (begin,), (end,) = done.events("begin"), done.events("done")
    assert (begin["frames"], begin["width"], begin["height"]) == (30, 64, 48)
    assert (end["frames"], end["verified"], end["differences"]) == (30, True, [])
    last = done.events("progress")[-1]
    assert (last["unit"], last["done"], last["total"], last["finished"]) == ("frames", 30, 30, True)
    assert last["written_bytes"] > 0
    assert done.events("summary")[0]["done"] == 1


def test_a_film_that_differs_from_its_source_ends_with_status_1(
    realesr: Command, model_file: Path, tmp_path: Path
) -> None:
    source = write_clip(tmp_path / "a.mkv", count=12, options={"g": "1"}, tick=Fraction(1, 1000))
    with av.open(str(source)) as container:
        place, size = [(p.pos, p.size) for p in container.demux(video=0) if p.size][5]
    data = bytearray(source.read_bytes())
    data[place + 20 : place + size] = bytes(size - 20)
    source.write_bytes(data)
    done = realesr("video", source, "-m", model_file, *ALIKE)
    assert done.status == 1
    assert "differs: 1 packets of the source are damaged" in done.err
    assert len(read_clip(tmp_path / "a_x1.mkv").frames) == 12


def test_several_films_go_on_after_a_bad_one(realesr: Command, model_file: Path, clip: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_text("no film")
    other = write_clip(tmp_path / "b.mkv", count=3)
    done = realesr("video", clip, tmp_path / "bad.mp4", other, "-m", model_file, *ALIKE, "-o", tmp_path / "out")
    assert done.status == 1
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a film_x1.mp4", "b_x1.mkv"]
    assert "bad.mp4: it is no film" in done.err
    again = realesr("video", clip, other, "-m", model_file, *ALIKE, "-o", tmp_path / "out", "--skip-existing")
    assert (again.status, again.err.count("is already there")) == (0, 2)


def test_a_dry_run_says_what_would_be_done(realesr: Command, model_file: Path, clip: Path) -> None:
    done = realesr("video", clip, "-m", model_file, "--dry-run")
    assert done.status == 0
    assert "(64x48) -> " in done.out
    assert "(256x192, libx264, yuv420p): about 30 frames" in done.out
    assert "audio stream 1 (aac, eng) copied" in done.out
    assert len(list(clip.parent.glob("a film*"))) == 1


def test_one_frame_as_a_picture(realesr: Command, model_file: Path, tmp_path: Path) -> None:
    source = write_clip(tmp_path / "a.mp4", count=60, rotation=90)
    done = realesr("video", source, "-m", model_file, "--frame", "0:00:01.21", tmp_path / "one.png", "-s", "1")
    assert done.status == 0
    shown = np.rot90(read_clip(source).frames[30])  # the square says which one it is
    pixels = read_image(tmp_path / "one.png").pixels
    assert pixels.shape == (64, 48, 3)
    assert np.abs(pixels.astype(int) - shown).mean() < 25
    late = realesr("video", source, "-m", model_file, "--frame", "9", tmp_path / "two.png")
    assert (late.status, "beyond the end" in late.err) == (2, True)


def test_raw_frames_through_a_pipe(realesr_process: Command, model_file: Path, clip: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "realesr_cli", "video", clip, "-m", model_file, *ALIKE, "--pipe", "--end", "0.2"]
    raw = subprocess.run(list(map(str, command)), capture_output=True, check=True).stdout
    assert raw.startswith(b"YUV4MPEG2 W64 H48 F25:1 ")
    (tmp_path / "raw.y4m").write_bytes(raw)
    piped, source = read_clip(tmp_path / "raw.y4m"), read_clip(clip)
    assert len(piped.frames) == 5
    assert np.abs(piped.frames[3].astype(int) - source.frames[3]).mean() < 25


@pytest.mark.parametrize(
    ("flags", "status", "words"),
    [
        (["--codec", "theora"], 2, "--codec theora is not one of"),
        (["--start", "5", "--end", "3"], 2, "is not before"),
        (["--start", "soon"], 2, "soon is not a time"),
        (["--preview", "1", "--end", "3"], 2, "exclude each other"),
        (["--fps", "fast"], 2, "is not a frame rate"),
        (["--encoder-option", "foo"], 2, "is not KEY=VALUE"),
        (["--encoder-option", "foo=1"], 2, "does not know the option foo"),
        (["--on-unsupported", "cry"], 2, "--on-unsupported cry"),
        (["--pipe", "--json"], 2, "both write to stdout"),
        (["--pipe", "--frame", "1", "x.png"], 2, "exclude each other"),
        (["-o", "a.wmv"], 2, "does not write films called a.wmv"),
        (["--overwrite", "--skip-existing"], 2, "exclude each other"),
    ],
)
def test_wrong_flags(
    realesr: Command, model_file: Path, clip: Path, monkeypatch: pytest.MonkeyPatch, flags: list[str], status: int,
    words: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(clip.parent)
    done = realesr("video", clip, "-m", model_file, *flags)
    assert done.status == status
    assert words in done.err + done.out
    assert not [path for path in clip.parent.iterdir() if "segments" in path.name]


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_stops_soon_and_goes_on(model_file: Path, cache: Path, tmp_path: Path, end: int) -> None:
    source = write_clip(tmp_path / "a.mkv", count=1500, tick=Fraction(1, 1000))
    command = [sys.executable, "-m", "realesr_cli", "video", source, "-m", model_file, *ALIKE, "--json"]
    with subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            event = json.loads(line)
            if event["event"] == "progress" and event["done"] >= 125:
                break
        process.send_signal(end)
        asked = time.monotonic()
        process.stdout.read()
        assert process.wait(20) == (130 if end == signal.SIGINT else 143)
        assert time.monotonic() - asked < 2
    names = {path.name for path in (tmp_path / "a_x1.mkv.segments").iterdir()}
    assert {"journal.jsonl", "lock", "segment-000000.mp4"} <= names
    assert not [name for name in names if "part" in name]
    assert not (tmp_path / "a_x1.mkv").exists()


def test_the_flags_are_frozen(realesr: Command) -> None:
    text = realesr("video", "--help").out
    flags = set(re.findall(r"(?<![\w-])--[a-z-]+", text.split("Options:")[1]))
    assert flags == {
        "--output", "--model", "--scale", "--width", "--height", "--fit", "--denoise", "--tta", "--device",
        "--precision", "--threads", "--tile", "--codec", "--crf", "--preset", "--encoder", "--encoder-option",
        "--pix-fmt", "--hwaccel", "--fps", "--start", "--end", "--preview", "--frame", "--pipe", "--deinterlace",
        "--on-unsupported", "--no-resume", "--overwrite", "--skip-existing", "--fail-fast", "--dry-run", "--offline",
        "--json", "--quiet", "--verbose", "--help", "--blend", "--keep-colours", "--cluster",
        "--face-enhance", "--face-strength", "--face-model", "--only-center-face", "--face-min-size",
        "--face-threshold", "--save-faces", "--accept-license",
    }  # fmt: skip


def test_the_default_model_is_a_fast_one(realesr: Command, stocked_cache: Path, clip: Path) -> None:
    done = realesr("video", clip, "--offline", "--dry-run", "--json")
    assert done.events("model")[0]["name"] == "realesr-general-x4v3"
    (stocked_cache / "realesr-general-x4v3.safetensors").unlink()
    done = realesr("video", clip, "--offline", "--dry-run", "--json")
    assert done.events("model")[0]["name"] == EMBEDDED
