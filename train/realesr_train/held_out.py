"""The data of a run: what is trained on, and the few pictures that are kept back from it to measure the network."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
import torch
from torch import Tensor

from realesr_cli.errors import ConfigError, InputError
from realesr_cli.reporting import Reporter
from realesr_train import degradations
from realesr_train.data.folder import Picture, warn
from realesr_train.data.source import (
    Crops,
    Group,
    Source,
    list_pairs,
    list_pictures,
    open_pairs,
    open_pictures,
    whole_pictures,
)
from realesr_train.degradations import apply, draw
from realesr_train.parts import input_multiple
from realesr_train.train_config import TrainConfig
from realesr_train.validation import Pair, make_pairs

_LARGEST_SHARE = 10  # at most a tenth of the pictures is kept back
_SMALLEST_PX = 64  # pictures below are not held out: they would measure borders


@dataclass(frozen=True, kw_only=True, slots=True)
class Data:
    """What a run trains on, and the pairs that it is validated on, which may be none."""

    source: Source
    pairs: tuple[Pair, ...]


def open_data(config: TrainConfig, reporter: Reporter) -> Data:
    """Looks at every file's header, reports what cannot be used, and reads the validation pictures.

    Raises: UnreadableInput, UnsupportedInput, ConfigError (nothing usable; pairs that do not fit together).
    """
    data, wanted = config.data, config.validation
    if not data.folders:
        raise ConfigError("data.folders is empty", hint="name folders of pictures there, or give --data DIR")
    folder = next((place for place in data.folders if place.is_dir()), None)
    if data.paired and not data.lr_folders and folder is not None:
        hint = 'name there the folder of low-resolution pictures, or give lists with lines "clean, low-resolution"'
        raise ConfigError(f"data.lr_folders is empty, but {folder} holds only one side of the pairs", hint=hint)
    if not config.is_paired:
        degradations.check(config.degradation, config.scale)
    source = _open_source(config, reporter)
    smallest_px = min(wanted.crop_px, _SMALLEST_PX)
    if not wanted.every:
        return Data(source=source, pairs=())
    if wanted.folders:
        are_lists = config.is_paired and all(place.suffix.lower() == ".txt" for place in wanted.folders)
        if wanted.lr_folders or are_lists:
            groups = list_pairs(
                wanted.folders, wanted.lr_folders, scale=config.scale, smallest_px=smallest_px, reporter=reporter
            )
        else:
            groups = list_pictures(wanted.folders, smallest_px=smallest_px, reporter=reporter)
        return Data(source=source, pairs=_make_pairs(config, _read(whole_pictures(groups))))
    chosen = _chosen(whole_pictures(source.groups), wanted.held_out, smallest_px)
    read = _read(chosen, reporter)
    if wanted.held_out and not read:
        message = f"no validation: nothing can be kept back of {len(source)} pictures; name validation.folders"
        reporter.emit("note", message=message)
    return Data(source=source.without(chosen) if chosen else source, pairs=_make_pairs(config, read))


def _open_source(config: TrainConfig, reporter: Reporter) -> Crops:
    data = config.data
    turns = {"flips": data.flips, "rotations": data.rotations}
    if config.is_paired:
        return open_pairs(
            data.folders, data.lr_folders, scale=config.scale, crop_px=data.patch_px, **turns, reporter=reporter
        )
    return open_pictures(data.folders, crop_px=data.crop_px, **turns, reporter=reporter)


def _chosen(pictures: Sequence[Group], count: int, smallest_px: int) -> list[Group]:
    """Evenly spread, the same in every run."""
    count = min(count, len(pictures) // _LARGEST_SHARE)
    large = [group for group in pictures if min(group[0].size_px) >= smallest_px]
    count = min(count, len(large))
    return [large[(2 * number + 1) * len(large) // (2 * count)] for number in range(count)]


def _read(groups: Sequence[Group], reporter: Reporter | None = None) -> dict[str, list[Picture]]:
    """The pictures of each group under a name for its sample sheet.

    What cannot be read is told to `reporter` and left out; without one it is an error.

    Raises: UnreadableInput, UnsupportedInput.
    """
    found: dict[str, list[Picture]] = {}
    for group in groups:
        try:
            pictures = [one.read() for one in group]
        except InputError as error:
            if reporter is None:
                raise
            warn(reporter, "unreadable", f"not validated on: {error.message}", error.hint)
        else:
            found[_file_name(group[0].name, found)] = pictures
    return found


def _make_pairs(config: TrainConfig, pictures: Mapping[str, Sequence[Picture]]) -> tuple[Pair, ...]:
    """Raises: UnsupportedInput (a pair whose sizes do not fit)."""
    scale, side, multiple = config.scale, config.validation.crop_px, input_multiple(config)

    def degrade(picture: Tensor, number: int) -> Tensor:
        height, width = picture.shape[2:]
        samples, seed = torch.tensor([number]), config.validation.seed
        draws = draw(config.degradation, scale=scale, seed=seed, samples=samples, height=height, width=width)
        return apply(picture, draws)

    clean = {name: _middle(group[0], side) for name, group in pictures.items() if len(group) == 1}
    if clean:
        return make_pairs(clean, degrade, scale=scale, multiple_of=multiple)
    return tuple(
        Pair(name=name, lq=_middle(low, side // scale, multiple), hr=_middle(picture, side, scale * multiple, scale))
        for name, (picture, low) in pictures.items()
    )


def _middle(picture: Picture, side_px: int, step: int = 1, grid: int = 1) -> Picture:
    """At most `side_px` of the middle along each axis, in multiples of `step`, beginning at a multiple of `grid`."""
    for axis in (0, 1):
        length = min(side_px, picture.shape[axis]) // step * step
        start = (picture.shape[axis] - length) // 2 // grid * grid
        picture = picture.take(range(start, start + length), axis)
    return np.ascontiguousarray(picture)


def _file_name(name: str, taken: Collection[str]) -> str:
    """A name for the sample sheets, without folders."""
    plain = str(PurePosixPath(name).with_suffix("")).replace("/", "_")
    return plain if plain not in taken else f"{plain}_{len(taken)}"
