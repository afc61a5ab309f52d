"""Work that survives a killed run: finished pieces in `TARGET.segments/`, and what they were made of in `state.json`."""

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from realesr_cli import cache
from realesr_cli.atomic import output_error, replacing
from realesr_cli.errors import OutputError, UsageError
from realesr_cli.reporting import Reporter
from realesr_cli.video.probe import unreadable
from realesr_cli.video.writer import Segment

_VERSION = 1
_SAMPLES = 64
_SAMPLE_BYTES = 1 << 16

Fingerprint = Mapping[str, Any]
"""Everything that changes pixels, as JSON knows it: key -> value, named so that a person can be told what differs."""


@dataclass(slots=True)
class Work:
    """Pieces of one film in the order in which they are shown."""

    folder: Path
    fingerprint: Fingerprint
    segments: list[Segment]
    can_seek: bool = True
    """False once reading from the beginning has turned out to be needed to get the same frames."""

    def next_path(self, suffix: str) -> Path:
        return self.folder / f"segment-{len(self.segments):06}{suffix}"

    def record(self, segment: Segment) -> None:
        """Adds a piece, which lies complete in the folder. Raises: OutputError, DiskFull."""
        self.segments.append(segment)
        state = {
            "version": _VERSION,
            "fingerprint": self.fingerprint,
            "can_seek": self.can_seek,
            "segments": [
                {
                    "file": s.path.name,
                    "first_pts": s.first_pts,
                    "last_pts": s.last_pts,
                    "last_duration": s.last_duration,
                    "frames": s.frames,
                }
                for s in self.segments
            ],
        }
        with replacing(_state_file(self.folder)) as temporary:
            temporary.write_text(json.dumps(state, indent=1), "utf-8")

    @property
    def frames(self) -> int:
        return sum(segment.frames for segment in self.segments)

    @property
    def last_pts(self) -> int | None:
        return self.segments[-1].last_pts if self.segments else None


def work_folder(target: Path) -> Path:
    return target.with_name(f"{target.name}.segments")


@contextmanager
def resumed(target: Path, fingerprint: Fingerprint, *, restart: bool, reporter: Reporter) -> Iterator[Work]:
    """The work that an earlier run left for `target`, or new work; its folder stays for the next run until it is
    removed. With `restart`, work of other options gives way.

    Raises: UsageError (the work is of another source, model or options, or another process is at it), OutputError.
    """
    folder = work_folder(target)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("a+b")
    except OSError as error:
        raise output_error(error, folder) from error
    with lock:
        if not cache.try_lock(lock):
            raise UsageError(f"another process is already working on {target}", hint="wait for it, or choose another -o")
        work = _load(folder, json.loads(json.dumps(fingerprint)), target, restart=restart)
        _tidy(folder, work)
        if work.segments:
            reporter.emit(
                "resumed", frames=work.frames, segments=len(work.segments), output=str(target), folder=str(folder)
            )
        yield work


@contextmanager
def unresumed(target: Path, fingerprint: Fingerprint) -> Iterator[Work]:
    """Work in a folder that goes away, whatever happens."""
    folder = target.with_name(f".{target.name}.part")
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    except OSError as error:
        raise output_error(error, folder) from error
    try:
        yield Work(folder, fingerprint, [])
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove(work: Work) -> None:
    """Removes the folder, at the end."""
    shutil.rmtree(work.folder, ignore_errors=True)


def source_identity(path: Path) -> str:
    """A SHA-256 of the file's size and of 64 samples of 64 KiB from its beginning to its end.

    A film of many gigabytes is not read in full for it; what changes one changes its index or its size.
    Raises: UnreadableInput.
    """
    try:
        size = path.stat().st_size
        digest = hashlib.sha256(str(size).encode())
        with path.open("rb") as file:
            for place in sorted({max(0, size - _SAMPLE_BYTES) * i // (_SAMPLES - 1) for i in range(_SAMPLES)}):
                file.seek(place)
                digest.update(file.read(_SAMPLE_BYTES))
    except OSError as error:
        raise unreadable(path, error) from error
    return digest.hexdigest()


def _load(folder: Path, fingerprint: dict[str, Any], target: Path, *, restart: bool) -> Work:
    state = _read_state(_state_file(folder))
    if state is None:
        return Work(folder, fingerprint, [])
    before = state["fingerprint"]
    different = [key for key in fingerprint.keys() | before.keys() if fingerprint.get(key) != before.get(key)]
    if different and not restart:
        raise UsageError(
            f"{folder} holds work on {target} with another {', '.join(sorted(different))}",
            hint="use the same source, model and options to go on, or --overwrite to start afresh",
        )
    if different:
        return Work(folder, fingerprint, [])
    segments = []
    for facts in state["segments"]:
        path = folder / facts.pop("file")
        if not path.is_file():
            break  # what follows is done again
        segments.append(Segment(path=path, **facts))
    return Work(folder, fingerprint, segments, state["can_seek"])


def _read_state(path: Path) -> dict[str, Any] | None:
    """The state, or None where there is none that can be used."""
    try:
        state = json.loads(path.read_text("utf-8"))
        complete = state["version"] == _VERSION and {"fingerprint", "can_seek", "segments"} <= state.keys()
        return state if complete else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _tidy(folder: Path, work: Work) -> None:
    """Removes what killed runs have left half-written, and pieces that are not in the state."""
    kept = {segment.path.name for segment in work.segments} | {"lock", _state_file(folder).name}
    try:
        for path in folder.iterdir():
            if path.name not in kept:
                path.unlink()
        if not work.segments:
            _state_file(folder).unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"cannot tidy up {folder}: {error.strerror or error}", hint="delete it", path=folder) from error


def _state_file(folder: Path) -> Path:
    return folder / "state.json"
