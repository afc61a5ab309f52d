"""A worker of a cluster that dies where names of files say so; processes of the cluster import this."""

import os
import signal
import time
from pathlib import Path
from typing import Any

from realesr_cli import cluster_jobs


class Mortal(cluster_jobs.Worker):
    """Notes what it begins; waits for a second worker, and dies, once at each moment, where a name says so."""

    def pictures(self, jobs: Any, options: Any, ledger: Any) -> Any:
        with Path("begun").open("a") as file:
            file.writelines(f"{job.source.name}\n" for job in jobs)
        names = " ".join(job.source.name for job in jobs)
        Path(f"worker {os.getpid()}").touch()
        ends = time.monotonic() + 100
        while "waits" in names and len(list(Path().glob("worker *"))) < 2 and time.monotonic() < ends:
            time.sleep(0.05)
        if "always dies" in names or ("dies at once" in names and _first_time("at once")):
            os.kill(os.getpid(), signal.SIGKILL)
        if "dies half" in names and _first_time("half"):
            ledger = _Deadly(ledger)
        answer = super().pictures(jobs, options, ledger)
        if "dies unreported" in names and _first_time("unreported"):
            os.kill(os.getpid(), signal.SIGKILL)
        return answer

    def piece(self, film: Any, piece: Any, options: Any) -> Any:
        if piece.number == 1 and _first_time("piece"):
            piece.path.with_name(f".{piece.path.stem}.1.part.mp4").write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
        return super().piece(film, piece, options)


class _Deadly:
    """A ledger; when a result is complete under its temporary name, and written down, the process dies."""

    def __init__(self, ledger: Any) -> None:
        self._ledger = ledger

    def complete(self, job: Any, temporary: Path) -> Any:
        self._ledger.complete(job, temporary)
        os.kill(os.getpid(), signal.SIGKILL)


def _first_time(what: str) -> bool:
    mark = Path(f"died {what}")
    if mark.exists():
        return False
    mark.touch()
    return True
