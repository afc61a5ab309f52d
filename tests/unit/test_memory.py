"""What a process keeps of the memory that it was given: with work of many sizes it must not grow with their number."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from realesr_cli import memory

_MANY_SIZES = """
import sys
import numpy as np
import torch
from realesr_cli import DeviceOptions, Upscaler
from realesr_cli.memory import _resident_bytes
from realesr_cli.models.compact import SRVGGNetCompact
from safetensors.torch import save_file

torch.manual_seed(0)
path = sys.argv[1]
save_file(SRVGGNetCompact(channels=3, width=8, depth=3, scale=4).state_dict(), path)
with Upscaler(path, device=DeviceOptions(threads=1)) as upscaler:
    for number in range(480):
        upscaler(np.zeros((20 + number // 12, 20 + number % 12, 3), np.uint8))
        if number in (239, 479):
            print(_resident_bytes())
"""


@pytest.fixture
def heap(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A heap whose `held` bytes are what the process takes, and 100 after they were given back."""
    state = SimpleNamespace(held=100, released=0)

    def malloc_trim(pad: int) -> None:
        state.held, state.released = 100, state.released + 1

    monkeypatch.setattr(memory, "_GLIBC", SimpleNamespace(malloc_trim=malloc_trim))
    monkeypatch.setattr(memory, "_resident_bytes", lambda: state.held)
    monkeypatch.setattr(memory._Least, "bytes", sys.maxsize)
    return state


def test_freed_memory_is_given_back_where_it_has_become_more_than_is_wanted(heap: SimpleNamespace) -> None:
    for held, released in ((100, 0), (140, 0), (149, 0), (150, 1), (149, 1), (400, 2)):
        heap.held = held
        memory.release_freed_memory(50)
        assert heap.released == released, held


def test_it_is_measured_from_the_least_that_was_seen(heap: SimpleNamespace) -> None:
    for held, released in ((300, 0), (120, 0), (160, 0), (171, 1)):
        heap.held = held
        memory.release_freed_memory(50)
        assert heap.released == released, held
    memory.release_freed_memory()
    assert heap.released == 2


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_pictures_of_ever_new_sizes_take_no_more_memory_in_the_end(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _MANY_SIZES, str(tmp_path / "tiny.safetensors")],
        capture_output=True,
        text=True,
        check=True,
    )
    half, whole = map(int, done.stdout.split())
    # 165 MiB where oneDNN may keep the programs for all sizes
    assert whole - half < 60 * 2**20
