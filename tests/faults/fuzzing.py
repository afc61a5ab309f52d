"""A process that reads hostile files one by one and watches itself.

    python tests/faults/fuzzing.py KIND,KIND FIRST COUNT FOLDER

makes files number FIRST to FIRST + COUNT - 1 of each KIND (`KINDS`) in FOLDER, reads them as the program does, and
prints one JSON object, by kind: how many were `loaded` and `refused`, the `problems` (number and what happened), and
the worst `seconds` (of the processor) and `memory_mib` of a single file. Each file follows from its kind and number.

A problem is anything but a result or a one-line `RealesrError`: another exception, a file written, a process started,
a socket opened (all seen by an audit hook), or memory out of proportion. A file that takes too long ends the process
with a traceback on stderr.
"""

import faulthandler
import json
import os
import random
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import hostile_files
from realesr_cli.errors import RealesrError
from realesr_cli.models.architectures import build_model
from realesr_cli.models.reading import read_weights
from realesr_train.recipes import load_config, load_stages

SECONDS_EACH = 5
"""Of the processor, for one file."""
_HANG_S = 100
"""On a busy machine one lasts long without needing long."""
MEMORY_MIB_EACH = 256
_ADDRESS_SPACE_BYTES = 2**33


def _load_weights(path: Path) -> None:
    build_model(read_weights(path), "fuzz")


def _load_config(path: Path) -> None:
    try:
        load_config(path)
    finally:
        load_stages(path)


KINDS: dict[str, tuple[Callable[[random.Random, str], hostile_files.Files], Callable[[Path], None]]] = {
    "safetensors": (hostile_files.safetensors, _load_weights),
    "pth": (hostile_files.pth, _load_weights),
    "ncnn": (hostile_files.ncnn, _load_weights),
    "toml": (hostile_files.toml, _load_config),
}

_FORBIDDEN = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "os.startfile", "os.mkdir",
              "os.remove", "os.rename", "os.rmdir", "os.chmod", "os.chown", "os.link", "os.symlink", "os.truncate",
              "os.utime", "os.putenv", "os.kill", "shutil.", "subprocess.", "socket.", "urllib.", "ctypes.dlopen",
              "webbrowser.", "tempfile.")  # fmt: skip
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Watch:
    """Notes what happens while it is `armed`."""

    def __init__(self) -> None:
        self.armed = False
        self.seen: list[str] = []
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.armed:
            return
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITING
        if writes or event.startswith(_FORBIDDEN):
            self.seen.append(f"{event} {str(arguments)[:200]}")


def _status_mib(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def read_all(kind: str, first: int, count: int, folder: Path) -> dict[str, Any]:
    """What the module's docstring says."""
    make, load = KINDS[kind]
    watch, canary = Watch(), folder / "canary"
    loaded = refused = 0
    worst_s = worst_mib = 0.0
    problems: list[str] = []
    for number in range(20):  # what is imported at first use is imported now
        _try(load, _written(make(random.Random(f"warm up {number}"), str(canary)), folder))
    address_space = int(_status_mib("VmSize") * 2**20) + _ADDRESS_SPACE_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (address_space, resource.RLIM_INFINITY))
    for number in range(first, first + count):
        path = _written(make(random.Random(f"{kind} {number}"), str(canary)), folder)
        Path("/proc/self/clear_refs").write_text("5")  # forgets the highest resident memory
        resident, started = _status_mib("VmRSS"), time.process_time()
        faulthandler.dump_traceback_later(_HANG_S, exit=True)
        watch.armed = True
        outcome = _try(load, path)
        watch.armed = False
        faulthandler.cancel_dump_traceback_later()
        seconds = time.process_time() - started
        worst_s = max(worst_s, seconds)
        grown = _status_mib("VmHWM") - resident
        worst_mib = max(worst_mib, grown)
        loaded += outcome == "loaded"
        refused += outcome == "refused"
        if outcome not in ("loaded", "refused"):
            problems.append(f"{number}: {outcome}")
        if grown > MEMORY_MIB_EACH:
            problems.append(f"{number}: took {grown:.0f} MiB")
        if seconds > SECONDS_EACH:
            problems.append(f"{number}: took {seconds:.0f} s")
        problems += [f"{number}: {event}" for event in watch.seen]
        watch.seen.clear()
    left = sorted(
        {path.name for path in folder.iterdir()}
        - {f"fuzz{suffix}" for suffix in (".safetensors", ".pth", ".param", ".bin", ".toml")}
    )
    problems += [f"left behind: {name}" for name in left]
    return {
        "loaded": loaded,
        "refused": refused,
        "problems": problems,
        "seconds": round(worst_s, 3),
        "memory_mib": round(worst_mib, 1),
    }


def _written(files: hostile_files.Files, folder: Path) -> Path:
    """Writes the files; gives the path of the first."""
    for suffix, data in files.items():
        (folder / f"fuzz{suffix}").write_bytes(data)
    return folder / f"fuzz{next(iter(files))}"


def _try(load: Callable[[Path], None], path: Path) -> str:
    try:
        load(path)
    except RealesrError as error:
        text = error.message + (error.hint or "")
        return "refused" if text.isprintable() and len(text) < 5000 else f"not one line: {text[:200]!r}"
    except BaseException as error:
        return f"{type(error).__name__}: {str(error)[:200]!r}"
    return "loaded"


if __name__ == "__main__":
    torch.set_num_threads(1)
    kinds, first, count, folder = sys.argv[1:]
    outcomes = {kind: read_all(kind, int(first), int(count), Path(folder)) for kind in kinds.split(",")}
    json.dump(outcomes, sys.stdout)
