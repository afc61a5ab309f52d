"""Faces in runs over several pictures, in folders, animations and films."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from realesr_cli import Image, read_image, write_image
from realesr_cli.animation import FrameRows, Timing, read_animation, write_animation
from realesr_cli.metadata import Metadata

Command = Callable[..., Any]
Pixels = NDArray[Any]


def _saved(path: Path, pixels: Pixels) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, Image(pixels=np.ascontiguousarray(pixels)), overwrite=True)
    return path


def _ramp(portrait: Pixels) -> Pixels:
    """A picture of the same size without a face."""
    return np.broadcast_to(np.arange(portrait.shape[1], dtype=np.uint8)[None, :, None], portrait.shape)


@pytest.fixture
def small(portrait: Pixels) -> Pixels:
    """(45, 50, 3): a face of 22 pixels, in a picture that is worked in groups."""
    return cv2.resize(portrait, (50, 45), interpolation=cv2.INTER_AREA)


@pytest.fixture
def folder(portrait: Pixels, tmp_path: Path) -> Path:
    """A picture with a face, and one without of the same name."""
    _saved(tmp_path / "in" / "with" / "a.png", portrait)
    _saved(tmp_path / "in" / "a.png", _ramp(portrait))
    return tmp_path / "in"


@pytest.fixture
def run(realesr: Command, detector: Path, restorer: Path, model_file: Path, folder: Path, tmp_path: Path) -> Command:
    """Runs `realesr directory FOLDER -o out`, with faces."""
    common = ("directory", folder, "-o", tmp_path / "out", "-m", model_file, "--precision", "fp32", "--json")
    return lambda *flags: realesr(*common, "--face-enhance", "--face-model", restorer, *flags)


def _counts(done: Any) -> tuple[int, int, int]:
    (summary,) = done.events("summary")
    return summary["done"], summary["skipped"], summary["failed"]


def test_a_folder_is_what_its_pictures_are_alone(
    run: Command, realesr: Command, restorer: Path, model_file: Path, folder: Path, tmp_path: Path
) -> None:
    done = run("--save-faces", folder / "kept")
    assert (done.status, _counts(done)) == (0, (2, 0, 0))
    assert len(done.events("restorer")) == 1
    restored = {event["input"]: len(event["faces"]) for event in done.events("faces")}
    assert restored == {str(folder / "a.png"): 0, str(folder / "with" / "a.png"): 1}
    assert {event["unit"] for event in done.events("progress")} == {"files"}
    for name, flags in (("with/a.png", ["--face-enhance", "--face-model", restorer]), ("a.png", [])):
        alone = tmp_path / "alone.png"
        one = ("image", folder / name, "-o", alone, "-m", model_file, "--precision", "fp32", "--overwrite")
        assert realesr(*one, *flags).status == 0
        assert (tmp_path / "out" / name).read_bytes() == alone.read_bytes()
    kept = [path.relative_to(folder / "kept").as_posix() for path in (folder / "kept").rglob("*.png")]
    assert kept == ["with/a.png_face1.png"]
    assert _counts(run("--save-faces", folder / "kept")) == (0, 2, 0), "kept faces are no pictures of the folder"


def test_each_device_has_faces_of_its_own(run: Command, folder: Path, portrait: Pixels, tmp_path: Path) -> None:
    for number in range(3):
        _saved(folder / f"{number}.png", np.roll(portrait, number, axis=1))
    assert run("-o", tmp_path / "one").status == 0
    done = run("--device", "cpu,cpu")
    assert (done.status, _counts(done), len(done.events("restorer"))) == (0, (5, 0, 0), 2)
    for path in (tmp_path / "out").rglob("*.png"):
        assert path.read_bytes() == (tmp_path / "one" / path.relative_to(tmp_path / "out")).read_bytes()


def test_the_journal_knows_options_and_weights_of_faces(run: Command, restorer: Path) -> None:
    assert run().status == 0
    assert _counts(run()) == (0, 2, 0)
    assert _counts(run("--save-faces", restorer.parent / "kept")) == (0, 2, 0)
    for flags in (["--face-strength", "0.5"], ["--face-min-size", "20"], ["--face-threshold", "0.8"]):
        done = run(*flags)
        assert done.status == 2
        assert "2 results were made with other options or another model" in done.err + done.out
    assert _counts(run("--dry-run")) == (0, 2, 0)
    assert run("--dry-run", "--only-center-face").status == 2
    other = restorer.with_name("other.safetensors")
    tensors = load_file(restorer)
    save_file({**tensors, "final_linear.bias": tensors["final_linear.bias"] + 0.1}, other)
    assert run("--face-model", other).status == 2
    done = run("--face-strength", "0.5", "--skip-existing")
    assert (done.status, _counts(done)) == (0, (2, 0, 0))


def test_a_folder_without_faces_knows_that_faces_are_new(
    realesr: Command, run: Command, model_file: Path, folder: Path, tmp_path: Path
) -> None:
    plain = ("directory", folder, "-o", tmp_path / "out", "-m", model_file, "--precision", "fp32")
    assert realesr(*plain).status == 0
    assert run().status == 2
    assert _counts(run("--skip-existing")) == (2, 0, 0)
    assert realesr(*plain).status == 2


def test_nothing_of_a_folder_is_done_without_the_weights(
    realesr: Command, detector: Path, model_file: Path, folder: Path, tmp_path: Path
) -> None:
    call = ("directory", folder, "-o", tmp_path / "out", "-m", model_file, "--face-enhance")
    done = realesr(*call, "--offline")
    assert done.status == 3
    assert "realesr models download gfpgan-1.4" in done.err
    done = realesr(*call, "--dry-run")
    assert done.status == 0
    assert "would first fetch gfpgan-1.4" in done.out
    done = realesr(*call[:-1], "--accept-license")
    assert done.status == 2
    assert "--accept-license says nothing without --face-enhance" in done.err
    assert not (tmp_path / "out").exists()


def test_small_pictures_in_a_group_have_their_own_faces(
    realesr: Command, detector: Path, restorer: Path, model_file: Path, small: Pixels, tmp_path: Path
) -> None:
    pictures = {"a": small, "b": _ramp(small), "c": small[:, ::-1], "d": small}
    files = [_saved(tmp_path / f"{name}.png", pixels) for name, pixels in pictures.items()]
    faces = ("--face-enhance", "--face-model", restorer)
    for name, flags in (("plain", ()), ("faces", (*faces, "--save-faces", tmp_path / "kept"))):
        (tmp_path / "kept").mkdir(exist_ok=True)
        if name == "faces":
            (tmp_path / "kept" / "d_x4.png_face1.png").write_bytes(b"in the way")
        done = realesr(
            "image", *files, "-o", tmp_path / name, "-m", model_file, "--precision", "fp32", "--json", *flags
        )
    assert done.status == 1
    assert _counts(done) == (3, 0, 1), "the fourth alone fails"
    assert "d_x4.png_face1.png is already there" in done.events("failed")[0]["message"]
    assert [(event["id"], len(event["faces"])) for event in done.events("faces")] == [(0, 1), (1, 0), (2, 1)]
    kept = sorted(path.name for path in (tmp_path / "kept").iterdir())
    assert kept == [f"{name}_x4.png_face1.png" for name in "acd"]
    for name in "abc":
        plain, result = (read_image(tmp_path / of / f"{name}_x4.png").pixels for of in ("plain", "faces"))
        assert np.array_equal(plain, result) == (name == "b")
        alone = tmp_path / f"{name}_alone.png"
        realesr("image", tmp_path / f"{name}.png", "-o", alone, "-m", model_file, "--precision", "fp32", *faces)
        difference = np.abs(read_image(alone).pixels.astype(int) - result)
        assert difference.max() <= 2


def _animation(path: Path, frames: list[Pixels]) -> Path:
    timing = Timing(durations_ms=(100,) * len(frames), loops=0)
    rows = FrameRows(shape=frames[0].shape, timing=timing, frames=frames, metadata=Metadata(), lossless=True)
    write_animation(path, rows, overwrite=True)
    return path


def _frames(path: Path) -> list[Pixels]:
    animation = read_animation(path.read_bytes(), name=path.name)
    assert animation is not None
    return list(animation.frames())


def test_faces_of_an_animation_are_restored_in_each_frame_and_do_not_flicker(
    realesr: Command, detector: Path, restorer: Path, model_file: Path, small: Pixels, tmp_path: Path
) -> None:
    other = np.ascontiguousarray(np.roll(small, 3, axis=1))
    source = _animation(tmp_path / "a.webp", [small, small, other, np.ascontiguousarray(_ramp(small))])
    common = ("image", source, "-m", model_file, "--precision", "fp32", "--lossless", "--json")
    assert realesr(*common, "-o", tmp_path / "plain.webp").status == 0
    flags = ("--face-enhance", "--face-model", restorer, "--save-faces", tmp_path / "kept")
    done = realesr(*common, "-o", tmp_path / "faces.webp", *flags)
    assert done.status == 0
    (event,) = done.events("frame_faces")
    assert (event["frames"], event["frames_with_faces"], event["restored"]) == (4, 3, 3)
    assert done.events("faces") == []
    plain, result = _frames(tmp_path / "plain.webp"), _frames(tmp_path / "faces.webp")
    same = [np.array_equal(a, b) for a, b in zip(plain, result, strict=True)]
    assert same == [False, False, False, True]
    assert np.array_equal(result[0], result[1])
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["faces.webp_face1.png"]


def test_an_animation_without_faces_says_so(
    realesr: Command, detector: Path, restorer: Path, model_file: Path, small: Pixels, tmp_path: Path
) -> None:
    still = np.ascontiguousarray(_ramp(small))
    source = _animation(tmp_path / "a.webp", [still, np.ascontiguousarray(still[:, ::-1])])
    common = ("image", source, "-m", model_file, "--precision", "fp32")
    assert realesr(*common, "-o", tmp_path / "plain.webp").status == 0
    done = realesr(*common, "-o", tmp_path / "faces.webp", "--face-enhance", "--face-model", restorer)
    assert f"{source}: no face found in 2 frames" in done.err
    assert (tmp_path / "faces.webp").read_bytes() == (tmp_path / "plain.webp").read_bytes()


def _film(path: Path, frames: list[Pixels]) -> Path:
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = frames[0].shape[1], frames[0].shape[0], "bgr0"
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        container.mux(stream.encode())
    return path


def _film_frames(path: Path) -> list[Pixels]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_faces_of_a_film(
    realesr: Command, realesr_process: Command, detector: Path, restorer: Path, model_file: Path, small: Pixels,
    tmp_path: Path,
) -> None:  # fmt: skip
    padded = np.ascontiguousarray(np.pad(small, ((0, 1), (0, 0), (0, 0)), mode="edge"))
    source = _film(tmp_path / "a.mkv", [padded, padded, np.roll(padded, 2, axis=1)])
    common = ("video", source, "-m", model_file, "--precision", "fp32", "--codec", "ffv1")
    faces = ("--face-enhance", "--face-model", restorer)
    assert realesr(*common, "-o", tmp_path / "plain.mkv").status == 0
    done = realesr_process(*common, "-o", tmp_path / "faces.mkv", *faces, "--save-faces", tmp_path / "kept")
    assert done.status == 0
    assert f"{source}: faces restored in 3 of 3 frames" in done.err
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["faces.mkv_face1.png"]
    plain, result = _film_frames(tmp_path / "plain.mkv"), _film_frames(tmp_path / "faces.mkv")
    assert all((a != b).any(axis=2).mean() > 0.01 for a, b in zip(plain, result, strict=True))
    assert np.array_equal(result[0], result[1])
    one = realesr(*common[:-2], "--frame", "0", tmp_path / "frame.png", *faces, "--json")
    assert [len(event["faces"]) for event in one.events("faces")] == [1]
    assert (read_image(tmp_path / "frame.png").pixels != plain[0]).any(axis=2).mean() > 0.01
    blank = _film(tmp_path / "blank.mkv", [np.ascontiguousarray(_ramp(padded))] * 2)
    done = realesr("video", blank, *common[2:], *faces, "-o", tmp_path / "none.mkv")
    assert f"{blank}: no face found in 2 frames" in done.err
    kept = realesr(*common, "-o", tmp_path / "b.mkv", *faces, "--dry-run", "--save-faces", tmp_path / "kept")
    assert (kept.status, (tmp_path / "b.mkv").exists()) == (0, False)


def test_nothing_of_a_film_is_done_without_the_weights(
    realesr: Command, detector: Path, model_file: Path, small: Pixels, tmp_path: Path
) -> None:
    source = _film(tmp_path / "a.mkv", [small[:44]])
    call = ("video", source, "-m", model_file, "-o", tmp_path / "out" / "b.mkv", "--face-enhance")
    assert realesr(*call, "--offline").status == 3
    assert "would first fetch gfpgan-1.4" in realesr(*call, "--dry-run").out
    assert not (tmp_path / "out").exists()
