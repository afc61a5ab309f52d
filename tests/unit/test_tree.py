"""Which files of a folder are meant, what their results are called, and how a tree is cut into parts."""

import os
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realesr_cli.errors import UnreadableInput, UsageError
from realesr_cli.tree import Shard, TreeOptions, find_files, listed_files, mirrored, parse_shard


def _tree(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return root


def _found(root: Path, leave_out: tuple[Path, ...] = (), **options: Any) -> list[str]:
    def failed(path: Path, error: UnreadableInput) -> None:
        raise error

    return list(find_files(root, TreeOptions(**options), leave_out=leave_out, failed=failed))


NAMES = ("b.png", "a.JPG", "notes.txt", "no_suffix", "sub/c.webp", "sub/deep/d.tif", ".hidden.png", ".git/e.png")


def test_pictures_are_found_by_their_suffix_in_a_fixed_order(tmp_path: Path) -> None:
    root = _tree(tmp_path, *NAMES)
    assert _found(root) == ["a.JPG", "b.png", "sub/c.webp", "sub/deep/d.tif"]
    assert _found(root, recursive=False) == ["a.JPG", "b.png"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"include": ("*.jpg",)}, ["a.JPG"]),
        ({"include": ("no_suffix", "*.png")}, ["b.png", "no_suffix"]),
        ({"include": ("sub/*",)}, ["sub/c.webp", "sub/deep/d.tif"]),
        ({"include": ("sub/deep/*",)}, ["sub/deep/d.tif"]),
        ({"exclude": ("deep",)}, ["a.JPG", "b.png", "sub/c.webp"]),
        ({"exclude": ("./sub/",)}, ["a.JPG", "b.png"]),
        ({"exclude": ("SUB/D*",)}, ["a.JPG", "b.png", "sub/c.webp"]),
        ({"include": ("*.tif", "*.png"), "exclude": ("b*",)}, ["sub/deep/d.tif"]),
    ],
)
def test_patterns(options: dict[str, tuple[str, ...]], expected: list[str], tmp_path: Path) -> None:
    assert _found(_tree(tmp_path, *NAMES), **options) == expected


def test_a_folder_of_results_inside_is_not_entered_under_any_name(tmp_path: Path) -> None:
    root = _tree(tmp_path, "a.png", "out/a.png", "out/deep/b.png")
    (root / "link").symlink_to(root / "out", target_is_directory=True)
    assert _found(root, leave_out=(root / "out",)) == ["a.png"]


def test_circles_of_links_do_no_harm(tmp_path: Path) -> None:
    root = _tree(tmp_path / "root", "a.png", "sub/b.png")
    elsewhere = _tree(tmp_path / "elsewhere", "c.png")
    (root / "sub" / "up").symlink_to(root, target_is_directory=True)
    (root / "sub" / "self").symlink_to(root / "sub", target_is_directory=True)
    (root / "other").symlink_to(elsewhere, target_is_directory=True)
    (elsewhere / "back").symlink_to(root, target_is_directory=True)
    (root / "circle.png").symlink_to(root / "circle.png")
    problems: list[str] = []
    found = list(find_files(root, TreeOptions(), failed=lambda path, error: problems.append(error.message)))
    assert found == ["a.png", "other/c.png", "sub/b.png"]
    assert len(problems) == 1 and "circle.png is a link that leads nowhere" in problems[0]


def test_what_is_neither_file_nor_folder_is_passed_over(tmp_path: Path) -> None:
    root = _tree(tmp_path, "a.png")
    os.mkfifo(root / "pipe.png")
    assert _found(root) == ["a.png"]


def test_folders_that_cannot_be_read_are_reported_and_the_rest_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = _tree(tmp_path, "a.png", "closed/b.png", "open/c.png")
    known = os.scandir

    def scandir(path: Path) -> Any:
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied")
        return known(path)

    monkeypatch.setattr(os, "scandir", scandir)
    problems: list[Path] = []
    found = list(find_files(root, TreeOptions(), failed=lambda path, error: problems.append(path)))
    assert (found, problems) == (["a.png", "open/c.png"], [root / "closed"])


