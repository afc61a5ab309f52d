"""The page of `realesr compare` in a real browser: divider, zoom, keys, fingers, loupe, and names that mean harm."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from devtools import Browser, Page
from realesr_cli.image_io import Image, Pixels, write_image

Command = Callable[..., Any]

RED, GREEN, BLUE = (220, 30, 30), (30, 160, 60), (40, 60, 200)
HEIGHT, WIDTH = 120, 200


def _write(path: Path, pixels: Pixels) -> Path:
    write_image(path, Image(pixels=pixels))
    return path


def _flat(path: Path, colour: tuple[int, ...]) -> Path:
    return _write(path, np.full((HEIGHT, WIDTH, len(colour)), colour, np.uint8))


@pytest.fixture
def three(realesr: Command, tmp_path: Path, browser: Browser) -> Page:
    """A page of a red, a green and a blue picture, at the size of which one pixel is five on the screen."""
    sources = [_flat(tmp_path / f"{n}.png", c) for n, c in (("red", RED), ("green", GREEN), ("blue", BLUE))]
    target = tmp_path / "page.html"
    assert realesr("compare", *sources, "-o", target).status == 0
    page = browser.open(target)
    assert page.ask("document.readyState") == "complete"
    return page


def _stage(page: Page) -> tuple[float, float, float, float]:
    """Left, top, width and height of the place where the pictures are."""
    left, top, width, height = page.ask(
        "(box => [box.left, box.top, box.width, box.height])(document.querySelector('#stage').getBoundingClientRect())"
    )
    return left, top, width, height


def _boxes(page: Page) -> list[list[float]]:
    """Where the left and the right picture lie, as far as they reach."""
    boxes: list[list[float]] = page.ask(
        "['#left img', '#right img'].map(one => document.querySelector(one).getBoundingClientRect())"
        ".map(box => [box.left, box.top, box.width, box.height])"
    )
    return boxes


def _colour(screen: NDArray[np.uint8], x: float, y: float) -> tuple[int, ...]:
    return tuple(screen[int(y), int(x)].tolist())


def _value(page: Page) -> int:
    return int(page.ask("document.querySelector('#divider').getAttribute('aria-valuenow')"))


def _zoom(page: Page) -> int:
    return int(page.ask("document.querySelector('#zoom').textContent").rstrip(" %"))


def test_the_divider_is_dragged_and_shows_more_of_the_left_picture(three: Page) -> None:
    left, top, width, height = _stage(three)
    middle, row = left + width / 2, top + height / 2
    before = three.screenshot()
    assert _colour(before, middle - 60, row) == RED
    assert _colour(before, middle + 60, row) == GREEN
    three.drag((middle, row), (middle + 150, row))
    after = three.screenshot()
    assert _colour(after, middle + 60, row) == RED
    assert _colour(after, middle + 210, row) == GREEN
    assert _value(three) == round(100 * (width / 2 + 150) / width)
    three.drag((middle + 150, row), (left - 500, row))  # far beyond the edge
    assert _value(three) == 0
    assert _colour(three.screenshot(), middle - 60, row) == GREEN
    assert three.troubles() == []


def test_the_wheel_zooms_about_the_pointer_and_both_pictures_stay_together(three: Page) -> None:
    left, top, width, height = _stage(three)
    at = left + width * 0.7, top + height * 0.4
    x, y, shown, _ = _boxes(three)[0]
    under = ((at[0] - x) / shown, (at[1] - y) / shown)
    for _ in range(3):
        three.mouse("Wheel", *at, deltaX=0, deltaY=-100)
    (x, y, large, _), second = _boxes(three)
    assert large == pytest.approx(shown * 2**1.5, rel=1e-3)
    assert second == _boxes(three)[0]
    assert ((at[0] - x) / large, (at[1] - y) / large) == pytest.approx(under, abs=2 / large)
    three.drag(at, (at[0] - 120, at[1] + 30))  # beside the divider: the pictures move
    moved, other = _boxes(three)
    assert moved == other
    assert moved[:2] == pytest.approx([x - 120, y + 30], abs=1)
    assert _value(three) == 50
    three.mouse("Wheel", *at, deltaX=0, deltaY=100)
    assert _boxes(three)[0][2] == pytest.approx(large / 2**0.5, rel=1e-3)
    assert three.troubles() == []


def test_keys_do_all_that_the_pointer_does(three: Page) -> None:
    fitted = _zoom(three)
    for key, shift, value in (
        ("ArrowRight", False, 52), ("ArrowUp", False, 54), ("ArrowLeft", True, 44), ("Home", False, 0),
        ("ArrowLeft", False, 0), ("End", False, 100), (" ", False, 0), (" ", False, 100), ("ArrowDown", False, 98),
    ):  # fmt: skip
        three.press(key, "Space" if key == " " else "", shift=shift)
        assert _value(three) == value, key
    three.press("1", "Digit1")
    assert _zoom(three) == 100 and _boxes(three)[0][2:] == [WIDTH, HEIGHT]
    three.press("+", "BracketRight")
    assert _zoom(three) == 141
    three.press("-", "Slash")
    three.press("-", "Slash")
    assert _zoom(three) == 71
    three.press("8", "Digit8")
    assert _zoom(three) == 800
    three.press("0", "Digit0")
    assert _zoom(three) == fitted
    names = "[...document.querySelectorAll('.name')].map(one => one.textContent)"
    three.press('"', "Digit3", shift=True)
    assert three.ask(names) == ["red.png", "blue.png"]
    three.press("x", "KeyX")
    assert three.ask(names) == ["blue.png", "red.png"]
    three.press("PageDown")
    assert three.ask(names) == ["blue.png", "green.png"]
    three.press("PageUp", shift=True)
    assert three.ask(names) == ["red.png", "green.png"]
    three.press("9", "Digit9", shift=True)  # there is none
    three.press("!", "Digit1", shift=True)  # it is on the left: the sides change
    assert three.ask(names) == ["green.png", "red.png"]
    assert three.ask("document.querySelector('#said').textContent") == "Left: green.png. Right: red.png."
    assert (
        three.ask("document.querySelector('#divider').getAttribute('aria-valuetext')") == "98 % green.png, 2 % red.png"
    )
    three.press("?", "Slash", shift=True)
    assert three.ask("document.querySelector('#help').open") is True
    assert three.troubles() == []


def test_a_double_click_changes_between_all_and_pixel_for_pixel(three: Page) -> None:
    left, top, width, height = _stage(three)
    at = left + width * 0.3, top + height * 0.5
    fitted = _zoom(three)
    for expected in (4 * fitted, fitted):  # fitting enlarges this small one already
        for count in (1, 2):
            three.mouse("Pressed", *at, button="left", buttons=1, clickCount=count)
            three.mouse("Released", *at, button="left", clickCount=count)
        assert _zoom(three) == pytest.approx(expected, abs=3)


def test_tab_goes_to_all_controls_and_shows_where_it_is(three: Page) -> None:
    seen = []
    for _ in range(11):
        three.press("Tab")
        seen.append(three.ask("document.activeElement.id"))
        marked = "document.activeElement.id === 'divider' ? document.activeElement.firstChild : document.activeElement"
        assert three.ask(f"getComputedStyle({marked}).outlineStyle") == "solid", seen[-1]
    assert seen == [
        "left-choice", "swap", "right-choice", "zoom-out", "zoom-in", "fit", "exact", "loupe-switch", "theme",
        "help-switch", "divider",
    ]  # fmt: skip
    three.press("ArrowRight")
    assert _value(three) == 52


def test_the_buttons_and_the_choice(three: Page) -> None:
    for button, zoom in (("#exact", 100), ("#zoom-in", 141), ("#zoom-out", 100)):
        three.click(button)
        assert _zoom(three) == zoom
    three.ask("(c => { c.value = 2; c.dispatchEvent(new Event('change')); })(document.querySelector('#left-choice'))")
    left, top, width, height = _stage(three)
    assert _colour(three.screenshot(), left + width / 2 - 40, top + height / 2) == BLUE
    paper = _colour(three.screenshot(), 5, 695)
    three.click("#theme")
    assert sum(_colour(three.screenshot(), 5, 695)) < sum(paper) - 300  # light by default, here
    assert three.troubles() == []


def test_two_fingers_zoom(three: Page) -> None:
    left, top, width, height = _stage(three)
    x, y, before = left + width * 0.3, top + height * 0.5, _boxes(three)[0][2]
    three.send("Emulation.setTouchEmulationEnabled", enabled=True, maxTouchPoints=2)

    def touch(kind: str, *xs: float) -> None:
        points = [{"x": at, "y": y, "id": number} for number, at in enumerate(xs)]
        three.send("Input.dispatchTouchEvent", type=f"touch{kind}", touchPoints=points)

    touch("Start", x - 30)
    touch("Start", x - 30, x + 30)
    for spread in (40, 50, 60):
        touch("Move", x - spread, x + spread)
    touch("End")
    assert _boxes(three)[0][2] == pytest.approx(2 * before, rel=0.02)
    assert _value(three) == 50


def test_pixels_are_crisp_when_large_and_the_loupe_shows_them(
    realesr: Command, tmp_path: Path, browser: Browser
) -> None:
    board = (np.indices((40, 60)).sum(0) % 2 * 255).astype(np.uint8)[..., None].repeat(3, 2)
    sources = [_write(tmp_path / "a.png", board), _write(tmp_path / "b.png", 255 - board)]
    assert realesr("compare", *sources, "-o", tmp_path / "page.html").status == 0
    page = browser.open(tmp_path / "page.html")
    page.press("8", "Digit8")
    left, top, *_ = _boxes(page)[0]
    screen = page.screenshot()
    field = screen[int(top) + 8 : int(top) + 64, int(left) + 16 : int(left) + 176, 0]
    assert set(np.unique(field).tolist()) == {0, 255}  # no grey between the squares
    assert np.array_equal(field[4::8, 4::8], np.tile([[255, 0], [0, 255]], (4, 10))[: len(field) // 8, :20])
    page.press("l", "KeyL")
    page.mouse("Moved", left + 20 * 8 + 4, top + 10 * 8 + 4)
    texts = page.ask("[...document.querySelectorAll('#loupe span')].map(one => one.textContent)")
    assert texts == ["#000000", "20, 10", "#ffffff"]
    assert page.ask("document.querySelector('#loupe').hidden") is False
    x, y = page.ask("(box => [box.left, box.top])(document.querySelector('#loupe canvas').getBoundingClientRect())")
    seen = page.screenshot()[int(y) + 4 : int(y) + 60, int(x) + 4 : int(x) + 60, 0]
    assert set(np.unique(seen).tolist()) == {0, 255}
    page.press("l", "KeyL")
    assert page.ask("document.querySelector('#loupe').hidden") is True
    assert page.troubles() == []


def test_what_is_transparent_shows_squares_and_no_other_picture(
    realesr: Command, tmp_path: Path, browser: Browser
) -> None:
    sources = [_flat(tmp_path / "a.png", (0, 0, 0, 0)), _flat(tmp_path / "b.png", RED)]
    assert realesr("compare", *sources, "-o", tmp_path / "page.html").status == 0
    page = browser.open(tmp_path / "page.html")
    left, top, width, height = _stage(page)
    row, middle = int(top + height / 2), int(left + width / 2)
    strip = page.screenshot()[row, middle - 200 : middle - 60]
    assert len(np.unique(strip, axis=0)) == 2 and (strip[:, 0] == strip[:, 1]).all()  # two greys


def test_names_bring_nothing_into_the_page(realesr: Command, tmp_path: Path, browser: Browser) -> None:
    evil = "<img src=x onerror=alert(1)>\"'&amp;$title <script>document.title=1<!-- content -->.png"
    sources = [_flat(tmp_path / f"1{evil}", RED), _flat(tmp_path / f"2{evil}", GREEN)]
    target = tmp_path / "page.html"
    assert realesr("compare", *sources, "-o", target).status == 0
    page = browser.open(target)
    assert page.ask("document.querySelectorAll('img').length") == 2
    assert page.ask("document.querySelectorAll('script').length") == 1
    assert page.ask("document.querySelector('#left-name').textContent") == f"1{evil}"
    assert page.ask("document.querySelector('tbody th').textContent") == f"1{evil}"
    assert page.ask("document.title") == f"1{evil} | 2{evil}"
    assert page.troubles() == []
    # and what was brought in would not run
    page.ask(
        "document.body.insertAdjacentHTML('beforeend', '<img src=\"https://example.org/a.png\" onerror=hacked=1>')"
    )
    assert page.ask("typeof hacked") == "undefined"
    assert any("Content Security Policy" in str(trouble) for trouble in page.troubles())
