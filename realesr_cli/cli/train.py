"""`realesr train`: from a folder of pictures to a model file."""

import json as json_text
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from realesr_cli.cli.flags import Json, Quiet, Verbose
from realesr_cli.cli.run import running
from realesr_cli.errors import UsageError


def train(
    config: Annotated[
        Path | None, typer.Option("--config", help="TOML file of the run; its `base` may name a recipe.")
    ] = None,
    recipe: Annotated[str | None, typer.Option("--recipe", help="A built-in configuration, instead of a file.")] = None,
    list_recipes: Annotated[bool, typer.Option("--list-recipes", help="Show the recipes, and stop.")] = False,
    data: Annotated[
        list[Path] | None,
        typer.Option("--data", help="Folder of pictures, list or packed file; instead of data.folders. Repeatable."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Run folder; default: runs/NAME. Give it again to go on.")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="section.key=value, in TOML, over the file. Repeatable.")
    ] = None,
    sweep: Annotated[
        str | None,
        typer.Option("--sweep", help="key=a,b,c: a run for each value in the run folder, and a table of all."),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Look at configuration and data, say what is wrong, and stop.")
    ] = False,
    devices: Annotated[int, typer.Option("--devices", help="GPUs (or CPU processes) of this machine to use.")] = 1,
    device: Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda, cuda:N; over run.device.")] = None,
    allow_change: Annotated[
        bool, typer.Option("--allow-change", help="Go on in a run folder although the configuration has changed.")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Train a network. The same command, given again after anything, goes on from the last checkpoint; the model is
    model.safetensors in the run folder, for `realesr image -m`.
    """
    from realesr_train import processes, recipes

    supervises = devices > 1 and not check and not list_recipes and not processes.is_launched()
    talks = processes.is_main() and not supervises
    with running(
        "train", json=json and talks, quiet=quiet or not talks, verbose=verbose, config=config, recipe=recipe
    ) as run:
        if list_recipes:
            for one in recipes.list_recipes():
                run.reporter.emit("plan", name=one.name, about=one.about, text=f"{one.name:18} {one.about}")
            return
        if devices < 1:
            raise UsageError(f"--devices {devices} must be at least 1")
        if sweep is not None and (check or devices > 1 or processes.is_launched()):
            raise UsageError("--sweep goes with one process and without --check", hint="leave out the other option")
        if supervises:
            raise typer.Exit(processes.start_processes(sys.argv[1:], devices))
        if (config is None) == (recipe is None):
            raise UsageError("say what to train: --config FILE or --recipe NAME", hint="--list-recipes shows them")
        overrides = list(set_ or [])
        # what flags say is relative to the current folder, what the file says to the file
        for key, value in (
            ("data.folders", [str(path.absolute()) for path in data] if data else None),
            ("run.folder", None if output is None else str(output.absolute())),
            ("run.device", device),
        ):
            if value is not None:
                overrides.append(f"{key}={json_text.dumps(value)}")
        path = recipes.find_recipe(recipe) if recipe else Path(config or "")
        if sweep is not None:
            from realesr_train import sweep as engine

            results = engine.run(
                engine.parse(sweep),
                lambda more: recipes.load_stages(path, [*overrides, *more]),
                run.reporter,
                allow_change=allow_change,
            )
            run.summary["done"] = len(results)
            return
        stages = recipes.load_stages(path, overrides)

        from realesr_train import launch

        if check:
            run.reporter.emit("plan", text=launch.check_data(stages, run.reporter))
            return
        result = launch.train(stages, run.reporter, allow_change=allow_change)
        if processes.is_main():
            run.summary["done"] += 1
            run.reporter.emit(
                "trained",
                model=str(result.model),
                steps=result.steps,
                best=result.best,
                hint=f"realesr image PICTURE -m {shlex.quote(str(result.model))}",
            )
