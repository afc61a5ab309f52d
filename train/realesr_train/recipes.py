"""A TOML file or the name of a recipe -> the stages of a run, as checked records. Light: only the standard library.

A file may name one recipe as its `base` and replace it key by key. `[[stage]]` tables hold what is different in each
stage of a run; stages are run in a row, each from the average of the one before. Paths are relative to the file.
"""

import copy
import difflib
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from realesr_cli.errors import ConfigError
from realesr_cli.weights import is_file
from realesr_train.loss_config import Target
from realesr_train.tables import apply_overrides, from_table
from realesr_train.train_checks import check
from realesr_train.train_config import TrainConfig

FOLDER = Path(__file__).parent / "recipes"

_PATHS = (
    "run.folder", "data.folders", "data.lr_folders", "validation.folders", "validation.lr_folders",
    "degradation.kernels", "degradation.noise",
)  # fmt: skip
_NAMES_OR_PATHS = (
    "model.start_from", "discriminator.start_from", "loss.perceptual.weights", "loss.distill.teacher",
    "loss.distill.second",
)  # fmt: skip

Table = dict[str, Any]

_MOST_BYTES = 1 << 16
"""Longest configuration. The time that keys with many dots take grows with the square of their length."""
_MOST_STAGES = 64
_MOST_LEVELS = 16
"""Tables within tables; configurations have five. What goes through them calls itself for each."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """A built-in configuration; `about` is the first line of its file."""

    name: str
    path: Path
    about: str


def list_recipes() -> tuple[Recipe, ...]:
    """The built-in recipes by name."""
    found = []
    for path in sorted(FOLDER.glob("*.toml")):
        about = path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
        found.append(Recipe(name=path.stem, path=path, about=about))
    return tuple(found)


def find_recipe(name: str) -> Path:
    """The file of a built-in recipe. Raises: ConfigError with the nearest name."""
    known = {recipe.name: recipe.path for recipe in list_recipes()}
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
        raise ConfigError(f"no recipe is called {name}", hint=hint)
    return known[name]


def load_config(path: Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """The configuration in a TOML file, changed by `section.key=value` overrides; without its stages, and unchecked
    but for each section by itself.

    Raises: ConfigError (naming file and key).
    """
    table = _read(path)
    table.pop("stage", None)
    return _record(apply_overrides(table, overrides), path)


def load_stages(path: Path, overrides: Sequence[str] = ()) -> tuple[TrainConfig, ...]:
    """The stages of the run that a TOML file describes, one where it has no `[[stage]]`.

    Overrides go into every stage, those of `stage.0.key` into one.

    Raises: ConfigError (naming file and key).
    """
    table = _read(path)
    if not any(one.partition("=")[0].strip() == "run.folder" for one in overrides):
        _check_place(table, path)
    within = [one for one in overrides if one.lstrip().startswith("stage.")]
    others = [one for one in overrides if one not in within]
    table = apply_overrides(table, within)
    stages = table.pop("stage", [{}])
    if not isinstance(stages, list) or not stages or not all(isinstance(stage, dict) for stage in stages):
        raise ConfigError(f"{path}: stage must be one or more tables [[stage]]", path=path)
    if len(stages) > _MOST_STAGES:
        raise ConfigError(f"{path}: a run has at most {_MOST_STAGES} stages, not {len(stages)}", path=path)
    configs = []
    for number, stage in enumerate(stages):
        whole = apply_overrides(merged(table, stage), others)
        _anchor(whole, Path.cwd())  # those of the file are absolute by now, so that these are of the overrides
        config = unsharpened(_record(whole, path))
        try:
            check(config)
        except ConfigError as error:
            place = f"{path}: stage {number + 1}" if len(stages) > 1 else str(path)
            raise ConfigError(f"{place}: {error.message}", hint=error.hint, path=path) from error
        configs.append(config)
    if any(config.scale != configs[0].scale for config in configs):
        raise ConfigError(f"{path}: stages of one run must have one scale", path=path)
    return tuple(configs)


def _check_place(table: Table, path: Path) -> None:
    """Raises: ConfigError, if somebody else's file could have a run written wherever it likes."""
    stages = table.get("stage")
    for one in (table, *(stages if isinstance(stages, list) else ())):
        run = one.get("run") if isinstance(one, dict) else None
        folder = run.get("folder") if isinstance(run, dict) else None
        if not isinstance(folder, str) or "\0" in folder:
            continue  # none, or one that `from_table` will name
        place = Path(os.path.abspath(folder))  # noqa: PTH100 - a folder that is not there yet
        if not any(place.is_relative_to(home) for home in (path.absolute().parent, path.resolve().parent, Path.cwd())):
            raise ConfigError(
                f"{path}: run.folder = {folder!r} lies outside the folder of the file and the current one",
                hint="if that is where the run shall be written, say so with -o",
                path=path,
            )


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> Table:
    """A copy of `base` in which the values of `changes` replace key by key; tables are merged, all else is replaced."""
    result = copy.deepcopy(dict(base))
    for key, value in changes.items():
        below = result.get(key)
        both = isinstance(below, dict) and isinstance(value, Mapping)
        result[key] = merged(below, value) if both and below is not None else copy.deepcopy(value)
    return result


