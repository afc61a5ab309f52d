"""Packs made of folders of pictures, and the check of a data set before training.

Both decode every picture with all of `read_image`'s warnings, and so find more than the headers say.
"""

import dataclasses
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from realesr_cli.errors import OutputExists, RealesrError, UnreadableInput, UnsupportedInput, UsageError
from realesr_cli.image_io import Image, encode_image, read_image
from realesr_cli.reporting import NULL, Reporter, progress
from realesr_train.data.degrade import Fail
from realesr_train.data.folder import Picture, file_bytes, named_pictures, report_losses, to_picture, warn
from realesr_train.data.packed import SUFFIX, Entry, Pack, Storage, copy_name, write_pack
from realesr_train.data.source import list_pairs
from realesr_train.degradation.resize import imresize

_CROP_PX = 400  # of the published training
_SMALLEST_PX = _CROP_PX // 4
_FACTORS = (0.75, 0.5, 1 / 3)
_THREADS = 4
_LOOKAHEAD = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class _Read:
    """A picture that was read, and what became of it."""

    height: int
    width: int
    alpha: bool
    deep: bool
    entries: tuple[Entry, ...] = ()
    """What goes into the pack."""


def prepare(
    inputs: Sequence[Path],
    target: Path,
    *,
    crop_px: int | None,
    stride_px: int | None,
    multi_scale: bool,
    encoded: bool,
    overwrite: bool,
    reporter: Reporter,
    fail: Fail,
) -> int:
    """Writes a pack of the pictures in `inputs`, as `find_pictures` finds them; returns how many of them it holds.

    With `crop_px` the pack's pictures are crops, every `stride_px` pixels (default: half the crop); smaller pictures
    are kept whole. `multi_scale` adds reduced copies, never enlarged ones. `encoded` keeps the bytes of the files, and
    copies as PNG, instead of pixels: smaller, but decoded anew for each sample. What cannot be read goes to `fail`.

    Raises: UsageError, OutputExists, OutputError, UnreadableInput (no picture at all).
    """
    if target.suffix.lower() != SUFFIX:
        raise UsageError(f"{target} does not end in {SUFFIX}", hint=f"give -o NAME{SUFFIX}")
    if crop_px is None and stride_px is not None:
        raise UsageError("--stride means nothing without --crop", hint="give both")
    if crop_px is not None:
        stride_px = max(1, crop_px // 2) if stride_px is None else stride_px
        if not 1 <= stride_px <= crop_px:
            raise UsageError(f"--stride {stride_px} must be from 1 to the crop, {crop_px}")
    if target.exists() and not overwrite:
        raise OutputExists(f"{target} is already there", hint="--overwrite replaces it", path=target)
    named = named_pictures(inputs)
    names = dict(named)
    read: list[_Read] = []
    short_sides: list[int] = []

    def make(path: Path) -> _Read:
        return _made(path, names[path], "encoded" if encoded else "raw", multi_scale, reporter)

    def entries() -> Iterator[Entry]:
        for one in _all([path for path, _ in named], make, reporter, fail):
            yield from one.entries
            short_sides.extend(min(entry.height, entry.width) for entry in one.entries)
            read.append(dataclasses.replace(one, entries=()))  # the pixels are not kept
        if not read:
            raise UnreadableInput(f"none of {len(named)} files can be read", hint="each one's reason is above")

    storage: Storage = "encoded" if encoded else "raw"
    started = time.monotonic()
    write_pack(target, entries(), storage=storage, crop_px=crop_px, stride_px=stride_px, overwrite=overwrite)
    report_losses(sum(one.alpha for one in read), sum(one.deep for one in read), reporter)
    small = sum(side < (crop_px or 0) for side in short_sides)
    if small:
        warn(reporter, "small", f"{small} pictures have a side below the crop's {crop_px} pixels and are kept whole")
    pictures, stored, size = len(Pack(target).pictures()), len(short_sides), target.stat().st_size
    what = f"{stored} pictures" if crop_px is None else f"{pictures} crops of {stored} pictures"
    seconds = time.monotonic() - started
    text = f"{target}: {what} of {len(read)} files, {size / 1e6:,.1f} MB, {seconds:.1f} s"
    reporter.emit("plan", output=str(target), pictures=pictures, files=len(read), bytes=size, text=text)
    return len(read)


def check(places: Sequence[Path], partners: Sequence[Path], *, scale: int, reporter: Reporter, fail: Fail) -> int:
    """Reads every picture of `places`, and of `partners`, their reduced ones, if there are any; returns how many are
    good. The others go to `fail`: unreadable, or a side below a quarter of the published crop. Packs are compared with
    their hashes.

    Raises: UnreadableInput, UnsupportedInput (a place that cannot be read, pairs that do not fit).
    """
    good = 0
    for group, least_px in ((places, _SMALLEST_PX), (partners, _SMALLEST_PX // scale)):
        packs = [place for place in group if place.suffix.lower() == SUFFIX]
        files = [path for path, _ in named_pictures([place for place in group if place not in packs])]

        def look(path: Path, least_px: int = least_px) -> _Read:
            found = _made(path, "", None, False, reporter)
            if min(found.height, found.width) < least_px:
                size = f"{found.width}x{found.height}"
                raise UnsupportedInput(f"{path} has {size} pixels; each side must have at least {least_px}", path=path)
            return found

        read = list(_all(files, look, reporter, fail))
        sizes = [(one.height, one.width) for one in read]
        for path in packs:
            pack = Pack(path)
            damaged = pack.verify()
            for number, name in enumerate(damaged):
                fail(number, path, UnreadableInput(f"{name} in {path} is not what was written", hint="copy it again"))
            sizes += [one.size_px for one in pack.pictures() if one.name not in damaged]
        report_losses(sum(one.alpha for one in read), sum(one.deep for one in read), reporter)
        good += len(sizes)
        if sizes:
            _describe(group, sizes, least_px * 4, reporter)
    if partners:
        # the sizes are known to be large enough, and what is not was reported
        list_pairs(places, partners, scale=scale, smallest_px=scale, reporter=NULL)
    return good


def _describe(places: Sequence[Path], sizes: list[tuple[int, int]], crop_px: int, reporter: Reporter) -> None:
    sides = [side for size in sizes for side in size]
    small = sum(min(size) < crop_px for size in sizes)
    megapixels = sum(height * width for height, width in sizes) / 1e6
    text = f"{', '.join(map(str, places))}: {len(sizes)} pictures can be used, {megapixels:,.1f} megapixels, "
    text += f"sides {min(sides)} to {max(sides)} px" + (f"; {small} have a side below {crop_px} px" if small else "")
    reporter.emit("plan", pictures=len(sizes), small=small, megapixels=round(megapixels, 3), text=text)


def _all(paths: Sequence[Path], work: Callable[[Path], _Read], reporter: Reporter, fail: Fail) -> Iterator[_Read]:
    """What `work` gives for each path, in order, from a few threads; errors go to `fail`."""
    todo = iter(enumerate(paths))
    waiting: deque[tuple[int, Path, Future[_Read]]] = deque()
    with ThreadPoolExecutor(_THREADS) as threads, progress(reporter, len(paths), "files") as advance:
        try:
            while True:
                while len(waiting) < _LOOKAHEAD and (following := next(todo, None)):
                    waiting.append((*following, threads.submit(work, following[1])))
                if not waiting:
                    return
                number, path, future = waiting.popleft()
                try:
                    result = future.result()
                except RealesrError as error:
                    fail(number, path, error)
                else:
                    yield result
                advance(1)
        finally:
            threads.shutdown(cancel_futures=True)


def _made(path: Path, name: str, storage: Storage | None, multi_scale: bool, reporter: Reporter) -> _Read:
    """A picture with the pack's entries that it becomes. Raises: UnreadableInput, UnsupportedInput."""
    data = file_bytes(path)
    decoded = read_image(data, name=str(path), reporter=reporter).pixels
    picture = to_picture(decoded)
    height, width = picture.shape[:2]
    entries = []
    if storage is not None:
        content = data if storage == "encoded" else picture.tobytes()
        entries.append(Entry(name=name, height=height, width=width, data=content))
    for size in _copy_sizes(height, width) if multi_scale else []:
        copy = _reduced(picture, size)
        content = encode_image(Path("copy.png"), Image(pixels=copy)) if storage == "encoded" else copy.tobytes()
        entries.append(Entry(name=copy_name(name, *size), height=size[0], width=size[1], data=content))
    deep = decoded.dtype == np.uint16
    return _Read(height=height, width=width, alpha=decoded.shape[2] == 4, deep=deep, entries=tuple(entries))


def _copy_sizes(height: int, width: int) -> list[tuple[int, int]]:
    """Sizes of the reduced copies: 0.75, 0.5, 1/3, and a shorter side of 400; none larger than the picture, none with
    a side too small to train on, none twice.

    Source: training specification, section 13, step 1.
    """
    short = min(height, width)
    sizes = [(int(height * factor), int(width * factor)) for factor in _FACTORS]
    sizes += [(height * _CROP_PX // short, width * _CROP_PX // short)] * (short > _CROP_PX)
    return [size for size in dict.fromkeys(sizes) if min(size) >= _SMALLEST_PX]


def _reduced(picture: Picture, size: tuple[int, int]) -> Picture:
    """The picture in `size` (height, width), antialiased bicubic."""
    planes = torch.from_numpy(picture.astype(np.float32)).permute(2, 0, 1)[None]
    levels = imresize(planes, size=size)[0].round_().clamp_(0, 255).to(torch.uint8)
    result: NDArray[np.uint8] = levels.permute(1, 2, 0).contiguous().numpy()
    return result
