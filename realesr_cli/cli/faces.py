"""`realesr faces`: shows what the face detector finds; and the face flags that other commands have."""

import json as json_format
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from realesr_cli import catalog, weights
from realesr_cli.cli import flags
from realesr_cli.cli.run import running
from realesr_cli.errors import ModelNotFound, OutputError, OutputExists, UsageError
from realesr_cli.image_formats import format_of, result_suffix
from realesr_cli.options import FaceOptions
from realesr_cli.reporting import shown


def faces(
    source: Annotated[Path, typer.Argument(help="A picture file.", metavar="INPUT")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="File of the copy; default: NAME_faces beside the input.")
    ] = None,
    only_center_face: flags.OnlyCenterFace = False,
    face_min_size: flags.FaceMinSize = None,
    face_threshold: flags.FaceThreshold = None,
    overwrite: flags.Overwrite = False,
    offline: flags.Offline = False,
    json: flags.Json = False,
    quiet: flags.Quiet = False,
    verbose: flags.Verbose = False,
) -> None:
    """Draw the faces found on a copy of a picture, and print them as JSON: what --face-enhance would restore."""
    with running("faces", json=json, quiet=quiet, verbose=verbose, input=str(source)) as run:
        options = face_options_of(
            True, only_center_face=only_center_face or None, min_size_px=face_min_size, threshold=face_threshold
        )
        target = output or source.with_name(f"{source.stem}_faces{_suffix(source)}")
        format_of(target)
        if target.is_dir():
            raise OutputError(f"{target} is a folder", hint="name a file with -o", path=target)
        if target.exists() and target.samefile(source):
            raise UsageError(f"-o {target} is the input itself", hint="name another file with -o")
        if target.exists() and not overwrite:
            raise OutputExists(f"{target} is already there", hint="--overwrite replaces it", path=target)

        from realesr_cli.faces.detect import DETECTOR, FaceDetector, facts
        from realesr_cli.faces.draw import drawn
        from realesr_cli.image_io import read_image, write_image

        image = read_image(source, reporter=run.reporter)
        found = FaceDetector(weights.resolve(DETECTOR, offline=offline, reporter=run.reporter), options)(image.pixels)
        write_image(target, image.replace(drawn(image.pixels, found)), overwrite=overwrite, reporter=run.reporter)
        run.summary["done"] = 1
        height, width = image.pixels.shape[:2]
        result: dict[str, Any] = {
            "input": str(source),
            "output": str(target),
            "width": width,
            "height": height,
            "faces": [facts(face) for face in found],
        }
        if json:
            run.reporter.emit("detected", **result)
        else:
            typer.echo(shown(_text(result)))


def face_options_of(is_asked: bool, **given: Any) -> FaceOptions | None:
    """The options of `--face-enhance`, or None without it. `given` are fields of `FaceOptions`; None = the default.

    Raises: UsageError (a value out of range; options for faces without `--face-enhance`).
    """
    chosen = {name: value for name, value in given.items() if value is not None}
    if chosen and not is_asked:
        flag = {
            "only_center_face": "--only-center-face",
            "save_folder": "--save-faces",
            "accept_licence": "--accept-license",
            "min_size_px": "--face-min-size",
        }
        name = next(iter(chosen))
        raise UsageError(f"{flag.get(name, f'--face-{name}')} says nothing without --face-enhance", hint="add that")
    return FaceOptions(**chosen) if is_asked else None


def not_cached_for_faces(options: FaceOptions | None) -> list[catalog.CatalogEntry]:
    """The catalogue's entries that faces need and that would have to be fetched first."""
    if options is None:
        return []
    entries = [catalog.find("yunet")]
    if not weights.is_file(options.model):
        with suppress(ModelNotFound):  # a name of the user's own, or one that nobody knows: loading it will tell
            entries.append(catalog.find(options.model))
    return [entry for entry in entries if not weights.is_cached(entry.name)]


def _text(result: dict[str, Any]) -> str:
    """JSON with a line for each face."""
    head = json_format.dumps({name: value for name, value in result.items() if name != "faces"})
    lines = ",".join(f"\n  {json_format.dumps(face)}" for face in result["faces"])
    return f'{head[:-1]}, "faces": [{lines}\n]}}' if lines else f'{head[:-1]}, "faces": []}}'


def _suffix(source: Path) -> str:
    suffix = result_suffix(source)
    return suffix if format_of(Path(f"copy{suffix}")).colour else ".png"
