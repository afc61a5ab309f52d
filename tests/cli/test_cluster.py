"""`realesr directory` and `video` with `--cluster`: workers of a real Ray cluster, and what if they are lost."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

import mortal
import numpy as np
import pytest
from numpy.typing import NDArray

from clips import read_clip, write_clip
from realesr_cli import Image, cluster_jobs, write_image
from realesr_cli.cache import cache_folder
from realesr_cli.cli import video
from realesr_cli.errors import ModelError, UsageError
from realesr_cli.options import DeviceOptions, VideoOptions
from realesr_cli.ready import ModelOptions

Command = Callable[..., Any]
ALIKE = ("--threads", "1", "--precision", "fp32")
_START_S = 90


@pytest.fixture(scope="module")
def workers_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the cluster's machines, which look there for weights by themselves."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def address(workers_cache: Path) -> Iterator[str]:
    """A Ray cluster of one machine with room for two workers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # short: sockets lie in it
    folder = Path(f"/tmp/ray-test-{os.getpid()}")
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--port={port}"]
    command += ["--num-cpus=2", "--include-dashboard=false", f"--temp-dir={folder}", "--node-ip-address=127.0.0.1"]
    command += ["--object-store-memory=80000000", "--disable-usage-stats"]
    with pytest.MonkeyPatch.context() as patch:
        root = Path(__file__).resolve().parents[2]
        patch.setenv("PYTHONPATH", os.pathsep.join(map(str, (root, root / "tests/cli", root / "tests/unit"))))
        patch.setenv("RAY_memory_monitor_refresh_ms", "0")  # which kills workers where others take the memory
        patch.setenv("REALESR_CACHE", str(workers_cache))
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", "0" * 64)
        pytest.importorskip("ray", reason="the cluster extra is not installed")  # which looks for a token at once
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, cwd="/")
        try:
            _wait_for(lambda: _listens(port) and any(folder.glob("session_*/sockets/raylet*")))
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(60)
            shutil.rmtree(folder, ignore_errors=True)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _wait_for(happened: Callable[[], Any]) -> None:
    ends = time.monotonic() + _START_S
    while not happened():
        assert time.monotonic() < ends
        time.sleep(0.05)


@pytest.fixture
def run(realesr: Command, model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs `realesr COMMAND ... -m MODEL --json` in the folder of this test; workers die where files say so."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cluster_jobs, "Worker", mortal.Mortal)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    return lambda *arguments: realesr(*arguments, "-m", model_file.name, "--json", *ALIKE)


def _folder(*names: str) -> None:
    """Pictures of 40x44 in `in`, and those that wait or are called large of a size of which each goes by itself."""
    for seed, name in enumerate(names):
        path = Path("in") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        size = (220, 200) if name.startswith(("large", "waits")) else (40, 44)
        write_image(path, Image(pixels=np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)))


def _results(folder: str) -> dict[str, bytes]:
    """Of all files but the journal."""
    files = (path for path in Path(folder).rglob("*") if path.is_file() and not path.name.startswith("."))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def _facts(done: Any) -> tuple[Any, ...]:
    """What a run says of its files, whatever their order."""
    (summary,) = done.events("summary")
    counts = {key: summary[key] for key in ("done", "skipped", "failed", "failures", "exit_status")}
    kept = ("done", "failed", "warning", "begin", "skipped")
    events = [{k: v for k, v in e.items() if k not in ("t_s", "seconds")} for e in done.events() if e["event"] in kept]
    return counts, sorted(events, key=str)


def test_a_folder_gives_the_same_files_events_and_status_as_on_one_machine(address: str, run: Command) -> None:
    # more that wait than one worker takes at once
    waiting = tuple(f"waits {number}.png" for number in range(4))
    _folder("a.png", "b.jpg", "sub/c.webp", "d.png", *waiting)
    Path("in/bad.png").write_bytes(b"no picture")
    here = run("directory", "in", "-o", "out")
    Path("out").rename("here")
    there = run("directory", "in", "-o", "out", "--cluster", address)
    assert there.status == here.status == 1, str(there.events("failed"))
    assert _facts(there) == _facts(here)
    assert _results("out") == _results("here") and len(_results("out")) == 8
    workers = there.events("worker")
    assert len({worker["pid"] for worker in workers}) == 2 and len(there.events("model")) == 1
    assert not list(Path("out").glob(".realesr-probe*"))
    # what workers have written down is known to the next run, wherever it is made
    again = run("directory", "in", "-o", "out")
    assert (again.status, again.events("summary")[0]["skipped"]) == (1, 8)
    Path("in/bad.png").unlink()
    write_image(Path("in/a.png"), Image(pixels=np.zeros((9, 9, 3), np.uint8)), overwrite=True)
    changed = run("directory", "in", "-o", "out", "--cluster", address, "--skip-existing")
    assert (changed.status, changed.events("summary")[0]["done"]) == (0, 1)