def unsharpened(config: TrainConfig) -> TrainConfig:
    """The same without any sharpening of targets where `data.sharpen` is false."""
    if config.data.sharpen:
        return config
    loss = config.loss
    return replace(
        config,
        data=replace(config.data, sharpen_target=False),
        loss=replace(
            loss,
            pixel=replace(loss.pixel, target=_plain(loss.pixel.target)),
            perceptual=replace(loss.perceptual, target=_plain(loss.perceptual.target)),
            adversarial=replace(loss.adversarial, target=_plain(loss.adversarial.target)),
        ),
    )


def _plain(target: Target) -> Target:
    return "gt" if target == "gt_usm" else target


def with_folder(config: TrainConfig, folder: Path) -> TrainConfig:
    """The same, to be written into `folder`."""
    return replace(config, run=replace(config.run, folder=folder))


def _read(path: Path) -> Table:
    """The table of a file over that of its base, paths made absolute. Raises: ConfigError."""
    table = _parse(path)
    base = table.pop("base", None)
    _anchor(table, path.resolve().parent)
    for stage in table["stage"] if isinstance(table.get("stage"), list) else []:
        if isinstance(stage, dict):
            _anchor(stage, path.resolve().parent)
    if base is None:
        return table
    if not isinstance(base, str):
        raise ConfigError(f"{path}: base = {base!r} must be the name of a recipe", path=path)
    try:
        under = _parse(find_recipe(base))
    except ConfigError as error:
        raise ConfigError(f"{path}: base: {error.message}", hint=error.hint, path=path) from error
    stages = under.get("stage")
    if stages is not None and "stage" not in table:  # what the file says counts more than the recipe's stages
        under["stage"] = [merged(stage, table) for stage in stages]
    return merged(under, table)


def _parse(path: Path) -> Table:
    """Raises: ConfigError."""
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {(error.strerror or str(error)).lower()}", path=path) from error
    if len(data) > _MOST_BYTES:
        raise ConfigError(
            f"{path} is no configuration: it has more than {_MOST_BYTES:,} bytes",
            hint="name many folders in a list file, and that in data.folders",
            path=path,
        )
    try:
        table = tomllib.loads(data.decode())
    except RecursionError as error:
        raise _too_deep(path) from error
    except ValueError as error:  # not TOML, not UTF-8, or a number with thousands of digits
        raise ConfigError(f"{path} is not TOML: {error}", path=path) from error
    _check_values(table, path)
    return table


def _check_values(table: Table, path: Path) -> None:
    """Raises: ConfigError for what TOML allows, but no computer need take."""
    level: list[Any] = [table]
    for _ in range(_MOST_LEVELS):
        inside = [value for one in level for value in (one.values() if isinstance(one, dict) else one)]
        if any(isinstance(value, int) and not -(2**63) <= value < 2**63 for value in inside):
            raise ConfigError(f"{path} is no configuration: a number in it has more than 64 bits", path=path)
        level = [value for value in inside if isinstance(value, dict | list)]
    if level:
        raise _too_deep(path)


def _too_deep(path: Path) -> ConfigError:
    return ConfigError(f"{path} is no configuration: its values are nested too deeply", path=path)


def _record(table: Mapping[str, Any], path: Path) -> TrainConfig:
    try:
        return from_table(TrainConfig, table)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error.message}", hint=error.hint, path=path) from error


def _anchor(table: Table, folder: Path) -> None:
    """Paths in the table become absolute; wrong types are left for `from_table` to name."""
    for key in (*_PATHS, *_NAMES_OR_PATHS):
        *sections, name = key.split(".")
        place: Any = table
        for section in sections:
            place = place.get(section) if isinstance(place, dict) else None
        if not isinstance(place, dict) or name not in place:
            continue
        value = place[name]
        if isinstance(value, list):
            place[name] = [str(folder / item) if isinstance(item, str) else item for item in value]
        elif isinstance(value, str) and value and (key in _PATHS or is_file(folder / value)):
            place[name] = str(folder / value)
