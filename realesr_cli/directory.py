"""A run over a folder: what is in it, what of that is finished already, and what to remember of the rest.

The pictures themselves go through image_jobs.py, as those of `realesr image` do.
"""

import dataclasses
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from realesr_cli.atomic import check_inside, output_error
from realesr_cli.errors import InputError, OutputError, OutputExists, RealesrError, UnreadableInput, UsageError
from realesr_cli.image_io import read_image
from realesr_cli.image_jobs import PictureOptions
from realesr_cli.journal import Entry, Identity, Journal, append, file_sha256, journal_path, settings_key
from realesr_cli.models.architectures import LoadedModel
from realesr_cli.naming import ImageJob, refuse_collisions, suffix_for
from realesr_cli.options import DeviceOptions, TileOptions
from realesr_cli.reporting import Reporter
from realesr_cli.tree import Shard, TreeOptions, find_files, listed_files, mirrored

Failed = Callable[[ImageJob, RealesrError], None]
Skipped = Callable[[ImageJob, str], None]
Standing = Literal["due", "finished", "changed", "outdated"]

# A file that is still being written has changed when it is looked at again.
_LOOK_EVERY_S = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Folder:
    """The folder of the sources, that of the results, and which files are meant."""

    root: Path
    output: Path
    tree: TreeOptions = dataclasses.field(default_factory=TreeOptions)
    listed: tuple[str, ...] | None = None
    """Lines of a list of files; None = all that the folder holds."""
    shard: Shard | None = None
    rename: bool = False
    """Results of one name get the whole name of their source instead of being refused."""
    move_failed: Path | None = None
    """Where sources go that cannot be read or used."""
    save_faces: Path | None = None
    """Where faces are kept: no sources either."""

    def files(self, failed: Callable[[Path, UnreadableInput], None]) -> Iterator[str]:
        """The relative paths that are meant, of all parts. Raises: UnreadableInput, UsageError."""
        if self.listed is not None:
            return listed_files(self.listed, self.root, self.tree)
        leave_out = [folder for folder in (self.output, self.move_failed, self.save_faces) if folder is not None]
        return find_files(self.root, self.tree, leave_out=leave_out, failed=failed)

    def is_ours(self, relative: str) -> bool:
        return self.shard is None or self.shard.holds(relative)

    def job(self, number: int, relative: str, target: str) -> ImageJob:
        path = self.output / target
        return ImageJob(number, self.root / relative, path, path.suffix, tree=Path(target).parent)


def plan_directory(
    folder: Folder, options: PictureOptions, failed: Callable[[Path, UnreadableInput], None]
) -> list[ImageJob]:
    """Which file becomes which. The tree is mirrored; `failed` is told what of it cannot be looked at.

    Raises: UsageError (two files with one result, in whatever part; a result that is a source), UnreadableInput.
    """
    _refuse_same(folder)
    files = list(folder.files(failed))
    targets = mirrored(files, lambda relative: suffix_for(folder.root / relative, options.output), rename=folder.rename)
    ours = [relative for relative in files if folder.is_ours(relative)]
    jobs = [folder.job(number, relative, targets[relative]) for number, relative in enumerate(ours)]
    refuse_collisions(jobs)
    return jobs


