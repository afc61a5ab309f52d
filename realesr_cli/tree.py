"""A folder of pictures: which files are meant, what their results are called, and which part of them is ours.

Everything here goes by names and by what kind of file a name is; nothing is opened. Paths inside the folder are
strings with `/` between their parts, so that a plan is the same on every system.
"""

import hashlib
import os
import re
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from realesr_cli.errors import UnreadableInput, UsageError
from realesr_cli.image_formats import READABLE_SUFFIXES


@dataclass(frozen=True, kw_only=True, slots=True)
class TreeOptions:
    """Which files of a folder are meant."""

    recursive: bool = True
    """Folders in the folder as well."""
    include: tuple[str, ...] = ()
    """Patterns, one of which must match; none = every file whose suffix is that of a picture."""
    exclude: tuple[str, ...] = ()
    """Patterns, none of which may match the file or a folder above it."""

    def takes(self, relative: str) -> bool:
        """Whether the file of this relative path is meant."""
        if any(_matches(place, self.exclude) for place in _and_parents(relative)):
            return False
        if self.include:
            return _matches(relative, self.include)
        return PurePosixPath(relative).suffix.lower() in READABLE_SUFFIXES


@dataclass(frozen=True, slots=True)
class Shard:
    """One of several parts into which a tree is cut, for machines that share the work."""

    number: int
    """From 1."""
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise UsageError(f"--shard {self.number}/{self.count} must lie between 1/N and N/N")

    def holds(self, relative: str) -> bool:
        """Whether a file is in this part. It depends on nothing but its relative path.

        The first 8 bytes of the SHA-256 of the path (Unicode form NFC, UTF-8) as a big-endian number, modulo `count`.
        """
        digest = hashlib.sha256(os.fsencode(unicodedata.normalize("NFC", relative))).digest()
        return int.from_bytes(digest[:8], "big") % self.count == self.number - 1


def parse_shard(text: str) -> Shard:
    """`2/8` is the second of eight parts. Raises: UsageError."""
    found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text, re.ASCII)
    if found is None:
        raise UsageError(f"--shard {text} is not I/N", hint="--shard 2/8 is the second of eight parts")
    return Shard(int(found[1]), int(found[2]))


def find_files(
    root: Path,
    options: TreeOptions,
    *,
    leave_out: Collection[Path] = (),
    failed: Callable[[Path, UnreadableInput], None],
) -> Iterator[str]:
    """The relative paths of the files in `root` that are meant, in the order of their names, folder by folder.

    Names that begin with a dot are left out, and so are the folders `leave_out` with all that is in them. Links are
    followed, each real folder is entered once, so circles do no harm. `failed` is told of folders that cannot be read
    and of links that lead nowhere.

    Raises: UnreadableInput (`root` itself).
    """
    entered = {identity for folder in leave_out if (identity := _identity(folder)) is not None}
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "does not exist"
        raise UnreadableInput(f"{root} {what}", hint="`realesr image` takes files", path=root)

    def enter(folder: Path, prefix: str) -> Iterator[str]:
        identity = _identity(folder)
        if identity is None or identity in entered:
            return
        entered.add(identity)
        try:
            with os.scandir(folder) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            failed(folder, UnreadableInput(f"cannot read the folder {folder}: {reason}", path=folder))
            return
        folders = []
        for entry in found:
            relative = prefix + entry.name
            if entry.name.startswith("."):
                continue
            if _is_dir(entry):
                folders.append(entry)
            elif not options.takes(relative):
                continue
            elif _is_file(entry):
                yield relative
            elif entry.is_symlink() and not Path(entry.path).exists():
                path = Path(entry.path)
                failed(path, UnreadableInput(f"{path} is a link that leads nowhere", path=path))
        for entry in folders if options.recursive else ():
            if not _matches(prefix + entry.name, options.exclude):
                yield from enter(Path(entry.path), f"{prefix}{entry.name}/")

    yield from enter(root, "")


