"""How much memory there is, and what of it this process keeps for its next tensors."""

import ctypes
import os
import sys
from pathlib import Path

import torch

# oneDNN keeps the programs that it writes for convolutions, one for each shape of maps: up to a quarter of a megabyte
# each, and by default 1,024 of them. A picture wants at most some 60 (docs/performance.md).
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "256")

_KEPT_BYTES = 2**26
_OUT_OF_MEMORY = (
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "bad_alloc",
    "alloc_failed",
    "unable to find an engine",  # cuDNN, when no algorithm's workspace fits
)


def free_memory_bytes(device: torch.device) -> int:
    """Memory that an allocation on `device` could take now, in bytes."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        # what torch's own allocator holds without using it is free as well
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type == "mps":
        return max(0, int(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()))
    if device.type == "xpu":
        free, _ = torch.xpu.mem_get_info(device)
        return int(free)
    return _free_host_bytes()


def _free_host_bytes() -> int:
    free = _meminfo_bytes()
    limit = _control_group_bytes()
    return free if limit is None else min(free, limit)


def _meminfo_bytes() -> int:
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    if sys.platform == "win32":
        return _windows_free_bytes()
    # macOS names no figure for available memory through the standard library: half of what is built in
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _windows_free_bytes() -> int:
    class Status(ctypes.Structure):
        _fields_ = (
            ("length", ctypes.c_ulong),
            ("load", ctypes.c_ulong),
            *((name, ctypes.c_ulonglong) for name in ("total", "free", "page", "page_free", "v", "v_free", "extended")),
        )

    status = Status(length=ctypes.sizeof(Status))
    ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status))  # type: ignore[attr-defined]
    return int(status.free)


def _control_group_bytes() -> int | None:
    """What a container may still use; None outside of one."""
    root = Path("/sys/fs/cgroup")
    try:
        limit, used = (root / "memory.max").read_text(), (root / "memory.current").read_text()
        return max(0, int(limit) - int(used)) if limit.strip() != "max" else None
    except (OSError, ValueError):
        return None


def is_out_of_memory(error: RuntimeError | MemoryError) -> bool:
    """Whether an error of torch means that memory is full: it has a class for that, but does not always use it."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error).lower()
    return any(words in text for words in _OUT_OF_MEMORY)


def keep_freed_memory() -> None:
    """Lets this process keep the memory of freed tensors for the next ones, where the C library can be told so.

    glibc hands every block above 32 MiB back to the system at once and takes it anew, page by page, for the next
    layer: with large pictures that costs half of the time (docs/performance.md). The two functions below give it back.
    """
    if _GLIBC is not None:
        # M_MMAP_THRESHOLD; before 2.35 it may be 32 MiB at most, and what is refused leaves 128 KiB
        if not _GLIBC.mallopt(-3, 1 << 30):
            _GLIBC.mallopt(-3, 1 << 25)
        _GLIBC.mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD
        _Heap.least_bytes = min(_Heap.least_bytes, _own_bytes())


def release_freed_memory() -> None:
    """Gives the memory that `keep_freed_memory` has kept back to the system."""
    if _GLIBC is not None:
        _GLIBC.malloc_trim(0)
        _Heap.least_bytes = _own_bytes()


def bound_freed_memory(tile_bytes: int) -> None:
    """Before work that takes `tile_bytes`: what is kept may be three times the largest such work, and 64 MiB.

    Maps of many sizes leave holes between what lives longer, and the next larger one fits into none of them. What the
    process takes above the least that was seen stands for what is kept: finding out would take as long as giving back.
    """
    _Heap.largest_tile_bytes = max(_Heap.largest_tile_bytes, tile_bytes)
    if _GLIBC is None:
        return
    own = _own_bytes()
    _Heap.least_bytes = min(_Heap.least_bytes, own)
    if own - _Heap.least_bytes >= _KEPT_BYTES + 3 * _Heap.largest_tile_bytes:
        release_freed_memory()


class _Heap:
    """What is known of this process's heap, which all engines share."""

    least_bytes = sys.maxsize
    """The least that the process was seen to take since it last gave some back."""
    largest_tile_bytes = 0


def _own_bytes() -> int:
    """Resident memory of this process but for what it shares with others, such as libraries; 0 where none says so."""
    try:
        _, resident, shared, *_ = Path("/proc/self/statm").read_text(encoding="ascii").split()
    except OSError:
        return 0
    return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")


def _find_glibc() -> ctypes.CDLL | None:
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") else None


_GLIBC = _find_glibc()
