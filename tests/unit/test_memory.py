"""What a process keeps of the memory that it was given: with work of many sizes it must not grow with their number."""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import cv2
import numpy as np
import pytest
import torch

from networks import nearest
from realesr_cli import DeviceOptions, Upscaler, memory

_OWN_BYTES = memory._own_bytes
_MANY_SIZES = """
import sys
import numpy as np
import torch
from realesr_cli import DeviceOptions, Upscaler
from realesr_cli.memory import _own_bytes
from realesr_cli.models.compact import SRVGGNetCompact
from safetensors.torch import save_file

torch.manual_seed(0)
path = sys.argv[1]
save_file(SRVGGNetCompact(channels=3, width=8, depth=3, scale=4).state_dict(), path)
with Upscaler(path, device=DeviceOptions(threads=1)) as upscaler:
    for number in range(480):
        upscaler(np.zeros((20 + number // 12, 20 + number % 12, 3), np.uint8))
        if number in (239, 479):
            print(_own_bytes())
"""

_ONE_PICTURE = """
import sys
from pathlib import Path
import numpy as np
import torch
from realesr_cli import DeviceOptions, TileOptions, Upscaler
from realesr_cli.models.compact import SRVGGNetCompact
from realesr_cli.models.rrdb import RRDBNet
from safetensors.torch import save_file

torch.manual_seed(0)
path, network, precision, tile = sys.argv[1:]
made = RRDBNet(blocks=1) if network == "rrdb" else SRVGGNetCompact(channels=3, width=64, depth=4, scale=4)
save_file(made.state_dict(), path)
pixels = np.random.default_rng(0).integers(0, 256, (400, 400, 3), np.uint8)
device = DeviceOptions(device="cpu", precision=precision, threads=1)
with Upscaler(path, device=device, tile=TileOptions(size=int(tile))) as upscaler:
    upscaler(pixels[:32, :32])
    Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text().split()
    before = int(status[status.index("VmRSS:") + 1]) * 1024
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

    monkeypatch.setattr(memory, "_GLIBC", SimpleNamespace(malloc_trim=malloc_trim, mallopt=lambda *_: 1))
    monkeypatch.setattr(memory, "_own_bytes", lambda: state.held)
    monkeypatch.setattr(memory, "_KEPT_BYTES", 20)
    monkeypatch.setattr(memory._Heap, "least_bytes", sys.maxsize)
    monkeypatch.setattr(memory._Heap, "largest_tile_bytes", 0)
    return state


def test_freed_memory_is_given_back_where_it_has_become_more_than_is_wanted(heap: SimpleNamespace) -> None:
    memory.keep_freed_memory()
    for held, released in ((140, 0), (149, 0), (150, 1), (149, 1), (400, 2)):
        heap.held = held
        memory.bound_freed_memory(10)
        assert heap.released == released, held


def test_it_is_measured_from_the_least_that_was_seen_and_by_the_largest_tile(heap: SimpleNamespace) -> None:
    for held, tile, released in ((300, 10, 0), (120, 20, 0), (199, 10, 0), (201, 10, 1)):
        heap.held = held
        memory.bound_freed_memory(tile)
        assert heap.released == released, held
    memory.release_freed_memory()
    assert heap.released == 2


def test_nothing_is_given_back_unasked_where_the_system_tells_no_figures(
    heap: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_own_bytes", _OWN_BYTES)
    monkeypatch.setattr(Path, "read_text", Mock(side_effect=OSError))
    assert memory._own_bytes() == 0
    memory.bound_freed_memory(10)
    assert heap.released == 0
    memory.release_freed_memory()
    assert heap.released == 1


def test_an_engine_bounds_what_is_kept_before_each_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr("realesr_cli.engine.bound_freed_memory", asked.append)
    with Upscaler(nearest(), device=DeviceOptions(device="cpu")) as upscaler:
        for side in (20, 40):
            upscaler(np.zeros((side, side, 3), np.uint8))
    assert len(asked) == 2
    assert asked[1] > asked[0] > 0


def test_what_is_kept_counts_as_free_before_a_picture_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    free = [10_000]
    monkeypatch.setattr("realesr_cli.upscaler.free_memory_bytes", lambda device: free[0])
    monkeypatch.setattr("realesr_cli.upscaler.release_freed_memory", lambda: free.__setitem__(0, 10**9))
    with Upscaler(nearest(), device=DeviceOptions(device="cpu")) as upscaler:
        assert upscaler(np.zeros((80, 80, 3), np.uint8)).shape == (160, 160, 3)


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
@pytest.mark.skipif(not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="this CPU only imitates bf16")
@pytest.mark.parametrize(
    ("network", "precision", "tile"),
    [
        ("compact", "bf16", "200"),
        ("compact", "bf16", "400"),
        ("rrdb", "bf16", "400"),
        pytest.param("rrdb", "fp32", "400", marks=pytest.mark.slow),
    ],
)
def test_a_picture_takes_what_was_planned(network: str, precision: str, tile: str, tmp_path: Path) -> None:
    ratios = []
    for _ in range(3):  # where glibc puts a map, and so what can be reused, differs from one process to the next
        done = subprocess.run(
            [sys.executable, "-c", _ONE_PICTURE, str(tmp_path / "x.safetensors"), network, precision, tile],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=0"},
        )
        ratios.append(float(done.stdout))
    assert 0.75 < statistics.median(ratios) < 1.25, ratios


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.skipif(not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="this CPU only imitates bf16")
@pytest.mark.parametrize("suffix", [".jpg", ".avif"])
def test_a_file_takes_what_dry_run_says(suffix: str, tmp_path: Path) -> None:
    """Decoding, bands that wait for each other and the encoder's own memory included."""
    root, source = Path(__file__).parents[2], tmp_path / "in.png"
    script = root / "scripts" / "bench_memory.py"
    cv2.imwrite(str(source), cv2.resize(cv2.imread(str(root / "assets" / "budgie.jpg")), (700, 800)))
    command = [sys.executable, script, source, "-m", "realesr-lite-x4", "--threads", "1", "--target"]
    ratios = []
    for number in range(3):
        done = subprocess.run([*command, tmp_path / f"{number}{suffix}"], check=True, capture_output=True, text=True)
        figures = json.loads(done.stdout)
        ratios.append(figures["planned_mib"] / figures["added_mib"])
    assert 0.75 < statistics.median(ratios) < 1.25, ratios
