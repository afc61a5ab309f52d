"""Work that survives a killed run: finished pieces in `TARGET.segments/`, and a journal of them.

The journal has a line of JSON for the work as a whole and one for each piece; a line that a kill cut off does not
count.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from realesr_cli import cache
from realesr_cli.atomic import output_error, replacing
from realesr_cli.errors import OutputError, UsageError
from realesr_cli.reporting import Reporter
from realesr_cli.video.probe import unreadable
from realesr_cli.video.writer import Segment

_VERSION = 2
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
    written_bytes: int = 0
    """Of all pieces."""

    def path(self, number: int) -> Path:
        """Where a piece shall lie, without a suffix."""
        return self.folder / f"segment-{number:06}"

    def next_path(self) -> Path:
        return self.path(len(self.segments))

    def record(self, segment: Segment) -> None:
        """Adds a piece, which lies complete in the folder. Raises: OutputError, DiskFull."""
        lines = [*([] if _journal(self.folder).exists() else [self._header()]), self._line(segment)]
        try:
            with _journal(self.folder).open("a", encoding="utf-8") as file:
                file.writelines(lines)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise output_error(error, _journal(self.folder)) from error
        self._add(segment)

    def _add(self, segment: Segment) -> None:
        self.segments.append(segment)
        self.written_bytes += segment.path.stat().st_size

    def tidy(self) -> None:
        """Removes what killed runs have left half-written, and pieces that the journal does not know.

        Raises: OutputError.
        """
        with replacing(_journal(self.folder)) as temporary:
            temporary.write_text("".join([self._header(), *map(self._line, self.segments)]), "utf-8")
        kept = {segment.path.name for segment in self.segments} | {"lock", _journal(self.folder).name}
        try:
            for path in self.folder.iterdir():
                if path.name not in kept and path.name.lstrip(".").startswith(("segment-", "journal.")):
                    path.unlink()
        except OSError as error:
            raise OutputError(
                f"cannot tidy up {self.folder}: {error.strerror or error}", hint="delete it", path=self.folder
            ) from error

    def _header(self) -> str:
        return json.dumps({"version": _VERSION, "fingerprint": self.fingerprint}) + "\n"

    def _line(self, segment: Segment) -> str:
        facts = {
            "file": segment.path.name,
            "times": segment.times,
            "last_duration": segment.last_duration,
            "faces": segment.faces,
            "can_seek": self.can_seek,
        }
        return json.dumps(facts) + "\n"

    @property
    def frames(self) -> int:
        return sum(len(segment.times) for segment in self.segments)

    @property
    def last_pts(self) -> int | None:
        return self.segments[-1].times[-1] if self.segments else None


def work_folder(target: Path) -> Path:
    return target.with_name(f"{target.name}.segments")


@contextmanager
def resumed(target: Path, fingerprint: Fingerprint, *, restart: bool, reporter: Reporter) -> Iterator[Work]:
    """The work that an earlier run left for `target`, or new work; its folder stays for the next run until it is
    removed. With `restart`, work of other options gives way.

    Raises: UsageError (the work is of another source, model or options, or another process is at it), OutputError.
    """
    folder = work_folder(target)
    if folder.is_symlink():
        raise OutputError(f"{folder} is a link", hint="remove it: unfinished work has its own folder", path=folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("a+b")
    except OSError as error:
        raise output_error(error, folder) from error
    with lock:
        if not cache.try_lock(lock):
            raise UsageError(
                f"another process is already working on {target}", hint="wait for it, or choose another -o"
            )
        work = _load(folder, json.loads(json.dumps(fingerprint)), target, restart=restart)
        work.tidy()
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
    header, *pieces = _lines(_journal(folder)) or [{}]
    before = header.get("fingerprint")
    if header.get("version") != _VERSION or not isinstance(before, dict):
        return Work(folder, fingerprint, [])
    different = sorted(key for key in fingerprint.keys() | before.keys() if fingerprint.get(key) != before.get(key))
    if different and not restart:
        raise UsageError(
            f"{folder} holds work on {target} with another {', '.join(different)}",
            hint="use the same source, model and options to go on, or --overwrite to start afresh",
        )
    work = Work(folder, fingerprint, [])
    for facts in [] if different else pieces:
        segment = _segment(folder, facts)
        if segment is None:
            break  # what follows is made again
        work._add(segment)
        work.can_seek = bool(facts.get("can_seek"))
    return work


def _segment(folder: Path, facts: dict[str, Any]) -> Segment | None:
    """The piece of a line of the journal, if it lies in the folder itself."""
    try:
        path = folder / facts["file"]
        if path.parent != folder or path.is_symlink() or not path.is_file() or not facts["times"]:
            return None
        return Segment(
            path=path,
            times=tuple(map(int, facts["times"])),
            last_duration=int(facts["last_duration"]),
            faces=tuple(facts["faces"]),
        )
    except (LookupError, TypeError, ValueError, OSError):
        return None


def _lines(path: Path) -> list[dict[str, Any]]:
    """What the journal's complete lines say."""
    found = []
    try:
        for line in path.read_text("utf-8").splitlines():
            facts = json.loads(line)
            if not isinstance(facts, dict):
                break
            found.append(facts)
    except (OSError, ValueError, RecursionError):
        pass
    return found


def _journal(folder: Path) -> Path:
    return folder / "journal.jsonl"