def test_a_root_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnreadableInput, match="does not exist"):
        _found(tmp_path / "none")
    with pytest.raises(UnreadableInput, match="is not a folder"):
        _found(_tree(tmp_path, "a.png") / "a.png")


def test_a_list_names_files_of_any_suffix_inside_the_folder(tmp_path: Path) -> None:
    lines = ["sub/a.png\r\n", "", "b\n", "./b", str(tmp_path.absolute() / "c.jpg"), "sub/x/../d.png"]
    assert list(listed_files(lines, tmp_path, TreeOptions())) == ["sub/a.png", "b", "c.jpg", "sub/d.png"]
    assert list(listed_files(lines, tmp_path, TreeOptions(exclude=("sub",)))) == ["b", "c.jpg"]
    assert list(listed_files(lines, tmp_path, TreeOptions(include=("*.png",)))) == ["sub/a.png", "sub/d.png"]
    for outside in ("../a.png", "/a.png", "sub/../../a.png", ".."):
        with pytest.raises(UsageError, match="is not inside"):
            list(listed_files([outside], tmp_path, TreeOptions()))


def test_the_tree_is_mirrored_name_by_name() -> None:
    same = {"a.JPG": "a.JPG", "sub/b.c.png": "sub/b.c.png", "no_suffix": "no_suffix.png"}
    assert mirrored(list(same), lambda name: PurePosixPath(name).suffix or ".png") == same
    assert mirrored(["sub/a.jpg", "b"], lambda name: ".webp") == {"sub/a.jpg": "sub/a.webp", "b": "b.webp"}


def test_files_of_one_result_are_refused_or_renamed() -> None:
    files = ["a.jpg", "a.png", "b.png", "sub/a.jpg"]
    with pytest.raises(UsageError, match=r"a\.jpg and a\.png would both become a\.webp"):
        mirrored(files, lambda name: ".webp")
    assert mirrored(files, lambda name: ".webp", rename=True) == {
        "a.jpg": "a.jpg.webp", "a.png": "a.png.webp", "b.png": "b.webp", "sub/a.jpg": "sub/a.webp"
    }  # fmt: skip
    with pytest.raises(UsageError, match=r"would both become"):
        mirrored(["a.jpg", "a.png", "a.jpg.bmp"], lambda name: ".webp", rename=True)


PATHS = st.lists(st.text("abAB./é\udc80", min_size=1, max_size=8), unique=True, max_size=12)


@given(PATHS, st.booleans())
def test_no_two_results_have_one_name(names: list[str], rename: bool) -> None:
    files = [str(PurePosixPath("d", name.strip("/.") or "x")) for name in names]
    files = list(dict.fromkeys(files))
    try:
        targets = mirrored(files, lambda name: ".png", rename=rename)
    except UsageError:
        return
    assert list(targets) == files
    assert len(set(targets.values())) == len(files)
    assert {PurePosixPath(target).parent for target in targets.values()} == {PurePosixPath(f).parent for f in files}


@given(st.text(max_size=30), st.integers(1, 20))
def test_every_file_is_in_exactly_one_part(name: str, count: int) -> None:
    assert sum(Shard(number, count).holds(name) for number in range(1, count + 1)) == 1


def test_parts_are_even_and_do_not_depend_on_anything_but_the_path() -> None:
    names = [f"folder {number % 7}/photo {number}.jpg" for number in range(4000)]
    sizes = [sum(Shard(part, 8).holds(name) for name in names) for part in range(1, 9)]
    assert min(sizes) > 400 and max(sizes) < 600
    # written down: a part must not change with a new version
    assert Shard(1, 8).holds("a.png") and Shard(4, 8).holds("sub/\u00fc.jpg")
    assert Shard(4, 8).holds("sub/u\u0308.jpg")  # the same letter as some disks spell it


@pytest.mark.parametrize("text", ["", "1", "0/2", "3/2", "1/0", "-1/2", "a/b", "1/2/3", "１/２"])
def test_wrong_parts_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--shard"):
        parse_shard(text)
    assert parse_shard("2/8") == Shard(2, 8)