def test_faces_of_a_watched_folder_are_those_of_one_machine(
    address: str, run: Command, portrait: NDArray[np.uint8], detector: Path, restorer: Path, workers_cache: Path
) -> None:
    shutil.copytree(cache_folder(), workers_cache, dirs_exist_ok=True)
    _folder("plain.png", "sub/plain.png")
    write_image(Path("in/face.png"), Image(pixels=portrait))
    late, faces = Path("late.png"), ("--face-enhance", "--face-model", restorer)
    write_image(late, Image(pixels=np.ascontiguousarray(portrait[:, ::-1])))
    here = run("directory", "in", "-o", "here", *faces)
    assert run("image", late, "-o", "here/late.png", *faces).status == 0
    # comes when the first ones have been taken
    Thread(target=lambda: _wait_for(lambda: any(Path("out").glob("*.png"))) or late.rename("in/late.png")).start()
    there = run("directory", "in", "-o", "out", *faces, "--cluster", address, "--watch", "--watch-idle", "4")
    assert there.status == here.status == 0, str(there.events("failed"))
    assert there.events("summary")[0]["done"] == 4
    assert _results("out") == _results("here")
    found = {event["input"]: len(event["faces"]) for event in there.events("faces")}
    assert found == {"in/face.png": 1, "in/late.png": 1, "in/plain.png": 0, "in/sub/plain.png": 0}


@pytest.mark.slow
def test_what_lost_workers_had_is_done_again_once_and_a_deadly_picture_is_given_up(address: str, run: Command) -> None:
    whole = ("a.png", "b.png", "c dies at once.png", "d dies half.png", "large.png", "f dies unreported.png")
    _folder(*whole, "g always dies.png")
    done = run("directory", "in", "-o", "out", "--cluster", address)
    assert done.status == 1, str(done.events("failed"))
    (failure,) = done.events("failed")
    assert failure["input"] == "in/g always dies.png"
    assert re.search(r"given up: three workers were lost over it, .* its process was .* on \S+", failure["message"])
    assert sorted(event["input"] for event in done.events("done")) == sorted(f"in/{name}" for name in whole)
    assert sorted(_results("out")) == sorted(whole) and not list(Path("out").rglob(".*.part*"))
    lost = [event["message"] for event in done.events("warning")]
    assert len(lost) >= 5 and all("was lost (its process was killed or has crashed)" in text for text in lost), lost
    assert {path.name for path in Path().glob("died *")} == {"died at once", "died half", "died unreported"}
    begun = Path("begun").read_text().splitlines()
    assert 2 <= begun.count("g always dies.png") <= 3  # a worker may die of another one before it begins
    # what had its name before the worker died is not made a second time
    assert begun.count("f dies unreported.png") <= 2 <= begun.count("d dies half.png")
    Path("in/g always dies.png").unlink()
    here = run("directory", "in", "-o", "here")
    assert here.status == 0 and _results("here") == _results("out")
    assert run("directory", "in", "-o", "out").events("summary")[0]["skipped"] == 6


def test_a_film_has_the_frames_of_one_machine_though_a_worker_dies(
    address: str, run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video, "VideoOptions", partial(VideoOptions, segment_frames=20))
    times = [3600 * i + (i % 3) * 700 for i in range(70)]
    write_clip(Path("film.mp4"), times=times, options={"g": "10", "bf": "2"}, audio_at=[Fraction(0)])
    alike = ("-s", "1", "--preset", "ultrafast")
    here = run("video", "film.mp4", "-o", "here.mkv", *alike)
    there = run("video", "film.mp4", "-o", "there.mkv", *alike, "--cluster", address)
    assert here.status == there.status == 0, str(there.events("failed"))
    assert len(there.events("warning")) == 1 and Path("died piece").exists()
    one, two = read_clip(Path("here.mkv")), read_clip(Path("there.mkv"))
    assert one.times == two.times and one.streams == two.streams
    assert len(one.frames) == 70 and all(np.array_equal(a, b) for a, b in zip(one.frames, two.frames, strict=True))
    compared = ("frames", "width", "height", "verified", "spared")
    ends = [[done.events("done")[0][key] for key in compared] for done in (here, there)]
    assert ends[0][:4] == ends[1][:4] and ends[0][4] == pytest.approx(ends[1][4], abs=0.1)
    assert there.events("progress")[-1]["done"] == 70
    assert not list(Path().glob("*.segments")) and not list(Path().glob(".*"))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks for the processes in /proc")
