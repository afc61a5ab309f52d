"""What a bug report says of this machine. Nothing is imported for it: torch takes seconds, and may be what is broken.

So versions come from the packages' metadata, torch's build from the text of its `version.py`, FFmpeg's libraries from
the names of their files in PyAV's wheel, and the GPU from the driver's own tool.
"""

import os
import platform
import re
import subprocess
import sys
from importlib import metadata, util
from pathlib import Path

from realesr_cli import catalog, weights

_PACKAGES = ("numpy", "typer", "safetensors", "requests", "spandrel", "ray")
_CPU_FLAGS = (
    "sse4_2",
    "avx2",
    "fma",
    "avx512f",
    "avx512_bf16",
    "amx_bf16",
    "avx512_fp16",
    "asimd",
    "asimdhp",
    "bf16",
    "sve",
)
_DRIVER_WAIT_S = 5.0


def facts() -> dict[str, str]:
    """Versions, processor, GPU, cache and models, each a name and one line; what is not there says so."""
    others = [f"{name} {version(name)}" for name in _PACKAGES if version(name) != "not installed"]
    models = [entry.name for entry in catalog.list_models() if weights.is_cached(entry.name)]
    return {
        "python": f"{platform.python_version()} ({sys.executable})",
        "system": platform.platform(),
        "torch": _torch(),
        "opencv": _opencv(),
        "av": ", ".join([version("av"), *_ffmpeg_libraries()]),
        "others": ", ".join(others),
        "cpu": _cpu(),
        "memory": _memory(),
        "gpu": "; ".join(_gpus()) or "none found",
        "cache": str(weights.cache_folder()),
        "models": ", ".join([*models, *weights.added_names()]),
    }


def version(package: str) -> str:
    """The version of an installed package, or "not installed"."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _torch() -> str:
    installed = version("torch")
    home = util.find_spec("torch")  # finds the folder, and runs nothing in it
    if home is None or home.origin is None:
        return installed
    text = _read(Path(home.origin).with_name("version.py"))
    builds = re.findall(r"^(cuda|hip|xpu)\b[^=]*= '([^']+)'", text, re.MULTILINE)
    return f"{installed} ({', '.join(f'{name} {number}' for name, number in builds) or 'CPU build'})"


def _opencv() -> str:
    names = ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless")
    found = [f"{version(name)} ({name})" for name in names if version(name) != "not installed"]
    return ", ".join(found) or "not installed"


def _ffmpeg_libraries() -> list[str]:
    """`avcodec 62.28.102` and its like; nothing where PyAV was built against the system's libraries."""
    try:
        files = metadata.files("av") or []
    except metadata.PackageNotFoundError:
        return []
    pattern = re.compile(r"(?:lib)?(avcodec|avformat|avutil|swscale)(?:-[0-9a-f]{8})?[.-](?:so\.)?(\d[\d.]*)")
    found = {match[1]: match[2] for file in files if (match := pattern.match(file.name))}
    return [f"{name} {number.rstrip('.')}" for name, number in sorted(found.items())]


def _cpu() -> str:
    text = _read(Path("/proc/cpuinfo"))
    name = re.search(r"^(?:model name|Model)\s*:\s*(.+)$", text, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.MULTILINE)
    has = set(flags[1].split()) if flags else set()
    if name is not None:
        label = name[1]
    elif sys.platform == "darwin":
        label = _output("sysctl", "-n", "machdep.cpu.brand_string")
    else:
        label = platform.processor() or platform.machine()
    return ", ".join([label, f"{os.cpu_count()} cores", " ".join(flag for flag in _CPU_FLAGS if flag in has)]).strip(
        ", "
    )


def _memory() -> str:
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.1f} GiB"
    return "unknown"


def _gpus() -> list[str]:
    """NVIDIA's by name, memory and driver; others by the kernel's driver. Apple's is part of the processor."""
    asked = _output("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")
    cards = [line.rsplit(", ", 1) for line in asked.splitlines() if line.count(", ") == 2]
    drivers = {path.resolve().name for path in Path("/sys/class/drm").glob("card[0-9]/device/driver")}
    return [f"{card}, driver {driver}" for card, driver in cards] + sorted(
        drivers & {"amdgpu", "i915", "xe", "nouveau"}
    )


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _output(*command: str) -> str:
    """What a program prints, or nothing: where it is missing, fails or hangs."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_DRIVER_WAIT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
