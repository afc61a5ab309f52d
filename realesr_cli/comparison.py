"""`realesr compare`: pictures, or one picture through several models, brought to one size, scored and put on a page.

Trap: what is shown and scored is 8-bit, as screens show it; a browser would round 16 bits in a way of its own.
"""

import dataclasses
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from realesr_cli import alpha, auto
from realesr_cli.atomic import replacing
from realesr_cli.device import find_device
from realesr_cli.errors import OutputError, OutputExists, UnsupportedInput, UsageError
from realesr_cli.image_formats import FORMATS
from realesr_cli.image_io import Image, Pixels, encode_image, read_image
from realesr_cli.models.architectures import load_model
from realesr_cli.options import Crop, DeviceOptions, InputOptions, SizeOptions, TileOptions
from realesr_cli.pages.compare_page import COLUMNS, Scores, Shown, score_text, write_compare_page
from realesr_cli.reporting import Reporter, progress
from realesr_cli.upscaler import Upscaler

_MOST_BYTES = 24_000_000
"""Of one encoded picture: Firefox shows no data URI of more than 32 MB, and base64 makes four bytes of three."""
_MOST_PIXELS = 120_000_000
"""Of all pictures together, 480 MB in the browser's memory."""
_LARGEST_STRETCH = 0.02
"""Of one side against the other: what cutting sides to multiples does to small pictures. More is another picture."""
_WEBP_SIDE_PX = next(kind.largest_side_px or 0 for kind in FORMATS if kind.name == "webp")
_SSIM_WINDOW_PX = 11
_BAND_PX = 2**20  # that are scored at once: scores are computed in float64


@dataclass(frozen=True, kw_only=True, slots=True)
class PageOptions:
    """Where the page goes, and what it shows."""

    target: Path
    overwrite: bool = False
    reference: Path | None = None
    """What the others are scored against; None = the first picture, and nothing where models are compared."""
    crop: Crop | None = None
    quality: int | None = None
    """1 to 100, of lossy WebP; None = without loss."""

    def __post_init__(self) -> None:
        if self.target.suffix.lower() not in (".html", ".htm"):
            raise UsageError(f"-o {self.target}: what is written is a web page", hint="name it .html")
        if self.quality is not None and not 1 <= self.quality <= 100:
            raise UsageError(f"--quality must lie between 1 and 100, not {self.quality}")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Panel:
    """A picture to compare; `origin` is its size before it was brought to that of the others."""

    name: str
    image: Image
    origin: tuple[int, int]


def compare_pictures(sources: Sequence[Path], page: PageOptions, accept: InputOptions, reporter: Reporter) -> None:
    """Writes the page of picture files, with a `compared` event.

    Raises: UsageError, UnreadableInput, UnsupportedInput (another picture, too large for a page), OutputError.
    """
    sources = list(sources)
    reference = 0
    if page.reference is not None:
        if not any(_is_same_file(page.reference, source) for source in sources):
            sources.append(page.reference)
        reference = next(n for n, source in enumerate(sources) if _is_same_file(page.reference, source))
    if len(sources) < 2:
        raise UsageError("one picture has nothing to be compared with", hint="name a second one, or --models a,b")
    _check_target(page, sources)
    panels = [
        _panel(name, read_image(source, max_pixels=accept.max_pixels, reporter=reporter))
        for name, source in zip(_names(sources), sources, strict=True)
    ]
    _compare(panels, reference, 0, page, reporter)


