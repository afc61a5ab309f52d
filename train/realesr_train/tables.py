"""TOML tables to frozen records and back, strictly: nothing is converted but int to float and text to a path."""

import copy
import dataclasses
import difflib
import functools
import json
import math
import tomllib
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from realesr_cli.errors import ConfigError

Record = TypeVar("Record")


def apply_overrides(table: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A copy of the table with `a.b=value` written into it; values are TOML, `a.0.b` enters an array.

    Raises: ConfigError.
    """
    result = copy.deepcopy(dict(table))
    for override in overrides:
        key, equals, text = override.partition("=")
        parts = key.strip().split(".")
        if not equals or not all(parts):
            raise ConfigError(f"{override} is not key=value", hint="for example --set optim.lr=1e-4")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError as error:
            hint = f"text needs quotes: --set '{key}=\"{text.strip()}\"'"
            raise ConfigError(f"{override}: {text.strip()} is not a TOML value", hint=hint) from error
        place: Any = result
        for part in parts[:-1]:
            place = place.setdefault(part, {}) if isinstance(place, dict) else _element(place, part, override)
        if isinstance(place, dict):
            place[parts[-1]] = value
        else:
            _element(place, parts[-1], override)
            place[int(parts[-1])] = value
    return result


def _element(array: Any, part: str, override: str) -> Any:
    if not isinstance(array, list):
        raise ConfigError(f"{override}: what stands before .{part} is a value, not a table")
    if not (part.isascii() and part.isdigit() and int(part) < len(array)):
        raise ConfigError(f"{override}: {part} is not a place in an array of {len(array)}")
    return array[int(part)]


def from_table(cls: type[Record], table: Mapping[str, Any], where: str = "") -> Record:
    """A record of `cls` from a TOML table; `where` is the table's place, for messages. Absent keys keep their default.

    Raises: ConfigError.
    """
    if not isinstance(table, Mapping):
        raise ConfigError(f"{where} = {table!r} must be a table")
    hints = _types_of(cls)  # type: ignore[arg-type]
    names = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    for key in table:
        if key not in names:
            near = difflib.get_close_matches(key, names, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(names)}"
            raise ConfigError(f"unknown key {_join(where, key)}", hint=hint)
    values = {key: _convert(hints[key], value, _join(where, key)) for key, value in table.items()}
    missing = [
        field.name
        for field in dataclasses.fields(cls)  # type: ignore[arg-type]
        if field.name not in values
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ConfigError(f"{_join(where, missing[0])} is missing")
    try:
        return cls(**values)
    except ConfigError as error:
        raise ConfigError(_join(where, error.message), hint=error.hint) from error


@functools.cache
def _types_of(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def _convert(kind: Any, value: Any, where: str) -> Any:
    """The TOML value as `kind`: a record, tuple, Literal, optional or plain type. Raises: ConfigError."""
    origin, arguments = get_origin(kind), get_args(kind)
    if dataclasses.is_dataclass(kind):
        return from_table(kind, value, where)  # type: ignore[arg-type]
    if origin is tuple:
        return _convert_array(arguments, value, where)
    if origin in (Union, types.UnionType):
        (inner,) = (argument for argument in arguments if argument is not type(None))
        return _convert(inner, value, where)
    if origin is Literal:
        if value not in arguments or isinstance(value, bool) != isinstance(arguments[0], bool):
            raise ConfigError(f"{where} = {value!r} must be one of {', '.join(map(repr, arguments))}")
        return value
    if kind is float and type(value) is int:
        value = float(value)
    if kind is Path and type(value) is str and "\0" not in value:
        value = Path(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        words = {float: "a number", int: "a whole number", bool: "true or false", str: "text in quotes", Path: "a path"}
        raise ConfigError(f"{where} = {value!r} must be {words.get(kind, kind.__name__)}")
    if kind is float and not math.isfinite(value):
        raise ConfigError(f"{where} = {value} must be a finite number")
    return value


def _convert_array(parts: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    """Raises: ConfigError."""
    if not isinstance(value, list):
        raise ConfigError(f"{where} = {value!r} must be an array")
    if parts[-1] is Ellipsis:
        parts = parts[:1] * len(value)
    if len(value) != len(parts):
        raise ConfigError(f"{where} = {value!r} must be an array of {len(parts)}")
    pairs = enumerate(zip(parts, value, strict=True))
    return tuple(_convert(part, item, f"{where}[{i}]") for i, (part, item) in pairs)


def dump(config: Any) -> str:
    """TOML text that `from_table` reads as an equal record; fields that are None are left out."""
    return "\n".join(_lines(config, "")).strip() + "\n"


def _lines(record: Any, where: str) -> list[str]:
    plain, tables = [], []
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        place = _join(where, field.name)
        if dataclasses.is_dataclass(value):
            tables += ["", f"[{place}]", *_lines(value, place)]
        elif isinstance(value, tuple) and value and dataclasses.is_dataclass(value[0]):
            for item in value:
                tables += ["", f"[[{place}]]", *_lines(item, place)]
        elif value is not None:
            plain.append(f"{field.name} = {_literal(value)}")
    return plain + tables


def _literal(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return f"[{', '.join(map(_literal, value))}]"
    if isinstance(value, str | Path):
        return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)
