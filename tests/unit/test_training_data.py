"""Training pictures: which are found and used, what a sample shows, and how batches come."""

import collections
import errno
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from realesr_train.data import loading
from realesr_train.data.folder import decode, find_pictures, survey
from realesr_train.data.loading import batches
from realesr_train.data.packed import Entry, Pack, window_places, write_pack
from realesr_train.data.source import Source, open_pairs, open_pictures
from recording import Events

from realesr_cli.errors import ConfigError, DiskFull, OutputExists, RealesrError, UnreadableInput, UnsupportedInput
from realesr_cli.image_io import read_image

Pixels = NDArray[Any]


def _map(height: int, width: int, number: int = 0) -> Pixels:
    """(height, width, 3) whose red is the row, green the column, blue a number."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack((rows, columns, np.full_like(rows, number)), axis=2).astype(np.uint8)


def _save(path: Path, pixels: Pixels) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = pixels[..., ::-1] if pixels.ndim == 3 and pixels.shape[2] == 3 else pixels
    path.write_bytes(cv2.imencode(path.suffix, np.ascontiguousarray(stored))[1].tobytes())
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Seven maps of different sizes, in names that are hard to read."""
    names = ["a b.png", "b, ü.png", "sub/写真.png", "sub/deep/x.PNG", "#1.bmp", "z x2.png", "sub.d/x.png"]
    for number, name in enumerate(names):
        _save(tmp_path / "set" / name, _map(60 + 7 * number, 90 - 5 * number, number))
    return tmp_path / "set"


# which pictures


def test_a_folder_gives_its_pictures_in_one_order_without_hidden_ones(folder: Path) -> None:
    (folder / "notes.txt").write_text("x")
    _save(folder / ".hidden.png", _map(9, 9))
    _save(folder / ".thumbs" / "a.png", _map(9, 9))
    names = [path.relative_to(folder).as_posix() for path in find_pictures([folder])]
    assert names == ["#1.bmp", "a b.png", "b, ü.png", "sub.d/x.png", "sub/deep/x.PNG", "sub/写真.png", "z x2.png"]


def test_a_list_names_one_file_on_each_whole_line_relative_to_itself(folder: Path, tmp_path: Path) -> None:
    listed = tmp_path / "list.txt"
    listed.write_bytes("\ufeff# comment\r\nset/a b.png\r\n\nset/b, ü.png\n  \nset/sub/写真.png".encode())
    expected = (folder / "a b.png", folder / "b, ü.png", folder / "sub" / "写真.png")
    assert find_pictures([listed]) == expected
    assert find_pictures([folder / "#1.bmp", listed]) == (folder / "#1.bmp", *expected)


def test_a_place_without_pictures_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "none.txt").write_text("# nothing\n")
    (tmp_path / "latin.txt").write_bytes(b"\xff\xfe\xff")
    for name, words in (
        ("empty", "empty holds no pictures"),
        ("gone", "gone does not exist"),
        ("none.txt", "none.txt names no pictures"),
        ("latin.txt", "latin.txt: it is not UTF-8"),
        ("gone.txt", "gone.txt: no such file"),
    ):
        with pytest.raises(UnreadableInput, match=words):
            find_pictures([tmp_path / name])