def listed_files(lines: Iterable[str], root: Path, options: TreeOptions) -> Iterator[str]:
    """The relative paths that a list names, each once, in its order; empty lines do not count.

    A line is a path inside `root`, relative to it or absolute. `options.exclude` holds, and `options.include` if given;
    the suffix does not matter. Raises: UsageError (a path that leads out of `root`).
    """
    seen = set()
    for line in lines:
        text = line.rstrip("\r\n")
        if not text.strip():
            continue
        if "\0" in text:
            raise UsageError("a line of the list holds a NUL, which no path does", hint="is it a list of files?")
        place = os.path.normpath(text)
        if os.path.isabs(place):  # noqa: PTH117
            place = os.path.relpath(place, root.absolute())
        relative = Path(place).as_posix()
        if relative in (".", "..") or relative.startswith("../") or os.path.isabs(place) or Path(place).drive:  # noqa: PTH117
            raise UsageError(f"{text} in the list is not inside {root}", hint="its results would have no place")
        if relative in seen or any(_matches(part, options.exclude) for part in _and_parents(relative)):
            continue
        seen.add(relative)
        if not options.include or _matches(relative, options.include):
            yield relative


def mirrored(files: Sequence[str], suffix_of: Callable[[str], str], *, rename: bool = False) -> dict[str, str]:
    """Relative source -> relative target: the same path, with the suffix that `suffix_of` names.

    `rename` gives files that would have one target (`a.jpg` and `a.png` with `--format webp`) the whole source name in
    theirs: `a.jpg.webp` and `a.png.webp`. Raises: UsageError (such files, without `rename`).
    """
    targets: dict[str, str] = {}
    for relative in files:
        path, suffix = PurePosixPath(relative), suffix_of(relative)
        targets[relative] = relative if path.suffix == suffix else str(path.with_suffix(suffix))
    shared = _shared(targets)
    if shared and not rename:
        first, second, *_ = next(iter(shared.values()))
        more = f", and {len(shared) - 1} more such pairs" if len(shared) > 1 else ""
        raise UsageError(
            f"{first} and {second} would both become {targets[first]}{more}",
            hint="--rename calls the results NAME.jpg.png and so on; --exclude leaves files out",
        )
    for group in shared.values():
        for relative in group:
            targets[relative] = relative + PurePosixPath(targets[relative]).suffix
    still = _shared(targets)
    if still:
        first, second, *_ = next(iter(still.values()))
        raise UsageError(f"{first} and {second} would both become {targets[first]}", hint="rename one of them")
    return targets


def _shared(targets: Mapping[str, str]) -> dict[str, list[str]]:
    """Targets of more than one source, as disks see them that do not tell upper case from lower."""
    sources: dict[str, list[str]] = {}
    for source, target in targets.items():
        sources.setdefault(unicodedata.normalize("NFC", target).casefold(), []).append(source)
    # two sources that differ in case alone lie on a disk that tells them apart, and may do so as results
    return {
        target: group
        for target, group in sources.items()
        if len(group) > 1 and len({targets[source] for source in group}) < len(group)
    }


def _and_parents(relative: str) -> list[str]:
    """`a/b/c.png` -> `a/b/c.png`, `a/b`, `a`."""
    return [relative, *(str(parent) for parent in PurePosixPath(relative).parents if str(parent) != ".")]


def _matches(relative: str, patterns: Iterable[str]) -> bool:
    """Whether a pattern fits the name or the whole relative path; upper and lower case are one, and `*` crosses `/`."""
    path = relative.lower()
    name = path.rpartition("/")[2]
    return any(fnmatchcase(name, wanted) or fnmatchcase(path, wanted) for wanted in map(_plain, patterns))


def _plain(pattern: str) -> str:
    return pattern.lower().removeprefix("./").rstrip("/")


def _identity(folder: Path) -> tuple[int, int] | None:
    """The same for all names of one folder; None where there is none."""
    try:
        status = folder.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _is_dir(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:
        return False
