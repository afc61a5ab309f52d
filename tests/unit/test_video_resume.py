"""Films whose run is killed, interrupted or out of room go on where they were, and come out the same."""

import errno
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from safetensors.torch import save_file

from clips import picture, read_clip, write_clip
from networks import compact
from realesr_cli import DeviceOptions, RealesrError, SizeOptions, Upscaler, VideoOptions, upscale_video
from realesr_cli.errors import DiskFull, UsageError
from realesr_cli.video import writer
from recording import Events

QUICK = VideoOptions(preset="ultrafast", segment_frames=5)
SAME_SIZE = SizeOptions(scale=1)


@pytest.fixture(scope="module")
def upscaler() -> Iterator[Upscaler]:
    with Upscaler(compact(), device=DeviceOptions(device="cpu", precision="fp32")) as made:
        yield made


class Stopping(Events):
    """A reporter at which the run ends with Ctrl-C once so many frames are done."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self._after = after

    def emit(self, event: str, **fields: Any) -> None:
        super().emit(event, **fields)
        if event == "progress" and fields["done"] >= self._after and not fields["finished"]:
            raise KeyboardInterrupt


@pytest.fixture
def every_frame_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("realesr_cli.reporting._PROGRESS_INTERVAL_S", 0)


def _same(first: Path, second: Path) -> None:
    one, two = read_clip(first), read_clip(second)
    assert one.times == two.times
    assert all(np.array_equal(a, b) for a, b in zip(one.frames, two.frames, strict=True))


def _interrupt(source: Path, target: Path, upscaler: Upscaler, after: int, options: VideoOptions = QUICK) -> None:
    with pytest.raises(KeyboardInterrupt):
        upscale_video(source, target, upscaler, size=SAME_SIZE, options=options, reporter=Stopping(after))
    assert not target.exists()


@pytest.mark.usefixtures("every_frame_reports")
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_an_interrupted_run_goes_on_and_comes_out_the_same(
    upscaler: Upscaler, tmp_path: Path, events: Events, suffix: str
) -> None:
    times = [3600 * i + (i % 3) * 700 for i in range(60)]  # long enough for a seek to the place
    source = write_clip(tmp_path / f"a{suffix}", times=times, options={"g": "10", "bf": "2"}, audio_at=[Fraction(0)])
    whole, target = tmp_path / f"whole{suffix}", tmp_path / f"result{suffix}"
    upscale_video(source, whole, upscaler, size=SAME_SIZE, options=QUICK)
    for after in (23, 25, 51):
        _interrupt(source, target, upscaler, after)
    result = upscale_video(source, target, upscaler, size=SAME_SIZE, options=QUICK, reporter=events)
    assert result.frames == 60
    assert result.differences == ()
    assert 45 <= events.of("resumed")[0]["frames"] < 60
    assert not (tmp_path / f"result{suffix}.segments").exists()
    _same(whole, target)


@pytest.mark.usefixtures("every_frame_reports")
def test_filters_and_rates_go_on_as_well(upscaler: Upscaler, tmp_path: Path) -> None:
    source = write_clip(tmp_path / "a.mkv", count=60, options={"x264-params": "interlaced=1:tff=1:keyint=10"})
    options = VideoOptions(preset="ultrafast", segment_frames=5, fps=Fraction(20), deinterlace="yadif")
    upscale_video(source, tmp_path / "whole.mkv", upscaler, size=SAME_SIZE, options=options)
    _interrupt(source, tmp_path / "result.mkv", upscaler, 33, options)
    upscale_video(source, tmp_path / "result.mkv", upscaler, size=SAME_SIZE, options=options)
    _same(tmp_path / "whole.mkv", tmp_path / "result.mkv")


@pytest.mark.usefixtures("every_frame_reports")
def test_work_with_other_options_is_told_apart_and_gives_way_if_asked(upscaler: Upscaler, tmp_path: Path) -> None:
    source = write_clip(tmp_path / "a.mp4", count=20)
    target = tmp_path / "result.mp4"
    _interrupt(source, target, upscaler, 12)
    with pytest.raises(UsageError, match="another encoder"):
        upscale_video(source, target, upscaler, size=SAME_SIZE, options=VideoOptions(preset="fast", segment_frames=5))
    with (
        Upscaler(compact(seed=1), device=DeviceOptions(device="cpu", precision="fp32")) as other,
        pytest.raises(UsageError, match="another model"),
    ):
        object.__setattr__(other.model, "sha256", "1" * 64)
        upscale_video(source, target, other, size=SAME_SIZE, options=QUICK)
    write_clip(source, count=20, still=True)
    with pytest.raises(UsageError, match="another source"):
        upscale_video(source, target, upscaler, size=SAME_SIZE, options=QUICK)
    options = VideoOptions(preset="ultrafast", segment_frames=5, overwrite=True)
    result = upscale_video(source, target, upscaler, size=SAME_SIZE, options=options)
    assert result.frames == 20
    assert all(np.abs(f.astype(int) - picture(0, 48, 64)).mean() < 20 for f in read_clip(target).frames)


@pytest.mark.usefixtures("every_frame_reports")
def test_one_pass_leaves_nothing_behind(upscaler: Upscaler, tmp_path: Path) -> None:
    source = write_clip(tmp_path / "a.mp4", count=20)
    one_pass = VideoOptions(preset="ultrafast", resume=False)
    _interrupt(source, tmp_path / "result.mp4", upscaler, 12, one_pass)
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]
    assert upscale_video(source, tmp_path / "result.mp4", upscaler, size=SAME_SIZE, options=one_pass).frames == 20


@pytest.mark.usefixtures("every_frame_reports")
@pytest.mark.parametrize("damage", ["journal cut", "piece gone", "rubbish"])
def test_what_a_kill_may_leave_does_no_harm(upscaler: Upscaler, tmp_path: Path, damage: str) -> None:
    source, target = write_clip(tmp_path / "a.mp4", count=20), tmp_path / "result.mp4"
    upscale_video(source, tmp_path / "whole.mp4", upscaler, size=SAME_SIZE, options=QUICK)
    _interrupt(source, target, upscaler, 17)
    folder = tmp_path / "result.mp4.segments"
    journal = folder / "journal.jsonl"
    if damage == "journal cut":
        journal.write_bytes(journal.read_bytes()[:-20])
    elif damage == "piece gone":
        (folder / "segment-000001.mp4").unlink()
    else:
        (folder / ".segment-000003.4711.part.mp4").write_bytes(b"half")
    assert upscale_video(source, target, upscaler, size=SAME_SIZE, options=QUICK).frames == 20
    _same(tmp_path / "whole.mp4", target)


def test_two_runs_do_not_work_on_one_result(upscaler: Upscaler, tmp_path: Path) -> None:
    source, target = write_clip(tmp_path / "a.mp4", count=20), tmp_path / "result.mp4"

    class Second(Events):
        error: RealesrError | None = None

        def emit(self, event: str, **fields: Any) -> None:
            if event == "progress" and self.error is None:
                try:
                    upscale_video(source, target, upscaler, size=SAME_SIZE, options=QUICK)
                except UsageError as error:
                    self.error = error

    second = Second()
    upscale_video(source, target, upscaler, size=SAME_SIZE, options=QUICK, reporter=second)
    assert second.error is not None
    assert "another process" in second.error.message


def test_a_full_disk_keeps_the_finished_pieces(
    upscaler: Upscaler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, events: Events
) -> None:
    source, target = write_clip(tmp_path / "a.mp4", count=20), tmp_path / "result.mp4"
    real = av.open
    opened: list[str] = []

    class Full:
        def __init__(self, container: Any) -> None:
            self._container = container

        def __getattr__(self, name: str) -> Any:
            return getattr(self._container, name)

        def mux(self, packet: Any) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    def fills_up(file: str, mode: str = "r", **more: Any) -> Any:
        if mode == "w":
            opened.append(file)
        container = real(file, mode, **more)
        return Full(container) if mode == "w" and len(opened) == 3 else container

    with monkeypatch.context() as patch:
        patch.setattr(writer.av, "open", fills_up)
        with pytest.raises(DiskFull, match="no space left"):
            upscale_video(source, target, upscaler, size=SAME_SIZE, options=QUICK)
    assert sorted(path.name for path in (tmp_path / "result.mp4.segments").iterdir()) == [
        "journal.jsonl", "lock", "segment-000000.mp4", "segment-000001.mp4",
    ]  # fmt: skip
    upscale_video(source, target, upscaler, size=SAME_SIZE, options=QUICK, reporter=events)
    assert events.of("resumed")[0]["frames"] == 10


# --- real processes ---------------------------------------------------------------------------------------------------

_SCRIPT = """
import sys
from realesr_cli import *
source, target, weights = sys.argv[1:]
with Upscaler(weights, device=DeviceOptions(device="cpu", precision="fp32", threads=1)) as upscaler:
    options = VideoOptions(preset="ultrafast", segment_frames=6)
    print("ready", flush=True)
    upscale_video(source, target, upscaler, size=SizeOptions(scale=1), options=options)
