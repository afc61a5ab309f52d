"""What a process keeps of the memory that it was given: with work of many sizes it must not grow with their number."""

import os
import statistics
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from realesr_cli import memory
from realesr_cli.device import precision_gain

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

_ONE_PICTURE = """
import sys
from pathlib import Path
import numpy as np
import torch
from realesr_cli import DeviceOptions, TileOptions, Upscaler
from realesr_cli.memory import _resident_bytes
from realesr_cli.models.compact import SRVGGNetCompact
from safetensors.torch import save_file

torch.manual_seed(0)
path, precision, tile = sys.argv[1:]
save_file(SRVGGNetCompact(channels=3, width=64, depth=4, scale=4).state_dict(), path)
pixels = np.random.default_rng(0).integers(0, 256, (400, 400, 3), np.uint8)
device = DeviceOptions(device="cpu", precision=precision, threads=1)
with Upscaler(path, device=device, tile=TileOptions(size=int(tile))) as upscaler:
    upscaler(pixels[:32, :32])
    Path("/proc/self/clear_refs").write_text("5")
    before = _resident_bytes()
    upscaler(pixels)
    status = Path("/proc/self/status").read_text().split()
    taken = int(status[status.index("VmHWM:") + 1]) * 1024 - before
    print(upscaler.plan(pixels, (1600, 1600)).memory_bytes / taken)  # afterwards, for it tries how fast the tile is
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


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("precision", "tile"), [("fp32", "200"), ("bf16", "200"), ("bf16", "400")])
def test_a_picture_takes_what_was_planned(precision: str, tile: str, tmp_path: Path) -> None:
    if precision == "bf16" and precision_gain(torch.bfloat16) < 1.3:
        pytest.skip("this CPU only imitates bf16")
    ratios = []
    for _ in range(3):  # where glibc puts a map, and so what can be reused, differs from one process to the next
        done = subprocess.run(
            [sys.executable, "-c", _ONE_PICTURE, str(tmp_path / "compact.safetensors"), precision, tile],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=0"},
        )
        ratios.append(float(done.stdout))
    assert 0.75 < statistics.median(ratios) < 1.25, ratios
