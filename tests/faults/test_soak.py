"""The short form of scripts/soak.py: its verdict over a minute of mixed work, and that it would see a leak."""

import importlib.util
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

_SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "soak.py"


@pytest.fixture(scope="module")
def soak() -> ModuleType:
    spec = importlib.util.spec_from_file_location("soak", _SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["soak"] = module  # its records look themselves up
    spec.loader.exec_module(module)
    return module


def test_a_rise_of_memory_handles_threads_or_files_is_a_leak_and_noise_is_none(soak: ModuleType) -> None:
    flat = [
        soak.Sample(minute=n, rounds=n, resident_mib=400 + n % 3, handles=6, threads=5, temporary_files=2)
        for n in range(20)
    ]
    assert soak.verdict(flat) == []
    (told,) = soak.verdict([replace(one, resident_mib=one.resident_mib + 2 * one.minute) for one in flat])
    assert "memory rises" in told
    for name in ("handles", "threads", "temporary_files"):
        (told,) = soak.verdict([*flat[:-1], replace(flat[-1], **{name: 99})])
        assert "rose from" in told


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="Linux only")
def test_a_minute_of_mixed_work_leaks_nothing() -> None:
    done = subprocess.run(
        [sys.executable, _SCRIPT, "1", "--every", "5", "--seed", "7", "--json"],
        env={"PYTHONPATH": str(_SCRIPT.parent.parent), "PATH": "/usr/bin:/bin", "OMP_WAIT_POLICY": "PASSIVE"},
        capture_output=True,
        text=True,
        check=False,
    )
    facts = json.loads(done.stdout)
    assert facts["leaks"] == []
    assert done.returncode == 0
    assert min(facts["done"][name] for name in ("pictures", "clips", "frames", "refused")) > 50
