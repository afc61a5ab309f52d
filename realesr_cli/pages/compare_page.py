"""The page of `realesr compare`: pictures of one size under a divider, with zoom, loupe and a table of their scores."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TextIO

from realesr_cli.pages.frame import data_uri, escaped, page_frame

COLUMNS = {"psnr_y_db": "PSNR Y", "ssim_y": "SSIM Y", "psnr_rgb_db": "PSNR RGB", "ssim_rgb": "SSIM RGB"}
"""Scores by their keys, and how they are called; in all of them more is better."""

Scores = dict[str, float | None]
"""By the keys of `COLUMNS`; infinite where two pictures are equal, None where the score is not defined."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shown:
    """A picture of the page; all have one size."""

    name: str
    size: str
    """What the table says of its size."""
    height: int
    width: int
    transparent: bool
    scores: Scores | None
    """None for the reference, and for all pictures where there is none."""


def write_compare_page(
    file: TextIO, pictures: Sequence[Shown], encoded: Iterable[tuple[str, bytes]], about: str
) -> None:
    """Writes the page; `encoded` gives for each picture the kind (`webp`) and the bytes of a file, one after the other.

    `about` is the sentence under the table, as plain text.
    """
    title = " | ".join(picture.name for picture in pictures)
    before, after = page_frame("compare", title, table=_table(pictures), about=escaped(about))
    file.write(before)
    for picture, (kind, data) in zip(pictures, encoded, strict=True):
        file.write(
            f'<img alt="{escaped(picture.name)}" width="{picture.width}" height="{picture.height}" decoding="sync"'
            f'{" class=transparent" if picture.transparent else ""} src="{data_uri(data, kind)}">\n'
        )
    file.write(after)


def score_text(key: str, value: float | None) -> str:
    """A score as people write it: 28.31 dB, 0.8123."""
    if value is None:
        return "–"
    if math.isinf(value):
        return "equal"
    return f"{value:.2f} dB" if key.endswith("_db") else f"{value:.4f}"


def _table(pictures: Sequence[Shown]) -> str:
    is_scored = any(picture.scores for picture in pictures)
    titles = [*(COLUMNS.values() if is_scored else ())]
    head = "".join(f'<th scope="col">{title}</th>' for title in titles)
    rows = "".join(
        f'<tr><td>{number}</td><th scope="row" class="text">{escaped(picture.name)}</th>'
        f"<td>{escaped(picture.size)}</td>"
        f"{_cells(picture, pictures) if is_scored else ''}</tr>\n"
        for number, picture in enumerate(pictures, 1)
    )
    return (
        '<table><thead><tr><th></th><th scope="col" class="text">Picture</th><th scope="col">Size</th>'
        f"{head}</tr></thead>"
        f"\n<tbody>\n{rows}</tbody></table>"
    )


def _cells(picture: Shown, pictures: Sequence[Shown]) -> str:
    if picture.scores is None:
        return f'<td class="quiet" colspan="{len(COLUMNS)}">reference</td>'
    cells = []
    for key in COLUMNS:
        values = [one.scores[key] or -math.inf for one in pictures if one.scores]
        is_best = len(values) > 1 and picture.scores[key] == max(values)
        best = " class=best" if is_best else ""
        cells.append(f"<td{best}>{score_text(key, picture.scores[key])}</td>")
    return "".join(cells)
