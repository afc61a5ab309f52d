"""Faces in films: steady, the same for frames that are the same, and the same after a resumption."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from clips import read_clip, write_clip
from faces import Restorer, face_at, restorer
from networks import nearest
from realesr_cli import DeviceOptions, Upscaler
from realesr_cli.errors import OutputExists, UsageError
from realesr_cli.faces.detect import Face, FaceDetector
from realesr_cli.faces.enhance import FaceEnhancer
from realesr_cli.models.architectures import LoadedModel
from realesr_cli.options import FaceOptions, SizeOptions, VideoOptions
from realesr_cli.video.upscale import upscale_video
from recording import Events

CPU = DeviceOptions(device="cpu", precision="fp32")
EXACT = VideoOptions(codec="ffv1", segment_frames=5)


class Trembling:
    """A detector whose landmarks are a little off, each time that a frame is another."""

    def __call__(self, pixels: NDArray[Any]) -> list[Face]:
        off = int(pixels.sum(dtype=np.int64)) % 97 / 97
        return [face_at(30 + off, 24, scale=0.09)]


def enhancer(model: LoadedModel | None = None, **options: Any) -> FaceEnhancer:
    detector = cast(FaceDetector, Trembling())
    return FaceEnhancer(
        model or restorer(lambda x: 1 - x, side=64), detector, options=FaceOptions(**options), device=CPU
    )


@pytest.fixture
def upscaler() -> Iterator[Upscaler]:
    with Upscaler(nearest(2), device=CPU) as ready:
        yield ready


class Stopping(Events):
    """Ctrl-C after so many frames."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self._after = after

    def emit(self, event: str, **fields: Any) -> None:
        super().emit(event, **fields)
        is_frame = event == "progress" and fields["unit"] == "frames"
        if is_frame and fields["done"] >= self._after and not fields["finished"]:
            raise KeyboardInterrupt


def test_faces_are_restored_in_each_frame_and_nothing_else_changes(
    upscaler: Upscaler, tmp_path: Path, events: Events
) -> None:
    source = write_clip(tmp_path / "a.mkv", count=7)
    upscale_video(source, tmp_path / "plain.mkv", upscaler, options=EXACT)
    upscale_video(source, tmp_path / "faces.mkv", upscaler, options=EXACT, faces=enhancer(), reporter=events)
    (told,) = events.of("frame_faces")
    assert (told["frames"], told["frames_with_faces"], told["restored"]) == (7, 7, 7)
    plain, result = read_clip(tmp_path / "plain.mkv").frames, read_clip(tmp_path / "faces.mkv").frames
    for before, after in zip(plain, result, strict=True):
        changed = (before != after).any(axis=2)
        assert changed[44:52, 56:68].mean() > 0.9
        assert not changed[:, :12].any()
        assert not changed[:, -12:].any()


@pytest.mark.parametrize("size", [None, SizeOptions(scale=1), SizeOptions(scale=3)])
def test_frames_that_are_the_same_stay_so_and_are_restored_once(
    size: SizeOptions | None, upscaler: Upscaler, tmp_path: Path
) -> None:
    source = write_clip(tmp_path / "a.mkv", count=8, still=True, encoder="ffv1", pixel_format="yuv444p")
    model = restorer(lambda x: 1 - x, side=64)
    faces = enhancer(model)
    before = len(cast(Restorer, model.network).batches)
    result = upscale_video(source, tmp_path / "b.mkv", upscaler, options=EXACT, faces=faces, size=size)
    assert result.spared > 0.8
    frames = read_clip(tmp_path / "b.mkv").frames
    assert len(frames) == 8 and all(np.array_equal(frame, frames[0]) for frame in frames)
    assert len(cast(Restorer, model.network).batches) == before + 1


def test_a_resumed_run_gives_the_frames_of_one_that_was_never_stopped(
    upscaler: Upscaler, tmp_path: Path, events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("realesr_cli.reporting._PROGRESS_INTERVAL_S", 0)
    source = write_clip(tmp_path / "a.mkv", count=30, options={"g": "10"})
    whole, target = tmp_path / "whole.mkv", tmp_path / "result.mkv"
    upscale_video(source, whole, upscaler, options=EXACT, faces=enhancer())
    for after in (8, 18):
        with pytest.raises(KeyboardInterrupt):
            upscale_video(source, target, upscaler, options=EXACT, faces=enhancer(), reporter=Stopping(after))
    with pytest.raises(UsageError, match="another treatment of faces"):
        upscale_video(source, target, upscaler, options=EXACT, faces=enhancer(strength=0.5))
    with pytest.raises(UsageError, match="another treatment of faces"):
        upscale_video(source, target, upscaler, options=EXACT)
    upscale_video(source, target, upscaler, options=EXACT, faces=enhancer(), reporter=events)
    assert events.of("resumed")[0]["frames"] >= 10
    one, two = read_clip(whole), read_clip(target)
    assert one.times == two.times
    assert [i for i, pair in enumerate(zip(one.frames, two.frames, strict=True)) if not np.array_equal(*pair)] == []


def test_the_faces_of_a_film_are_kept_once(upscaler: Upscaler, tmp_path: Path) -> None:
    source = write_clip(tmp_path / "a.mkv", count=3)
    faces = enhancer(save_folder=tmp_path / "kept")
    upscale_video(source, tmp_path / "b.mkv", upscaler, options=EXACT, faces=faces)
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["b.mkv_face1.png"]
    (tmp_path / "b.mkv").unlink()
    with pytest.raises(OutputExists, match="face1"):
        upscale_video(source, tmp_path / "b.mkv", upscaler, options=EXACT, faces=faces)
    assert not (tmp_path / "b.mkv").exists()
