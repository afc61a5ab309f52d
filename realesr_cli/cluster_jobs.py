"""Pictures of a folder, and pieces of films, done by workers of a cluster with the functions that do them everywhere.

The driver plans, reports and counts; a worker reads its pictures and writes their results itself, so all paths lie on
a file system that all machines share. Light.
"""

import os
import socket
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from realesr_cli import __version__
from realesr_cli.atomic import output_error
from realesr_cli.cluster import Cluster, Need
from realesr_cli.crew import Crew, Facts
from realesr_cli.errors import ModelError, RealesrError, UnsupportedInput, UsageError
from realesr_cli.naming import ImageJob
from realesr_cli.options import DeviceOptions, Precision, VideoOptions
from realesr_cli.ready import ModelOptions, load, make_ready
from realesr_cli.reporting import Reporter

if TYPE_CHECKING:
    from realesr_cli.directory import Books, Ledger
    from realesr_cli.faces.enhance import FaceEnhancer
    from realesr_cli.image_jobs import PictureOptions
    from realesr_cli.journal import Entry
    from realesr_cli.upscaler import Upscaler
    from realesr_cli.video.film import Film
    from realesr_cli.video.pieces import MadePiece, Piece
    from realesr_cli.video.upscale import Farm

# Small files go to a worker by so many: it enlarges those of one size together.
_CHUNK = 8
_SMALL_FILE_BYTES = 2**17
_PIECES_AT_ONCE = 2

