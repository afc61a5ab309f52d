"""`realesr train`: from a folder of pictures to a model file."""

import json as json_text
import sys
from pathlib import Path
from typing import Annotated

import typer

from realesr_cli.cli.flags import Json, Quiet, Verbose
from realesr_cli.cli.run import running
from realesr_cli.errors import UsageError


def train(
    config: Annotated[
        Path | None, typer.Option("--config", help="TOML file that describes the run (docs/training.md).")
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
    with running("train", json=json, quiet=quiet, verbose=verbose, config=config, recipe=recipe, output=output) as run:
        from realesr_train import recipes

        if list_recipes:
            for one in recipes.list_recipes():
                run.reporter.emit("plan", name=one.name, about=one.about, text=f"{one.name:18} {one.about}")
            return
        if (config is None) == (recipe is None):
            raise UsageError("say what to train: --config FILE or --recipe NAME", hint="--list-recipes shows them")
        if devices < 1:
            raise UsageError(f"--devices {devices} must be at least 1")
        overrides = list(set_ or [])
        # what flags say is relative to the current folder, what the file says to the file
        if data:
            overrides.append(f"data.folders={json_text.dumps([str(path.absolute()) for path in data])}")
        if output is not None:
            overrides.append(f"run.folder={json_text.dumps(str(output.absolute()))}")
        if device is not None:
            overrides.append(f"run.device={json_text.dumps(device)}")
        stages = recipes.load_stages(recipes.find_recipe(recipe) if recipe else Path(config or ""), overrides)

        from realesr_train import distributed, launch

        if check or (devices > 1 and not distributed.is_launched()):
            survey = launch.check_data(stages, run.reporter)
            if check:
                for stage in stages:
                    launch.check_parts(stage, run.reporter)
                run.reporter.emit("plan", text=survey)
                return
            status = distributed.start_processes(sys.argv[1:], devices)
            raise typer.Exit(status)
        result = launch.train(stages, run.reporter, allow_change=allow_change)
        run.summary["done"] += 1
        run.reporter.emit(
            "trained",
            model=str(result.model),
            steps=result.steps,
            best=result.best,
            hint=f"realesr image PICTURE -m {result.model}",
        )
