"""The program as a process of its own: what has to be said before it begins, and how Ctrl-C ends it.

Nothing is imported here that takes time, because all of it may happen twice.
"""

import contextlib
import os
import sys
from typing import NoReturn

_INTERRUPTED = (130, 143)
_RESTARTED = "REALESR_RESTARTED"
# A film's maps all have one size, and its codecs want the C library's quick way to small blocks.
_COMMANDS_OF_MANY_SIZES = (["image"], ["directory"], ["compare"], ["faces"], ["eval"])
_TCACHE = "glibc.malloc.tcache_count"


def start() -> NoReturn:
    """The command `realesr`. Ctrl-C ends it at once."""
    restart_with_settings(many_sizes=sys.argv[1:2] in _COMMANDS_OF_MANY_SIZES)
    from realesr_cli.cli.main import main

    try:
        main()
    except SystemExit as leaving:
        if leaving.code in _INTERRUPTED:
            # everything is closed and said by now; what is left is to take down libraries, and a video encoder first
            # finishes the pictures that it holds, which takes seconds
            with contextlib.suppress(OSError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(int(leaving.code))
        raise


def restart_with_settings(*, many_sizes: bool = True) -> None:
    """Runs this program anew with what glibc and OpenMP read when a process begins, if they are not told otherwise.

    `GOMP_SPINCOUNT`: torch's threads wait for each other in a loop, by default for so long that a film's encoder lacks
    the cores: a tenth of the speed. `GLIBC_TUNABLES`, for work with maps of `many_sizes`: small blocks that each thread
    puts aside divide the room between the large ones, so that a folder of photographs takes ever more memory (both in
    docs/performance.md). Returns if no restart is needed, or none is possible.
    """
    restarted = os.environ.pop(_RESTARTED, None) is not None
    missing = {}
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & set(os.environ):
        missing["GOMP_SPINCOUNT"] = "20000"
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if many_sizes and _is_glibc() and _TCACHE not in tunables:
        missing["GLIBC_TUNABLES"] = f"{tunables}:{_TCACHE}=0".lstrip(":")
    os.environ.update(missing)
    too_late = "GLIBC_TUNABLES" in missing or (missing and "torch" in sys.modules)
    # once, for a process with more rights than its caller is never shown tunables
    if too_late and not restarted and _can_restart():
        os.environ[_RESTARTED] = "1"
        with contextlib.suppress(OSError):
            os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _can_restart() -> bool:
    """Whether the same command line would do the same: no program read from stdin, no other one around Python."""
    if not sys.executable or sys.argv[:1] in ([], [""], ["-"]):
        return False
    try:
        return os.path.samefile(sys.executable, "/proc/self/exe")  # noqa: PTH121
    except OSError:
        return False


def _is_glibc() -> bool:
    try:
        return bool(os.confstr("CS_GNU_LIBC_VERSION"))
    except (AttributeError, ValueError, OSError):
        return False
