"""A file is there whole or not at all."""

import errno
from pathlib import Path

import pytest

from realesr_cli.atomic import remove_leftovers, replacing
from realesr_cli.errors import DiskFull, OutputError, OutputExists


def test_the_file_appears_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    with replacing(path) as temporary:
        temporary.write_bytes(b"new")
        assert not path.exists()
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("error", [ValueError(), KeyboardInterrupt(), SystemExit(143)])
def test_an_exception_leaves_the_old_file(error: BaseException, tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(type(error)), replacing(path) as temporary:
        temporary.write_bytes(b"half")
        raise error
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(DiskFull, match="no space left"), replacing(tmp_path / "a") as temporary:
        temporary.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="none"), replacing(tmp_path / "none" / "a") as temporary:
        temporary.write_bytes(b"x")


def test_very_long_names(tmp_path: Path) -> None:
    for stem in ("a" * 251, "ß" * 125, "写" * 83):
        path = tmp_path / f"{stem}.png"
        with replacing(path) as temporary:
            temporary.write_bytes(b"x")
        assert path.read_bytes() == b"x"


def test_without_overwrite_a_file_that_came_meanwhile_stays(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    with pytest.raises(OutputExists), replacing(path, overwrite=False) as temporary:
        temporary.write_bytes(b"mine")
        path.write_bytes(b"theirs")
    assert path.read_bytes() == b"theirs"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_in_the_place_of_a_folder_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="file"), replacing(tmp_path / "file" / "a") as temporary:
        temporary.write_bytes(b"x")


def test_leftovers_of_a_killed_process_are_removed_and_nothing_else(tmp_path: Path) -> None:
    keep = [".other.7.part.png", "a.png", ".a.png", ".a.part.png", ".a.7.part.jpg", ".a.b.png"]
    for name in [".a.7.part.png", ".a.123456.part.png", ".no suffix.9.part", *keep]:
        (tmp_path / name).write_bytes(b"half")
    remove_leftovers([tmp_path / "a.png", tmp_path / "no suffix", tmp_path / "none" / "b.png"])
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(keep)
    for path in tmp_path.glob(".*.part*"):
        path.unlink()
