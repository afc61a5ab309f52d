"""The folder of downloaded weights: verified files, their records, and the lock between processes.

Each file has a sidecar `FILE.json` with the SHA-256 that was checked, and the size and time that the file then had, so
that a later run need not read it in full. Nothing outside the folder is ever deleted.
"""

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Collection, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

import platformdirs

from realesr_cli.atomic import replacing, target_of
from realesr_cli.errors import CorruptWeights, DiskFull, DownloadFailed, OutputError
from realesr_cli.reporting import Reporter

_LOCK_WAIT_S = 1800.0
_LOCK_POLL_S = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """Content of a sidecar."""

    sha256: str
    size_bytes: int
    mtime_ns: int
    """0 = do not trust size and time, read the file."""
    source: str
    """URL, package or path that the file came from."""


def cache_folder() -> Path:
    """The folder of downloaded weights: REALESR_CACHE, else the user's cache folder. It need not exist yet."""
    own = os.environ.get("REALESR_CACHE")
    return Path(own).expanduser() if own else platformdirs.user_cache_path("realesr")


def is_inside(path: Path) -> bool:
    """Whether the file lies in the cache folder."""
    return path.resolve().is_relative_to(cache_folder().resolve())


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's content. Raises: CorruptWeights when it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CorruptWeights(
            f"cannot read {path}: {error.strerror}", hint="check its permissions", path=path
        ) from error


def record_of(path: Path) -> Record | None:
    """What is recorded of a file in the cache; None when nothing is, or it is not in the cache."""
    if not is_inside(path):
        return None
    try:
        return Record(**json.loads(_sidecar(path).read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def fits(path: Path, record: Record) -> bool:
    """Whether size and time of the file are still those of the record."""
    now = path.stat()
    return (now.st_size, now.st_mtime_ns) == (record.size_bytes, record.mtime_ns)


def write_record(path: Path, sha256: str, source: str, *, is_trusted: bool = True) -> None:
    """Records that the file has this SHA-256, or, if not trusted, that it should. Raises: OutputError."""
    with writing(path):
        now = path.stat()
        mtime_ns = now.st_mtime_ns if is_trusted else 0
        record = Record(sha256=sha256, size_bytes=now.st_size, mtime_ns=mtime_ns, source=source)
        with replacing(_sidecar(path)) as temporary:
            temporary.write_text(json.dumps(asdict(record), indent=1), "utf-8")


def is_intact(path: Path, pinned: str | None) -> bool:
    """Whether the file has the SHA-256 `pinned`, or else the recorded one.

    Read in full only if its record does not fit: placed by hand, touched, or damaged.
    """
    record = record_of(path)
    expected = pinned or (record.sha256 if record else None)
    if expected is None or not path.is_file():
        return False
    if record is not None and record.sha256 == expected:
        if fits(path, record):
            return True
        if record.size_bytes != path.stat().st_size:
            return False
    if sha256_of(path) != expected:
        return False
    if is_inside(path):
        with contextlib.suppress(OutputError):  # in a read-only cache it is read each time
            write_record(path, expected, record.source if record else "placed by hand")
    return True


def store(name: str, content: Path | bytes, sha256: str, source: str) -> Path:
    """Puts a copy of a file, or these bytes, into the cache, whole or not at all. Raises: OutputError."""
    path = cache_folder() / name
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            if isinstance(content, Path):
                shutil.copyfile(content, temporary)
            else:
                temporary.write_bytes(content)
    write_record(path, sha256, source)
    return path


def delete(path: Path) -> bool:
    """Removes a file of the cache and its record; False if there was none. Raises: OutputError."""
    if not is_inside(path.parent) or not path.exists():
        return False
    with writing(path):
        path.unlink()
        _sidecar(path).unlink(missing_ok=True)
    return True


def files(published: Collection[str]) -> list[Path]:
    """All that realesr has put into the cache: the `published` file names, whatever has a record, records, unfinished
    downloads, locks and what a killed process left; not what belongs to a download that is under way. Sorted.

    Raises: OutputError (the folder cannot be read).
    """
    root = cache_folder()
    found, busy = [], set()
    with writing(root):
        for folder in (root, root / "added"):
            for path in sorted(folder.iterdir()) if folder.is_dir() else ():
                lock = re.fullmatch(r"\.(.+)\.lock", path.name)
                name = lock[1] if lock else target_of(path.name) or path.name
                name = name.removesuffix(".json").removesuffix(".part")
                if path.is_file() and (name in published or record_of(folder / name) is not None):
                    found.append((path, name))
                    if lock:
                        with path.open("rb+") as file:
                            busy |= set() if try_lock(file) else {name}
    return [path for path, name in found if name not in busy]


def clean(paths: Iterable[Path]) -> None:
    """Deletes these files of the cache, then its folders if nothing is left in them. Raises: OutputError."""
    root = cache_folder()
    for path in paths:
        if is_inside(path):
            with writing(path):
                path.unlink(missing_ok=True)
    for folder in (root / "added", root):
        with contextlib.suppress(OSError):  # something of the user's is in it
            folder.rmdir()


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns a failure to write into the cache into one line that says how to use another folder.

    Raises: DiskFull, OutputError.
    """
    hint = "set REALESR_CACHE to a folder that has room and that you may write to"
    try:
        yield
    except OutputError as error:
        raise type(error)(error.message, hint=hint, path=path) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(f"no space left while writing {path}", hint=hint, path=path) from error
        raise OutputError(f"cannot write {path}: {error.strerror or error}", hint=hint, path=path) from error


@contextlib.contextmanager
def locked(name: str, reporter: Reporter) -> Iterator[None]:
    """Holds the lock of one file between processes; the system releases it when a process dies.

    Raises: OutputError, DownloadFailed (another process has held it for half an hour).
    """
    path = cache_folder() / f".{name}.lock"
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+b")
    with file:  # closing it releases the lock
        until = time.monotonic() + _LOCK_WAIT_S
        if not try_lock(file):
            reporter.emit("note", message=f"another process is fetching {name}: waiting for it")
            while not try_lock(file):
                if time.monotonic() > until:
                    hint = "end that process, or set REALESR_CACHE to another folder"
                    raise DownloadFailed(f"another process has not finished fetching {name}", hint=hint)
                time.sleep(_LOCK_POLL_S)
        yield


def try_lock(file: IO[bytes]) -> bool:
    """Takes the lock of an open file, which closing releases; False if another process has it."""
    try:
        if sys.platform == "win32":
            import msvcrt

            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        # any other failure is a file system without locks: there the atomic rename alone keeps files whole
        return error.errno not in (errno.EACCES, errno.EAGAIN, errno.EDEADLK)
    return True


def _sidecar(path: Path) -> Path:
    return path.with_name(path.name + ".json")