def compare_models(
    source: Path,
    models: Sequence[str],
    page: PageOptions,
    accept: InputOptions,
    *,
    size: SizeOptions,
    device: DeviceOptions,
    tile: TileOptions,
    offline: bool,
    reporter: Reporter,
) -> None:
    """Writes the page of one picture enlarged by bicubic interpolation and by each model, with a `compared` event.

    All results have one size, by default that of the model with the largest scale. Errors as in `compare_pictures`,
    and those of loading and running a model.
    """
    inputs = [source] if page.reference is None else [source, page.reference]
    _check_target(page, inputs)
    pictures = [read_image(path, max_pixels=accept.max_pixels, reporter=reporter) for path in inputs]
    models = [auto.choose_model(find_device(device.device).type)[0] if model == "auto" else model for model in models]
    loaded = [load_model(model, offline=offline, reporter=reporter) for model in models]
    low, native = pictures[0], max(model.scale for model in loaded)
    height, width = size.target(low.pixels.shape[0], low.pixels.shape[1], native)
    results = [_bicubic(low.pixels, (height, width))]
    for model in loaded:
        with Upscaler(model, device=device, tile=tile, reporter=reporter) as upscaler:
            upscaler.announce()
            results.append(upscaler(low.pixels, size=(height, width), label=model.name))
    names = _distinct(["bicubic", *(model.name for model in loaded), *(path.name for path in inputs[1:])])
    images = [*(low.replace(result) for result in results), *pictures[1:]]
    border = math.ceil(max(height / low.pixels.shape[0], width / low.pixels.shape[1]))
    panels = [_panel(name, image) for name, image in zip(names, images, strict=True)]
    _compare(panels, None if page.reference is None else len(panels) - 1, border, page, reporter)


def _compare(
    panels: Sequence[_Panel], reference: int | None, border: int, page: PageOptions, reporter: Reporter
) -> None:
    whole = _common_size(panels, reporter)
    top, left, bottom, right = (page.crop or Crop(height=whole[0], width=whole[1])).box(*whole)
    height, width = bottom - top, right - left
    if height * width * len(panels) > _MOST_PIXELS:
        raise UnsupportedInput(
            f"{len(panels)} pictures of {width}x{height} are more than a page can hold",
            hint="--crop 3000x2000 shows the middle, --crop 3000x2000+LEFT+TOP another part",
        )
    box = (slice(top, bottom), slice(left, right))
    panels = [_prepared(panel, whole, box) for panel in panels]
    if len({panel.image.metadata.icc for panel in panels}) > 1:
        reporter.emit(
            "warning",
            code="profile",
            message="the pictures have different colour profiles; scores compare their plain numbers",
            hint="the page shows each picture by its own",
        )
    encoded = [_encoded(panel, page) for panel in panels]
    scores: list[Scores | None] = [None] * len(panels)
    if reference is not None:
        true = panels[reference].image.pixels
        others = [number for number in range(len(panels)) if number != reference]
        # four passes over each picture: PSNR and SSIM, on luma and RGB
        with progress(reporter, 4 * height * width * len(others), "pixels", label="scoring") as advance:
            for number in others:
                scores[number] = _scores(panels[number].image.pixels, true, border, advance)
    shown = [
        Shown(
            name=panel.name,
            size=_size_text(panel, whole),
            height=height,
            width=width,
            transparent=panel.image.pixels.shape[2] == 4,
            scores=score,
        )
        for panel, score in zip(panels, scores, strict=True)
    ]
    about = _about(shown, reference, border, page, box, whole)
    with replacing(page.target, overwrite=page.overwrite) as temporary:
        with temporary.open("w", encoding="utf-8", newline="\n") as file:
            write_compare_page(file, shown, encoded, about)
        size_bytes = temporary.stat().st_size
    reporter.emit(
        "compared",
        output=str(page.target),
        width=width,
        height=height,
        bytes=size_bytes,
        reference=None if reference is None else panels[reference].name,
        pictures=[{"name": one.name, "size": one.size, **_finite(one.scores)} for one in shown],
        text=_text(shown, about, page.target, size_bytes),
    )


def _check_target(page: PageOptions, sources: Sequence[Path]) -> None:
    """Before the long work. Raises: UsageError, OutputExists."""
    if any(_is_same_file(page.target, source) for source in sources):
        raise UsageError(f"-o {page.target} is one of the pictures", hint="choose another name")
    if not page.overwrite and (page.target.exists() or page.target.is_symlink()):
        raise OutputExists(
            f"{page.target} is already there", hint="--overwrite replaces it, -o names another", path=page.target
        )
    if not os.access(page.target.parent, os.W_OK):
        raise OutputError(
            f"cannot write {page.target}: its folder does not exist, or may not be written to",
            hint="choose another with -o",
            path=page.target,
        )


def _is_same_file(a: Path, b: Path) -> bool:
    return a == b or (a.exists() and b.exists() and a.samefile(b))


def _names(paths: Sequence[Path]) -> list[str]:
    """The files' names, or where two are equal the paths."""
    names = [path.name for path in paths]
    return names if len(set(names)) == len(names) else _distinct([str(path) for path in paths])


