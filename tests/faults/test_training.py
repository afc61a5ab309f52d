"""Training that is killed, interrupted, or runs out of disk: what stays, and that the same command goes on."""

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import realesr_train
from realesr_cli.errors import DiskFull
from realesr_train import checkpoint
from realesr_train.trainer import Trainer
from recording import Events
from training import GAN, TINY, columns, configs, train, write_config, write_photos

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(realesr_train.__file__).parent.parent)}
STEPS = 40


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    write_photos(tmp_path / "photos")
    return tmp_path


def command(place: Path, run: str, *more: str) -> list[str]:
    config = write_config(place, TINY, GAN)
    settings = (f"run.steps={STEPS}", "checkpoint.every=4", "validation.every=10", *more)
    return [
        sys.executable, "-m", "realesr_cli", "train", "--config", str(config), "--data", str(place / "photos"),
        "-o", str(place / run), *(part for one in settings for part in ("--set", one)),
    ]  # fmt: skip


def wait_for(path: Path, text: str, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not (path.is_file() and text in path.read_text(encoding="utf-8")):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.005)


def test_a_killed_process_goes_on_with_the_same_losses_bit_for_bit(place: Path) -> None:
    whole = subprocess.run(command(place, "whole"), env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert whole.returncode == 0, whole.stderr
    for step in (9, 23):
        process = subprocess.Popen(
            command(place, "run"), env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        wait_for(place / "run" / "log.csv", f"\n{step},", process)
        process.kill()
        process.communicate()
        assert not (place / "run" / "model.safetensors").exists()
    done = subprocess.run(command(place, "run"), env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "going on after step" in done.stderr, done.stderr
    found = columns(place / "run")
    assert found == columns(place / "whole") and len(found["loss.pixel"]) == STEPS
    one, two = ((place / name / "model.safetensors").read_bytes() for name in ("whole", "run"))
    # the metadata names the configuration, and that its folder
    assert one[-4000:] == two[-4000:]
    for left in (place / "run").rglob(".*.part*"):
        left.unlink()


@pytest.mark.skipif(sys.platform != "linux", reason="looks for the processes in /proc")
def test_torchrun_starts_again_what_was_killed_and_the_run_goes_on(place: Path) -> None:
    plain = command(place, "run", "data.batch=2")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1"]
    process = subprocess.Popen(
        [sys.executable, *launcher, *plain[1:]], env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    try:
        wait_for(place / "run" / "log.csv", "\n9,", process)
        workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert len(workers) == 2
        os.kill(int(workers[1]), signal.SIGKILL)
        _, said = process.communicate(timeout=120)
    finally:
        process.terminate()  # it ends its processes then
        process.wait(60)
    assert process.returncode == 0, said
    assert "has lost the others" in said
    assert "going on after step" in said and f"trained {STEPS} steps" in said
    assert len(columns(place / "run")["loss.pixel"]) == STEPS


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("devices", [1, 2])
def test_an_interruption_writes_a_checkpoint(place: Path, number: int, status: int, devices: int) -> None:
    process = subprocess.Popen(
        [*command(place, "run", "run.steps=100000", "checkpoint.every=100000"), "--devices", str(devices)],
        env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    wait_for(place / "run" / "log.csv", "\n6,", process)
    if number == signal.SIGINT:  # as a terminal does: to all of them
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == status, said
    ((step, folder),) = checkpoint.folders(place / "run")
    assert checkpoint.load(folder).step == step >= 6
    assert f"stopped after step {step}; the same command goes on from there" in said and "Traceback" not in said


def test_a_full_disk_ends_the_run_and_leaves_the_checkpoint_before(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Path.write_bytes

    def full(self: Path, data: bytes) -> int:
        if "step-00000010" in str(self):
            write(self, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(self, data)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(DiskFull, match="no space left"):
            train(configs(place))
    assert [step for step, _ in checkpoint.folders(place / "run")] == [5]
    assert train(configs(place)).steps == 12
    assert len(columns(place / "run")["loss.pixel"]) == 12


def test_an_error_inside_a_step_ends_all_threads_and_a_rerun_goes_on(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading

    original = Trainer._train

    def fail(self: Trainer, lq: Tensor, gt: Tensor) -> Any:
        if self.step == 8:
            raise RuntimeError("out of luck")
        return original(self, lq, gt)

    before = set(threading.enumerate())
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_train", fail)
        with pytest.raises(RuntimeError, match="out of luck"):
            train(configs(place))
    assert set(threading.enumerate()) <= before
    events = Events()
    train(configs(place), events)
    assert [event["step"] for event in events.of("step")] == list(range(6, 13))