def test_ctrl_c_ends_a_local_cluster_and_leaves_nothing_half_done(model_file: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="the cluster extra is not installed")
    (tmp_path / "in").mkdir()
    for number in range(60):
        write_image(tmp_path / "in" / f"{number}.png", _noise(number))
    before = set(Path("/tmp").glob("ray-*"))
    command = [sys.executable, "-m", "realesr_cli", "directory", str(tmp_path / "in"), "-o", str(tmp_path / "out")]
    process = subprocess.Popen(
        [*command, "-m", str(model_file), "--cluster", "local", "--json", *ALIKE],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if '"event": "done"' in line:
            break
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of them
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, out + err
    assert "Traceback" not in out + err and '"event": "summary"' in out.splitlines()[-1]
    workers = re.findall(r'"pid": (\d+)', "".join(said) + out)
    assert workers
    _wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
    assert not list((tmp_path / "out").glob(".*.part*")) and set(Path("/tmp").glob("ray-*")) <= before
    made = list((tmp_path / "out").glob("*.png"))
    assert 0 < len(made) < 60


def _noise(seed: int) -> Image:
    return Image(pixels=np.random.default_rng(seed).integers(0, 256, (220, 220, 3), np.uint8))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("directory", "in", "-o", "out", "--dry-run"), "--dry-run speaks of this machine"),
        (("directory", "in", "-o", "out", "--device", "cpu,cpu"), "--device with several names"),
        (("video", "film.mp4", "--no-resume"), "--no-resume and --cluster exclude each other"),
        (("video", "film.mp4", "--pipe"), "--pipe and --cluster exclude each other"),
        (("video", "film.mp4", "--face-enhance"), "follows faces from each piece into the next"),
    ],
)
def test_what_contradicts_the_flag_is_refused(realesr: Command, run: Command, arguments: Any, message: str) -> None:
    _folder("a.png")
    Path("film.mp4").touch()
    done = realesr(*arguments, "--cluster", "local")
    assert done.status == 2 and message in done.err


def test_without_ray_or_a_cluster_one_line_says_what_to_do(
    realesr: Command, run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    _folder("a.png")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "ray", None)
        done = realesr("directory", "in", "-o", "out", "--cluster", "local")
    assert done.status == 2
    assert done.err.splitlines()[:2] == [
        "error: --cluster needs Ray, which is not installed", "hint: pip install 'realesr-cli[cluster]'",
    ]  # fmt: skip
    ray = pytest.importorskip("ray", reason="the cluster extra is not installed")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nobody = f"127.0.0.1:{closed.getsockname()[1]}"
    for environment, where, message in (
        ({"RAY_ADDRESS": nobody}, "auto", f"--cluster {nobody}: .*refused"),
        ({}, nobody, f"--cluster {nobody}: .*refused"),
        ({}, "auto", "--cluster auto: no Ray cluster runs here, and RAY_ADDRESS names none"),
        ({}, "head", "--cluster head is no address"),
    ):
        with monkeypatch.context() as patch:
            patch.delenv("RAY_ADDRESS", raising=False)
            patch.setattr(ray, "init", _finds_none)
            for name, value in environment.items():
                patch.setenv(name, value)
            done = realesr("directory", "in", "-o", "out", "--cluster", where)
        assert done.status == (2 if where == "head" else 5) and re.search(message, done.err.splitlines()[0])
        assert done.err.splitlines()[1].startswith("hint: ")
    assert not Path("out").exists()


def _finds_none(**options: Any) -> None:
    raise ConnectionError("Could not find any running Ray instance.")


def test_a_worker_that_has_other_files_says_where(model_file: Path, tmp_path: Path) -> None:
    host = re.escape(socket.gethostname())
    here = Path.cwd()

    def answer(**changes: Any) -> Any:
        facts: dict[str, Any] = {
            "model": ModelOptions(model=str(model_file)), "device": DeviceOptions(device="cpu"), "reason": "",
            "sha256s": ("0" * 64,), "folder": here, "must_see": (tmp_path,),
        }  # fmt: skip
        return cluster_jobs.Worker().prepare(cluster_jobs.Setup(**{**facts, **changes}))

    unseen = answer(must_see=(tmp_path, tmp_path / "gone" / f"{cluster_jobs._PROBE}1"))
    assert isinstance(unseen, UsageError)
    assert re.fullmatch(f"{host} does not see {re.escape(str(tmp_path / 'gone'))}", unseen.message)
    relative = answer(folder=tmp_path / "nowhere", must_see=(Path("pyproject.toml"),))
    assert "nowhere/pyproject.toml" in relative.message
    other = answer(version="0.0.1")
    assert isinstance(other, UsageError) and re.match(f"{host} has realesr .*, and this machine 0.0.1", other.message)
    weights = answer()
    assert isinstance(weights, ModelError) and "has other weights under the name" in weights.message
