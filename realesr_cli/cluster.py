"""Workers on a Ray cluster, each in a process with a device of its own, that take tasks and may be lost at any time.

Ray starts them, carries calls and answers, and tells who has died; here is only who gets what. Which tasks there are,
and what a worker does with one, cluster_jobs.py knows. Light.

Traps: Ray prints news of dead workers to standard output, which belongs to `--json`; `ray.init` takes SIGTERM for
itself; a killed worker is reported before its process is gone.
"""

import contextlib
import os
import secrets
import signal
import socket
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from realesr_cli.atomic import remove_leftovers
from realesr_cli.errors import DeviceUnavailable, RealesrError, UsageError
from realesr_cli.reporting import Reporter

Task = TypeVar("Task")
Answer = TypeVar("Answer")

IN_FLIGHT = 3
"""Pictures, or groups of them, that a worker has at once: one is read, one is in the network, one is written."""
_DEADLY = 3
# A worker on a CPU gets so many cores, or all of a smaller machine: one picture uses more of them badly.
_CPUS = 4
# How often it is looked whether machines have come or gone, and how long nobody says that none is there.
_LOOK_EVERY_S = 10.0
_PATIENCE_S = 60.0
_REACHABLE_S = 10.0
# Ray makes sockets below its folder, whose paths must be short.
_SHORT = "/tmp" if Path("/tmp").is_dir() else None
_STORE_BYTES = 80 * 2**20  # Ray's least; nothing large is passed


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """What a worker says of itself when it is ready."""

    host: str
    pid: int
    events: tuple[tuple[str, dict[str, Any]], ...]
    """What it had to say while it became ready."""
    device: str
    precision: str
    """Of the network."""


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


@dataclass(slots=True, eq=False)
class _Worker:
    number: int
    handle: Any
    host: str = ""
    tasks: int = 0
    alone: bool = False
    """It has a task that others have died of, and gets no other."""


@dataclass(frozen=True, slots=True)
class _Try(Generic[Task]):
    task: Task
    deaths: int
    """Workers that died while they had it."""


class _Queue(Generic[Task]):
    """Tasks that nobody has yet, and those that are to be done again."""

    def __init__(self, tasks: Iterable[Task]) -> None:
        self.again: deque[_Try[Task]] = deque()
        self._waiting = iter(tasks)
        self._ended = False

    @property
    def is_empty(self) -> bool:
        """Whether all have been taken; known only once one was missing."""
        return self._ended and not self.again

    def take(self, worker: _Worker) -> _Try[Task] | None:
        """The next for this worker; None for the time being where others die of what is next, and this one is busy."""
        if self.again:
            return None if worker.tasks else self.again.popleft()
        following = None if self._ended else next(self._waiting, None)
        self._ended = following is None
        return None if following is None else _Try(following, 0)


