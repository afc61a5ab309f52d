"""What a journal remembers, also after it was torn."""

import dataclasses
from pathlib import Path

from realesr_cli.journal import Entry, Identity, Journal, settings_key

ENTRY = Entry(
    source="sub/a \udc80ü.jpg",
    target="sub/a.png",
    settings="0123",
    source_is=Identity(1, 2),
    source_sha256="ab",
    target_is=Identity(3, 4),
)


def test_what_was_added_is_found_again(tmp_path: Path) -> None:
    Journal(tmp_path / "out").add(ENTRY)
    later = dataclasses.replace(ENTRY, settings="4567")
    journal = Journal(tmp_path / "out")
    assert journal.find("sub/a.png") == ENTRY
    journal.add(later)
    assert journal.find("sub/a.png") == Journal(tmp_path / "out").find("sub/a.png") == later
    assert journal.find("sub/b.png") is None


def test_a_journal_torn_anywhere_loses_its_last_line_alone(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.add(ENTRY)
    whole = (tmp_path / ".realesr-journal.jsonl").read_bytes()
    other = dataclasses.replace(ENTRY, target="b.png")
    for length in range(len(whole)):
        (tmp_path / ".realesr-journal.jsonl").write_bytes(whole + whole[:length])
        Journal(tmp_path).add(other)
        read = Journal(tmp_path)
        assert (read.find("sub/a.png"), read.find("b.png")) == (ENTRY, other)


def test_lines_that_are_no_entries_are_passed_over(tmp_path: Path) -> None:
    for line in (
        "",
        "null",
        "[]",
        "{}",
        '{"source_is": 1, "target_is": 2}',
        '{"source_is": {}, "target_is": {}}',
        "\0",
    ):
        (tmp_path / ".realesr-journal.jsonl").write_text(line + "\n")
        Journal(tmp_path).add(ENTRY)
        assert Journal(tmp_path).find("sub/a.png") == ENTRY


def test_parts_write_files_of_their_own_and_read_all(tmp_path: Path) -> None:
    Journal(tmp_path, "1-of-2").add(ENTRY)
    second = Journal(tmp_path, "2-of-2")
    assert second.find("sub/a.png") == ENTRY
    second.add(dataclasses.replace(ENTRY, target="b.png"))
    assert len(list(tmp_path.glob(".realesr-journal.*.jsonl"))) == 2
    assert Journal(tmp_path).find("b.png") is not None


def test_settings_have_a_name_that_any_difference_changes() -> None:
    assert settings_key({"a": 1, "b": (2, 3)}) == settings_key({"b": [2, 3], "a": 1})
    assert settings_key({"a": 1}) != settings_key({"a": 2}) != settings_key({"a": None})