def _distinct(names: Sequence[str]) -> list[str]:
    """`names` with a number behind each that was there before."""
    return [
        name if name not in names[:place] else f"{name} ({names[:place].count(name) + 1})"
        for place, name in enumerate(names)
    ]


def _panel(name: str, image: Image) -> _Panel:
    return _Panel(name=name, image=image, origin=(image.pixels.shape[0], image.pixels.shape[1]))


def _common_size(panels: Sequence[_Panel], reporter: Reporter) -> tuple[int, int]:
    """The size of the largest picture. Raises: UnsupportedInput (one of them cannot be the same picture)."""
    largest = max(panels, key=lambda panel: panel.origin[0] * panel.origin[1])
    height, width = largest.origin
    for panel in panels:
        ratios = height / panel.origin[0], width / panel.origin[1]
        sizes = f"{panel.name} is {_by(panel.origin)} and {largest.name} {_by(largest.origin)}"
        if max(ratios) / min(ratios) > 1 + max(_LARGEST_STRETCH, 1 / min(panel.origin)):
            raise UnsupportedInput(
                f"{sizes}: not one picture in two sizes", hint="cut them to the same part of the scene first"
            )
        if abs(ratios[0] - ratios[1]) * min(panel.origin) >= 1:  # by a pixel or more somewhere
            reporter.emit(
                "warning",
                code="sizes",
                message=f"{sizes}: stretched by {100 * (max(ratios) / min(ratios) - 1):.1f} %, its pixels do not lie "
                "exactly on those of the other",
                hint=None,
            )
    return height, width


def _prepared(panel: _Panel, whole: tuple[int, int], box: tuple[slice, slice]) -> _Panel:
    """The part of a picture that the page shows, 8-bit."""
    pixels = panel.image.pixels
    pixels = pixels if panel.origin == whole else _bicubic(pixels, whole)
    pixels = np.ascontiguousarray(pixels[box])
    if pixels.dtype == np.uint16:
        pixels = ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)  # 65535 / 255
    if pixels.shape[2] == 4 and alpha.is_opaque(pixels):
        pixels = pixels[..., :3]
    image = panel.image.replace(pixels)
    return dataclasses.replace(panel, image=dataclasses.replace(image, metadata=image.metadata.colours_only()))


