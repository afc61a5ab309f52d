"""What a run over a folder has finished: one line of JSON a result, in files beside the results.

A line is written when the result is complete under its temporary name, just before it gets its final one, and says how
large and how old that file is. So a killed run needs no repair: a result counts as finished only if it is there and is
that very file. A line that was torn by a full disk or a lost machine is passed over.
"""

import hashlib
import json
import os
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from realesr_cli.atomic import output_error

_NAME = ".realesr-journal"


@dataclass(frozen=True, slots=True)
class Identity:
    """Of a file, as far as names and clocks can tell."""

    size: int
    mtime_ns: int

    @staticmethod
    def of(path: Path) -> "Identity | None":
        """None where there is no such file."""
        try:
            status = path.stat()
        except OSError:
            return None
        return Identity(status.st_size, status.st_mtime_ns)


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A result and what it was made of."""

    source: str
    """Relative to the folder of the sources, with `/`."""
    target: str
    """Relative to the folder of the results, with `/`."""
    settings: str
    """`settings_key` of everything that changes pixels: model and options."""
    source_is: Identity
    source_sha256: str
    target_is: Identity


def settings_key(settings: Mapping[str, Any]) -> str:
    """A short name of these settings; equal for equal ones."""
    text = json.dumps(settings, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Journal:
    """The results known in a folder; `add` may be called from any thread.

    Runs that share a folder (`part` says which of several) write files of their own, and read those of all.
    """

    def __init__(self, folder: Path, part: str = "") -> None:
        self._path = journal_path(folder, part)
        self._lock = threading.Lock()
        self._entries: dict[str, Entry] = {}
        # in the order of their age, so that the last word on a result counts
        found = sorted(folder.glob(f"{_NAME}*.jsonl"), key=lambda path: path.stat().st_mtime_ns)
        for path in found:
            self.read(path)

    def read(self, path: Path) -> None:
        """Takes over the entries of a file that another process has written."""
        for line in path.read_bytes().splitlines() if path.exists() else ():
            entry = _parsed(line)
            if entry is not None:
                self.know(entry)

    def know(self, entry: Entry) -> None:
        """Takes over an entry that another process has written down."""
        self._entries[entry.target] = entry

    def find(self, target: str) -> Entry | None:
        return self._entries.get(target)

    def add(self, entry: Entry) -> None:
        """Raises: OutputError."""
        with self._lock:
            self.know(entry)
            append(self._path, entry)


def journal_path(folder: Path, part: str = "") -> Path:
    """The file in which a run notes what it finishes, or such a part of one."""
    return folder / f"{_NAME}{part and '.' + part}.jsonl"


def append(path: Path, entry: Entry) -> None:
    """Adds a line to a file of the journal, which no other thread writes to now. Raises: OutputError."""
    line = json.dumps(asdict(entry)).encode() + b"\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            # after a torn line a new one begins; one write call, so that lines of two processes never mix
            torn = file.tell() > 0 and not _ends_in_newline(path)
            file.write(b"\n" + line if torn else line)
    except OSError as error:
        raise output_error(error, path) from error


def _parsed(line: bytes) -> Entry | None:
    try:
        fields = json.loads(line)
        source_is, target_is = Identity(**fields.pop("source_is")), Identity(**fields.pop("target_is"))
        return Entry(**fields, source_is=source_is, target_is=target_is)
    except (ValueError, TypeError, AttributeError, KeyError):
        return None


def _ends_in_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