"""


def _killed_until_done(tmp_path: Path, kills: int, longest_s: float, seed: int) -> None:
    weights = tmp_path / "net.safetensors"
    save_file({key: value.contiguous() for key, value in compact(depth=8).network.state_dict().items()}, weights)
    source = write_clip(tmp_path / "a.mp4", count=48, size=(144, 192), options={"g": "12"}, audio_at=[Fraction(0)])
    command = [sys.executable, "-c", _SCRIPT, str(source)]
    subprocess.run([*command, str(tmp_path / "whole.mp4"), str(weights)], check=True, timeout=200)
    draw = random.Random(seed)
    target = tmp_path / "result.mp4"
    for _ in range(kills):
        with subprocess.Popen([*command, str(target), str(weights)], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(draw.uniform(0, longest_s))
            os.kill(process.pid, signal.SIGKILL)
        if target.exists():
            break
    if not target.exists():
        subprocess.run([*command, str(target), str(weights)], check=True, timeout=200)
    _same(tmp_path / "whole.mp4", target)
    assert not (tmp_path / "result.mp4.segments").exists()
    # a kill between the last step and the name leaves a file behind, which no run mistakes for a result
    for path in tmp_path.glob(".result*.part*"):
        path.unlink()


def test_killed_runs_go_on(tmp_path: Path) -> None:
    _killed_until_done(tmp_path, kills=1, longest_s=2.5, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_runs_killed_at_ten_random_moments_come_out_the_same(tmp_path: Path) -> None:
    _killed_until_done(tmp_path, kills=10, longest_s=1.5, seed=2)
