"""A run's log as one picture, `progress.png`: losses, learning rate, PSNR and SSIM over the steps.

Drawn with OpenCV, so that a training machine needs no plotting library.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from realesr_cli.image_io import Image, write_image
from realesr_train.alarms import BASELINE
from realesr_train.run_log import Series, read_log

Pixels = NDArray[np.uint8]
Colour = tuple[int, int, int]

_HEIGHT, _WIDTH = 900, 1400
_MARGIN_LEFT, _MARGIN_RIGHT, _MARGIN_TOP, _MARGIN_BOTTOM = 76, 18, 24, 34
_LINE_PX = 20
_TEXT_PX = 14
_INK: Colour = (40, 40, 40)
_GRID: Colour = (228, 228, 228)
_COLOURS: tuple[Colour, ...] = (
    (31, 100, 180),
    (214, 80, 30),
    (40, 140, 60),
    (150, 70, 170),
    (150, 110, 0),
    (200, 40, 110),
    (0, 150, 160),
    (90, 90, 90),
)
_NOT_LOSSES = ("loss.logit_", "loss.gradient_norm_", "loss.skipped_")
_SMOOTHED_OVER = 25


@dataclass(frozen=True, kw_only=True, slots=True)
class _Panel:
    title: str
    curves: Mapping[str, Series]
    logarithmic: bool = False
    smooth: bool = False


def draw_curves(log: Path, target: Path) -> None:
    """Writes the curves of `log` (a log.csv) to `target` (a PNG file), over an older one. Raises: OutputError."""
    write_image(target, Image(pixels=curves_picture(read_log(log))), overwrite=True)


def curves_picture(history: Mapping[str, Series]) -> Pixels:
    """(900, 1400, 3) uint8 RGB with a panel each for losses (logarithmic; pale as logged, dark smoothed), learning
    rate, PSNR and SSIM. Columns of the data set "bicubic" are levels to compare with: one dashed line each."""
    losses = {
        name.removeprefix("loss."): series
        for name, series in history.items()
        if name.startswith("loss.") and not name.startswith(_NOT_LOSSES)
    }
    panels = (
        _Panel(title="losses", curves=losses, logarithmic=True, smooth=True),
        _Panel(title="PSNR, dB", curves=_metrics(history, "psnr_")),
        _Panel(title="learning rate", curves={"learning rate": history.get("learning_rate", Series())}),
        _Panel(title="SSIM", curves=_metrics(history, "ssim_")),
    )
    last = max((series.steps[-1] for series in history.values() if series.steps), default=1)
    canvas = np.full((_HEIGHT, _WIDTH, 3), 255, np.uint8)
    middle, split = _HEIGHT * 5 // 9, _WIDTH // 2
    places = ((0, middle, 0, split), (0, middle, split, _WIDTH), (middle, _HEIGHT, 0, split))
    for panel, (top, bottom, left, right) in zip(panels, (*places, (middle, _HEIGHT, split, _WIDTH)), strict=True):
        part = np.full((bottom - top, right - left, 3), 255, np.uint8)
        _draw(part, panel, max(1, last))
        canvas[top:bottom, left:right] = part
    return canvas


def _metrics(history: Mapping[str, Series], kind: str) -> dict[str, Series]:
    """DATASET NAME -> the columns metric.DATASET.kind*."""
    chosen = {}
    for name, series in history.items():
        if name.startswith("metric."):
            dataset, _, metric = name.removeprefix("metric.").rpartition(".")
            if metric.startswith(kind):
                chosen[f"{dataset} {metric.removeprefix(kind).removesuffix('_db')}"] = series
    return chosen


def _draw(canvas: Pixels, panel: _Panel, last_step: int) -> None:
    """Title, legend, frame, axes and curves of one panel over the whole of `canvas`."""
    bottom, right = canvas.shape[0] - _MARGIN_BOTTOM, canvas.shape[1] - _MARGIN_RIGHT
    curves = {name: _plottable(series, panel.logarithmic) for name, series in panel.curves.items()}
    curves = {name: curve for name, curve in curves.items() if len(curve[0])}
    top = _headline(canvas, panel, {name: values[-1] for name, (_, values) in curves.items()}, right)
    if not curves:
        _text(canvas, "nothing logged yet", (_MARGIN_LEFT + 12, (top + bottom) // 2))
        cv2.rectangle(canvas, (_MARGIN_LEFT, top), (right, bottom), _INK, 1)
        return
    ticks, low, high = _axis([values for _, values in curves.values()], panel.logarithmic)
    across, up = (right - _MARGIN_LEFT) / last_step, (bottom - top) / (high - low)

    for value, label in ticks:
        y = round(bottom - (value - low) * up)
        cv2.line(canvas, (_MARGIN_LEFT, y), (right, y), _GRID, 1)
        _text(canvas, label, (_MARGIN_LEFT - 8, y + 5), align_right=True)
    for step in _round_steps(0, last_step, 6):
        x = round(_MARGIN_LEFT + step * across)
        cv2.line(canvas, (x, top), (x, bottom), _GRID, 1)
        _text(canvas, _short(step), (x, bottom + 18), centred=True)
    inside = canvas[top:bottom, _MARGIN_LEFT:right]
    for colour, (name, (steps, values)) in zip(_cycle(len(curves)), curves.items(), strict=True):
        if name.startswith(f"{BASELINE} "):
            _dashed(inside, round((high - values[-1]) * up), colour)
        elif panel.smooth and len(values) >= 40:
            _line(inside, steps * across, (high - values) * up, _paler(colour), width=1)
            _line(inside, steps * across, (high - _smoothed(values)) * up, colour, width=2)
        else:
            _line(inside, steps * across, (high - values) * up, colour, width=2)
    cv2.rectangle(canvas, (_MARGIN_LEFT, top), (right, bottom), _INK, 1)


def _headline(canvas: Pixels, panel: _Panel, last_values: Mapping[str, float], right: int) -> int:
    """Title and legend (names with their last values) in as many lines as they need; the first row below them."""
    x, y = _MARGIN_LEFT, _MARGIN_TOP
    _text(canvas, panel.title, (x, y), size=_TEXT_PX + 2)
    x += _text_width(panel.title, _TEXT_PX + 2) + 20
    for colour, (name, value) in zip(_cycle(len(last_values)), last_values.items(), strict=True):
        line = f"{name} {10**value if panel.logarithmic else value:.4g}"
        width = 24 + _text_width(line)
        if x + width > right and x > _MARGIN_LEFT:
            x, y = _MARGIN_LEFT, y + _LINE_PX
        cv2.line(canvas, (x, y - 5), (x + 16, y - 5), colour, 4)
        _text(canvas, line, (x + 22, y))
        x += width + 14
    return y + 12


def _plottable(series: Series, logarithmic: bool) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Steps and values that are finite, and positive and as powers of ten for a logarithmic axis."""
    steps, values = np.array(series.steps, np.float64), np.array(series.values, np.float64)
    shown = np.isfinite(values)
    if logarithmic:
        shown &= values > 0
        values = np.log10(values, out=np.zeros_like(values), where=shown)
    return steps[shown], values[shown]


