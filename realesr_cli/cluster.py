"""The Ray cluster that a run uses: found, or started for it, and what its machines offer. Light.

Traps: Ray prints news of dead workers to standard output, which belongs to `--json`; `ray.init` takes SIGTERM for
itself, and tries for minutes to reach an address where nobody is.
"""

import contextlib
import os
import secrets
import signal
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from realesr_cli.atomic import remove_leftovers
from realesr_cli.errors import DeviceUnavailable, UsageError

# A worker on a CPU gets so many cores, or all of a smaller machine: one picture uses more of them badly.
_CPUS = 4
_REACHABLE_S = 10.0
# Ray makes sockets below its folder, whose paths must be short.
_SHORT = "/tmp" if Path("/tmp").is_dir() else None
_STORE_BYTES = 80 * 2**20  # Ray's least; nothing large is passed


@dataclass(frozen=True, kw_only=True, slots=True)
class Need:
    """What a worker takes of a machine; a machine has as many workers as that fits into."""

    cpus: int
    gpus: int

    def __str__(self) -> str:
        return f"{self.cpus} CPU{'s' * (self.cpus > 1)}{' and 1 GPU' * self.gpus}"

    def fits(self, resources: dict[str, float]) -> int:
        count = resources.get("CPU", 0) // self.cpus
        return int(min(count, resources.get("GPU", 0)) if self.gpus else count)


@contextmanager
def connected(where: str) -> Iterator["Cluster"]:
    """The Ray cluster at an address; `local` starts one on this machine, `auto` takes what is named or runs here.

    Raises: UsageError (the extra is not installed), DeviceUnavailable (there is none).
    """
    try:
        with _quiet():
            import ray
    except ImportError:
        raise UsageError(
            "--cluster needs Ray, which is not installed", hint="pip install 'realesr-cli[cluster]'"
        ) from None
    address = os.environ.get("RAY_ADDRESS") or where if where == "auto" else where
    if address not in ("auto", "local"):
        _check_reachable(address)
    before = signal.getsignal(signal.SIGTERM)
    cluster = Cluster()
    with contextlib.ExitStack() as stack:
        stack.callback(lambda: remove_leftovers(cluster.dropped))
        options: dict[str, Any] = {"address": address}
        if address == "local":
            folder = stack.enter_context(
                tempfile.TemporaryDirectory(prefix="ray-", dir=_SHORT, ignore_cleanup_errors=True)
            )
            options = {"address": "local", "include_dashboard": False, "object_store_memory": _STORE_BYTES}
            options["_temp_dir"] = folder
            stack.enter_context(_own_token())
        stack.enter_context(_quiet())
        try:
            ray.init(**options, log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            raise _no_cluster(address, error) from error
        finally:
            with contextlib.suppress(ValueError):  # not in the main thread: then Ray has not taken it either
                signal.signal(signal.SIGTERM, before)
        stack.callback(ray.shutdown)
        yield cluster


def _check_reachable(address: str) -> None:
    """Finds out at once what Ray would try for minutes. Raises: UsageError, DeviceUnavailable."""
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isdigit():
        raise UsageError(
            f"--cluster {address} is no address of a Ray cluster",
            hint="give HOST:PORT, as `ray start --head` prints it, on a machine of the cluster, where the files are",
        )
    try:
        socket.create_connection((host, int(port)), timeout=_REACHABLE_S).close()
    except (OSError, OverflowError) as error:
        raise _no_cluster(address, error) from error


def _no_cluster(address: str, error: Exception) -> DeviceUnavailable:
    if address == "auto":
        return DeviceUnavailable(
            "--cluster auto: no Ray cluster runs here, and RAY_ADDRESS names none",
            hint="`ray start --head` starts one, --cluster local one for this run, --cluster HOST:PORT names one",
        )
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return DeviceUnavailable(
        f"--cluster {address}: {reason}",
        hint="`ray status` shows whether the cluster runs, `ray start --head` starts it",
    )


@contextmanager
def _own_token() -> Iterator[None]:
    """A password for the cluster of this run; Ray would make one and leave it in the home folder."""
    own = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    before = {name: os.environ.get(name) for name in own}
    os.environ.update(own)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps Ray from printing, and from telling its makers that it is used."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else it warns of a change to come
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
        yield


class Cluster:
    """The machines of the cluster that this process is connected to."""

    def __init__(self) -> None:
        self.dropped: list[Path] = []
        """Files that were in work when the run ended: what is half-written of them is removed."""

    def need(self, device: str, threads: int | None) -> Need:
        """What a worker takes for `--device` and `--threads`. Raises: DeviceUnavailable, UsageError."""
        machines = self.machines()
        if device not in ("auto", "cpu", "cuda"):
            raise UsageError(
                f"--device {device} names devices of this machine, and --cluster those of all",
                hint="leave it out, or choose cpu or cuda",
            )
        gpus = sum(machine.get("GPU", 0) for machine in machines)
        if device == "cuda" and not gpus:
            raise DeviceUnavailable(
                "--device cuda: no machine of the cluster offers a GPU", hint="`ray status` shows them"
            )
        if gpus and device != "cpu":
            return Need(cpus=1, gpus=1)
        most = int(max((machine.get("CPU", 0) for machine in machines), default=0))
        cpus = threads or max(1, min(_CPUS, most))
        if cpus > most:
            raise DeviceUnavailable(f"no machine of the cluster offers {cpus} CPUs", hint="choose a smaller --threads")
        return Need(cpus=cpus, gpus=0)

    def machines(self) -> list[dict[str, float]]:
        """What each machine offers."""
        import ray

        return [machine["Resources"] for machine in ray.nodes() if machine["Alive"]]
