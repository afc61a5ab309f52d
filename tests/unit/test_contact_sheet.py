"""Contact sheets: which crop they show, and what stands where."""

from pathlib import Path

import numpy as np

from realesr_cli import read_image
from realesr_train.contact_sheet import MOST_ROWS, ContactSheet, chosen, find_crop
from realesr_train.eval_set import Pixels


def _grey(height: int = 300, width: int = 400, level: int = 128) -> Pixels:
    return np.full((height, width, 3), level, np.uint8)


def test_the_crop_is_where_the_pictures_differ_most_on_the_grid() -> None:
    a, b = _grey(), _grey()
    b[150:250, 215:330] = 200
    b[10:40, 10:40] = 0
    rows, columns = find_crop([a, b], side_px=128, grid_px=4)
    assert (rows.stop - rows.start, columns.stop - columns.start) == (128, 128)
    assert rows.start % 4 == columns.start % 4 == 0
    assert rows.start <= 150 and rows.stop >= 250 and columns.start <= 215 and columns.stop >= 330


def test_of_one_picture_the_crop_has_most_detail(rng: np.random.Generator) -> None:
    picture = _grey()
    picture[:, :200] = np.linspace(0, 255, 300, dtype=np.uint8)[:, None, None]  # contrast, but no detail
    picture[100:200, 280:380] = rng.integers(100, 156, (100, 100, 3))
    rows, columns = find_crop([picture], side_px=100, grid_px=1)
    assert abs(rows.start - 100) <= 4 and abs(columns.start - 280) <= 4


def test_a_picture_smaller_than_the_crop_is_shown_whole() -> None:
    assert find_crop([_grey(30, 61)], side_px=128, grid_px=3) == (slice(0, 30), slice(0, 60))


def test_a_row_holds_the_low_resolution_the_results_and_the_clean_picture(tmp_path: Path) -> None:
    sheet = ContactSheet(4, ["one", "two"])
    results = {"bicubic": _grey(level=0), "one": _grey(level=50), "two": _grey(level=90)}
    results["bicubic"][:150, :200] = 255  # it is no network, and does not choose
    results["two"][200:, 300:] = 250
    clean = _grey(level=220)
    clean[:200] = clean[:, :300] = 10  # seen only if the crop were elsewhere
    values = {name: {"psnr_y_db": 20.0, "lpips_squeeze": 0.2} for name in results}
    sheet.add("picture", _grey(75, 100, level=30), results, clean, values)
    sheet.write(tmp_path / "sheet.png")
    pixels = read_image(tmp_path / "sheet.png").pixels
    assert pixels.shape == (2 * 18 + 256 + 8, 5 * (256 + 8), 3)
    inside = [pixels[-30, 264 * column + 230].tolist() for column in range(5)]
    assert inside == [[30] * 3, [0] * 3, [50] * 3, [250] * 3, [220] * 3]
    assert (pixels[:36, :256] < 128).any() and (pixels[:36, 264 * 4 :] < 128).any()  # the labels
    assert (pixels[18:36, 264 : 2 * 264 - 8] < 128).any() and (pixels[18:36, :256] == 255).all()  # the numbers


def test_names_of_any_length_and_alphabet_are_drawn(tmp_path: Path) -> None:
    sheet = ContactSheet(2, [])
    name = "an endless name of a model that no tile can hold/модель ünïcode " * 3
    sheet.add(name, _grey(20, 20), {name: _grey(40, 40)}, None, {name: {"niqe": float("nan")}})
    sheet.write(tmp_path / "sheet.png")
    assert read_image(tmp_path / "sheet.png").pixels.shape[1] == 2 * 264


def test_large_sets_are_shown_by_evenly_spread_pictures() -> None:
    assert chosen(3) == {0, 1, 2} and chosen(MOST_ROWS) == set(range(MOST_ROWS)) and chosen(0) == set()
    places = sorted(chosen(240))
    assert len(places) == MOST_ROWS and places[0] == 5 and places[-1] == 235


def test_a_sheet_without_rows_is_not_written(tmp_path: Path) -> None:
    ContactSheet(4, []).write(tmp_path / "sheet.png")
    assert not list(tmp_path.iterdir())
