"""Workers on a Ray cluster, each in a process with a device of its own, that take tasks and may be lost at any time.

Ray starts them, carries calls and answers, and tells who has died; here is only who gets what. Which tasks there are,
and what a worker does with one, cluster_jobs.py knows. Light.

Trap: of a killed worker Ray tells before its process is gone.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from realesr_cli.atomic import remove_leftovers
from realesr_cli.cluster import Cluster, Need
from realesr_cli.errors import DeviceUnavailable, RealesrError
from realesr_cli.reporting import Reporter

Task = TypeVar("Task")
Answer = TypeVar("Answer")

IN_FLIGHT = 3
"""Pictures, or groups of them, that a worker has at once: one is read, one is in the network, one is written."""
_DEADLY = 3
# How often it is looked whether machines have come or gone, and how long nobody says that none is there.
_LOOK_EVERY_S = 10.0
_PATIENCE_S = 60.0


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
