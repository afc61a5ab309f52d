"""`realesr image`: what it writes, says, refuses, and how it ends."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest

from realesr_cli import read_image, weights
from realesr_cli.auto import EMBEDDED, choose_model
from realesr_cli.cli import image as image_command
from realesr_cli.row_writers import ROW_WRITERS

Command = Callable[..., Any]
Picture = Callable[..., Path]


def _size(path: Path) -> tuple[int, ...]:
    return read_image(path).pixels.shape[:2]


def test_a_picture_lies_beside_its_input(realesr_process: Command, model_file: Path, picture: Picture) -> None:
    source = picture("my photo ü.png")
    done = realesr_process("image", source, "-m", model_file)
    assert (done.status, done.out) == (0, "")
    assert _size(source.with_name("my photo ü_x4.png")) == (96, 128)
    assert "my photo ü_x4.png (128x96" in done.err


@pytest.mark.parametrize(
    ("flags", "name", "size"),
    [
        (["-s", "2.5"], "a_x2.5.png", (60, 80)),
        (["-s", "1"], "a_x1.png", (24, 32)),
        (["-s", "6"], "a_x6.png", (144, 192)),
        (["--width", "50"], "a_w50.png", (38, 50)),
        (["--height", "50"], "a_h50.png", (50, 67)),
        (["--fit", "100x60"], "a_fit100x60.png", (60, 80)),
        (["--tile", "16", "--tta"], "a_x4.png", (96, 128)),
        (["--keep-colours", "-s", "2"], "a_x2.png", (48, 64)),
        (["--precision", "bf16", "--threads", "1"], "a_x4.png", (96, 128)),
    ],
)
def test_sizes_and_names(
    flags: list[str], name: str, size: tuple[int, int], realesr: Command, model_file: Path, picture: Picture
) -> None:
    source = picture("a.png")
    assert realesr("image", source, "-m", model_file, *flags).status == 0
    assert _size(source.with_name(name)) == size


def test_several_files_into_a_folder(realesr: Command, model_file: Path, picture: Picture, tmp_path: Path) -> None:
    sources = [picture("a.png"), picture("b.jpg"), picture("-dash.webp")]
    done = realesr("image", "-m", model_file, "-o", tmp_path / "out", "--json", "--", *sources)
    assert done.status == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["-dash_x4.webp", "a_x4.png", "b_x4.jpg"]
    assert [event["id"] for event in done.events("done")] == [0, 1, 2]
    assert done.events()[-1]["event"] == "summary"
    assert done.events("summary")[0]["done"] == 3


def test_one_bad_file_among_several(realesr: Command, model_file: Path, picture: Picture, tmp_path: Path) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no picture")
    done = realesr("image", picture("a.png"), bad, tmp_path / "none.png", picture("c.png"), "-m", model_file)
    assert done.status == 1
    assert (tmp_path / "a_x4.png").exists()
    assert (tmp_path / "c_x4.png").exists()
    assert f"error: cannot decode {bad}: it is not a picture" in done.err
    assert "none.png does not exist" in done.err
    assert "2 done, 0 skipped, 2 failed" in done.err


def test_fail_fast_stops(realesr: Command, model_file: Path, picture: Picture, tmp_path: Path) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no picture")
    done = realesr("image", bad, picture("c.png"), "-m", model_file, "--fail-fast")
    assert done.status == 1
    assert not (tmp_path / "c_x4.png").exists()


@pytest.mark.parametrize(
    ("flags", "status", "words"),
    [
        (["-s", "0"], 2, "the scale must lie between"),
        (["-s", "2", "--width", "9"], 2, "exclude each other"),
        (["--fit", "9"], 2, "is not a size"),
        (["--fit", "²x3"], 2, "is not a size"),
        (["--precision", "fp8"], 2, "fp8 is not one of"),
        (["--device", "cuda:77"], 5, "--device cuda:77 is not available"),
        (["--device", "gpu"], 2, "--device gpu is none of"),
        (["--tile", "3"], 2, "--tile must be at least 16"),
        (["--denoise", "0.5"], 2, "has no companion"),
        (["-o", "out.jpg.xyz"], 4, "does not write .xyz"),
        (["--no-such-flag"], 2, "No such option"),
    ],
)
def test_wrong_options(
    flags: list[str], status: int, words: str, realesr: Command, model_file: Path, picture: Picture, tmp_path: Path
) -> None:
    source = picture("a.png")
    done = realesr("image", source, "-m", model_file, *flags)
    assert (done.status, words in done.err) == (status, True), done.err
    assert sorted(tmp_path.iterdir()) == sorted([source, model_file])


@pytest.mark.parametrize(
    ("name", "content", "status"),
    [
        ("m.pth", b"", 3),
        ("m.pth", b"<!DOCTYPE html><html>not found</html>", 3),
        ("m.safetensors", b"just text", 3),
        ("none.pth", None, 3),
        ("no-such-name", None, 3),
    ],
)
def test_wrong_models(
    name: str, content: bytes | None, status: int, realesr: Command, picture: Picture, tmp_path: Path
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    model = path if "." in name else name
    done = realesr("image", picture("a.png"), "-m", model)
    assert done.status == status
    lines = done.err.strip().splitlines()
    assert lines[0].startswith("error: ")
    assert name in lines[0]
    assert len(lines) == 2 and lines[1].startswith("hint: ")


def test_one_bad_input_decides_the_status(realesr: Command, model_file: Path, tmp_path: Path) -> None:
    assert realesr("image", tmp_path / "none.png", "-m", model_file).status == 4
    done = realesr("image", tmp_path, "-m", model_file)
    assert (done.status, "is a folder" in done.err) == (4, True)


def test_results_are_not_replaced_silently(realesr: Command, model_file: Path, picture: Picture) -> None:
    source = picture("a.png")
    target = source.with_name("a_x4.png")
    target.write_bytes(b"mine")
    assert realesr("image", source, "-m", model_file).status == 6
    assert target.read_bytes() == b"mine"
    assert realesr("image", source, "-m", model_file, "--overwrite").status == 0
    assert _size(target) == (96, 128)


def test_an_input_is_never_replaced(realesr: Command, model_file: Path, picture: Picture) -> None:
    source = picture("a.png")
    before = source.read_bytes()
    done = realesr("image", source, "-m", model_file, "-o", source, "--overwrite")
    assert (done.status, "replace the input" in done.err) == (2, True)
    assert source.read_bytes() == before


@pytest.mark.parametrize(
    ("target", "scale", "words"), [("a.webp", "52", "ends at 16,383"), ("a.jp2", "0.5", "begins at 32")]
)
def test_a_size_that_the_format_cannot_hold_fails_before_the_work(
    target: str, scale: str, words: str, realesr: Command, model_file: Path, picture: Picture, tmp_path: Path
) -> None:
    source = picture("a.png", 24, 320)
    for extra in ([], ["--dry-run"]):
        done = realesr("image", source, "-m", model_file, "-s", scale, "-o", tmp_path / target, "--json", *extra)
        assert done.status == 4
        assert words in done.events("failed")[0]["message"]
        assert not done.events("begin") and not done.events("plan")


def test_transparency_into_jpeg_fails_before_the_work(realesr: Command, model_file: Path, tmp_path: Path) -> None:
    from realesr_cli import Image, write_image

    source = tmp_path / "a.png"
    write_image(source, Image(pixels=np.full((8, 8, 4), 9, np.uint8)))
    done = realesr("image", source, "-m", model_file, "-o", tmp_path / "a.jpg", "--json")
    assert done.status == 4
    assert not done.events("begin")
    assert done.events("failed")[0]["hint"] == (
        "write a .png or .webp instead with -o, or say with --background what shines through"
    )


def test_dry_run_writes_nothing(realesr: Command, model_file: Path, picture: Picture, tmp_path: Path) -> None:
    source = picture("a.png")
    done = realesr("image", source, "-m", model_file, "--dry-run", "-s", "3", "--json")
    assert done.status == 0
    plan = done.events("plan")[0]
    assert (plan["height"], plan["width"], plan["tiles"], plan["output"]) == (72, 96, 1, str(tmp_path / "a_x3.png"))
    assert plan["memory_bytes"] > 0 and plan["seconds"] >= 0
    assert sorted(tmp_path.iterdir()) == sorted([source, model_file])
    text = realesr("image", source, "-m", model_file, "--dry-run", "--tile", "16").out
    assert "tiles" in text and "MiB" in text and "work x" in text


def test_dry_run_refuses_what_the_run_would_refuse(
    realesr: Command, model_file: Path, picture: Picture, tmp_path: Path
) -> None:
    source, other = picture("a.png"), picture("b.png")
    picture("a_x4.png")
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no picture")
    done = realesr("image", source, bad, other, "-m", model_file, "--dry-run")
    assert done.status == 1
    assert "a_x4.png is already there" in done.err
    assert "cannot decode" in done.err
    assert done.out.count("MiB") == 1
    assert realesr("image", source, "-m", model_file, "--dry-run").status == 6


def test_dry_run_counts_the_work_for_transparency(realesr: Command, model_file: Path, tmp_path: Path) -> None:
    from realesr_cli import Image, write_image

    pixels = np.full((60, 60, 4), 9, np.uint8)
    pixels[:30, :, 3] = 255
    write_image(tmp_path / "alpha.png", Image(pixels=pixels))
    write_image(tmp_path / "flat.png", Image(pixels=pixels[..., :3].copy()))
    done = realesr("image", tmp_path / "alpha.png", tmp_path / "flat.png", "-m", model_file, "--dry-run", "--json")
    alpha, flat = done.events("plan")
    assert (alpha["tiles"], flat["tiles"]) == (2, 1)


def test_dry_run_takes_the_model_that_the_run_would_take(
    realesr: Command, picture: Picture, stocked_cache: Path
) -> None:
    source = picture("a.png")
    assert realesr("models", "remove", "realesr-general-x4v3").status == 0
    offline = realesr("image", source, "--dry-run", "--offline", "--device", "cpu", "--json")
    assert offline.events("model")[0]["name"] == EMBEDDED
    wanted = realesr("image", source, "--dry-run", "--denoise", "0.5", "--json")
    assert [event["model"] for event in wanted.events("plan")] == ["realesr-general-x4v3"]


def test_dry_run_of_a_model_that_is_not_here_says_what_it_would_fetch(realesr: Command, picture: Picture) -> None:
    done = realesr("image", picture("a.png"), "-m", "x4plus", "--dry-run")
    assert (done.status, "would first fetch realesrgan-x4plus (x4, 67.0 MB)" in done.out) == (0, True)


def test_quiet_says_nothing_and_json_everything(realesr: Command, model_file: Path, picture: Picture) -> None:
    source = picture("a.png")
    done = realesr("image", source, "-m", model_file, "-q")
    assert (done.status, done.out, done.err) == (0, "", "")
    done = realesr("image", source, "-m", model_file, "--json", "--overwrite")
    assert done.err == ""
    assert [e["event"] for e in done.events() if e["event"] != "progress"] == [
        "start", "model", "begin", "done", "summary",
    ]  # fmt: skip
    assert len(done.events("model")[0]["sha256"]) == 64
    assert done.events("progress")[-1]["finished"] is True
    assert all(event["v"] == 1 for event in done.events())


def test_the_flags_are_frozen(realesr: Command) -> None:
    """A new flag is a decision: extend this list, the README and the CHANGELOG together."""
    words = {word.strip(",") for word in realesr("image", "--help").out.split() if word.startswith("-")}
    assert words >= {"-o", "-m", "-s", "-q", "-v"}
    assert {word for word in words if word.startswith("--")} == {
        "--output", "--model", "--scale", "--width", "--height", "--fit", "--denoise", "--tta", "--keep-colours",
        "--device", "--precision", "--threads", "--tile", "--overwrite", "--fail-fast", "--dry-run", "--offline",
        "--json", "--quiet", "--verbose", "--help", "--format", "--quality", "--lossless", "--strip", "--background",
        "--alpha-mode", "--max-pixels", "--skip-existing", "--face-enhance", "--face-strength", "--face-model",
        "--only-center-face", "--face-min-size", "--face-threshold", "--save-faces", "--accept-license", "--blend",
    }  # fmt: skip


class TestAuto:
    """`-m auto` takes the best that is at hand, and fetches nothing."""

    def _model(self, realesr: Command, source: Path, *flags: str) -> dict[str, Any]:
        done = realesr("image", source, "--json", "--overwrite", *flags)
        assert done.status == 0, done.out
        assert done.events("download") == []
        return dict(done.events("model")[0])

    def test_the_first_run_needs_no_network(
        self, cache: Path, realesr: Command, picture: Picture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def closed(*_: Any, **__: Any) -> None:
            raise AssertionError("a socket was opened")

        monkeypatch.setattr(socket, "socket", closed)
        monkeypatch.setattr(socket, "create_connection", closed)
        source = picture("a.png")
        model = self._model(realesr, source)
        assert model["name"] == EMBEDDED and "the best at hand" in model["reason"]
        assert _size(source.with_name("a_x4.png")) == (96, 128)
        assert not cache.exists()

    def test_on_a_cpu_it_is_general_once_that_is_there(
        self, stocked_cache: Path, realesr: Command, picture: Picture
    ) -> None:
        model = self._model(realesr, picture("a.png"), "--device", "cpu")
        assert model["name"] == "realesr-general-x4v3" and "best at hand for a CPU" in model["reason"]

    @pytest.mark.parametrize("device", ["cuda", "mps", "xpu"])
    def test_on_a_gpu_x4plus_once_it_is_there(self, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
        cached = {"realesrgan-x4plus", EMBEDDED}
        monkeypatch.setattr(weights, "is_cached", lambda name: name in cached)
        assert choose_model(device) == ("realesrgan-x4plus", "the best at hand for a GPU")
        cached.remove("realesrgan-x4plus")
        name, reason = choose_model(device)
        assert name == EMBEDDED and "`realesr models download realesrgan-x4plus`" in reason

    def test_films_get_a_fast_one_on_every_device(self, monkeypatch: pytest.MonkeyPatch) -> None:
        cached = {"realesrgan-x4plus", "realesr-general-x4v3", EMBEDDED}
        monkeypatch.setattr(weights, "is_cached", lambda name: name in cached)
        for device in ("cpu", "cuda"):
            assert choose_model(device, for_films=True) == ("realesr-general-x4v3", "the best at hand for a film")
        cached.remove("realesr-general-x4v3")
        assert choose_model("cuda", for_films=True)[0] == EMBEDDED

    def test_a_damaged_package_is_one_line(
        self, realesr: Command, picture: Picture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr(weights, "_embedded", lambda entry: tmp_path / "absent")
        done = realesr("image", picture("a.png"))
        assert (done.status, done.err.count("error:")) == (3, 1)
        assert "install realesr-cli again" in done.err


def test_denoise_reaches_the_network(realesr: Command, picture: Picture, stocked_cache: Path) -> None:
    source = picture("a.png", 40, 60)
    results, hashes = [], set()
    for strength in ("0", "0.5", "1"):
        target = source.with_name(f"d{strength}.png")
        done = realesr("image", source, "-o", target, "--denoise", strength, "--offline", "--json")
        assert done.status == 0
        assert done.events("model")[0]["name"] == "realesr-general-x4v3"
        hashes.add(done.events("model")[0]["sha256"])
        results.append(read_image(target).pixels.astype(int))
    assert len(hashes) == 3
    assert all(np.abs(a - b).max() > 1 for a, b in pairwise(results))


@pytest.mark.parametrize(("sent", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interruption_leaves_no_half_file(
    sent: signal.Signals, status: int, model_file: Path, picture: Picture, tmp_path: Path, cache: Path
) -> None:
    sources = [picture(f"{index}.png", 400, 400) for index in range(40)]
    command = [sys.executable, "-m", "realesr_cli", "image", *map(str, sources), "-m", str(model_file), "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if '"done"' in line and '"event": "done"' in line:
            break
    process.send_signal(sent)
    rest = process.stdout.read()
    process.stdout.close()
    assert process.wait(60) == status
    assert f'"exit_status": {status}' in rest.splitlines()[-1]
    assert not list(tmp_path.rglob("*.part*"))
    for path in tmp_path.glob("*_x4.png"):
        assert _size(path) == (1600, 1600)  # each one whole


def test_a_kill_during_the_write_leaves_no_final_name(
    model_file: Path, picture: Picture, tmp_path: Path, cache: Path
) -> None:
    """SIGKILL in the middle of writing: a temporary file may stay, a half picture under the final name may not."""
    source = picture("a.png")
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "import realesr_cli.image_io\n"
        "def half(file, *rest):\n"
        "    file.write(bytes(5000)); file.flush()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "realesr_cli.image_io.ROW_WRITERS['png'] = half\n"
        f"sys.argv = ['realesr', 'image', {str(source)!r}, '-m', {str(model_file)!r}]\n"
        "from realesr_cli.cli.main import main\n"
        "main()\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    assert not source.with_name("a_x4.png").exists()
    for left in tmp_path.glob(".*.part*"):
        left.unlink()
    done = subprocess.run(
        [sys.executable, "-m", "realesr_cli", "image", str(source), "-m", str(model_file)], check=False
    )
    assert done.returncode == 0
    assert _size(source.with_name("a_x4.png")) == (96, 128)


def test_a_full_disk_stops_the_run(
    realesr: Command, model_file: Path, picture: Picture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(file: BinaryIO, *rest: object) -> None:
        file.write(bytes(10))
        raise OSError(28, "No space left on device")

    sources = [picture("a.png"), picture("b.png")]
    monkeypatch.setitem(ROW_WRITERS, "png", full)
    done = realesr("image", *sources, "-m", model_file, "--json")
    failed = done.events("failed")
    assert (done.status, failed[0]["input"], "no space left" in failed[0]["message"]) == (6, str(sources[0]), True)
    assert done.events("summary")[0]["failed"] == len(failed)
    assert not list(tmp_path.glob("*_x4*"))


@pytest.mark.skipif(not Path("/proc/sys").exists(), reason="needs a folder that nobody can write to")
def test_a_folder_that_cannot_be_written_is_said_before_the_work(
    realesr: Command, model_file: Path, picture: Picture
) -> None:
    done = realesr("image", picture("a.png"), "-m", model_file, "-o", "/proc/sys/a.png", "--json")
    assert done.status == 6
    assert not done.events("begin")


def test_a_bug_is_one_line_and_a_file(
    realesr: Command, model_file: Path, picture: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(text: str | None) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(image_command, "fit_box", broken)
    done = realesr("image", picture("a.png"), "-m", model_file)
    assert done.status == 70
    assert "a bug in realesr: ZeroDivisionError: oops" in done.err
    saved = Path(done.err.strip().split()[-1])
    assert "ZeroDivisionError" in saved.read_text()
    saved.unlink()


def test_reading_and_writing_overlap_with_the_network(
    realesr: Command, model_file: Path, picture: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from realesr_cli import image_jobs

    original = image_jobs.write_image

    def slow(*arguments: Any, **how: Any) -> None:
        time.sleep(0.15)
        original(*arguments, **how)

    monkeypatch.setattr(image_jobs, "write_image", slow)
    sources = [picture(f"{index}.png") for index in range(4)]
    done = realesr("image", *sources, "-m", model_file, "--json")
    begun = [event["t_s"] for event in done.events("begin")]
    finished = [event["t_s"] for event in done.events("done")]
    assert begun[1] < finished[0]


def test_names_that_are_too_long_or_no_text(realesr: Command, model_file: Path, picture: Picture) -> None:
    done = realesr("image", "x" * 300, "-m", model_file)
    assert (done.status, "does not exist" in done.err) == (4, True)
    source = picture("a.png")
    odd = source.with_name(os.fsdecode(b"bad\xffname.png"))
    source.rename(odd)
    done = realesr("image", odd, "-m", model_file, "--json")
    assert done.status == 0
    assert done.events("done")[0]["input"] == str(odd)
    assert realesr("image", odd, "-m", model_file, "--overwrite").status == 0


def test_several_results_do_not_become_a_folder_called_like_a_picture(
    realesr: Command, model_file: Path, picture: Picture, tmp_path: Path
) -> None:
    done = realesr("image", picture("a.png"), picture("b.png"), "-m", model_file, "-o", tmp_path / "one.png")
    assert (done.status, "need a folder" in done.err) == (2, True)


def test_links_are_not_replaced_silently(realesr: Command, model_file: Path, picture: Picture, tmp_path: Path) -> None:
    source = picture("a.png")
    source.with_name("a_x4.png").symlink_to(tmp_path / "nowhere.png")
    assert realesr("image", source, "-m", model_file).status == 6