def _bicubic(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """(H, W, C) of any depth as (*size, C) uint8, by bicubic interpolation as the published numbers have it."""
    import torch

    from realesr_train.degradation.resize import imresize

    levels = 255 / float(np.iinfo(pixels.dtype).max)
    colour = pixels if pixels.shape[2] != 4 else alpha.bleed(pixels[..., :3], pixels[..., 3:])
    resized = np.empty((*size, pixels.shape[2]), np.uint8)
    for channel in range(colour.shape[2]):  # one at a time: float32 is large
        plane = torch.from_numpy(colour[..., channel].astype(np.float32) * levels)
        resized[..., channel] = imresize(plane[None, None], size=size)[0, 0].round().clamp(0, 255).byte().numpy()
    if pixels.shape[2] == 4:
        opacity = alpha.resize(pixels[..., 3:], *size).astype(np.float32) * levels
        resized[..., 3:] = opacity.round().astype(np.uint8)
    return resized


def _scores(
    pixels: Pixels, true: Pixels, border: int, advance: Callable[[float], None] = lambda pixels: None
) -> Scores:
    """How near `pixels` are to `true`; what is transparent lies on white."""
    from realesr_train.metrics.psnr_ssim import ssim

    border = min(border, (min(true.shape[:2]) - 1) // 2)
    inside = slice(border, -border or None)
    a, b = (_opaque_rgb(each)[inside, inside] for each in (pixels, true))
    height, width = a.shape[:2]
    scores: Scores = {}
    for colours, luma in (("y", True), ("rgb", False)):
        error = _mean_over_bands(partial(_squared_error, luma=luma), a, b, 1, advance)
        scores[f"psnr_{colours}_db"] = 10 * math.log10(255**2 / error) if error else math.inf
        scores[f"ssim_{colours}"] = (
            _mean_over_bands(partial(ssim, luma=luma), a, b, _SSIM_WINDOW_PX, advance)
            if min(height, width) >= _SSIM_WINDOW_PX
            else None
        )
    return scores


def _squared_error(a: Pixels, b: Pixels, *, luma: bool) -> float:
    from realesr_train.metrics.psnr_ssim import psnr

    return 255**2 / math.pow(10, psnr(a, b, luma=luma) / 10)


def _mean_over_bands(
    score: Callable[[Pixels, Pixels], float], a: Pixels, b: Pixels, window_px: int, advance: Callable[[float], None]
) -> float:
    """The mean over all windows of `window_px` rows, from means over bands of them: so little is in memory at once."""
    count: int = a.shape[0] - window_px + 1
    rows = max(1, _BAND_PX // a.shape[1])
    total = 0.0
    for top in range(0, count, rows):
        windows = min(rows, count - top)
        band = slice(top, top + windows + window_px - 1)
        total += windows * score(a[band], b[band])
        advance(windows * a.shape[1])
    return total / count


def _opaque_rgb(pixels: Pixels) -> Pixels:
    if pixels.shape[2] == 4:
        return alpha.flatten(pixels, (255, 255, 255))
    return pixels.repeat(3, axis=2) if pixels.shape[2] == 1 else pixels


def _encoded(panel: _Panel, page: PageOptions) -> tuple[str, bytes]:
    """Kind and bytes of the picture's file in the page. Raises: UnsupportedInput (more than a browser shows)."""
    kind = "webp" if max(panel.image.pixels.shape[:2]) <= _WEBP_SIDE_PX else "png"
    data = encode_image(Path(f"{panel.name}.{kind}"), panel.image, quality=page.quality, lossless=page.quality is None)
    if len(data) > _MOST_BYTES:
        raise UnsupportedInput(
            f"{panel.name} has {len(data) / 1e6:.0f} MB; browsers show {_MOST_BYTES / 1e6:.0f} MB in a page",
            hint="--quality 95 loses a little detail, --crop 3000x2000 shows the middle",
        )
    return kind, data


def _size_text(panel: _Panel, whole: tuple[int, int]) -> str:
    return _by(whole) if panel.origin == whole else f"{_by(panel.origin)}, bicubic to {_by(whole)}"


def _about(
    shown: Sequence[Shown],
    reference: int | None,
    border: int,
    page: PageOptions,
    box: tuple[slice, slice],
    whole: tuple[int, int],
) -> str:
    sentences = []
    if reference is not None:
        cut = f", a border of {border} pixels left out" if border else ""
        sentences.append(f"PSNR and SSIM to {shown[reference].name}, on luma (Y) and RGB{cut}; more is nearer.")
    elif any(picture.scores is None for picture in shown):
        sentences.append("No scores: --reference names the picture that the others should be.")
    if page.crop is not None:
        rows, columns = box
        part = f"{columns.stop - columns.start}x{rows.stop - rows.start}"
        sentences.append(f"Shown and scored: {part} pixels from {columns.start}, {rows.start} on of {_by(whole)}.")
    if page.quality is not None:
        sentences.append(f"Pictures in this page are WebP of quality {page.quality}; scores are from before that.")
    return " ".join(sentences)


def _finite(scores: Scores | None) -> dict[str, Any]:
    """Scores as JSON can hold them: equal pictures have no PSNR."""
    if scores is None:
        return {}
    return {
        **{key: None if value is None or math.isinf(value) else round(value, 6) for key, value in scores.items()},
        "equal": math.isinf(scores["psnr_rgb_db"] or 0),
    }


def _text(shown: Sequence[Shown], about: str, target: Path, size_bytes: int) -> str:
    """The table as a terminal shows it."""
    is_scored = any(picture.scores for picture in shown)
    rows = [["", "size", *(COLUMNS.values() if is_scored else ())]]
    for picture in shown:
        rows.append([picture.name, picture.size])
        if is_scored:
            scores = picture.scores
            rows[-1] += ["reference"] if scores is None else [score_text(key, scores[key]) for key in COLUMNS]
    widths = [max(len(row[column]) for row in rows if column < len(row)) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip() for row in rows]
    return "\n".join(
        [*lines, about, f"{target}: {len(shown)} pictures, {size_bytes / 1e6:.1f} MB; open it in a browser"]
    )


def _by(size: tuple[int, int]) -> str:
    return f"{size[1]}x{size[0]}"