def _axis(columns: Sequence[NDArray[np.float64]], logarithmic: bool) -> tuple[list[tuple[float, str]], float, float]:
    """Ticks with their labels, and the ends of the axis. A few outliers of a long curve may lie outside."""
    low = min(float(np.quantile(values, 0.002)) for values in columns)
    high = max(float(np.quantile(values, 0.998)) for values in columns)
    if high - low <= 1e-9 * abs(high):
        low, high = (low - 0.3, high + 0.3) if logarithmic else (low - abs(low) / 2 - 1e-12, high + abs(high) / 2)
    pad = 0.05 * (high - low)
    low, high = low - pad, high + pad
    if not logarithmic:
        return _labelled(_round_steps(low, high, 6)), low, high
    for mantissas in ((1,), (1, 3), (1, 2, 5)):
        powers = range(math.floor(low), math.ceil(high) + 1)
        ticks = [(power + math.log10(m), f"{m * 10.0**power:.3g}") for power in powers for m in mantissas]
        ticks = [tick for tick in ticks if low <= tick[0] <= high]
        if len(ticks) >= 4:
            return ticks, low, high
    round_values = [value for value in _round_steps(10**low, 10**high, 6) if value > 0]
    return [(math.log10(value), label) for value, label in _labelled(round_values)], low, high


