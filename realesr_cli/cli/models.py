"""`realesr models`: what can be used by name, what the cache holds, blends of two networks, other file formats."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from realesr_cli import cache, catalog, weights
from realesr_cli.cli.flags import Json, Offline, Overwrite
from realesr_cli.cli.run import Run, report_failure, running
from realesr_cli.errors import ChecksumMismatch, ModelError, OutputExists, UsageError
from realesr_cli.reporting import JsonReporter, shown

app = typer.Typer(
    help="List, fetch, check, blend and convert networks.",
    rich_markup_mode=None,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name from `realesr models list`, or one of its aliases.")]
Names = Annotated[list[str], typer.Argument(metavar="NAME...", help="Names from `realesr models list`.")]


@app.command("list")
def list_(
    all_kinds: Annotated[bool, typer.Option("--all", help="Also discriminators, face networks and metrics.")] = False,
    json: Json = False,
) -> None:
    """List the networks that can be used by name; a star marks those in the cache."""
    with running("models list", json=json) as run:
        for entry in catalog.CATALOG:
            if all_kinds or entry.kind == "upscaler":
                facts = _facts(entry)
                star = "*" if facts["cached"] else " "
                size = _size(entry.size_bytes)
                _show(
                    run,
                    "model_entry",
                    facts,
                    f"{star} {entry.name:<{_WIDTH}} x{entry.scale}  {size:>9}  {entry.description}",
                )
        for name in weights.added_names():
            facts = _added_facts(name)
            _show(
                run,
                "model_entry",
                facts,
                f"* {name:<{_WIDTH}}  -  {_size(facts['cached_bytes']):>9}  {facts['source']}",
            )


@app.command()
def info(name: Name, json: Json = False) -> None:
    """Show all that is known about one network, and what the cache holds of it."""
    with running("models info", json=json, name=name) as run:
        is_added = name.casefold() in (added.casefold() for added in weights.added_names())
        facts = _added_facts(name) if is_added else _facts(catalog.find(name))
        lines = [
            f"{key.replace('_', ' '):<14} {_text(value)}" for key, value in facts.items() if value not in (None, ())
        ]
        _show(run, "model_entry", facts, "\n".join(lines))


@app.command()
def download(names: Names, offline: Offline = False, json: Json = False) -> None:
    """Fetch networks into the cache, checked by their SHA-256; print the files' paths."""
    with running("models download", json=json, names=names) as run:
        _each(run, names, lambda name: _print_path(run, name, offline=offline))


@app.command()
def path(name: Name, json: Json = False) -> None:
    """Print the path of a network's file in the cache; fetches nothing."""
    with running("models path", json=json, name=name) as run:
        _print_path(run, name, offline=True)


@app.command()
def verify(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME...]", help="Default: all in the cache.")] = None,
    json: Json = False,
) -> None:
    """Read cached files again in full and compare their SHA-256."""
    with running("models verify", json=json, names=names) as run:
        _each(run, names or list(weights.present_names()), lambda name: _verify(run, name))


@app.command()
def add(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .safetensors, .pth or ncnn file.")],
    name: Annotated[str | None, typer.Option("--name", help="Name for -m; default: the file's name.")] = None,
    json: Json = False,
) -> None:
    """Copy a weights file into the cache, so that -m finds it by name."""
    with running("models add", json=json, file=file, name=name) as run:
        given = weights.add(file, name)
        _show(run, "added", {"name": given, "path": weights.cached_path(given)}, given)


@app.command()
def remove(name: Name, json: Json = False) -> None:
    """Delete a network's files from the cache."""
    with running("models remove", json=json, name=name) as run:
        weights.remove(name)
        _show(run, "removed", {"name": name}, f"removed {name}")


@app.command()
def clean(
    yes: Annotated[bool, typer.Option("--yes", help="Delete them; without it they are only named.")] = False,
    json: Json = False,
) -> None:
    """Delete all that realesr keeps on this machine: networks, those that you added, unfinished downloads."""
    with running("models clean", json=json, yes=yes) as run:
        folder, files, total = weights.cache_folder(), weights.cached_files(), 0
        for file in files:
            size_bytes = file.stat().st_size
            total += size_bytes
            _show(run, "removed" if yes else "would_remove", {"path": file, "bytes": size_bytes}, str(file))
        if yes:
            cache.clean(files)
            run.summary["done"] += len(files)
        left = sorted(path.name for path in folder.iterdir()) if yes and folder.is_dir() else []
        text = f"{len(files)} files, {_size(total)} in {folder}"
        text += " deleted" if yes else "; `realesr models clean --yes` deletes them" if files else ": nothing to delete"
        text += f"; not made by realesr, or in use, and left: {', '.join(left[:5])}" if left else ""
        _show(run, "cleaned", {"folder": folder, "files": len(files), "bytes": total, "done": yes, "left": left}, text)