def test_a_survey_tells_what_cannot_be_used_and_why(folder: Path, tmp_path: Path, events: Events) -> None:
    big = cv2.imencode(".png", np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8))[1].tobytes()
    bad = {
        "cut.png": (big[: len(big) // 2], "the png data is cut off"),  # longer than what is read at first
        "empty.png": (b"", "the file is empty"),
        "page.png": (b"<html>", "not a picture"),
        "small.png": (cv2.imencode(".png", _map(80, 15))[1].tobytes(), "15x80 pixels"),
    }
    for name, (data, _) in bad.items():
        (folder / name).write_bytes(data)
    paths = [*find_pictures([folder]), tmp_path / "gone.png"]
    found = survey(paths, smallest_px=16, reporter=events)
    assert [path for path, _ in found.rejected] == [path for path in paths if path.name in {*bad, "gone.png"}]
    assert found.usable == tuple(path for path in paths if path not in dict(found.rejected))
    assert found.sizes_px == tuple(cv2.imdecode(np.fromfile(path, np.uint8), 1).shape[:2] for path in found.usable)
    messages = [event["message"] for event in events.of("warning")]
    assert len(messages) == 5
    for name, (_, why) in bad.items():
        assert any(name in message and why in message for message in messages), name
    with pytest.raises(UnreadableInput, match=r"none of 12 files can be used; the first: .*at least 500"):
        survey(paths, smallest_px=500)


def test_thousands_of_bad_files_do_not_fill_the_screen(folder: Path, events: Events) -> None:
    for number in range(50):
        (folder / f"bad{number}.png").write_bytes(b"x")
    open_pictures([folder], crop_px=16, reporter=events)
    messages = [event["message"] for event in events.of("warning")]
    assert len(messages) == 21 and "30 more" in messages[-1]


def test_what_is_lost_of_pictures_is_said_once(folder: Path, events: Events) -> None:
    for number in range(3):
        _save(folder / f"alpha{number}.png", np.full((60, 60, 4), 200, np.uint8))
    _save(folder / "deep.png", np.full((60, 60, 3), 200, np.uint16))
    source = open_pictures([folder], crop_px=16, reporter=events)
    for sample in range(30):
        source.item(0, sample)
    (alpha,) = events.of("warning")
    assert alpha["code"] == "alpha" and "3 pictures" in alpha["message"]
    assert ["1 pictures have 16 bits" in event["message"] for event in events.of("note")] == [True]


def test_every_format_is_decoded_as_for_upscaling(media: Callable[[str], Path]) -> None:
    seen = set()
    for path in sorted(media("images").rglob("*")):
        if not path.is_file() or path.name.startswith("photo_12mp"):
            continue
        data = path.read_bytes()
        try:
            picture = read_image(data)
        except RealesrError as error:
            with pytest.raises(type(error)):
                decode(data, "it")
            continue
        expected = picture.pixels[..., :3] if picture.pixels.shape[2] > 1 else picture.pixels.repeat(3, 2)
        if expected.dtype == np.uint16:
            expected = np.floor(expected / 257 + 0.5)
        assert np.array_equal(decode(data, "it"), expected), path
        seen.add(picture.format)
    assert {"png", "jpg", "webp", "tif", "bmp", "avif"} <= seen


# what a sample shows


def _place(planes: NDArray[np.uint8]) -> tuple[int, int]:
    return int(planes[0].min()), int(planes[1].min())


def _orientation(planes: NDArray[np.uint8]) -> tuple[int, ...]:
    """A number pattern that is different for each of the 8 turns and mirrors of a map."""
    rows, columns = planes[:2].astype(int)
    return tuple(int(np.sign(part[y, x] - part[0, 0])) for part in (rows, columns) for y, x in ((0, -1), (-1, 0)))


def test_a_sample_is_a_piece_of_its_picture_and_depends_on_seed_and_number_alone(folder: Path) -> None:
    source = open_pictures([folder], crop_px=24, flips=False)
    again = open_pictures([folder], crop_px=24, flips=False)
    pictures = [read_image(path).pixels for path in find_pictures([folder])]
    whole = {int(one[0, 0, 2]): one for one in pictures}
    for sample in (0, 1, 2, 50, 10**9):
        (hr,) = source.item(5, sample).values()
        assert hr.shape == (3, 24, 24) and hr.dtype == np.uint8 and hr.flags.c_contiguous
        top, left = _place(hr)
        expected = whole[int(hr[2, 0, 0])][top : top + 24, left : left + 24]
        assert np.array_equal(hr.transpose(1, 2, 0), expected)
    order = [13, 2, 7, 2]
    for sample in order:
        assert np.array_equal(source.item(5, sample)["hr"], again.item(5, sample)["hr"])
    # picture, top, left of one sample, kept: what changes them changes every training run
    first = source.item(5, 0)["hr"]
    assert (int(first[2, 0, 0]), *_place(first)) == (3, 45, 18)


def test_crops_are_everywhere_alike_and_pictures_equally_frequent(tmp_path: Path) -> None:
    for number in range(2):
        _save(tmp_path / f"{number}.png", _map(20, 13, number))
    source = open_pictures([tmp_path], crop_px=12, flips=False)
    samples = [source.item(1, sample)["hr"] for sample in range(3600)]
    places = collections.Counter(_place(one) for one in samples)
    assert len(places) == 9 * 2
    assert sum((seen - 200) ** 2 / 200 for seen in places.values()) < 40.8  # 17 degrees of freedom, p = 0.001
    assert collections.Counter(int(one[2, 0, 0]) for one in samples) == {0: 1800, 1: 1800}


@pytest.mark.parametrize(("flips", "rotations", "kinds"), [(0, 0, 1), (1, 0, 2), (0, 1, 4), (1, 1, 8)])
def test_mirrors_and_turns_are_equally_frequent(tmp_path: Path, flips: int, rotations: int, kinds: int) -> None:
    _save(tmp_path / "a.png", _map(30, 30))
    source = open_pictures([tmp_path], crop_px=8, flips=bool(flips), rotations=bool(rotations))
    seen = collections.Counter(_orientation(source.item(2, sample)["hr"]) for sample in range(200 * kinds))
    assert len(seen) == kinds
    assert sum((number - 200) ** 2 / 200 for number in seen.values()) < 24.3  # 7 degrees of freedom, p = 0.001


def test_small_pictures_are_continued_by_reflection_and_reported(tmp_path: Path, events: Events) -> None:
    small = _map(7, 20)
    _save(tmp_path / "a.png", small)
    source = open_pictures([tmp_path], crop_px=25, flips=False, reporter=events)
    hr = source.item(0, 0)["hr"]
    rows = [0, 1, 2, 3, 4, 5, 6, 5, 4, 3, 2, 1, 0, 1, 2, 3, 4, 5, 6, 5, 4, 3, 2, 1, 0]
    assert hr[0, :, 0].tolist() == rows and hr[1, 0].tolist() == [*range(20), 18, 17, 16, 15, 14]
    assert [event["code"] for event in events.of("warning")] == ["small"]
    with pytest.raises(UnreadableInput, match="at least 8"):
        open_pictures([tmp_path], crop_px=32)


def test_a_picture_that_breaks_during_training_is_replaced_and_reported_once(folder: Path, events: Events) -> None:
    source = open_pictures([folder], crop_px=16, reporter=events)
    before = [source.item(3, sample)["hr"] for sample in range(70)]
    (folder / "a b.png").write_bytes(b"broken")
    (folder / "#1.bmp").unlink()
    after = [source.item(3, sample)["hr"] for sample in range(70)]
    again = [source.item(3, sample)["hr"] for sample in range(70)]
    assert all(map(np.array_equal, after, again))
    gone = [i for i, one in enumerate(before) if one[2, 0, 0] in (0, 4)]
    assert len(gone) == 20
    assert {int(after[i][2, 0, 0]) for i in gone} == {1, 2, 3, 5, 6}
    assert all(np.array_equal(before[i], after[i]) for i in range(70) if i not in gone)
    messages = [event["message"] for event in events.of("warning")]
    assert sorted(name for name in ("a b.png", "#1.bmp") for message in messages if name in message) == [
        "#1.bmp",
        "a b.png",
    ]
    assert len(messages) == 2
    for path in find_pictures([folder]):
        path.write_bytes(b"broken")
    with pytest.raises(UnreadableInput, match="one after the other"):
        source.item(3, 0)


# pairs


def _pairs(root: Path, scale: int, sizes: Sequence[tuple[int, int]]) -> tuple[Path, Path]:
    """Maps, and the same with each pixel enlarged to a block."""
    for number, (height, width) in enumerate(sizes):
        lq = _map(height, width, number)
        _save(root / "lq" / "s" / f"n {number}.png", lq)
        _save(root / "gt" / "s" / f"n {number}.bmp", lq.repeat(scale, 0).repeat(scale, 1))
    return root / "gt", root / "lq"


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_both_pictures_of_a_pair_show_the_same(tmp_path: Path, scale: int) -> None:
    gt, lq = _pairs(tmp_path, scale, [(20, 31), (9, 12), (5, 40), (4, 3)])
    source = open_pairs([gt], [lq], scale=scale, crop_px=12 * scale, rotations=True)
    seen, kinds = set(), set()
    for sample in range(200):
        item = source.item(0, sample)
        assert item["lq"].shape == (3, 12, 12)
        assert np.array_equal(item["gt"], item["lq"].repeat(scale, 1).repeat(scale, 2))
        seen.add(int(item["lq"][2, 0, 0]))
        kinds.add(_orientation(item["lq"]))
    assert seen == {0, 1, 2, 3} and len(kinds) >= 8


def test_pairs_may_be_listed_or_packed(tmp_path: Path) -> None:
    gt, lq = _pairs(tmp_path, 2, [(20, 31), (19, 12), (15, 40)])
    options: dict[str, Any] = {"scale": 2, "crop_px": 16}
    listed = tmp_path / "list.txt"
    listed.write_text("".join(f"gt/s/n {n}.bmp, lq/s/n {n}.png\n" for n in range(3)), encoding="utf-8")
    packs = [tmp_path / "gt.pack", tmp_path / "lq.pack"]
    for place, pack in zip((gt, lq), packs, strict=True):
        _pack(pack, place, "raw")
    expected = open_pairs([gt], [lq], **options)
    for source in (open_pairs([listed], [], **options), open_pairs(packs[:1], packs[1:], **options)):
        for sample in range(10):
            for name, planes in expected.item(1, sample).items():
                assert np.array_equal(source.item(1, sample)[name], planes)


def test_pairs_that_do_not_fit_are_named(tmp_path: Path, events: Events) -> None:
    gt, lq = _pairs(tmp_path, 2, [(20, 30), (20, 30), (20, 30)])
    options: dict[str, Any] = {"scale": 2, "crop_px": 16, "reporter": events}
    with pytest.raises(ConfigError, match="crop_px = 15"):
        open_pairs([gt], [lq], scale=2, crop_px=15)
    with pytest.raises(UnsupportedInput, match=r"3 pairs are not 4 to 1 .*s/n 0 \(60x40\) and s/n 0 \(30x20\)"):
        open_pairs([gt], [lq], scale=4, crop_px=16)
    _save(gt / "s" / "n 1.bmp", _map(41, 60))
    with pytest.raises(UnsupportedInput, match=r"1 pairs .*s/n 1 \(60x41\)"):
        open_pairs([gt], [lq], **options)
    (lq / "s" / "n 1.png").write_bytes(b"no picture")
    assert len(open_pairs([gt], [lq], **options)) == 2
    assert "n 1.png" in events.of("warning")[0]["message"]
    (lq / "s" / "n 1.png").rename(lq / "s" / "other.png")
    with pytest.raises(UnsupportedInput, match=r"lq: no partner for 1 pictures: s/n 1$"):
        open_pairs([gt], [lq], **options)
    (gt / "s" / "n 1.bmp").unlink()
    with pytest.raises(UnsupportedInput, match=r"gt: no partner for 1 pictures: s/other$"):
        open_pairs([gt], [lq], **options)
    _save(gt / "s" / "n 0.png", _map(40, 60))
    with pytest.raises(UnsupportedInput, match="several pictures are called s/n 0"):
        open_pairs([gt], [lq], **options)
    (tmp_path / "list.txt").write_text("gt/s/n 0.bmp\n", encoding="utf-8")
    with pytest.raises(UnreadableInput, match=r"list\.txt: .* is not a pair"):
        open_pairs([tmp_path / "list.txt"], [], **options)


# packs


def _pack(target: Path, folder: Path, storage: Any, **options: Any) -> Path:
    entries = []
    for path in find_pictures([folder]):
        pixels = read_image(path).pixels
        data = pixels.tobytes() if storage == "raw" else path.read_bytes()
        name = path.relative_to(folder).as_posix()
        entries.append(Entry(name=name, height=pixels.shape[0], width=pixels.shape[1], data=data))
    write_pack(target, entries, storage=storage, **options)
    return target


@pytest.mark.parametrize("storage", ["raw", "encoded"])
def test_a_pack_gives_what_its_folder_gives(folder: Path, tmp_path: Path, storage: str) -> None:
    pack = _pack(tmp_path / "a.pack", folder, storage)
    options: dict[str, Any] = {"crop_px": 70, "rotations": True}
    one, other = open_pictures([folder], **options), open_pictures([pack], **options)
    assert len(one) == len(other) == 7
    for sample in range(30):
        assert np.array_equal(one.item(1, sample)["hr"], other.item(1, sample)["hr"])
    assert Pack(pack).verify() == ()
    assert len(open_pictures([folder, pack], **options)) == 14
    with pytest.raises(OutputExists):
        _pack(pack, folder, storage)


@pytest.mark.parametrize("storage", ["raw", "encoded"])
def test_crops_of_a_pack_cover_each_picture_to_its_edges(folder: Path, tmp_path: Path, storage: str) -> None:
    crops = Pack(_pack(tmp_path / "a.pack", folder, storage, crop_px=30, stride_px=20)).pictures()
    covered = {path.relative_to(folder).as_posix(): np.zeros(read_image(path).pixels.shape[:2], bool)
               for path in find_pictures([folder])}  # fmt: skip
    for crop in crops:
        pixels = crop.read()
        assert crop.size_px == pixels.shape[:2] == (30, 30)
        top, left = int(pixels[0, 0, 0]), int(pixels[0, 0, 1])
        assert np.array_equal(pixels[..., :2], _map(150, 150)[top : top + 30, left : left + 30, :2])
        covered[crop.name][top : top + 30, left : left + 30] = True
    assert all(one.all() for one in covered.values())


def test_windows_stand_every_stride_and_at_the_far_edge() -> None:
    assert window_places(960, 480, 240) == [0, 240, 480]
    assert window_places(961, 480, 240) == [0, 240, 480, 481]
    assert window_places(480, 480, 240) == window_places(100, 480, 240) == window_places(100, None, None) == [0]


def test_a_damaged_pack_is_refused_and_a_damaged_picture_found(folder: Path, tmp_path: Path) -> None:
    pack = _pack(tmp_path / "a.pack", folder, "raw")
    good = pack.read_bytes()
    flipped = bytearray(good)
    flipped[5000] ^= 1
    pack.write_bytes(flipped)
    assert Pack(pack).verify() == ("#1.bmp",)
    for data, words in (
        (good[:-1], "cut off"),
        (good[:100], "cut off"),
        (b"", "is empty"),
        (b"PK" + good, "is not a pack"),
        (good.replace(b"pack 1", b"pack 2", 1), "another version"),
        (good[:-100] + b"0" + good[-99:], "index of .* is damaged"),
        (good[:20] + good[21:], "index of .* is damaged"),
    ):
        pack.write_bytes(data)
        with pytest.raises((UnreadableInput, UnsupportedInput), match=words):
            open_pictures([pack], crop_px=8)
    with pytest.raises(UnreadableInput, match="no such file"):
        open_pictures([tmp_path / "gone.pack"], crop_px=8)


def test_a_pack_is_written_whole_or_not_at_all(folder: Path, tmp_path: Path) -> None:
    pack = _pack(tmp_path / "a.pack", folder, "raw")
    before = pack.read_bytes()

    def entries() -> Iterator[Entry]:
        yield Entry(name="a", height=1, width=1, data=b"rgb")
        raise OSError(errno.ENOSPC, "no space")

    with pytest.raises(DiskFull):
        write_pack(pack, entries(), storage="raw", overwrite=True)
    assert pack.read_bytes() == before
    with pytest.raises(DiskFull):
        write_pack(tmp_path / "b.pack", entries(), storage="raw")
    assert sorted(tmp_path.iterdir()) == [pack, folder]


def test_a_raw_picture_is_a_view_into_the_file(folder: Path, tmp_path: Path) -> None:
    pixels = Pack(_pack(tmp_path / "a.pack", folder, "raw")).pictures()[0].read()
    assert not pixels.flags.owndata and not pixels.flags.writeable


# batches


def _take(source: Source, count: int, **options: Any) -> list[dict[str, torch.Tensor]]:
    iterator = batches(source, **{"seed": 4, "first_step": 0, "batch": 6, **options})
    taken = [next(iterator) for _ in range(count)]
    iterator.close()
    return taken


def _equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def _workers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("realesr-data")]


def test_batches_are_the_same_for_any_workers_and_after_a_restart(folder: Path) -> None:
    source = open_pictures([folder], crop_px=16, rotations=True)
    expected = _take(source, 8, workers=1, depth=1)
    assert [batch["samples"].tolist() for batch in expected] == [list(range(6 * n, 6 * n + 6)) for n in range(8)]
    for number, batch in enumerate(expected):
        assert batch["hr"].shape == (6, 3, 16, 16) and batch["hr"].dtype == torch.uint8
        assert np.array_equal(batch["hr"][5].numpy(), source.item(4, 6 * number + 5)["hr"])
    for workers, depth in ((1, 3), (3, 1), (4, 9)):
        assert all(map(_equal, _take(source, 8, workers=workers, depth=depth), expected))
    again = open_pictures([folder], crop_px=16, rotations=True)
    assert all(map(_equal, _take(again, 5, first_step=3), expected[3:]))
    assert not _equal(_take(source, 1, seed=5)[0], expected[0])


@pytest.mark.parametrize(("world", "accumulate"), [(2, 1), (3, 2), (1, 3)])
def test_ranks_and_micro_batches_share_out_the_same_samples(folder: Path, world: int, accumulate: int) -> None:
    source = open_pictures([folder], crop_px=16)
    whole = _take(source, 4)
    parts = [_take(source, 4 * accumulate, world=world, rank=rank, accumulate=accumulate) for rank in range(world)]
    for step in range(4):
        mine = [part for rank in parts for part in rank[step * accumulate : (step + 1) * accumulate]]
        joined = {key: torch.cat([part[key] for part in mine]) for key in ("samples", "hr")}
        order = joined["samples"].argsort()
        assert _equal({key: value[order] for key, value in joined.items()}, whole[step])


def test_pairs_come_in_batches_too(tmp_path: Path) -> None:
    gt, lq = _pairs(tmp_path, 2, [(20, 31)])
    (batch,) = _take(open_pairs([gt], [lq], scale=2, crop_px=16), 1)
    assert (batch["gt"].shape, batch["lq"].shape) == ((6, 3, 16, 16), (6, 3, 8, 8))


class _Counting:
    """A source that remembers what it was asked for."""

    def __init__(self, *, fails_at: int | None = None) -> None:
        self.asked: list[int] = []
        self.fails_at = fails_at

    def __len__(self) -> int:
        return 10

    def item(self, seed: int, sample: int) -> dict[str, NDArray[np.uint8]]:
        self.asked.append(sample)
        if sample == self.fails_at:
            raise UnreadableInput("photo.jpg is gone")
        return {"hr": np.zeros((3, 4, 4), np.uint8)}


def test_no_more_is_prepared_than_asked_for_and_closing_ends_the_threads() -> None:
    source = _Counting()
    iterator = batches(source, seed=0, first_step=2, batch=5, workers=3, depth=4)
    assert not _workers()
    for done in range(1, 4):
        next(iterator)
        for _ in range(200):
            if len(source.asked) == 5 * (done + 3):
                break
            threading.Event().wait(0.01)
        assert sorted(source.asked) == list(range(10, 10 + 5 * (done + 3)))
    assert _workers()
    iterator.close()
    assert not _workers()


def test_an_error_comes_once_in_its_place_and_ends_the_threads() -> None:
    iterator = batches(_Counting(fails_at=11), seed=0, first_step=0, batch=5, workers=2, depth=4)
    assert next(iterator)["samples"].tolist() == [0, 1, 2, 3, 4]
    next(iterator)
    with pytest.raises(UnreadableInput, match=r"photo\.jpg is gone"):
        next(iterator)
    assert not _workers()
    assert list(iterator) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [({"workers": 0}, "workers"), ({"depth": 0}, "depth"), ({"world": 4}, "batch"), ({"first_step": -1}, "step")],
)
def test_wrong_numbers_are_refused_at_once(options: dict[str, int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        batches(_Counting(), **{"seed": 0, "first_step": 0, "batch": 6, **options})


@pytest.mark.gpu
def test_memory_is_pinned_where_there_is_cuda() -> None:
    assert loading._stacked(np.arange(1), [_Counting().item(0, 0)])["hr"].is_pinned()
