"""The picture formats that realesr writes, and what each can hold."""

from dataclasses import dataclass
from pathlib import Path

from realesr_cli.errors import UnsupportedInput


@dataclass(frozen=True, kw_only=True, slots=True)
class Format:
    """What a file format can hold."""

    name: str
    """As `image_header.sniff` calls it."""
    suffixes: tuple[str, ...]
    alpha: bool = True
    deep: bool = False
    """16 bits a channel."""
    colour: bool = True
    grey: bool = True
    lossy: bool = False
    """It loses detail unless asked not to."""
    can_be_lossless: bool = True
    largest_side_px: int | None = None
    """What the format, or the library that writes it, allows."""
    smallest_side_px: int = 1
    palette: bool = False
    """256 colours at most."""
    encoder_bytes_per_px: int = 0
    """What the library that writes it takes beside the picture and its rows (measured, 8 bits a channel)."""


FORMATS = (
    Format(name="png", suffixes=(".png",), deep=True, largest_side_px=1_000_000),
    Format(
        name="jpg",
        suffixes=(".jpg", ".jpeg", ".jpe", ".jfif"),
        alpha=False,
        lossy=True,
        can_be_lossless=False,
        largest_side_px=65_500,
        encoder_bytes_per_px=1,
    ),
    Format(name="webp", suffixes=(".webp",), grey=False, lossy=True, largest_side_px=16_383, encoder_bytes_per_px=2),
    Format(name="tif", suffixes=(".tif", ".tiff"), deep=True),
    Format(name="bmp", suffixes=(".bmp",), encoder_bytes_per_px=6),
    Format(name="avif", suffixes=(".avif",), deep=True, lossy=True, largest_side_px=65_536, encoder_bytes_per_px=17),
    Format(
        name="gif",
        suffixes=(".gif",),
        grey=False,
        lossy=True,
        can_be_lossless=False,
        largest_side_px=65_535,
        palette=True,
    ),
    Format(name="jp2", suffixes=(".jp2",), deep=True, lossy=True, smallest_side_px=32, encoder_bytes_per_px=20),
    Format(name="ppm", suffixes=(".ppm",), alpha=False, deep=True, grey=False),
    Format(name="pgm", suffixes=(".pgm",), alpha=False, deep=True, colour=False),
    Format(name="pnm", suffixes=(".pnm",), alpha=False, deep=True),
)
ANIMATED = ("gif", "png", "webp", "avif")
"""The formats, read and written, that can hold animations."""
WRITABLE_SUFFIXES = tuple(suffix for kind in FORMATS for suffix in kind.suffixes)
"""Suffixes, in lower case, of the files that realesr writes."""
FULL_COLOUR_SUFFIXES = tuple(suffix for kind in FORMATS if not kind.palette for suffix in kind.suffixes)
"""Those of them that can hold any photograph."""
READABLE_SUFFIXES = (*WRITABLE_SUFFIXES, ".pbm", ".pam", ".j2k", ".avifs", ".apng", ".dib")
"""Those that pictures are known by in a folder, where not every file is one."""


def format_of(path: Path) -> Format:
    """The format that the suffix of `path` names. Raises: UnsupportedInput."""
    for kind in FORMATS:
        if path.suffix.lower() in kind.suffixes:
            return kind
    raise UnsupportedInput(
        f"realesr does not write {path.suffix or 'files without a suffix'}: {path}",
        hint=f"choose one of {', '.join(WRITABLE_SUFFIXES)} with -o",
        path=path,
    )


def check_can_hold(path: Path, channels: int, size: tuple[int, int] | None = None) -> None:
    """Whether the format that `path` names can hold 1 (grey), 3 (RGB) or 4 (RGBA) channels of `size` (height, width).

    Raises: UnsupportedInput.
    """
    kind = format_of(path)
    if size is not None and kind.largest_side_px is not None and max(size) > kind.largest_side_px:
        raise UnsupportedInput(
            f"{path} would be {size[1]}x{size[0]}, but {kind.name} ends at {kind.largest_side_px:,} pixels a side",
            hint="write a .tif or .png instead with -o, or make it smaller with -s",
            path=path,
        )
    if size is not None and min(size) < kind.smallest_side_px:
        raise UnsupportedInput(
            f"{path} would be {size[1]}x{size[0]}, but {kind.name} begins at {kind.smallest_side_px} pixels a side",
            hint="write a .png instead with -o",
            path=path,
        )
    if channels == 4 and not kind.alpha:
        raise UnsupportedInput(
            f"{path} cannot hold transparency",
            hint="write a .png or .webp instead with -o, or say with --background what shines through",
            path=path,
        )
    if channels != 1 and not kind.colour:
        raise UnsupportedInput(f"{path} cannot hold colours", hint="write a .ppm or .png instead with -o", path=path)


def result_suffix(source: Path, *, animated: bool = False) -> str:
    """The suffix of a result without a name of its own: its input's where realesr writes such files, else .png.

    A GIF file stays one only if it is `animated`: single pictures need not be reduced to 256 colours again.
    """
    if source.suffix.lower() == ".pbm":
        return ".pgm"  # an enlargement of black and white has greys between
    if source.suffix.lower() == ".gif" and not animated:
        return ".png"
    return source.suffix if source.suffix.lower() in WRITABLE_SUFFIXES else ".png"