def _labelled(values: list[float]) -> list[tuple[float, str]]:
    """Each of evenly spaced numbers with as many digits as tell it from its neighbours."""
    if len(values) < 2:
        return [(value, f"{value:.3g}") for value in values]
    digits = -math.floor(math.log10(values[1] - values[0]) + 1e-9)
    if digits <= 4:
        return [(value, format(value, f".{max(0, digits)}f")) for value in values]
    largest = max(abs(value) for value in values)
    significant = max(0, math.floor(math.log10(largest) + 1e-9) + digits)
    return [(v, re.sub(r"e-0?", "e-", f"{v:.{significant}e}") if abs(v) > largest / 1e6 else "0") for v in values]


def _round_steps(low: float, high: float, count: int) -> list[float]:
    """About `count` round numbers between low and high."""
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]


def _short(step: float) -> str:
    for unit, name in ((1e6, "M"), (1e3, "k")):
        if step >= unit:
            return f"{step / unit:g}{name}"
    return f"{step:g}"


def _smoothed(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Running mean over `_SMOOTHED_OVER` values to each side, less for a short curve, fewer at the ends."""
    reach = min(_SMOOTHED_OVER, len(values) // 20)
    sums = np.concatenate(([0.0], np.cumsum(values)))
    index = np.arange(len(values))
    first, stop = np.maximum(index - reach, 0), np.minimum(index + reach + 1, len(values))
    means: NDArray[np.float64] = (sums[stop] - sums[first]) / (stop - first)
    return means


def _line(canvas: Pixels, x: NDArray[np.float64], y: NDArray[np.float64], colour: Colour, *, width: int) -> None:
    """A polygon line in sixteenths of a pixel, cut off at the edges of `canvas`; one point is a dot."""
    points = np.stack((x, y), 1).clip(-4000, 4000)
    if len(points) == 1:
        cv2.circle(canvas, (round(points[0, 0]), round(points[0, 1])), 4, colour, -1, cv2.LINE_AA)
        return
    cv2.polylines(canvas, [(points * 16).round().astype(np.int32)], False, colour, width, cv2.LINE_AA, 4)


def _dashed(canvas: Pixels, y: int, colour: Colour) -> None:
    for x in range(0, canvas.shape[1], 14):
        cv2.line(canvas, (x, y), (x + 7, y), colour, 2)


def _text(
    canvas: Pixels,
    text: str,
    place: tuple[int, int],
    *,
    size: int = _TEXT_PX,
    align_right: bool = False,
    centred: bool = False,
) -> None:
    x, y = place
    width = _text_width(text, size)
    x -= width if align_right else width // 2 if centred else 0
    cv2.putText(canvas, text, (min(max(0, x), canvas.shape[1] - width), y), _INK, cv2.FontFace("sans"), size)


def _text_width(text: str, size: int = _TEXT_PX) -> int:
    return int(cv2.getTextSize((_WIDTH, _HEIGHT), text, (0, 0), cv2.FontFace("sans"), size)[2])


def _cycle(count: int) -> list[Colour]:
    return [_COLOURS[index % len(_COLOURS)] for index in range(count)]


def _paler(colour: Colour) -> Colour:
    red, green, blue = (255 - (255 - part) // 3 for part in colour)
    return red, green, blue