class Crew(Generic[Task, Answer]):
    """The workers of a run; as many as the cluster has room for, and new ones for those that are lost."""

    def __init__(
        self, cluster: Cluster, worker: type, setup: Callable[[int], Any], need: Need, reporter: Reporter
    ) -> None:
        """`worker` is a class whose method `prepare(setup)` gives `Facts`, or a `RealesrError` that ends the run.

        `setup` is asked for what the worker of a number is told.
        """
        import ray

        self._cluster = cluster
        self._make = ray.remote(worker).options(
            num_cpus=need.cpus, num_gpus=need.gpus, max_concurrency=IN_FLIGHT, max_restarts=0
        )
        self._setup = setup
        self._need = need
        self._reporter = reporter
        self._count = 0
        self._starting: dict[Any, _Worker] = {}
        self._ready: list[_Worker] = []
        self._failed_starts = 0
        self._look_at = 0.0
        self._began = time.monotonic()
        self._told = self._has_spoken = False

    def first(self) -> Facts:
        """What the first worker says that becomes ready. Raises: RealesrError."""
        import ray

        self._fill(1)
        while True:
            for ref in ray.wait([*self._starting], timeout=_LOOK_EVERY_S)[0]:
                facts = self._admit(ref)
                if facts is not None:
                    return facts
            self._fill(1)
            self._tell_waiting()

    def run(
        self,
        tasks: Iterable[Task],
        most: int,
        *,
        depth: int = IN_FLIGHT,
        give: Callable[[Any, int, Task], Any],
        done: Callable[[Task, Answer], None],
        lost: Callable[[Task, int, str | None], Iterable[Task]],
        files: Callable[[Task], Iterable[Path]],
    ) -> None:
        """Hands out all tasks, `most` at the most, each to one worker at a time; a worker has `depth` at once.

        `give` calls a worker, given with its number, for a task. `done` is told its answer. `lost` is told which task
        died with which worker, and gives what of it is left to do: that is done again, each on a worker that has
        nothing else, so that it shows which one is deadly. Of one that has killed three it is told the cause as well,
        and gives nothing. `files` are those that a task writes.
        """
        import ray

        queue = _Queue(tasks)
        flying: dict[Any, tuple[_Worker, _Try[Task]]] = {}

        def hand_out() -> None:
            # no more for the first that is ready than its share, where there are few
            share = -(-most // max(1, len(self._ready) + len(self._starting)))
            for room in range(min(depth, share)):  # one each, then a second one each
                for worker in self._ready:
                    if worker.alone or worker.tasks != room:
                        continue
                    chosen = queue.take(worker)
                    if chosen is not None:
                        worker.tasks, worker.alone = worker.tasks + 1, chosen.deaths > 0
                        flying[give(worker.handle, worker.number, chosen.task)] = worker, chosen

        def settle(ref: Any) -> None:
            worker, tried = flying.pop(ref)
            try:
                answer = ray.get(ref)
            except ray.exceptions.RayTaskError as error:
                raise error.cause from error
            except ray.exceptions.RayError as error:
                remove_leftovers(files(tried.task))
                deaths = tried.deaths + 1
                cause = self._bury(worker, error)
                left = lost(tried.task, worker.number, cause if deaths >= _DEADLY else None)
                queue.again.extend(_Try(task, deaths) for task in left)
            else:
                worker.tasks, worker.alone = worker.tasks - 1, False
                done(tried.task, answer)

        try:
            self._look_at = 0.0
            self._fill(most)
            while True:
                hand_out()
                if not flying and queue.is_empty:
                    return
                for ref in ray.wait([*flying, *self._starting], timeout=_LOOK_EVERY_S)[0]:
                    if ref in flying:
                        settle(ref)
                    else:
                        self._admit(ref)
                self._fill(most)
                self._tell_waiting()
        finally:
            self._cluster.dropped += [path for _, tried in flying.values() for path in files(tried.task)]
            for worker in {worker for worker, _ in flying.values()}:
                self._dismiss(worker)

    def _fill(self, most: int) -> None:
        """Starts workers where the cluster has room for them, `most` in all."""
        now = time.monotonic()
        have = len(self._ready) + len(self._starting)
        if have >= most or now < self._look_at:
            return
        self._look_at = now + _LOOK_EVERY_S
        room = sum(self._need.fits(machine) for machine in self._cluster.machines())
        for _ in range(have, min(most, max(1, room))):
            self._count += 1
            worker = _Worker(self._count, self._make.remote())
            self._starting[worker.handle.prepare.remote(self._setup(worker.number))] = worker

    def _tell_waiting(self) -> None:
        """Says once that nobody is there to work."""
        if self._ready or time.monotonic() - self._began < _PATIENCE_S or self._told:
            return
        self._told = True
        self._reporter.emit(
            "warning",
            code="worker",
            message=f"no worker has started for {_PATIENCE_S:.0f} s; each needs {self._need} of one machine",
            hint="`ray status` shows what is free; Ctrl-C ends the run",
        )

    def _admit(self, ref: Any) -> Facts | None:
        """Takes in a worker that has become ready. Raises: RealesrError."""
        import ray

        worker = self._starting.pop(ref)
        try:
            answer = ray.get(ref)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error
        except ray.exceptions.RayError as error:
            self._failed_starts += 1
            self._look_at = 0.0
            if self._failed_starts >= _DEADLY:
                raise DeviceUnavailable(
                    f"workers of the cluster do not start: {_cause(error)}",
                    hint="each machine needs the same realesr, and memory for the model; `ray status` shows them",
                ) from error
            return None
        if isinstance(answer, RealesrError):
            raise answer
        assert isinstance(answer, Facts)
        self._failed_starts = 0
        worker.host = answer.host
        self._ready.append(worker)
        if not self._has_spoken:  # the others would say the same
            self._has_spoken = True
            for event, fields in answer.events:
                self._reporter.emit(event, **fields)
        self._reporter.emit(
            "worker",
            number=worker.number,
            host=answer.host,
            pid=answer.pid,
            device=answer.device,
            precision=answer.precision,
        )
        return answer

    def _bury(self, worker: _Worker, error: Exception) -> str:
        """Says once that a worker is lost; the cause."""
        cause = _cause(error)
        if worker in self._ready:
            self._dismiss(worker)
            self._reporter.emit(
                "warning",
                code="worker",
                message=f"worker {worker.number} on {worker.host} was lost ({cause}): what it had is done again",
                hint=None,
            )
        return f"{cause} on {worker.host}"

    def _dismiss(self, worker: _Worker) -> None:
        import ray

        self._ready.remove(worker)
        self._look_at = 0.0
        ray.kill(worker.handle)


def _cause(error: Exception) -> str:
    """Why a worker died, in a few words, of Ray's many."""
    text = str(error)
    if "low on memory" in text:
        return "the memory of its machine was full"
    if "node has died" in text or "node was terminated" in text:
        return "its machine is gone"
    if "creation task" in text:
        return text.strip().splitlines()[-1].strip()  # of a traceback
    return "its process was killed or has crashed"
