"""The page of a run: what it shows of each file, in a real browser too, and how it ends when the run does not."""

import base64
import errno
import os
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from devtools import Browser
from realesr_cli.errors import DiskFull, OutputError, OutputExists
from realesr_cli.image_io import Image, Pixels, read_image, write_image
from realesr_cli.pages.contact import THUMBNAIL_PX, ContactPage


def _pair(folder: Path, name: str, height: int = 60, width: int = 80, scale: int = 4) -> tuple[Path, Path]:
    """A picture with its busy part at the lower right, and its enlargement."""
    flat = np.full((height, width, 3), (90, 120, 150), np.uint8)
    rng = np.random.default_rng(height)
    busy = rng.integers(0, 255, (height - height // 2, width - width // 2, 3), np.uint8)
    flat[height // 2 :, width // 2 :] = cv2.GaussianBlur(busy, (0, 0), 1.2)
    folder.mkdir(parents=True, exist_ok=True)
    source, result = folder / f"{name}.png", folder / f"{name}_x4.png"
    write_image(source, Image(pixels=flat), overwrite=True)
    large = cv2.resize(flat, (width * scale, height * scale), interpolation=cv2.INTER_CUBIC)
    write_image(result, Image(pixels=large), overwrite=True)
    return source, result


def _pictures_of(page: Path) -> list[Pixels]:
    found = re.findall(r'src="data:image/webp;base64,([^"]+)"', page.read_text(encoding="utf-8"))
    return [read_image(base64.b64decode(data)).pixels for data in found]


def test_the_page_in_a_browser(tmp_path: Path, browser: Browser) -> None:
    evil = "<img src=x onerror=alert(1)>\"'&amp; ü#?%"
    target = tmp_path / "out" / "contact.html"
    target.parent.mkdir()
    with ContactPage(target, title="realesr directory in <b>out") as page:
        page.add(*_pair(tmp_path / "in", evil), "1.2 s")
        page.add(tmp_path / "in" / "bad<i>.png", None, "cannot decode bad<i>.png: it is cut off")
        page.add(*_pair(tmp_path / "in" / "deep", "javascript:alert(1)"), "already there")
    shown = browser.open(target)
    assert shown.ask("document.querySelector('h1').textContent") == "realesr directory in <b>out"
    names = (
        "[...document.querySelectorAll('article')].filter(one => one.checkVisibility())"
        ".map(one => one.querySelector('h2').textContent)"
    )
    everything = [f"{evil}.png", "bad<i>.png", "javascript:alert(1).png"]
    assert shown.ask(names) == everything
    assert shown.ask("document.querySelector('#count').textContent") == "3 of 3, 1 failed"
    assert shown.ask("document.querySelector('.failed p').textContent") == "cannot decode bad<i>.png: it is cut off"
    for button, expected in (("failed", everything[1:2]), ("done", everything[::2]), ("all", everything)):
        shown.click(f"button[data-show={button}]")
        assert shown.ask(names) == expected
    shown.click("#search")
    for key in "ALERT":
        shown.press(key)
    assert shown.ask(names) == everything[::2]
    visible = "[...document.querySelectorAll('.pair')].filter(one => one.checkVisibility()).map(one => one.className)"
    assert set(shown.ask(visible)) == {"pair detail"}
    shown.click("button[data-view=whole]")
    assert set(shown.ask(visible)) == {"pair whole"}
    # every link leads to its file, as a browser understands it
    places = shown.ask("[...document.querySelectorAll('article a')].map(one => new URL(one.href).pathname)")
    files = {os.fsencode(path) for path in (tmp_path / "in").rglob("*") if path.is_file()}
    unquoted = {bytes.fromhex(p.encode().hex()) for p in shown.ask(f"{places!r}.map(decodeURIComponent)")}
    assert unquoted == files | {os.fsencode(tmp_path / "in" / "bad<i>.png")}
    assert shown.ask("document.querySelectorAll('img').length") == 8
    assert shown.ask("[...document.images].every(one => one.complete && one.naturalWidth > 0)")
    assert shown.troubles() == []


def test_thumbnails_are_bounded_and_the_detail_is_the_same_busy_part_of_both(tmp_path: Path) -> None:
    target = tmp_path / "contact.html"
    source, result = _pair(tmp_path, "a", 300, 500)
    with ContactPage(target, title="t") as page:
        page.add(source, result)
        page.add(*_pair(tmp_path, "thin", 3, 700))
        page.add(source, source)  # as large as before
        page.add(result, source)  # a reduction
    pictures = _pictures_of(target)
    assert len(pictures) == 16
    assert all(one.shape[0] <= THUMBNAIL_PX[0] and one.shape[1] <= THUMBNAIL_PX[1] + 1 for one in pictures)
    before, after, whole_before, whole_after = pictures[:4]
    assert before.shape == after.shape == (240, 320, 3)
    assert after[:120].std() > 10 and after[120:].std() > 10  # not the even part
    assert np.abs(before.astype(int) - after).mean() < 3  # this enlargement is cubic interpolation, too
    assert whole_before.shape == whole_after.shape == (192, 320, 3)
    reduced = cv2.resize(read_image(source).pixels, (320, 192), interpolation=cv2.INTER_AREA)
    assert np.abs(whole_before.astype(int) - reduced).mean() < 3


@pytest.mark.parametrize(("channels", "dtype"), [(1, np.uint8), (4, np.uint8), (3, np.uint16)])
def test_every_kind_of_picture_has_a_thumbnail(channels: int, dtype: type, tmp_path: Path) -> None:
    pixels = np.full((20, 30, channels), np.iinfo(dtype).max // 3, dtype)
    write_image(tmp_path / "a.png", Image(pixels=pixels))
    with ContactPage(tmp_path / "contact.html", title="t") as page:
        page.add(tmp_path / "a.png", tmp_path / "a.png")
    shown = _pictures_of(tmp_path / "contact.html")
    assert len(shown) == 4 and all(abs(int(one[..., 0].mean()) - 85) <= 2 for one in shown)
    assert ("class=transparent" in (tmp_path / "contact.html").read_text()) == (channels == 4)


def test_a_file_that_is_gone_has_a_card_without_pictures(tmp_path: Path) -> None:
    with ContactPage(tmp_path / "contact.html", title="t") as page:
        page.add(tmp_path / "gone.png", tmp_path / "gone_x4.png", "1.0 s")
    text = (tmp_path / "contact.html").read_text()
    assert "gone.png" in text and "<article><h2>" in text and 'class="failed"' not in text


def test_cards_are_on_the_disk_as_they_come(tmp_path: Path) -> None:
    source, result = _pair(tmp_path, "a", 40, 60)
    sizes = []
    with ContactPage(tmp_path / "contact.html", title="t") as page:
        for _ in range(30):
            page.add(source, result, "x" * 1000)
            sizes.append(next(tmp_path.glob(".contact*.part*")).stat().st_size)
    size = (tmp_path / "contact.html").stat().st_size
    assert sizes[9] > size / 4 and sizes[19] > size / 2 and sizes[29] > size * 0.9


def test_ctrl_c_leaves_the_page_so_far(tmp_path: Path) -> None:
    target = tmp_path / "contact.html"
    with pytest.raises(KeyboardInterrupt), ContactPage(target, title="t") as page:
        page.add(tmp_path / "a.png", None, "not there")
        raise KeyboardInterrupt
    assert target.read_text().rstrip().endswith("</html>") and "a.png" in target.read_text()
    page.close()  # again: nothing happens


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = ContactPage(tmp_path / "contact.html", title="t")

    def full(text: str) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(page._file, "write", full)
    with pytest.raises(DiskFull, match=r"contact\.html"):
        page.add(tmp_path / "a.png", None, "not there")
    page.close()
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_already_is_kept_unless_told_otherwise(tmp_path: Path) -> None:
    target = tmp_path / "contact.html"
    target.write_text("mine")
    with pytest.raises(OutputExists):
        ContactPage(target, title="t")
    assert target.read_text() == "mine"
    ContactPage(target, title="t", overwrite=True).close()
    assert "<title>t</title>" in target.read_text()
    with pytest.raises(OutputError):
        ContactPage(tmp_path / "no" / "contact.html", title="t")
