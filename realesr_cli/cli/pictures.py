"""What `realesr image`, `directory` and `video` share: flags to records, the model, failures counted."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from realesr_cli import auto, catalog, weights
from realesr_cli.cli.faces import not_cached_for_faces
from realesr_cli.cli.run import Run, report_failure
from realesr_cli.errors import ModelNotFound, RealesrError, UnreadableInput, UsageError
from realesr_cli.naming import STANDARD
from realesr_cli.options import DeviceOptions, FaceOptions, TileOptions
from realesr_cli.ready import Loaded, ModelOptions, load, make_ready
from realesr_cli.reporting import Reporter

if TYPE_CHECKING:
    from realesr_cli.crew import Crew
    from realesr_cli.faces.enhance import FaceEnhancer
    from realesr_cli.upscaler import Upscaler


@contextmanager
def upscalers(
    model: str,
    devices: Sequence[DeviceOptions],
    tile: TileOptions,
    run: Run,
    *,
    denoise: float | None,
    blend: str | None,
    faces: FaceOptions | None,
    offline: bool,
    dry_run: bool,
    for_films: bool = False,
) -> Iterator[tuple[list[Upscaler], list[FaceEnhancer]]]:
    """Yields the model on each of the devices, and what restores `faces` there; emits `model` and `restorer` events.

    None at all where something is not in the cache and `dry_run` forbids to fetch it; that is said. `blend` is
    `NAME:SHARE`. `for_films`: of several models that can be had, a fast one.
    """
    from realesr_cli.device import find_device

    options, reason = model_options(
        model,
        tile,
        denoise=denoise,
        blend=blend,
        faces=faces,
        offline=offline,
        device_type=lambda: find_device(devices[0].device).type,
        for_films=for_films,
    )
    if dry_run and (missing := _not_cached(options) + not_cached_for_faces(faces)):
        _announce_download(missing, run)
        yield [], []
        return
    loaded = load(options, run.reporter)
    ready, enhancers = [], []
    with ExitStack() as stack:
        for device in devices:
            upscaler, enhancer = make_ready(loaded, options, device, run.reporter)
            ready.append(stack.enter_context(upscaler))
            upscaler.announce(reason)
            if enhancer is not None:
                enhancers.append(enhancer)
                run.reporter.emit("restorer", **enhancer.facts())
        yield ready, enhancers


@contextmanager
def on_cluster(
    where: str,
    model: str,
    device: DeviceOptions,
    tile: TileOptions,
    run: Run,
    *,
    denoise: float | None,
    blend: str | None,
    faces: FaceOptions | None,
    offline: bool,
    for_films: bool = False,
) -> Iterator[tuple[Loaded, Callable[..., AbstractContextManager[Crew[Any, Any]]]]]:
    """Yields the networks, loaded here to plan with, and what starts workers of the cluster that hold them."""
    from realesr_cli.cluster import connected
    from realesr_cli.cluster_jobs import crew

    with connected(where) as cluster:
        need = cluster.need(device.device, device.threads)
        options, reason = model_options(
            model,
            tile,
            denoise=denoise,
            blend=blend,
            faces=faces,
            offline=offline,
            device_type=lambda: "cuda" if need.gpus else "cpu",
            for_films=for_films,
        )
        loaded = load(options, run.reporter)
        yield (
            loaded,
            partial(
                crew,
                cluster,
                options,
                need,
                device.precision,
                reason=reason,
                sha256s=loaded.sha256s,
                reporter=run.reporter,
            ),
        )


def model_options(
    model: str,
    tile: TileOptions,
    *,
    denoise: float | None,
    blend: str | None,
    faces: FaceOptions | None,
    offline: bool,
    device_type: Callable[[], str],
    for_films: bool = False,
) -> tuple[ModelOptions, str]:
    """The model that these flags mean on a device of such a type, and why; `blend` is `NAME:SHARE`.

    Raises: UsageError, DeviceUnavailable.
    """
    other, share = _parse_blend(blend, model)
    kind = device_type()  # a device that is not there is said before anything is fetched
    reason = ""
    if model == "auto" and denoise is not None:
        model = "realesr-general-x4v3"
    elif model == "auto":
        model, reason = auto.choose_model(kind, for_films=for_films)
    options = ModelOptions(
        model=model, denoise=denoise, other=other, share=share, tile=tile, faces=faces, offline=offline
    )
    return options, reason


def count_failure(
    run: Run, error: RealesrError, *, source: Path, alone: bool, stop: bool, id: int | None = None
) -> None:
    """One input decides the exit status by its own error; of several, status 1 says that some failed."""
    report_failure(run.reporter, error, id=id, source=source)
    run.summary["failed"] += 1
    run.exit_status = error.exit_status if alone else 1
    if stop:
        raise typer.Exit(run.exit_status)


def present_inputs(
    inputs: Sequence[Path], run: Run, *, folder_hint: str, fail_fast: bool, piped: bool = False
) -> list[Path]:
    """The inputs that are files, or `-` if they may be `piped`, each once; the others are reported at once.

    Raises: typer.Exit where none is left.
    """
    present = []
    for path in dict.fromkeys(inputs):
        # Path.is_file raises where a name is too long for the disk
        if (piped and path == STANDARD) or os.path.isfile(path):  # noqa: PTH113
            present.append(path)
            continue
        is_folder = os.path.isdir(path)  # noqa: PTH112
        what, hint = ("is a folder", folder_hint.format(path)) if is_folder else ("does not exist", None)
        error = UnreadableInput(f"{path} {what}", hint=hint, path=path)
        count_failure(run, error, source=path, alone=len(inputs) == 1, stop=fail_fast)
    if not present:
        raise typer.Exit(run.exit_status)
    return present


def known_scale(model: str) -> int | None:
    """The scale of a model of the catalogue; None for files and for names of the user's own."""
    if model == "auto":
        return catalog.find(auto.EMBEDDED).scale  # all that it may mean have one scale
    try:
        return None if weights.is_file(model) else catalog.find(model).scale
    except ModelNotFound:
        return None


