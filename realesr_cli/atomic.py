"""Files that appear whole or not at all: written under a temporary name in the target's folder, flushed, renamed."""

import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from realesr_cli.errors import DiskFull, OutputError, OutputExists

NAME_BYTES = 255
"""Longest file name of the usual file systems, in bytes; the temporary name must not be the one that breaks it."""

_TEMPORARY = re.compile(r"\.(.+)\.\d+\.part(\.[^.]+|)", re.DOTALL)


def draw_number() -> int:
    """A number for temporary names that nobody can guess: in a folder of several people one could put a link there."""
    return secrets.randbelow(10**12)


def _temporary_name(path: Path, number: int) -> Path:
    end = f".{number}.part{path.suffix}"
    stem = os.fsencode(path.stem)[: NAME_BYTES - len(os.fsencode(end)) - 1]
    return path.with_name(f".{stem.decode(errors='ignore')}{end}")


def target_of(name: str) -> str | None:
    """The file that a temporary file of this name was to become; None for names of other files."""
    found = _TEMPORARY.fullmatch(name)
    return found[1] + found[2] if found else None


def remove_leftovers(paths: Iterable[Path]) -> None:
    """Removes the temporary files that a killed process has left of these paths, which nobody else may be writing."""
    names: dict[Path, set[str]] = {}
    for path in paths:
        names.setdefault(path.parent, set()).add(path.name)
    for folder, wanted in names.items():
        with suppress(OSError):
            for entry in list(os.scandir(folder)):
                if target_of(entry.name) in wanted:
                    Path(entry.path).unlink(missing_ok=True)


@contextmanager
def replacing(path: Path, *, overwrite: bool = True, number: int | None = None) -> Iterator[Path]:
    """Yields a temporary path beside `path`; at the end what was written there replaces `path` in one step.

    On any exception, Ctrl-C included, the temporary file is removed and `path` is untouched. Without `overwrite`, a
    file that another program has put there meanwhile stays. Files that must belong together before they have their
    names share a `number`, of `draw_number`.

    Raises: OutputExists, DiskFull, OutputError (the folder is missing or may not be written to).
    """
    temporary = _temporary_name(path, draw_number() if number is None else number)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        if overwrite:
            temporary.replace(path)
        else:
            _place_new(temporary, path)
    except OSError as error:
        raise output_error(error, path) from error
    finally:
        with suppress(OSError):  # the folder may not even exist
            temporary.unlink(missing_ok=True)


def _place_new(temporary: Path, path: Path) -> None:
    """Gives the file its name if nothing has it yet, as one step where the disk knows hard links."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise OutputExists(f"{path} is already there", hint="choose another name", path=path) from None
    except OSError:
        temporary.rename(path)  # FAT and some network disks know no links


def check_inside(path: Path, folder: Path) -> None:
    """Whether what is written to `path`, a path within `folder`, stays in there: no link on the way leads out.

    `folder` itself may be a link, and a link at `path` itself is replaced, not followed. Raises: OutputError.
    """
    if not path.parent.resolve().is_relative_to(folder.resolve()):
        raise OutputError(
            f"{path} is not written: a link leads out of {folder}",
            hint=f"give {path.parent.resolve()} as a folder of its own, or remove the link",
            path=path,
        )


def output_error(error: OSError, path: Path) -> OutputError:
    """The `OutputError` that says in one line why `path` could not be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(
            f"no space left while writing {path}", hint="free some space, or choose another disk with -o", path=path
        )
    return OutputError(
        f"cannot write {path}: {error.strerror or error}",
        hint="choose a folder that exists and that you may write to, with -o",
        path=path,
    )


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yields a new temporary folder beside `path`; at the end it gets that name with all that was written into it.

    A folder that was there before is removed. On any exception, Ctrl-C included, the temporary folder is removed and
    `path` is untouched. For flat folders: files in sub-folders are not flushed to the disk.

    Raises: DiskFull, OutputError.
    """
    temporary = _temporary_name(path, draw_number())
    try:
        temporary.mkdir(parents=True)
        yield temporary
        for file in temporary.iterdir():
            if file.is_file():
                _flush(file)
        _flush(temporary)
        if path.exists():
            shutil.rmtree(path)
        temporary.replace(path)
        _flush(path.parent)
    except OSError as error:
        raise output_error(error, path) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _flush(path: Path) -> None:
    """Waits until a file, or the list of names in a folder, is on the disk."""
    if path.is_dir() and os.name == "nt":
        return  # Windows cannot open folders, and writes their names by itself
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
