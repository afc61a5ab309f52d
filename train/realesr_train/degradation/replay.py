"""Draws as plain numbers and names, one record an image, so that any sample can be looked at and made again."""

import dataclasses
from collections.abc import Sequence
from typing import Any, get_args, get_origin, get_type_hints

import torch
from torch import Tensor

from realesr_train.degradation.draws import DIRECTIONS, NOISES, Draws
from realesr_train.degradation.kernels import FAMILIES
from realesr_train.degradation.realsr import RealsrDraws
from realesr_train.degradation.resize import MODES
from realesr_train.degradation.shuffled import COLOURS, FILTERS, ShuffledDraws

AnyDraws = Draws | ShuffledDraws | RealsrDraws
_KINDS = {"shuffled": ShuffledDraws, "realsr": RealsrDraws}
"""By the field `kind`; draws of the second-order model are without it."""

_NAMES: dict[str, tuple[str, ...]] = {
    "family": FAMILIES, "mode": MODES, "direction": DIRECTIONS, "kind": NOISES, "halving": FILTERS, "filter": FILTERS,
    "last_filter": FILTERS, "colour": COLOURS,
}  # fmt: skip
"""Fields that are written as names."""
_WHOLE = {*_NAMES, "samples", "field", "size_px", "target", "crop", "order", "kernel", "noise"}
_FLAGS = {"grey", "jpeg_last", "plain", "halved", "resized", "compressed"}


def to_json(draws: AnyDraws, i: int) -> dict[str, Any]:
    """Image i's draws as plain numbers and names, for `json.dumps`; `from_json` makes the same draws of them."""
    plain: dict[str, Any] = _to_plain(draws, i)
    return plain


def from_json(records: Sequence[dict[str, Any]]) -> AnyDraws:
    """The draws that `to_json` wrote, one record an image; all of one seed, size and scale.

    Raises: ValueError naming the field that is missing, unknown, of a wrong kind, or not the same in all.
    """
    if not records:
        raise ValueError("records: none; give at least one")
    kind = records[0].get("kind") if isinstance(records[0], dict) else None
    draws: AnyDraws = _from_plain(_KINDS.get(str(kind), Draws), records, "draws")
    return draws


def _to_plain(record: Any, i: int, name: str = "") -> Any:
    if isinstance(record, Tensor):
        value: Any = record[i].tolist()
        return _NAMES[name][int(value)] if name in _NAMES else value
    if isinstance(record, tuple):
        return [_to_plain(item, i) for item in record]
    if dataclasses.is_dataclass(record):
        return {
            field.name: _to_plain(getattr(record, field.name), i, field.name) for field in dataclasses.fields(record)
        }
    return record


def _from_plain(kind: Any, values: Sequence[Any], where: str) -> Any:
    """What `_to_plain` made `values` of, one for each image: a field of type `kind`. Raises: ValueError."""
    name = where.rpartition(".")[2]
    if kind == Tensor | None and None in values:
        kind = type(None)
    if kind in (Tensor, Tensor | None):
        return _tensor(values, name, where)
    if get_origin(kind) is tuple:
        if not all(isinstance(value, list) and len(value) == len(values[0]) for value in values):
            raise ValueError(f"{where}: must be lists of one length in all images")
        items = enumerate(zip(*values, strict=True))
        return tuple(_from_plain(get_args(kind)[0], column, f"{where}[{number}]") for number, column in items)
    if dataclasses.is_dataclass(kind):
        hints = get_type_hints(kind)
        if not all(isinstance(value, dict) and value.keys() == hints.keys() for value in values):
            raise ValueError(f"{where}: must hold exactly {', '.join(hints)}")
        fields = {key: _from_plain(hint, [v[key] for v in values], f"{where}.{key}") for key, hint in hints.items()}
        return kind(**fields)  # type: ignore[operator]
    if not isinstance(values[0], kind) or any(type(value) is not type(values[0]) for value in values):
        raise ValueError(f"{where}: {values[0]!r} is not of the right kind")
    if any(value != values[0] for value in values):
        raise ValueError(f"{where}: must be the same in all images, not {values[0]!r} and others")
    return values[0]


def _tensor(values: Sequence[Any], name: str, where: str) -> Tensor:
    dtype = torch.bool if name in _FLAGS else torch.int64 if name in _WHOLE else torch.float64
    try:
        if name in _NAMES:
            values = [_NAMES[name].index(value) for value in values]
        return torch.tensor(values, dtype=dtype)
    except (ValueError, TypeError, RuntimeError) as error:
        known = f"one of {', '.join(_NAMES[name])}" if name in _NAMES else f"numbers of {dtype}"
        raise ValueError(f"{where}: {values!r}; must be {known}") from error