def fit_box(text: str | None) -> tuple[int, int] | None:
    """(width, height) of `--fit 3840x2160`."""
    if text is None:
        return None
    width, _, height = text.lower().partition("x")
    if not (text.isascii() and width.isdigit() and height.isdigit()):
        raise UsageError(f"--fit {text} is not a size", hint="write width x height, e.g. --fit 3840x2160")
    return int(width), int(height)


def _parse_blend(text: str | None, model: str) -> tuple[str | None, float]:
    """The network and the share of `--blend NAME:0.8`."""
    if text is None:
        return None, 0.5
    if model == "auto":
        raise UsageError("--blend needs the network to blend with", hint="name it with -m")
    name, _, share = text.rpartition(":")
    try:
        number = float(share)
    except ValueError:
        number = float("nan")
    if not name or not 0 <= number <= 1:
        hint = "write a name or file and its share from 0 to 1, e.g. --blend esrgan.pth:0.8"
        raise UsageError(f"--blend {text} is not a network and its share", hint=hint)
    return name, number


def _not_cached(options: ModelOptions) -> list[catalog.CatalogEntry]:
    """The catalogue's entries that would have to be fetched first: of the model, of its twin for --denoise, and of what
    it is blended with."""
    wanted = []
    for name in filter(None, (options.model, options.other)):
        if weights.is_file(name):
            continue
        with suppress(ModelNotFound):  # a name of the user's own, or one that nobody knows: loading it will tell
            wanted.append(catalog.find(name))
    if options.denoise is not None and wanted and wanted[0].companion is not None:
        wanted.append(catalog.find(wanted[0].companion))
    return [entry for entry in wanted if not weights.is_cached(entry.name)]


def _announce_download(missing: list[catalog.CatalogEntry], run: Run) -> None:
    for entry in missing:
        size = f"{entry.size_bytes / 1e6:.1f} MB" if entry.size_bytes else "of unknown size"
        run.reporter.emit(
            "plan",
            model=entry.name,
            scale=entry.scale,
            download_bytes=entry.size_bytes,
            text=f"would first fetch {entry.name} (x{entry.scale}, {size}); "
            f"after `realesr models download {entry.name}`, --dry-run shows tiles, memory and time",
        )


class WithoutParts:
    """Passes on all events but the progress within single pictures and frames, which would hide that of the run."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter

    def emit(self, event: str, **fields: Any) -> None:
        if event != "progress" or fields.get("unit") not in ("pixels", "faces"):
            self._reporter.emit(event, **fields)
