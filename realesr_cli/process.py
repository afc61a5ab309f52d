"""The program as a process of its own: what has to be said before it begins, and how Ctrl-C ends it.

Nothing is imported here that takes time, because all of it may happen twice.
"""

import contextlib
import os
import sys
from typing import NoReturn

_INTERRUPTED = (130, 143)
_RESTARTED = "REALESR_RESTARTED"


def start() -> NoReturn:
    """The command `realesr`. Ctrl-C ends it at once."""
    # a film's maps all have one size, and its codecs want the C library's quick way to small blocks
    restart_with_settings(many_sizes=sys.argv[1:2] != ["video"])
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

    `GOMP_SPINCOUNT`: torch's threads wait for each other for long in a loop before they let others run, who in a film
    are the encoder's: a tenth of the speed. `GLIBC_TUNABLES`, for work with maps of `many_sizes`: small blocks that
    each thread puts aside divide the room between the large ones, which in a folder of photographs doubles the memory
    (both in docs/performance.md). Returns where nothing is left to be said.
    """
    settings = {} if "OMP_WAIT_POLICY" in os.environ else {"GOMP_SPINCOUNT": "20000"}
    if many_sizes and _is_glibc():
        settings["GLIBC_TUNABLES"] = "glibc.malloc.tcache_count=0"
    missing = {name: value for name, value in settings.items() if name not in os.environ}
    os.environ.update(missing)
    too_late = "GLIBC_TUNABLES" in missing or (missing and "torch" in sys.modules)
    # a process with more rights than its caller never sees tunables: one attempt is enough
    if too_late and sys.executable and _RESTARTED not in os.environ and sys.platform == "linux":
        os.environ[_RESTARTED] = "1"
        with contextlib.suppress(OSError):
            os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _is_glibc() -> bool:
    try:
        return bool(os.confstr("CS_GNU_LIBC_VERSION"))
    except (AttributeError, ValueError, OSError):
        return False
