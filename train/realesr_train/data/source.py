"""Samples for training: square crops of pictures, or of pairs of them, each decided by its number alone.

Traps: reflection at a border repeats the edge pixel for pairs, and does not for single pictures: only so do the two
pictures of a pair stay aligned.
"""

import dataclasses
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from realesr_cli.errors import ConfigError, RealesrError, UnreadableInput, UnsupportedInput
from realesr_cli.reporting import NULL, Reporter
from realesr_train.data.folder import LazyPicture, Picture, list_lines, named_pictures, open_files, warn
from realesr_train.data.packed import SUFFIX, Pack
from realesr_train.data.sampler import crop_draws, picture_of

_ATTEMPTS = 64
_LISTED = 10
_USABLE_SHARE = 4

Group = tuple[LazyPicture] | tuple[LazyPicture, LazyPicture]
"""A clean picture, or one and its low-resolution one."""


class Source(Protocol):
    """Training samples by number, 0, 1, ... without end; any thread may ask for any of them."""

    def __len__(self) -> int:
        """The number of pictures, or pairs: so many samples are an epoch."""

    def item(self, seed: int, sample: int) -> dict[str, NDArray[np.uint8]]:
        """{"hr": (3, crop_px, crop_px)}, or {"gt": the same, "lq": (3, crop_px / scale, crop_px / scale)}: RGB, a
        function of seed and number. A picture that cannot be read is reported once, and another takes its place.

        Raises: UnreadableInput (hardly any can be read).
        """