@app.command()
def interpolate(
    *,
    a: Annotated[str, typer.Argument(metavar="A", help="Name or file: the network of alpha 0.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Name or file: the network of alpha 1.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="The .safetensors file; with several alphas the picture.")
    ],
    alpha: Annotated[
        str, typer.Option("--alpha", help="Share of B: (1 - alpha) A + alpha B; or several, like 0,0.2,...,1.")
    ] = "0.5",
    picture: Annotated[
        Path | None, typer.Option("--picture", help="With several alphas: one crop of it through each, as a strip.")
    ] = None,
    overwrite: Overwrite = False,
    offline: Offline = False,
    json: Json = False,
) -> None:
    """Blend two trainings of one network, number by number: (1 - alpha) A + alpha B, as ESRGAN does. Several alphas
    make a labelled strip of pictures instead of a file.
    """
    with running("models interpolate", json=json, a=a, b=b, alpha=alpha, output=output) as run:
        alphas = _alphas(alpha)
        if (len(alphas) > 1) != (picture is not None):
            raise UsageError(
                f"--alpha {alpha} {'needs' if picture is None else 'goes without'} --picture",
                hint="several alphas and --picture FILE make a strip; one alpha makes a network",
            )
        _interpolate(run, (a, b), alphas, output, picture, overwrite=overwrite, offline=offline)


def _alphas(text: str) -> list[float]:
    """The numbers of `0.8` or `0,0.2,...,1`. Raises: UsageError."""
    parts = [part.strip() for part in text.split(",")]
    try:
        if "..." in parts:
            first, second, dots, last = parts
            start, step, end = float(first), float(second) - float(first), float(last)
            if dots != "..." or step <= 0:
                raise ValueError
            numbers = [round(start + step * number, 9) for number in range(int((end - start) / step + 1e-6) + 1)]
            numbers += [end] if numbers[-1] < end - 1e-6 else []
        else:
            numbers = [float(part) for part in parts]
    except ValueError:
        numbers = []
    if not 1 <= len(numbers) <= _MOST_ALPHAS or not all(0 <= number <= 1 for number in numbers):
        hint = f"give one number from 0 to 1, or up to {_MOST_ALPHAS}, like 0,0.2,...,1"
        raise UsageError(f"--alpha {text} is not a share", hint=hint)
    return numbers


def _interpolate(
    run: Run,
    names: tuple[str, str],
    alphas: list[float],
    output: Path,
    picture: Path | None,
    *,
    overwrite: bool,
    offline: bool,
) -> None:
    if picture is None and output.suffix.lower() != ".safetensors":
        raise UsageError(f"{output} would be a safetensors file by another name", hint="end its name in .safetensors")
    if output.exists() and not overwrite:
        raise OutputExists(f"{output} exists", hint="choose another name, or give --overwrite", path=output)
    files = [weights.resolve(name, offline=offline, reporter=run.reporter) for name in names]
    if output.resolve() in [file.resolve() for file in files]:
        raise UsageError(f"{output} is one of the two networks", hint="choose another name with -o")

    from realesr_cli.atomic import replacing
    from realesr_cli.models import reading
    from realesr_cli.models.architectures import respelled

    first, second = (respelled(reading.read_weights(file)) for file in files)
    if picture is not None:
        from realesr_cli.strip import write_strip

        write_strip(first, second, alphas, picture, output, overwrite=overwrite, reporter=run.reporter)
        run.summary["done"] += 1
        facts = {"a": names[0], "b": names[1], "alphas": alphas, "input": picture, "output": output}
        _show(run, "interpolated", facts, str(output))
        return
    alpha = alphas[0]
    blended = reading.blend(first, second, 1 - alpha)
    parents = {"a": names[0], "a_sha256": first.sha256, "b": names[1], "b_sha256": second.sha256, "alpha": f"{alpha!r}"}
    data = reading.safetensors_bytes(blended.tensors, {**blended.metadata, **parents})
    with replacing(output) as temporary:
        temporary.write_bytes(data)
    run.summary["done"] += 1
    _show(run, "interpolated", {"output": output, **parents}, str(output))


@app.command()
def export(
    *,
    model: Annotated[str, typer.Argument(metavar="NAME|FILE", help="Name from `realesr models list`, or a file.")],
    onnx: Annotated[bool, typer.Option("--onnx", help="For ONNX Runtime, OpenVINO, OpenCV and others.")] = False,
    ncnn: Annotated[
        bool, typer.Option("--ncnn", help="A .param and a .bin, for realesrgan-ncnn-vulkan and Upscayl.")
    ] = False,
    pth: Annotated[bool, typer.Option("--pth", help="For other PyTorch programs.")] = False,
    safetensors: Annotated[
        bool, typer.Option("--safetensors", help="Every number, and what it is; for realesr.")
    ] = False,
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Folder, or with one format a file; default: the current folder.")
    ] = Path(),
    overwrite: Overwrite = False,
    offline: Offline = False,
    json: Json = False,
) -> None:
    """Write a network in other file formats, one or several; print the files' paths."""
    given = {"safetensors": safetensors, "pth": pth, "onnx": onnx, "ncnn": ncnn}
    formats = [name for name, is_asked in given.items() if is_asked]
    with running("models export", json=json, model=model, formats=formats, output=output) as run:
        _export(run, model, formats, output, overwrite=overwrite, offline=offline)


