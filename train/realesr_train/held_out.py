"""The data of a run: what is trained on, and the few pictures that are kept back from it to measure the network."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch import Tensor

from realesr_cli.errors import ConfigError, UnsupportedInput
from realesr_cli.reporting import Reporter
from realesr_train import degradations
from realesr_train.data.folder import Picture, decode, file_bytes, named_pictures
from realesr_train.data.packed import SUFFIX
from realesr_train.data.source import Source, open_pairs, open_pictures
from realesr_train.degradations import apply, draw
from realesr_train.parts import input_multiple
from realesr_train.train_config import TrainConfig
from realesr_train.validation import Pair, make_pairs

_LARGEST_SHARE = 10  # at most a tenth of the pictures is kept back
_SMALLEST_PX = 64  # pictures below are not held out: they would measure borders

Named = list[tuple[Path, str]]


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
    hr_places, lr_places = list(data.folders), list(data.lr_folders)
    pairs: tuple[Pair, ...] = ()
    if not wanted.every:
        pass
    elif wanted.folders:
        lr = named_pictures(wanted.lr_folders) if wanted.lr_folders else None
        pairs = _read_pairs(config, named_pictures(wanted.folders), lr, reporter)
    elif data.paired and not lr_places:
        reporter.emit("note", message="no validation: lists of pairs are trained on whole; name validation.folders")
    elif wanted.held_out:
        files = named_pictures([place for place in hr_places if place.suffix.lower() != SUFFIX])
        packs = [place for place in hr_places if place.suffix.lower() == SUFFIX]
        chosen = _chosen(files, wanted.held_out)
        others = [one for one in files if one not in chosen]
        lr = named_pictures(lr_places) if lr_places else None
        if lr is not None and len({path.name for path, _ in files}) < len(files):
            # the others will be named one by one, which tells nothing of their folders
            reporter.emit("note", message="no validation: names repeat in sub-folders; name validation.folders")
            chosen, others = [], []
        pairs = _read_pairs(config, chosen, lr, reporter)
        hr_places = [*packs, *(path for path, _ in others)] if others else hr_places
        if lr is not None and chosen:
            kept = {_stem(name) for _, name in chosen}
            lr_places = [path for path, name in lr if _stem(name) not in kept]
    source: Source
    if config.is_paired:
        source = open_pairs(
            hr_places,
            lr_places,
            scale=config.scale,
            crop_px=data.patch_px,
            flips=data.flips,
            rotations=data.rotations,
            reporter=reporter,
        )
    else:
        source = open_pictures(
            hr_places, crop_px=data.crop_px, flips=data.flips, rotations=data.rotations, reporter=reporter
        )
    return Data(source=source, pairs=pairs)


def _chosen(files: Named, count: int) -> Named:
    """Evenly spread over the names, the same in every run."""
    count = min(count, len(files) // _LARGEST_SHARE)
    return [files[(2 * number + 1) * len(files) // (2 * count)] for number in range(count)]


def _read_pairs(config: TrainConfig, hr: Named, lr: Named | None, reporter: Reporter) -> tuple[Pair, ...]:
    """Raises: UnreadableInput, UnsupportedInput."""
    scale, side = config.scale, config.validation.crop_px
    pictures: dict[str, tuple[Picture, str]] = {}
    for path, name in hr:
        picture = decode(file_bytes(path), str(path))
        if min(picture.shape[:2]) < min(side, _SMALLEST_PX):
            reporter.emit("note", message=f"not validated on: {path} is too small")
            continue
        pictures[_file_name(name, pictures)] = (picture, name)
    if lr is None:
        crops = {key: _middle(picture, side) for key, (picture, _) in pictures.items()}

        def degrade(picture: Tensor, number: int) -> Tensor:
            height, width = picture.shape[2:]
            samples = torch.tensor([number])
            seed = config.validation.seed
            draws = draw(config.degradation, scale=scale, seed=seed, samples=samples, height=height, width=width)
            return apply(picture, draws)

        return make_pairs(crops, degrade, scale=scale, multiple_of=input_multiple(config))
    reduced = {_stem(name): path for path, name in lr}
    pairs = []
    for key, (picture, name) in pictures.items():
        low_path = reduced.get(_stem(name))
        if low_path is None:
            raise UnsupportedInput(f"no low-resolution picture for validation picture {name}", hint="give it its name")
        low = decode(file_bytes(low_path), str(low_path))
        if any(size != scale * small for size, small in zip(picture.shape[:2], low.shape[:2], strict=True)):
            sizes = f"{picture.shape[1]}x{picture.shape[0]} and {low.shape[1]}x{low.shape[0]}"
            raise UnsupportedInput(f"validation pair {name}: {sizes} pixels are not 1 to {scale}", path=low_path)
        multiple = input_multiple(config)
        low = _middle(low, side // scale, multiple)
        pairs.append(Pair(name=key, lq=low, hr=_middle(picture, side, scale * multiple, scale)))
    return tuple(pairs)


def _middle(picture: Picture, side_px: int, step: int = 1, grid: int = 1) -> Picture:
    """At most `side_px` of the middle along each axis, in multiples of `step`, beginning at a multiple of `grid`."""
    for axis in (0, 1):
        length = min(side_px, picture.shape[axis]) // step * step
        start = (picture.shape[axis] - length) // 2 // grid * grid
        picture = picture.take(range(start, start + length), axis)
    return np.ascontiguousarray(picture)


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))


def _file_name(name: str, taken: Collection[str]) -> str:
    """A name for the sample sheets, without folders."""
    plain = _stem(name).replace("/", "_")
    return plain if plain not in taken else f"{plain}_{len(taken)}"
