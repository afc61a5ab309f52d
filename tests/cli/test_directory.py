"""`realesr directory`: what it takes, what it skips, how it goes on, and how it ends."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from networks import nearest
from realesr_cli import Image, read_image, write_image
from realesr_cli.models import architectures

Command = Callable[..., Any]


def _picture(path: Path, height: int = 12, width: int = 16, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    write_image(path, Image(pixels=pixels), overwrite=True)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five pictures in a tree, and a file that is none."""
    root = tmp_path / "in"
    for seed, name in enumerate(("a.png", "b.png", "sub/c.png", "sub/deep/d.bmp", "e.webp")):
        _picture(root / name, seed=seed)
    (root / "notes.txt").write_text("not a picture")
    return root


@pytest.fixture
def run(realesr: Command, monkeypatch: pytest.MonkeyPatch, folder: Path, tmp_path: Path) -> Command:
    """Runs `realesr directory FOLDER -o out` with a network that doubles pixels."""
    monkeypatch.setattr(architectures, "load_model", lambda *arguments, **options: nearest(2, sha256="1" * 64))
    return lambda *flags: realesr("directory", folder, "-o", tmp_path / "out", "-m", "nearest", "--json", *flags)


def _results(tmp_path: Path) -> dict[str, tuple[int, ...]]:
    """Of all files under `out` but the journal: name and size."""
    out = tmp_path / "out"
    return {
        path.relative_to(out).as_posix(): read_image(path).pixels.shape[:2]
        for path in sorted(out.rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    }


def _counts(done: Any) -> tuple[int, int, int]:
    (summary,) = done.events("summary")
    return summary["done"], summary["skipped"], summary["failed"]


ALL = {"a.png": (24, 32), "b.png": (24, 32), "e.webp": (24, 32), "sub/c.png": (24, 32), "sub/deep/d.bmp": (24, 32)}


def test_the_tree_is_mirrored(run: Command, folder: Path, tmp_path: Path) -> None:
    done = run()
    assert (done.status, _counts(done)) == (0, (5, 0, 0))
    assert _results(tmp_path) == ALL
    for name in ("a.png", "sub/deep/d.bmp"):
        doubled = read_image(folder / name).pixels.repeat(2, 0).repeat(2, 1)
        np.testing.assert_array_equal(read_image(tmp_path / "out" / name).pixels, doubled)
    assert [event["id"] for event in done.events("done")] == [0, 1, 2, 3, 4]
    files = [event for event in done.events("progress") if event["unit"] == "files"]
    assert files[-1]["finished"] and (files[-1]["done"], files[-1]["total"]) == (5, 5)


def test_a_finished_run_is_not_done_again(run: Command, tmp_path: Path) -> None:
    assert run().status == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.*")}
    for flags in ((), ("--skip-existing",), ("--device", "cpu", "--tile", "64")):
        done = run(*flags)
        assert (done.status, _counts(done)) == (0, (0, 5, 0))
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.*")}
    assert _counts(run("--overwrite")) == (5, 0, 0)


def test_changed_sources_are_done_again_and_said(run: Command, folder: Path, tmp_path: Path) -> None:
    run()
    _picture(folder / "a.png", 20, 20)
    os.utime(folder / "b.png", ns=(1, 1))  # the same bytes with another date are no change
    done = run()
    assert (done.status, _counts(done)) == (1, (0, 4, 1))
    assert "a.png has changed since its result was made" in done.events("failed")[0]["message"]
    done = run("--skip-existing")
    assert (done.status, _counts(done)) == (0, (1, 4, 0))
    assert "a.png has changed" in done.events("warning")[0]["message"]
    assert _results(tmp_path)["a.png"] == (40, 40)
    # also where size and date are those of before, as far as clocks tell: the date decides, so here nothing is seen
    assert _counts(run("--skip-existing")) == (0, 5, 0)


def test_other_options_and_models_are_noticed(run: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run()
    done = run("-s", "3")
    assert (done.status, _counts(done)) == (2, (0, 0, 0))
    assert "5 results were made with other options or another model" in done.events("failed")[0]["message"]
    done = run("-s", "3", "--skip-existing")
    assert (done.status, _counts(done)) == (0, (5, 0, 0))
    assert len(done.events("warning")) == 1
    assert _results(tmp_path)["a.png"] == (36, 48)
    monkeypatch.setattr(architectures, "load_model", lambda *arguments, **options: nearest(2, sha256="2" * 64))
    for flags in ((), ("--tta",), ("--strip",), ("--alpha-mode", "resize"), ("--precision", "fp32")):
        assert _counts(run("-s", "3", "--skip-existing", *flags)) == (5, 0, 0), flags


def test_a_result_that_is_gone_or_was_edited(run: Command, tmp_path: Path) -> None:
    run()
    (tmp_path / "out" / "a.png").unlink()
    edited = _picture(tmp_path / "out" / "b.png", 24, 32, seed=9).read_bytes()
    done = run("--skip-existing")
    assert (done.status, _counts(done)) == (0, (1, 4, 0))
    assert (tmp_path / "out" / "b.png").read_bytes() == edited  # of the right size: somebody's work
    _picture(tmp_path / "out" / "b.png", 5, 5)
    done = run("--skip-existing")
    assert (done.status, _counts(done)) == (1, (0, 4, 1))
    assert "b.png is already there" in done.events("failed")[0]["message"]
    assert _results(tmp_path)["b.png"] == (5, 5)


def test_results_of_others_are_finished_only_if_they_are_whole_and_of_the_right_size(
    run: Command, tmp_path: Path
) -> None:
    whole = _picture(tmp_path / "out" / "a.png", 24, 32)
    cut = _picture(tmp_path / "out" / "b.png", 24, 32)
    cut.write_bytes(cut.read_bytes()[:-200])
    done = run()
    assert (done.status, _counts(done)) == (1, (3, 0, 2))
    done = run("--skip-existing")
    assert (done.status, _counts(done)) == (1, (0, 4, 1))
    assert [event["output"] for event in done.events("skipped") if "journal" in event["reason"]] == [str(whole)]
    assert _counts(run("--overwrite")) == (5, 0, 0)


def test_one_bad_file_never_stops_the_rest(run: Command, folder: Path, tmp_path: Path) -> None:
    (folder / "bad.png").write_bytes(b"no picture")
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "dead.png").symlink_to("nowhere.png")
    done = run()
    assert (done.status, _counts(done)) == (1, (5, 0, 3))
    assert _results(tmp_path) == ALL
    told = {Path(failure["input"]).name: failure["message"] for failure in done.events("summary")[0]["failures"]}
    assert set(told) == {"bad.png", "empty.jpg", "dead.png"}
    assert "it is not a picture" in told["bad.png"] and "is empty" in told["empty.jpg"]
    assert _counts(run()) == (0, 5, 3)
    assert _counts(run("--fail-fast"))[2] == 1


def test_failed_sources_are_moved_out_of_the_way(run: Command, folder: Path, tmp_path: Path) -> None:
    bad = folder / "failed"  # inside the folder, and yet never taken for input
    for _ in range(2):
        (folder / "sub" / "bad.png").write_bytes(b"no picture")
        done = run("--move-failed", bad, "--dry-run")
        assert (done.status, len(done.events("failed")), (folder / "sub" / "bad.png").exists()) == (1, 1, True)
        done = run("--move-failed", bad)
        assert (done.status, len(done.events("moved"))) == (1, 1)
    assert sorted(path.relative_to(bad).as_posix() for path in bad.rglob("*.png")) == ["sub/bad 2.png", "sub/bad.png"]
    assert run("--move-failed", bad).status == 0
    _picture(tmp_path / "out" / "a.png", 3, 3)
    assert run("--move-failed", bad).status == 1
    assert (folder / "a.png").exists()  # nothing is wrong with it


def test_results_inside_the_folder_are_never_read(realesr: Command, run: Command, folder: Path, tmp_path: Path) -> None:
    inside = folder / "large"
    for expected in ((5, 0, 0), (0, 5, 0)):
        done = realesr("directory", folder, "-o", inside, "-m", "nearest", "--json")
        assert (done.status, _counts(done)) == (0, expected)
    done = realesr("directory", folder, "-o", folder / "sub" / "..", "-m", "nearest", "--json")
    assert (done.status, "is the folder of the pictures" in done.events("failed")[0]["message"]) == (2, True)
    # a folder of results above: `in/in/a.png` would become `in/a.png`
    _picture(folder / "in" / "a.png")
    done = realesr("directory", folder / "in", "-o", folder, "-m", "nearest", "--json", "--overwrite")
    assert _counts(done) == (1, 0, 0)


def test_files_of_one_result_are_refused_before_any_work(run: Command, folder: Path, tmp_path: Path) -> None:
    _picture(folder / "a.webp")
    done = run("--format", "png", "--shard", "1/2")
    assert (done.status, _results(tmp_path) if (tmp_path / "out").exists() else {}) == (2, {})
    assert "a.png and a.webp would both become a.png" in done.events("failed")[0]["message"]
    assert run("--format", "png", "--rename").status == 0
    assert set(_results(tmp_path)) == {
        "a.png.png", "a.webp.png", "b.png", "e.png", "sub/c.png", "sub/deep/d.png"
    }  # fmt: skip


def test_filters_lists_and_parts(run: Command, folder: Path, tmp_path: Path) -> None:
    def taken(*flags: object) -> set[str]:
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        assert run(*flags).status == 0
        return set(_results(tmp_path)) if (tmp_path / "out").exists() else set()

    assert taken("--no-recursive") == {"a.png", "b.png", "e.webp"}
    assert taken("--include", "*.png", "--exclude", "sub") == {"a.png", "b.png"}
    names = tmp_path / "list.txt"
    names.write_text(f"sub/c.png\n\n{folder / 'a.png'}\n")
    assert taken("--list", names) == {"a.png", "sub/c.png"}
    parts = [taken("--shard", f"{part}/3") for part in (1, 2, 3)]
    assert set.union(*parts) == set(ALL) and sum(map(len, parts)) == len(ALL)
    assert taken("--include", "*.nothing") == set()
    names.write_text("gone.png\n")
    assert run("--list", names).events("failed")[0]["message"].startswith("cannot read")


def test_parts_share_a_folder_of_results_and_a_later_run_knows_them_all(run: Command, tmp_path: Path) -> None:
    done = [_counts(run("--shard", f"{part}/2"))[0] for part in (1, 2)]
    assert sum(done) == 5 and _results(tmp_path) == ALL
    assert _counts(run()) == (0, 5, 0)


def test_dry_run_says_what_is_left_and_touches_nothing(run: Command, folder: Path, tmp_path: Path) -> None:
    done = run("--dry-run")
    assert (done.status, len(done.events("plan")), (tmp_path / "out").exists()) == (0, 5, False)
    run("--include", "a.png")
    before = sorted((tmp_path / "out").rglob("*"))
    done = run("--dry-run")
    assert (len(done.events("plan")), len(done.events("skipped"))) == (4, 1)
    assert sorted((tmp_path / "out").rglob("*")) == before


def test_several_devices_give_the_same_results_in_order(run: Command, folder: Path, tmp_path: Path) -> None:
    for number in range(30):
        _picture(folder / f"{number:02}.png", 100 - 3 * number, 100, seed=number)
    (folder / "10.png").write_bytes(b"no picture")
    done = run("--device", "cpu,cpu", "--precision", "fp32")
    assert (done.status, _counts(done)) == (1, (34, 0, 1))
    order = [event["id"] for event in done.events() if event["event"] in ("done", "failed")]
    assert order == list(range(35))
    assert len(done.events("model")) == 2
    for name in ("00.png", "29.png"):
        doubled = read_image(folder / name).pixels.repeat(2, 0).repeat(2, 1)
        np.testing.assert_array_equal(read_image(tmp_path / "out" / name).pixels, doubled)


@pytest.mark.parametrize(
    ("flags", "status", "words"),
    [
        (["--shard", "3/2"], 2, "--shard 3/2"),
        (["--watch", "--dry-run"], 2, "exclude each other"),
        (["--watch-idle", "0"], 2, "--watch-idle must be"),
        (["--device", "cpu,gpu"], 2, "--device gpu is none of"),
        (["--list", "no-such-list"], 4, "cannot read the list"),
        (["--format", "xyz"], 2, "--format xyz is not one of"),
        (["--overwrite", "--skip-existing"], 2, "exclude each other"),
    ],
)
def test_wrong_options(flags: list[str], status: int, words: str, run: Command, tmp_path: Path) -> None:
    done = run(*flags)
    assert (done.status, words in done.events("failed")[0]["message"]) == (status, True)
    assert not (tmp_path / "out").exists()


def test_a_source_that_changes_while_it_is_enlarged_gives_no_result(
    run: Command, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from realesr_cli import image_jobs

    known = image_jobs.save_picture

    def save(job: Any, *arguments: Any) -> Any:
        if job.source.name == "a.png":
            _picture(folder / "a.png", seed=7)
        return known(job, *arguments)

    monkeypatch.setattr(image_jobs, "save_picture", save)
    done = run()
    assert (done.status, _counts(done)) == (1, (4, 0, 1))
    assert "has changed while it was enlarged" in done.events("failed")[0]["message"]
    assert not (tmp_path / "out" / "a.png").exists()


def test_watching_takes_what_is_complete_and_ends(run: Command, folder: Path, tmp_path: Path) -> None:
    """A file that grows while it is looked at is taken when it is whole; the run ends when nothing comes."""
    import threading

    late = _picture(tmp_path / "late.png", 40, 40).read_bytes()

    def scanner() -> None:
        with (folder / "late.png").open("wb") as file:
            for at in range(0, len(late), len(late) // 12 + 1):
                file.write(late[at : at + len(late) // 12 + 1])
                file.flush()
                time.sleep(0.15)

    writing = threading.Thread(target=scanner)
    writing.start()
    done = run("--watch-idle", "0.8")
    writing.join()
    assert (done.status, _counts(done)) == (0, (6, 0, 0))
    assert _results(tmp_path) == ALL | {"late.png": (80, 80)}
    assert _counts(run("--watch-idle", "0.4")) == (0, 6, 0)


@pytest.mark.parametrize(("sent", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_watching_stops_cleanly(
    sent: signal.Signals, status: int, folder: Path, tmp_path: Path, model_file: Path, cache: Path
) -> None:
    command = [sys.executable, "-m", "realesr_cli", "directory", folder, "-o", tmp_path / "out", "-m", model_file]
    process = subprocess.Popen([*map(str, command), "--watch", "--json"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line)["event"] == "done" and json.loads(line)["id"] == 4:
            break
    time.sleep(0.5)  # it waits for the next picture
    process.send_signal(sent)
    rest = process.stdout.read()
    process.stdout.close()
    assert process.wait(60) == status
    summary = json.loads(rest.splitlines()[-1])
    assert (summary["event"], summary["done"], summary["exit_status"]) == ("summary", 5, status)


def test_people_read_short_lines(realesr_process: Command, folder: Path, tmp_path: Path, model_file: Path) -> None:
    (folder / "bad.png").write_bytes(b"no picture")
    done = realesr_process("directory", folder, "-o", tmp_path / "out", "-m", model_file)
    assert (done.status, done.out) == (1, "")
    assert f"{folder / 'a.png'} -> {tmp_path / 'out' / 'a.png'} (64x48" in done.err
    last = done.err.splitlines()[-2:]
    assert last[0].startswith("5 done, 0 skipped, 1 failed, ")
    assert last[1] == f"  cannot decode {folder / 'bad.png'}: it is not a picture of a known format"
    again = realesr_process("directory", folder, "-o", tmp_path / "out", "-m", model_file)
    assert "already there" not in again.err and "0 done, 5 skipped, 1 failed" in again.err


def test_the_sheet_shows_what_was_done_skipped_and_failed(run: Command, folder: Path, tmp_path: Path) -> None:
    page = tmp_path / "contact.html"
    (folder / "bad.png").write_bytes(b"not a picture")
    assert run("--sheet", page).status == 1
    text = page.read_text(encoding="utf-8")
    assert text.count("<article") == 6 and text.count('<article class="failed"') == 1
    assert 'href="in/sub/c.png"' in text and 'href="out/sub/c.png"' in text and "data:image/webp;base64," in text
    (folder / "bad.png").unlink()
    _picture(folder / "new.png", seed=9)
    assert run("--sheet", page).status == 0
    text = page.read_text(encoding="utf-8")
    assert text.count("<article") == 6 and text.count("<p>skipped: ") == 5
    for wrong in (["--sheet", tmp_path / "contact.txt"], ["--sheet", page, "--dry-run"]):
        assert run(*wrong).status == 2


def test_the_flags_are_frozen(realesr: Command) -> None:
    """Those of `realesr image` and some of its own."""
    words, shared = (
        {word.strip(",") for word in realesr(command, "--help").out.replace("/", " ").split() if word.startswith("--")}
        for command in ("directory", "image")
    )
    assert words - shared == {
        "--include", "--exclude", "--recursive", "--no-recursive", "--list", "--rename", "--shard", "--watch",
        "--watch-idle", "--move-failed", "--sheet", "--cluster",
    }  # fmt: skip
    assert shared <= words