Event = tuple[str, dict[str, Any]]
Chunk = tuple[ImageJob, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Setup:
    """What a worker is told before its first task."""

    model: ModelOptions
    device: DeviceOptions
    reason: str
    """Why this model."""
    sha256s: tuple[str, ...]
    """Of the weights that all workers must have."""
    folder: Path
    """The driver's current one, from which paths are relative."""
    must_see: tuple[Path, ...]
    """What is on the file system that all share."""
    version: str = __version__


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What became of a chunk of pictures."""

    events: tuple[Event, ...]
    failed: dict[int, RealesrError]
    """By the number of the job."""
    entries: tuple["Entry", ...]
    """What was written down."""


# --- in the worker ----------------------------------------------------------------------------------------------------


class _Events:
    """A reporter that keeps what it hears; of progress the driver has its own."""

    def __init__(self) -> None:
        self._kept: list[Event] = []

    def emit(self, event: str, **fields: Any) -> None:
        if event != "progress":
            self._kept.append((event, fields))

    def taken(self) -> tuple[Event, ...]:
        """What was said since the last call."""
        kept, self._kept = self._kept, []
        return tuple(kept)


class Worker:
    """One process of the cluster, with one model on one device. Its methods are called from several threads."""

    def __init__(self) -> None:
        self._turn = threading.Lock()  # for the network
        self._writing = threading.Lock()
        self._said = _Events()
        self._upscaler: Upscaler | None = None
        self._enhancer: FaceEnhancer | None = None

    def prepare(self, setup: Setup) -> Facts | RealesrError:
        """Loads the model, once it is clear that files and weights are those of the driver."""
        try:
            return self._prepared(setup)
        except RealesrError as error:
            return error

    def _prepared(self, setup: Setup) -> Facts:
        host = socket.gethostname()
        if setup.version != __version__:
            raise UsageError(
                f"{host} has realesr {__version__}, and this machine {setup.version}",
                hint="install the same version on all machines of the cluster",
            )
        with suppress(OSError):  # then absolute paths may still do
            os.chdir(setup.folder)
        for path in setup.must_see:
            if not (setup.folder / path).exists():
                place = setup.folder / (path.parent if path.name.startswith(_PROBE) else path)
                raise UsageError(
                    f"{host} does not see {place}",
                    hint="inputs and outputs must lie on a file system that all machines share, under the same path",
                )
        loaded = load(setup.model, self._said)
        if loaded.sha256s != setup.sha256s:
            raise ModelError(
                f"{host} has other weights under the name {setup.model.model}",
                hint="-m FILE on the shared file system, or the same cache on all machines",
            )
        self._upscaler, self._enhancer = make_ready(loaded, setup.model, setup.device, self._said)
        self._upscaler.announce(setup.reason)
        if self._enhancer is not None:
            self._said.emit("restorer", **self._enhancer.facts())
        choice = self._upscaler.choice
        return Facts(
            host=host,
            pid=os.getpid(),
            events=self._said.taken(),
            device=str(choice.device),
            precision=choice.precision,
        )

    def pictures(self, jobs: Chunk, options: "PictureOptions", ledger: "Ledger") -> Answer:
        """Enlarges the pictures of a folder. Several calls at once overlap reading, the network and writing."""
        from realesr_cli.image_jobs import run_jobs

        assert self._upscaler is not None
        said = _Events()
        failed: dict[int, RealesrError] = {}
        entries: list[Entry] = []

        def complete(job: ImageJob, temporary: Path) -> None:
            with self._writing:
                entries.append(ledger.complete(job, temporary))

        run_jobs(
            jobs,
            [self._upscaler],
            options,
            reporter=said,
            fail=lambda job, error: failed.update({job.id: error}),
            done=lambda job: None,
            on_complete=complete,
            faces=[] if self._enhancer is None else [self._enhancer],
            turn=self._turn,
        )
        return Answer(events=(*self._said.taken(), *said.taken()), failed=failed, entries=tuple(entries))

    def piece(
        self, film: "Film", piece: "Piece", options: VideoOptions
    ) -> "tuple[tuple[Event, ...], MadePiece | RealesrError]":
        """Makes a piece of a film."""
        from realesr_cli.video.pieces import make_piece

        assert self._upscaler is not None
        with self._turn:
            try:
                made: MadePiece | RealesrError = make_piece(film, piece, self._upscaler, options)
            except RealesrError as error:
                made = error
            return self._said.taken(), made


# --- in the driver ----------------------------------------------------------------------------------------------------


_PROBE = ".realesr-probe-"


@contextmanager
def crew(
    cluster: Cluster,
    model: ModelOptions,
    need: Need,
    precision: Precision,
    *,
    reason: str,
    sha256s: tuple[str, ...],
    inputs: Sequence[Path],
    outputs: Iterable[Path],
    reporter: Reporter,
) -> "Iterator[Crew[Any, Any]]":
    """Workers that hold this model. All of them must see the inputs, and what is written into the folders `outputs`.

    Raises: OutputError.
    """
    device = DeviceOptions(
        device="cuda" if need.gpus else "cpu", precision=precision, threads=None if need.gpus else need.cpus
    )
    probes = [folder / f"{_PROBE}{uuid.uuid4().hex}" for folder in outputs]
    setup = Setup(
        model=model,
        device=device,
        reason=reason,
        sha256s=sha256s,
        folder=Path.cwd(),
        must_see=(*inputs, *probes),
    )
    try:
        for probe in probes:
            try:
                probe.parent.mkdir(parents=True, exist_ok=True)
                probe.touch()
            except OSError as error:
                raise output_error(error, probe.parent) from error
        yield Crew(cluster, Worker, lambda number: setup, need, reporter)
    finally:
        for probe in probes:
            with suppress(OSError):
                probe.unlink(missing_ok=True)


def run_jobs(
    workers: "Crew[Chunk, Answer]",
    jobs: Sequence[ImageJob],
    options: "PictureOptions",
    books: "Books",
    *,
    reporter: Reporter,
    fail: Callable[[ImageJob, RealesrError], None],
    done: Callable[[ImageJob], None],
) -> None:
    """`image_jobs.run_jobs` on a cluster; reports come in the order in which pictures are finished.

    `fail` and `done` are called in this thread; the run goes on unless they raise.
    """

    def give(handle: Any, number: int, chunk: Chunk) -> Any:
        return handle.pictures.remote(chunk, options, books.ledger(chunk, number))

    def answered(chunk: Chunk, answer: Answer) -> None:
        for entry in answer.entries:
            books.know(entry)
        for event, fields in answer.events:
            reporter.emit(event, **fields)
        for job in chunk:
            error = answer.failed.get(job.id)
            if error is None:
                done(job)
            else:
                fail(job, error)

    def lost(chunk: Chunk, number: int, deadly: str | None) -> Iterator[Chunk]:
        for job in chunk:
            if books.made_by(number, job):
                reporter.emit("done", **_result(job))
                done(job)
            elif deadly is not None:
                error = UnsupportedInput(
                    f"{job.source} was given up: three workers were lost over it, the last one as {deadly}",
                    hint="it may need more memory than a worker has: --tile 256 needs less",
                    path=job.source,
                )
                fail(job, error)
            else:
                yield (job,)

    chunks = list(_chunks(jobs))
    workers.run(
        chunks,
        len(chunks),
        give=give,
        done=answered,
        lost=lost,
        files=lambda chunk: (job.target for job in chunk),
    )


def _chunks(jobs: Iterable[ImageJob]) -> Iterator[Chunk]:
    """The jobs, small files that follow each other together."""
    chunk: list[ImageJob] = []
    for job in jobs:
        try:
            small = job.source.stat().st_size <= _SMALL_FILE_BYTES
        except OSError:
            small = False
        if chunk and (not small or len(chunk) == _CHUNK):
            yield tuple(chunk)
            chunk = []
        if small:
            chunk.append(job)
        else:
            yield (job,)
    if chunk:
        yield tuple(chunk)


def _result(job: ImageJob) -> dict[str, Any]:
    """The `done` event of a picture that a worker finished, but could not report any more."""
    from realesr_cli.image_header import read_header

    header = read_header(job.target.read_bytes())
    return {
        "id": job.id,
        "input": str(job.source),
        "output": str(job.target),
        "width": header.width if header else None,
        "height": header.height if header else None,
        "seconds": 0.0,
    }


def farm(
    workers: "Crew[Piece, tuple[tuple[Event, ...], MadePiece | RealesrError]]",
    options: VideoOptions,
    reporter: Reporter,
) -> "Farm":
    """Makes the pieces of a film on a cluster: for `upscale_video`."""

    def make(film: "Film", pieces: "Iterator[Piece]", done: "Callable[[Piece, MadePiece], None]") -> None:
        def give(handle: Any, number: int, piece: "Piece") -> Any:
            return handle.piece.remote(film, piece, options)

        def answered(piece: "Piece", answer: "tuple[tuple[Event, ...], MadePiece | RealesrError]") -> None:
            events, made = answer
            for event, fields in events:
                reporter.emit(event, **fields)
            if isinstance(made, RealesrError):
                raise made
            done(piece, made)

        def lost(piece: "Piece", number: int, deadly: str | None) -> "list[Piece]":
            if deadly is None:
                return [piece]
            begin_s = float(piece.times[0] * film.encoding.time_base - film.info.start)
            raise UnsupportedInput(
                f"{film.info.path} was given up: three workers were lost over the piece from {begin_s:.1f} s on, the "
                f"last one as {deadly}",
                hint="it may need more memory than a worker has: --tile 256 needs less",
                path=film.info.path,
            )

        most = -(-film.frames // options.segment_frames) if film.frames else 2**16
        workers.run(
            pieces, most, depth=_PIECES_AT_ONCE, give=give, done=answered, lost=lost, files=lambda piece: [piece.path]
        )

    return make