def open_pictures(
    places: Sequence[Path], *, crop_px: int, flips: bool = True, rotations: bool = False, reporter: Reporter = NULL
) -> "Crops":
    """Crops "hr" of the pictures in folders, lists (.txt), packs and files.

    Pictures smaller than the crop are continued at the right and bottom by reflection; those with a side below a
    quarter of it, and those that are no pictures, are reported and left out. `flips` mirrors left and right,
    `rotations` turns by 0, 90, 180 or 270 degrees.

    Raises: UnreadableInput, UnsupportedInput (nothing usable, or a place that cannot be read).
    """
    pictures = list_pictures(places, smallest_px=max(1, crop_px // _USABLE_SHARE), reporter=reporter)
    _tell_of_small_ones(pictures, crop_px, reporter)
    return Crops(pictures, 1, crop_px, flips, rotations, reporter)


def open_pairs(
    hr_places: Sequence[Path],
    lr_places: Sequence[Path],
    *,
    scale: int,
    crop_px: int,
    flips: bool = True,
    rotations: bool = False,
    reporter: Reporter = NULL,
) -> "Crops":
    """Crops "gt" and "lq" of pictures and their reduced ones, which have the same names in their folders, suffixes
    aside. Without `lr_places` the places are lists with lines "gt, lq". Both pictures of a pair are mirrored and turned
    alike; otherwise as `open_pictures`.

    Raises: UnreadableInput, UnsupportedInput (names without partner, sizes that do not fit), ConfigError (`crop_px` is
        no multiple of `scale`).
    """
    if crop_px % scale:
        raise ConfigError(f"crop_px = {crop_px} must be a multiple of the scale, {scale}")
    smallest_px = max(1, crop_px // scale // _USABLE_SHARE) * scale
    pairs = list_pairs(hr_places, lr_places, scale=scale, smallest_px=smallest_px, reporter=reporter)
    _tell_of_small_ones(pairs, crop_px, reporter)
    return Crops(pairs, scale, crop_px, flips, rotations, reporter)


def list_pictures(places: Sequence[Path], *, smallest_px: int, reporter: Reporter = NULL) -> list[Group]:
    """The usable pictures in folders, lists (.txt), packs and files, by their headers, of which the others are
    reported. Raises: UnreadableInput, UnsupportedInput.
    """
    return [(one,) for one in _listing(places).open(smallest_px, reporter)]


def list_pairs(
    hr_places: Sequence[Path], lr_places: Sequence[Path], *, scale: int, smallest_px: int, reporter: Reporter = NULL
) -> list[Group]:
    """As `list_pictures`, the pairs that `open_pairs` crops. Raises: UnreadableInput, UnsupportedInput."""
    if lr_places:
        hr, lr = (_by_stem(_listing(places), places) for places in (hr_places, lr_places))
        _check_partners(set(hr.names()), set(lr.names()), lr_places)
        _check_partners(set(lr.names()), set(hr.names()), hr_places)
    else:
        pairs_listed = [pair for place in hr_places for pair in _listed_pairs(place)]
        hr, lr = (_Listing([], [(pair[side], line) for pair, line in pairs_listed]) for side in (0, 1))
    gt = {one.name: one for one in hr.open(smallest_px, reporter)}
    lq = {one.name: one for one in lr.open(max(1, smallest_px // scale), reporter)}
    pairs: list[Group] = [(gt[name], lq[name]) for name in gt if name in lq]
    if not pairs:
        raise UnreadableInput("no pair has two usable pictures", hint="the warnings say why")
    _check_sizes(pairs, scale)
    return pairs


def whole_pictures(groups: Sequence[Group]) -> list[Group]:
    """The pictures, or pairs, that `groups` are crops and reduced copies of, each once, in their order."""
    first: dict[str, Group] = {}
    for group in groups:
        first.setdefault(group[0].origin, group)
    return [(one[0].whole or one[0],) if len(one) == 1 else one for one in first.values()]


@dataclass(frozen=True, slots=True)
class _Listing:
    """The pictures that places hold, before any file is opened."""

    packed: list[LazyPicture]
    files: list[tuple[Path, str]]
    """Each with its name."""

    def names(self) -> list[str]:
        return [*(one.name for one in self.packed), *(name for _, name in self.files)]

    def open(self, smallest_px: int, reporter: Reporter) -> list[LazyPicture]:
        if self.packed and not self.files:
            return self.packed
        return self.packed + open_files(self.files, smallest_px=smallest_px, reporter=reporter)


def _listing(places: Sequence[Path]) -> _Listing:
    packs = [place for place in places if place.suffix.lower() == SUFFIX]
    packed = [one for place in packs for one in Pack(place).pictures()]
    return _Listing(packed, named_pictures([place for place in places if place not in packs]))


def _tell_of_small_ones(groups: Sequence[Group], crop_px: int, reporter: Reporter) -> None:
    small = [group[0].name for group in groups if min(group[0].size_px) < crop_px]
    if small:
        what = f"{len(small)} of {len(groups)} pictures have a side below the crop's {crop_px} pixels"
        warn(reporter, "small", f"{what} and are continued by reflection; the first: {small[0]}")


def _by_stem(listing: _Listing, places: Sequence[Path]) -> _Listing:
    """With names without suffixes, by which two folders' pictures belong together. Raises: UnsupportedInput."""

    def stem(name: str) -> str:
        return str(PurePosixPath(name).with_suffix(""))

    named = _Listing(
        [dataclasses.replace(one, name=stem(one.name)) for one in listing.packed],
        [(path, stem(name)) for path, name in listing.files],
    )
    twice = [name for name, count in Counter(named.names()).items() if count > 1]
    if twice:
        hint = "give each picture a name of its own; a pack for pairs is made without --crop"
        raise UnsupportedInput(f"{_some(places)}: several pictures are called {_some(twice)}", hint=hint)
    return named


def _check_partners(names: set[str], others: set[str], places: Sequence[Path]) -> None:
    """Raises: UnsupportedInput (not all `names` are among the `others`, those of `places`)."""
    alone = sorted(names - others)
    if alone:
        raise UnsupportedInput(
            f"{_some(places)}: no partner for {len(alone)} pictures: {_some(alone)}",
            hint="pairs have the same name in both folders, suffixes aside; or give a list with lines `gt, lq`",
        )


def _some(names: Sequence[object]) -> str:
    return ", ".join(map(str, names[:_LISTED])) + (", ..." if len(names) > _LISTED else "")


def _listed_pairs(path: Path) -> list[tuple[tuple[Path, Path], str]]:
    """((gt, lq), line) for each line "gt, lq" of a list, relative to its folder. Raises: UnreadableInput."""
    pairs = []
    for line in list_lines(path):
        parts = line.split(", ")
        if len(parts) != 2:
            raise UnreadableInput(
                f"{path}: {line!r} is not a pair", hint="write `gt, lq` on each line; no name may hold `, `", path=path
            )
        pairs.append(((path.parent / parts[0], path.parent / parts[1]), line))
    return pairs


def _check_sizes(pairs: Sequence[Group], scale: int) -> None:
    """Raises: UnsupportedInput (a pair whose sizes do not fit)."""
    wrong = []
    for gt, lq in (group for group in pairs if len(group) == 2):
        if not _fit(gt.size_px, lq.size_px, scale):
            # an EXIF turn, or the tiles of a TIFF file, make headers differ from pictures
            (height, width), (lq_height, lq_width) = (one.read().shape[:2] for one in (gt, lq))
            if not _fit((height, width), (lq_height, lq_width), scale):
                wrong.append(f"{gt.name} ({width}x{height}) and {lq.name} ({lq_width}x{lq_height})")
    if wrong:
        hint = f"`realesr data lr` makes pictures that fit; cut the large ones to multiples of {scale}"
        raise UnsupportedInput(f"{len(wrong)} pairs are not {scale} to 1 in size: {_some(wrong)}", hint=hint)


def _fit(gt: tuple[int, ...], lq: tuple[int, ...], scale: int) -> bool:
    return gt == (lq[0] * scale, lq[1] * scale)


class Crops:
    """The source of all kinds: square crops of pictures or pairs."""

    def __init__(
        self,
        groups: Sequence[Group],
        scale: int,
        crop_px: int,
        flips: bool,
        rotations: bool,
        reporter: Reporter,
    ) -> None:
        self.groups = groups
        self._scale = scale
        self._crop_px = crop_px
        self._flips = flips
        self._rotations = rotations
        self._reporter = reporter
        self._reported: set[int] = set()
        self._lock = threading.Lock()

    def without(self, pictures: Sequence[Group]) -> "Crops":
        """The same without those of `whole_pictures`, their crops and their copies."""
        gone = {group[0].origin for group in pictures}
        left = [group for group in self.groups if group[0].origin not in gone]
        return Crops(left, self._scale, self._crop_px, self._flips, self._rotations, self._reporter)

    def __len__(self) -> int:
        return len(self.groups)

    def item(self, seed: int, sample: int) -> dict[str, NDArray[np.uint8]]:
        for attempt in range(_ATTEMPTS):
            pick, down, right, mirror, turn = crop_draws(seed, sample, attempt)
            index = int(pick * len(self)) if attempt else picture_of(seed, sample, len(self))
            try:
                pixels = self._read(index)
            except RealesrError as error:
                self._report(index, error)
                continue
            crops = self._cut(pixels, down, right)
            if self._flips and mirror < 0.5:
                crops = [one[:, ::-1] for one in crops]
            if self._rotations:
                crops = [np.rot90(one, int(turn * 4)) for one in crops]
            planes = [np.ascontiguousarray(one.transpose(2, 0, 1)) for one in crops]
            return dict(zip(("hr",) if len(planes) == 1 else ("gt", "lq"), planes, strict=True))
        name = self.groups[index][0].name
        raise UnreadableInput(
            f"{_ATTEMPTS} pictures one after the other cannot be read, the last one {name}",
            hint="are the disk and its files still there? `realesr data check` reads them all",
        )

    def _read(self, index: int) -> list[Picture]:
        """Raises: UnreadableInput, UnsupportedInput."""
        pixels = [one.read() for one in self.groups[index]]
        if len(pixels) == 2 and not _fit(pixels[0].shape[:2], pixels[1].shape[:2], self._scale):
            names = " and ".join(one.name for one in self.groups[index])
            raise UnsupportedInput(f"{names} no longer fit each other in size")
        return pixels

    def _cut(self, pixels: list[Picture], down: float, right: float) -> list[Picture]:
        """The crops at a place that `down` and `right`, in [0, 1), choose among all places."""
        sides = [self._crop_px // (self._scale if number else 1) for number in range(len(pixels))]
        mode: Literal["reflect", "symmetric"] = "reflect" if len(pixels) == 1 else "symmetric"
        pixels = [_padded(one, side, mode) for one, side in zip(pixels, sides, strict=True)]
        height, width = (length - sides[-1] + 1 for length in pixels[-1].shape[:2])
        top, left = int(down * height), int(right * width)
        crops = []
        for one, side in zip(pixels, sides, strict=True):
            step = side // sides[-1]
            crops.append(one[top * step : top * step + side, left * step : left * step + side])
        return crops

    def _report(self, index: int, error: RealesrError) -> None:
        with self._lock:
            is_new = index not in self._reported
            self._reported.add(index)
        if is_new:
            warn(self._reporter, "unreadable", f"{error.message}; others take its place in training", error.hint)


def _padded(pixels: Picture, side: int, mode: Literal["reflect", "symmetric"]) -> Picture:
    """At least `side` pixels high and wide."""
    down, right = (max(0, side - length) for length in pixels.shape[:2])
    return np.pad(pixels, ((0, down), (0, right), (0, 0)), mode=mode) if down or right else pixels
