"""Several processes that train together, on one machine: what `torchrun` does, for `--devices N`. Light.

A launcher tells each process in the environment who it is: RANK, WORLD_SIZE, LOCAL_RANK, and where they meet.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO

_GRACE_S = 20.0


def is_launched() -> bool:
    """Whether a launcher started this process as one of several."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def is_main() -> bool:
    """Whether this process is alone, or the first of several: the one that talks."""
    return os.environ.get("RANK", "0") == "0"


def start_processes(arguments: Sequence[str], count: int) -> int:
    """Runs `realesr ARGUMENTS` in `count` processes that train together; the exit status of the first one that matters.

    Rank 0 has this process's stdin, stdout and stderr. What another one says on stderr is shown if it fails in a way
    of its own. Once one has ended with an error, the others have 20 seconds. Ctrl-C reaches all of them.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    world = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}
    world["LOCAL_WORLD_SIZE"] = str(count)
    processes: list[subprocess.Popen[bytes]] = []
    said: list[IO[bytes]] = []
    with _patient() as asked:
        try:
            for rank in range(count):
                environment = {**os.environ, **world, "RANK": str(rank), "LOCAL_RANK": str(rank)}
                command = [sys.executable, "-m", "realesr_cli", *arguments]
                said.append(tempfile.TemporaryFile())  # noqa: SIM115
                output = (None, None) if rank == 0 else (subprocess.DEVNULL, said[rank])
                processes.append(subprocess.Popen(command, env=environment, stdout=output[0], stderr=output[1]))
            first = _wait(processes, asked)
            if first > 0 and processes[0].returncode != processes[first].returncode:
                said[first].seek(0)
                sys.stderr.write(said[first].read().decode(errors="replace"))
                return _status(processes[first])
            return _status(processes[0])
        finally:
            for process in processes:
                if process.poll() is None:
                    process.kill()
                process.wait()
            for file in said:
                file.close()


def _status(process: subprocess.Popen[bytes]) -> int:
    code = process.returncode
    return 128 - code if code < 0 else code  # of a process that a signal has ended


@contextmanager
def _patient() -> Iterator[list[int]]:
    """Signals are for the processes, which write a checkpoint; this one waits for them. Yields those that came.

    Ctrl-C in a terminal goes to all processes anyway; SIGTERM has to be passed on.
    """
    asked: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda number, _: asked.append(number)) for number in numbers]
    try:
        yield asked
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _wait(processes: Sequence[subprocess.Popen[bytes]], asked: list[int]) -> int:
    """Waits for rank 0, and ends all 20 seconds after the first failure: its rank, 0 if there is none."""
    first, ends = 0, float("inf")
    while True:
        if asked and asked.pop() == signal.SIGTERM and processes[0].poll() is None:
            processes[0].terminate()
        codes = [process.poll() for process in processes]
        failed = [rank for rank, code in enumerate(codes) if code]
        if failed and ends == float("inf"):
            first, ends = failed[0], time.monotonic() + _GRACE_S
        if codes[0] is not None or time.monotonic() > ends:
            if processes[0].poll() is None:
                processes[0].kill()
                processes[0].wait()
            return first
        time.sleep(0.05)
