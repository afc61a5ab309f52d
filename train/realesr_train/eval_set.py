"""The pictures that models are compared on: which low-resolution picture belongs to which clean one, and their pixels.

Three kinds of set: pairs in two folders, clean pictures whose low-resolution ones are made here, and low-resolution
pictures alone. All are compared as 8-bit RGB.

Trap: a made picture depends on its place among the pictures of the set, as in `realesr data degrade`.
"""

import math
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from realesr_cli.errors import RealesrError, UnreadableInput, UnsupportedInput
from realesr_cli.image_header import read_header
from realesr_cli.image_io import read_image
from realesr_cli.reporting import Reporter
from realesr_train.config import DegradationConfig, with_order
from realesr_train.data.degrade import reduced
from realesr_train.data.folder import file_bytes, named_pictures, to_picture, warn
from realesr_train.degradations import apply, draw
from realesr_train.validation import to_pixels, to_tensor

Pixels = NDArray[np.uint8]
"""(H, W, 3) RGB."""

Degradation = Literal["bicubic", "first", "second"]
DEGRADATIONS: tuple[Degradation, ...] = get_args(Degradation)

# what names of one picture differ in: baby_LR_x4 and baby, 0801x4 and 0801, img_001_SRF_4_LR and img_001_SRF_4_HR
_ROLE = re.compile(r"(?i)(?:[ _.-](?:LRBI|LR|LQ|HR|GT|bicubic)|[ _.-]x\d|(?<=\d)x\d)$")
_NAMED = 5  # how many names a message lists


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One picture of the set; one of the two files may be missing."""

    number: int
    """Its place in the set."""
    name: str
    lr: Path | None = None
    hr: Path | None = None

    @property
    def source(self) -> Path:
        path = self.lr or self.hr
        assert path is not None
        return path


Failed = tuple[Path, RealesrError]


def clean_only(data: Path) -> tuple[Sample, ...]:
    """The clean pictures of a folder. Raises: UnreadableInput."""
    return tuple(Sample(number=i, name=_stem(name), hr=path) for i, (path, name) in enumerate(_pictures(data)))


def reduced_only(data: Path) -> tuple[Sample, ...]:
    """The low-resolution pictures of a folder. Raises: UnreadableInput."""
    return tuple(Sample(number=i, name=_stem(name), lr=path) for i, (path, name) in enumerate(_pictures(data)))


def paired(data: Path, hr: Path, reporter: Reporter) -> tuple[tuple[Sample, ...], list[Failed]]:
    """The low-resolution pictures of `data`, each with its clean one in `hr`, and those that have none.

    Two pictures belong together if their names are the same without the suffix, or else if they are without such ends
    as _LR, _HR and x4. Clean pictures that are left over are named in one warning.

    Raises: UnreadableInput (no pictures, or no pairs).
    """
    low, clean = _pictures(data), _pictures(hr)
    same: dict[str, list[Path]] = {}
    alike: dict[str, list[Path]] = {}
    for path, name in clean:
        same.setdefault(_stem(name), []).append(path)
        alike.setdefault(_without_role(_stem(name)), []).append(path)
    samples: list[Sample] = []
    failed: list[Failed] = []
    partners: dict[Path, Path] = {}
    for number, (path, name) in enumerate(low):
        found = same.get(_stem(name)) or alike.get(_without_role(_stem(name)), [])
        if len(found) == 1 and found[0] not in partners:
            partners[found[0]] = path
            samples.append(Sample(number=number, name=_without_role(_stem(name)), lr=path, hr=found[0]))
            continue
        if not found:
            cause, hint = f"no picture in {hr} is called like it", "pairs have one name, but for the suffix or _LR, x4"
        elif len(found) > 1:
            cause, hint = f"{found[0].name} and {found[1].name} are both called like it", "leave one of them out"
        else:
            cause, hint = f"{found[0]} is already the partner of {partners[found[0]].name}", "leave one of them out"
        failed.append((path, UnsupportedInput(f"{path} has no partner: {cause}", hint=hint, path=path)))
    if not samples:
        raise UnreadableInput(f"no picture of {data} has a partner in {hr}", hint=failed[0][1].message, path=data)
    alone = [path.name for path, _ in clean if path not in partners]
    if alone:
        names = ", ".join(alone[:_NAMED]) + (f" and {len(alone) - _NAMED} more" if len(alone) > _NAMED else "")
        warn(reporter, "unpaired", f"{hr}: nothing in {data} belongs to {names}")
    return tuple(samples), failed


def guess_scale(samples: Sequence[Sample]) -> int | None:
    """The scale of the first pair whose headers can be read; None where there is none."""
    for sample in samples:
        if sample.lr is None or sample.hr is None:
            return None
        with suppress(UnreadableInput):
            low, clean = (read_header(file_bytes(path)) for path in (sample.lr, sample.hr))
            if low is not None and clean is not None:
                # by areas, which an EXIF turn leaves alone
                return max(1, round(math.sqrt(clean.height * clean.width / (low.height * low.width))))
    return None


def load(
    sample: Sample, *, scale: int, degrade: Callable[[Tensor, int], Tensor] | None, reporter: Reporter
) -> tuple[Pixels, Pixels | None]:
    """The low-resolution picture (h, w, 3) and, if the set has it, the clean one (scale * h, scale * w, 3).

    A clean picture loses at the right and bottom what is left over of a multiple of the scale. Where the sample has
    only that, `degrade` makes the other.

    Raises: UnreadableInput, UnsupportedInput (sizes that are not 1 to `scale`).
    """
    if sample.hr is None:
        return _read(sample.source, reporter), None
    clean = _read(sample.hr, reporter)
    height, width = (side // scale for side in clean.shape[:2])
    low = None if sample.lr is None else _read(sample.lr, reporter)
    if min(height, width) < 1 or (low is not None and low.shape[:2] != (height, width)):
        other = f"{sample.lr} {low.shape[1]}x{low.shape[0]}" if low is not None else f"the scale is {scale}"
        raise UnsupportedInput(
            f"{sample.hr} has {clean.shape[1]}x{clean.shape[0]} pixels, {other}; these are not {scale} to 1",
            hint="the clean picture must be as many times larger as the models enlarge",
            path=sample.hr,
        )
    clean = np.ascontiguousarray(clean[: height * scale, : width * scale])
    if low is None:
        assert degrade is not None, "there is nothing to make the low-resolution picture with"
        low = to_pixels(degrade(to_tensor(clean), sample.number))
    return low, clean


def degrader(kind: Degradation, *, scale: int, seed: int) -> Callable[[Tensor, int], Tensor]:
    """A function of a clean picture (1, 3, H, W) in [0, 1] and its place in the set: (1, 3, H / scale, W / scale).

    bicubic: as `realesr data lr` makes it; first, second: as `realesr data degrade` with `--order 1` and without.
    """
    if kind == "bicubic":
        return lambda clean, number: reduced(clean[0], scale)[None]
    config = with_order(DegradationConfig(), 1) if kind == "first" else DegradationConfig()

    def degrade(clean: Tensor, number: int) -> Tensor:
        height, width = clean.shape[2:]
        draws = draw(config, scale=scale, seed=seed, samples=torch.tensor([number]), height=height, width=width)
        return apply(clean, draws)

    return degrade


def _pictures(place: Path) -> list[tuple[Path, str]]:
    """Those of a folder, without its sub-folders, where other versions of the same pictures may lie.

    Raises: UnreadableInput.
    """
    found = named_pictures([place])
    if not place.is_dir():
        return found
    here = [(path, name) for path, name in found if "/" not in name]
    if not here:
        folders = sorted({name.partition("/")[0] for _, name in found})
        raise UnreadableInput(
            f"{place} holds no pictures, only folders of them", hint=f"name one: {', '.join(folders)}", path=place
        )
    return here


def _read(path: Path, reporter: Reporter) -> Pixels:
    pixels = read_image(path, reporter=reporter).pixels
    if pixels.shape[2] == 4:
        warn(reporter, "alpha", f"{path}: transparency is left out")
    return to_picture(pixels)


def _stem(name: str) -> str:
    return PurePosixPath(name).stem


def _without_role(stem: str) -> str:
    while (shorter := _ROLE.sub("", stem)) and shorter != stem:
        stem = shorter
    return stem