def arrivals(
    folder: Folder,
    options: PictureOptions,
    *,
    idle_s: float | None,
    failed: Failed,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[list[ImageJob]]:
    """The jobs of files that are there or arrive, in batches, until nothing has come for `idle_s` seconds.

    A file is taken when two looks, a second apart, have found it the same, and again when it has changed since.
    `failed` is told of one whose result would replace that of another.
    """
    _refuse_same(folder)
    taken: dict[str, Identity] = {}
    owners: dict[str, str] = {}
    refused: set[Path] = set()
    before: dict[str, Identity] = {}
    number, quiet_since = 0, time.monotonic()

    def unreadable(path: Path, error: UnreadableInput) -> None:
        if path not in refused:
            refused.add(path)
            failed(ImageJob(-1, path, path, ""), error)

    while idle_s is None or time.monotonic() - quiet_since < idle_s:
        now = {
            relative: identity
            for relative in folder.files(unreadable)
            if folder.is_ours(relative) and (identity := Identity.of(folder.root / relative)) is not None
        }
        batch = []
        for relative in [relative for relative, identity in now.items() if before.get(relative) == identity]:
            if taken.get(relative) == now[relative]:
                continue
            taken[relative] = now[relative]
            target = mirrored([relative], lambda name: suffix_for(folder.root / name, options.output))[relative]
            if folder.rename and owners.get(target, relative) != relative:
                target = relative + Path(target).suffix
            job = folder.job(number, relative, target)
            number += 1
            if owners.setdefault(target, relative) != relative:
                first = folder.root / owners[target]
                failed(job, OutputExists(f"{job.target} is the result of {first}", hint="--rename keeps both"))
            else:
                batch.append(job)
        if batch or now != before:
            quiet_since = time.monotonic()
        if batch:
            yield batch
            quiet_since = time.monotonic()
        before = now
        sleep(_LOOK_EVERY_S if idle_s is None else min(_LOOK_EVERY_S, idle_s / 2))


def _refuse_same(folder: Folder) -> None:
    if folder.output.resolve() == folder.root.resolve():
        raise UsageError(f"-o {folder.output} is the folder of the pictures", hint="name another for the results")
    if folder.output.exists() and not folder.output.is_dir():
        raise UsageError(f"-o {folder.output} is a file", hint="name a folder")


def pixel_settings(
    model: LoadedModel,
    options: PictureOptions,
    tile: TileOptions,
    device: DeviceOptions,
    faces: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """All that decides what the results look like. Device and tiles do not: they change rounding at most.

    `faces` is what `face_settings` says.
    """
    return {
        "model": model.sha256,
        "size": dataclasses.asdict(options.size),
        "output": {
            name: value
            for name, value in dataclasses.asdict(options.output).items()
            if name not in ("overwrite", "skip_existing", "format")
        },
        "self_ensemble": tile.self_ensemble,
        "keep_colours": tile.keep_colours,
        "precision": device.precision,
        "faces": faces,
    }


@dataclass(frozen=True, kw_only=True, slots=True)
class Ledger:
    """What it takes to write results down where they are made, which may be another process."""

    root: Path
    output: Path
    settings: str
    sources: Mapping[int, Identity]
    """What the source of each job was when the work was handed out, by the job's number."""
    journal: Path

    def entry(self, job: ImageJob, temporary: Path) -> Entry:
        """The line for a result that lies complete at `temporary`. Raises: UnreadableInput (another source now)."""
        before = self.sources.get(job.id)
        try:
            sha256 = file_sha256(job.source)
        except OSError:
            sha256 = ""
        made = Identity.of(temporary)
        if before is None or made is None or before != Identity.of(job.source):
            raise UnreadableInput(f"{job.source} has changed while it was enlarged", hint="try again", path=job.source)
        return Entry(
            source=job.source.relative_to(self.root).as_posix(),
            target=job.target.relative_to(self.output).as_posix(),
            settings=self.settings,
            source_is=before,
            source_sha256=sha256,
            target_is=made,
        )

    def complete(self, job: ImageJob, temporary: Path) -> Entry:
        """The same, written down. Raises: UnreadableInput, OutputError."""
        entry = self.entry(job, temporary)
        append(self.journal, entry)
        return entry


class Books:
    """What is finished in a folder: asked before the work, told after each result."""

    def __init__(
        self, folder: Folder, options: PictureOptions, settings: dict[str, Any], scale: int, reporter: Reporter
    ) -> None:
        self._part = f"{folder.shard.number}-of-{folder.shard.count}" if folder.shard else ""
        self._journal = Journal(folder.output, self._part)
        self._folder = folder
        self._options = options
        self._settings = settings_key(settings)
        self._scale = scale
        self._reporter = reporter
        self._sources: dict[int, Identity] = {}

    def due(self, jobs: Sequence[ImageJob], *, skipped: Skipped, failed: Failed) -> list[ImageJob]:
        """The jobs that are left to do; of each other one either `skipped` is told, with a reason, or `failed`.

        A result that the journal knows, and that is still that very file, is finished if its source and the settings
        have not changed; if they have, `--skip-existing` lets it be made again. What the journal does not know is
        never replaced without `--overwrite`; `--skip-existing` takes it as finished if it has the right size.

        Raises: UsageError (there are results of other settings, and neither option was given).
        """
        by_standing: dict[Standing, list[ImageJob]] = {"due": [], "changed": [], "outdated": []}
        for job in jobs:
            try:
                check_inside(job.target, self._folder.output)
                standing, reason = self._standing(job)
            except OutputError as error:
                failed(job, error)
                continue
            except OSError as error:  # a name that is too long, say
                failed(job, output_error(error, job.target))
                continue
            if standing == "finished":
                skipped(job, reason)
            else:
                by_standing[standing].append(job)
        due, changed, outdated = by_standing.values()
        hint = "--skip-existing makes such results again, --overwrite makes all anew, -o names another folder"
        if not self._options.output.skip_existing:
            if outdated:
                raise UsageError(f"{self._made_otherwise(outdated)} in {self._folder.output}", hint=hint)
            for job in changed:
                text = f"{job.source} has changed since its result was made, and {job.target} is there"
                failed(job, OutputExists(text, hint=hint))
        else:
            told = [f"{job.source} has changed since its result was made" for job in changed]
            for text in [*told, self._made_otherwise(outdated)] if outdated else told:
                self._reporter.emit("warning", code="changed", message=f"{text}: done again", hint=None)
            again = [dataclasses.replace(job, replaces=True) for job in (*changed, *outdated)]
            due = sorted([*due, *again], key=lambda job: job.id)
        self._sources = {job.id: identity for job in due if (identity := Identity.of(job.source)) is not None}
        return due

    def _standing(self, job: ImageJob) -> tuple[Standing, str]:
        """What is to be done about a job, and why it is finished if it is."""
        output = self._options.output
        if output.overwrite or not (job.target.exists() or job.target.is_symlink()):
            return "due", ""
        entry = self._journal.find(self._target(job))
        if entry is None or entry.target_is != Identity.of(job.target):
            if output.skip_existing and self._has_the_right_size(job):
                return "finished", "it has the right size, though the journal does not know it"
            return "due", ""  # loading it says that something is in the way
        if not self._is_same_source(entry, job):
            return "changed", ""
        if entry.settings != self._settings:
            return "outdated", ""
        return "finished", "nothing has changed since it was made"

    def _made_otherwise(self, jobs: Sequence[ImageJob]) -> str:
        return f"{len(jobs)} result{'s were' if len(jobs) > 1 else ' was'} made with other options or another model"

    def complete(self, job: ImageJob, temporary: Path) -> None:
        """Writes a result down just before it gets its name. May be called from any thread.

        Raises: UnreadableInput (the source has changed meanwhile), OutputError.
        """
        self._journal.add(self.ledger([job]).entry(job, temporary))

    def ledger(self, jobs: Iterable[ImageJob], worker: int | None = None) -> Ledger:
        """What a worker of a cluster needs to write these jobs down, in a file of its own."""
        return Ledger(
            root=self._folder.root,
            output=self._folder.output,
            settings=self._settings,
            sources={job.id: self._sources[job.id] for job in jobs if job.id in self._sources},
            journal=journal_path(self._folder.output, ".".join(filter(None, (self._part, f"worker-{worker}")))),
        )

    def know(self, entry: Entry) -> None:
        """Takes over what a worker has written down."""
        self._journal.know(entry)

    def made_by(self, worker: int, job: ImageJob) -> bool:
        """Whether a worker that nothing more will be heard of has finished this job."""
        before = self._journal.find(self._target(job))
        self._journal.read(self.ledger([], worker).journal)
        entry = self._journal.find(self._target(job))
        return entry is not None and entry != before and entry.target_is == Identity.of(job.target)

    def _target(self, job: ImageJob) -> str:
        return job.target.relative_to(self._folder.output).as_posix()

    def _is_same_source(self, entry: Entry, job: ImageJob) -> bool:
        now = Identity.of(job.source)
        if entry.source != job.source.relative_to(self._folder.root).as_posix() or now is None:
            return False
        if now == entry.source_is:
            return True
        # copied or checked out anew: only the time differs
        if now.size != entry.source_is.size or file_sha256(job.source) != entry.source_sha256:
            return False
        self._journal.add(dataclasses.replace(entry, source_is=now))
        return True

    def _has_the_right_size(self, job: ImageJob) -> bool:
        try:
            source = read_image(job.source, max_pixels=self._options.accept.max_pixels)
            made = read_image(job.target)
        except RealesrError:
            return False
        return made.pixels.shape[:2] == self._options.target(source.shape, self._scale)


def move_failed(folder: Folder, source: Path, error: RealesrError, reporter: Reporter) -> None:
    """Moves a source that cannot be read or used to the same place under `folder.move_failed`, with a `moved` event.

    A file that is there already stays; the new one gets a number. What a link brought into the folder of the sources
    is not moved: it lies elsewhere. Raises: OutputError.
    """
    if folder.move_failed is None or not isinstance(error, InputError) or not (source.is_file() or source.is_symlink()):
        return
    if not source.parent.resolve().is_relative_to(folder.root.resolve()):
        return
    place = target = folder.move_failed / source.relative_to(folder.root)
    check_inside(target, folder.move_failed)
    number = 1
    while target.exists() or target.is_symlink():
        number += 1
        target = place.with_name(f"{place.stem} {number}{place.suffix}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):  # gone by itself
            shutil.move(source, target)
    except OSError as problem:
        raise OutputError(
            f"cannot move {source} to {target}: {problem.strerror or problem}", hint="--move-failed names a folder"
        ) from problem
    reporter.emit("moved", input=str(source), output=str(target))