def _export(run: Run, name: str, formats: list[str], output: Path, *, overwrite: bool, offline: bool) -> None:
    if not formats:
        raise UsageError("no format was chosen", hint="give --onnx, --ncnn, --pth or --safetensors, or several")
    is_folder = output.is_dir() or not output.suffix
    if not is_folder and len(formats) > 1:
        raise UsageError(f"{output} is one file, but {len(formats)} formats were chosen", hint="give a folder with -o")
    source = weights.resolve(name, offline=offline, reporter=run.reporter)

    from realesr_cli.atomic import output_error
    from realesr_cli.models.architectures import load_model
    from realesr_cli.models.export import SUFFIXES, export_model, files_of

    model = load_model(name, offline=offline, reporter=run.reporter)
    own = {source.resolve().with_suffix(suffix) for suffix in (source.suffix, ".param", ".bin")}
    targets = {
        format: output / f"{model.name}{suffix}" if is_folder else output
        for format, suffix in SUFFIXES.items()
        if format in formats
    }
    for format, target in targets.items():
        for file in files_of(target, format):
            if file.resolve() in own:
                raise UsageError(f"{file} is the network itself", hint="choose another name with -o")
            if file.exists() and not overwrite:
                raise OutputExists(f"{file} exists", hint="choose another name, or give --overwrite", path=file)
    if is_folder:
        try:
            output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise output_error(error, output) from error
    for format, target in targets.items():
        export_model(model, target, format, overwrite=overwrite)
        run.summary["done"] += 1
        _show(run, "exported", {"name": model.name, "format": format, "output": target}, str(target))


def _facts(entry: catalog.CatalogEntry) -> dict[str, Any]:
    facts = asdict(entry)
    wheel = facts.pop("wheel")
    if wheel is not None:
        facts["package"] = f"{wheel['package']}=={wheel['version']}"
    return {**facts, **_cached_facts(entry.name)}


def _added_facts(name: str) -> dict[str, Any]:
    return {"name": name, "kind": "added", **_cached_facts(name)}


def _cached_facts(name: str) -> dict[str, Any]:
    cached = weights.cached_path(name)
    if cached is None:
        return {"cached": None, "cached_bytes": None, "cached_sha256": None, "source": None}
    return {
        "cached": str(cached),
        "cached_bytes": cached.stat().st_size,
        "cached_sha256": weights.recorded_sha256(cached),
        "source": weights.recorded_source(cached),
    }


def _print_path(run: Run, name: str, *, offline: bool) -> None:
    file = weights.resolve(name, offline=offline, reporter=run.reporter)
    facts = {
        "name": name,
        "path": file,
        "sha256": weights.recorded_sha256(file),
        "source": weights.recorded_source(file),
    }
    _show(run, "path", facts, str(file))


def _verify(run: Run, name: str) -> None:
    if not weights.verify(name):
        hint = f"`realesr models download {name}` fetches it again"
        raise ChecksumMismatch(f"{name}: the file in the cache has changed", hint=hint)
    _show(run, "verified", {"name": name, "intact": True}, f"{name}: intact")


def _each(run: Run, names: list[str], action: Callable[[str], None]) -> None:
    """Goes on after a failure; one name: its error's status, several: 1."""
    for name in names:
        try:
            action(name)
            run.summary["done"] += 1
        except ModelError as error:
            run.summary["failed"] += 1
            run.exit_status = error.exit_status if len(names) == 1 else 1
            report_failure(run.reporter, error, source=name)


def _show(run: Run, event: str, facts: dict[str, Any], text: str) -> None:
    """The result: an event for `--json`, else plain text on stdout."""
    if isinstance(run.reporter, JsonReporter):
        run.reporter.emit(event, **facts)
    else:
        typer.echo(shown(text))


def _text(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _size(size_bytes: int | None) -> str:
    return "?" if size_bytes is None else f"{size_bytes / 1e6:.1f} MB"


_MOST_ALPHAS = 50
_WIDTH = max(len(entry.name) for entry in catalog.CATALOG if entry.kind == "upscaler")
