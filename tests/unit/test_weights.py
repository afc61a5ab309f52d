"""Names and paths -> files: the cache, its records, files of the user's own. Fetching itself: tests/faults."""

import hashlib
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from realesr_cli import auto, catalog, weights
from realesr_cli import cache as cache_files
from realesr_cli.catalog import CatalogEntry
from realesr_cli.errors import (
    ChecksumMismatch,
    CorruptWeights,
    DownloadFailed,
    ModelNotFound,
    UsageError,
)
from realesr_cli.models.architectures import load_model

Finder = Callable[[str], Path]
CONTENT = random.Random(1).randbytes(500)


@pytest.fixture
def entry(monkeypatch: pytest.MonkeyPatch) -> CatalogEntry:
    """The only published file: `tiny`, whose content is CONTENT, and one without a hash: `judge`."""
    facts = {
        "kind": "upscaler", "size_bytes": len(CONTENT), "scale": 4, "architecture": "RRDBNet", "licence": "MIT",
        "description": "for tests",
    }  # fmt: skip
    tiny = CatalogEntry(
        name="tiny",
        file_name="Tiny_x4.pth",
        urls=("https://a.invalid/Tiny_x4.pth", "https://b.invalid/Tiny_x4.pth"),
        sha256=hashlib.sha256(CONTENT).hexdigest(),
        aliases=("Tiny_x4",),
        **facts,
    )
    judge = CatalogEntry(
        name="judge", file_name="J.pth", urls=("https://a.invalid/J",), sha256=None, aliases=(), **facts
    )
    monkeypatch.setattr(catalog, "CATALOG", (tiny, judge))
    return tiny


@pytest.fixture
def by_hand(entry: CatalogEntry, cache: Path) -> Path:
    """The published file, as a person would put it into the cache."""
    cache.mkdir()
    (cache / entry.file_name).write_bytes(CONTENT)
    return cache / entry.file_name


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A network of the user's own."""
    save_file({"conv.weight": torch.ones(2)}, tmp_path / "mine.safetensors")
    return tmp_path / "mine.safetensors"


def test_the_folder_is_the_users_cache_unless_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("REALESR_CACHE", str(tmp_path))
    assert weights.cache_folder() == tmp_path
    monkeypatch.setenv("REALESR_CACHE", "~/x")
    assert weights.cache_folder() == Path.home() / "x"
    monkeypatch.delenv("REALESR_CACHE")
    assert weights.cache_folder().name == "realesr"


def test_an_existing_path_is_given_back(own: Path, cache: Path) -> None:
    assert weights.resolve(own) == own
    assert weights.resolve(str(own)) == own
    assert not cache.exists()


@pytest.mark.parametrize("text", ["no/such/file", "tiny.pth", "x.safetensors", "./tiny", "x.param"])
def test_what_looks_like_a_path_is_never_taken_for_a_name(text: str, by_hand: Path) -> None:
    with pytest.raises(ModelNotFound, match="does not exist"):
        weights.resolve(text)


def test_a_folder_named_like_a_network_does_not_hide_it(
    by_hand: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").mkdir()
    assert weights.resolve("tiny", offline=True) == by_hand


def test_a_file_placed_by_hand_is_checked_once_and_then_trusted(by_hand: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert weights.resolve("TINY_X4", offline=True) == by_hand
    assert weights.recorded_source(by_hand) == "placed by hand"
    monkeypatch.setattr(hashlib, "file_digest", None)
    assert weights.resolve("tiny", offline=True) == by_hand
    assert weights.recorded_sha256(by_hand) == hashlib.sha256(CONTENT).hexdigest()


def test_a_touched_file_is_read_again(by_hand: Path) -> None:
    weights.resolve("tiny", offline=True)
    by_hand.write_bytes(CONTENT[::-1])
    os.utime(by_hand, ns=(1, 1))
    assert not weights.is_cached("tiny")
    by_hand.write_bytes(CONTENT)
    assert weights.is_cached("tiny")


def test_offline_refuses_a_wrong_file_but_keeps_it(by_hand: Path) -> None:
    by_hand.write_bytes(b"<html>")
    with pytest.raises(ChecksumMismatch, match="not the published file"):
        weights.resolve("tiny", offline=True)
    assert by_hand.exists()


def test_offline_says_how_to_get_the_file(entry: CatalogEntry, cache: Path) -> None:
    with pytest.raises(DownloadFailed, match="not in the cache") as caught:
        weights.resolve("tiny", offline=True)
    for part in (entry.urls[0], entry.file_name, str(entry.sha256), "500 bytes", str(cache)):
        assert part in (caught.value.hint or "")


def test_a_file_without_a_published_hash_is_never_fetched(entry: CatalogEntry, cache: Path) -> None:
    with pytest.raises(DownloadFailed, match="no SHA-256") as caught:
        weights.resolve("judge")
    assert "https://a.invalid/J" in (caught.value.hint or "")
    assert not cache.exists()


def test_a_file_without_a_published_hash_can_be_added_under_its_name(
    entry: CatalogEntry, own: Path, cache: Path
) -> None:
    assert weights.add(own, "judge") == "judge"
    assert weights.resolve("judge", offline=True) == cache / "J.pth"
    assert weights.verify("judge")


def test_unknown_names_are_not_cached_and_not_found(entry: CatalogEntry, cache: Path) -> None:
    assert not weights.is_cached("nothing")
    with pytest.raises(ModelNotFound, match="no model is called nothing"):
        weights.resolve("nothing")
    for action in (weights.verify, weights.remove):
        with pytest.raises(ModelNotFound):
            action("tiny")


def test_verify_finds_what_size_and_time_hide(by_hand: Path) -> None:
    weights.resolve("tiny", offline=True)
    assert weights.verify("tiny")
    before = by_hand.stat()
    by_hand.write_bytes(bytes([CONTENT[0] ^ 1]) + CONTENT[1:])
    os.utime(by_hand, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert weights.is_cached("tiny"), "size and time are those of the record"
    assert not weights.verify("tiny")
    assert not weights.is_cached("tiny"), "from now on it is known"


def test_hashes_of_other_files_are_always_computed(own: Path, cache: Path) -> None:
    own.with_name(own.name + ".json").write_text(json.dumps({"sha256": "0" * 64}))
    assert weights.recorded_sha256(own) == hashlib.sha256(own.read_bytes()).hexdigest()
    assert weights.recorded_source(own) is None
    with pytest.raises(CorruptWeights, match="cannot read"):
        weights.recorded_sha256(own.parent / "none")


def test_a_damaged_record_is_as_good_as_none(by_hand: Path) -> None:
    for text in ("", "[]", '{"sha256": 5}', "null"):
        by_hand.with_name(by_hand.name + ".json").write_text(text)
        assert weights.resolve("tiny", offline=True) == by_hand


def test_an_added_file_is_found_by_name_in_any_case(own: Path, cache: Path) -> None:
    assert weights.add(own) == "mine"
    assert weights.added_names() == ("mine",)
    found = weights.resolve("MINE", offline=True)
    assert found.is_relative_to(cache)
    assert found.read_bytes() == own.read_bytes()
    assert weights.recorded_source(found) == f"added from {own}"
    own.unlink()
    assert weights.verify("mine")


def test_an_added_file_that_changed_is_refused_not_deleted(own: Path, cache: Path) -> None:
    weights.add(own, "mine")
    found = weights.resolve("mine")
    found.write_bytes(b"other")
    with pytest.raises(ChecksumMismatch, match="has changed"):
        weights.resolve("mine")
    assert found.exists()


def test_a_published_file_is_added_under_its_own_name(entry: CatalogEntry, tmp_path: Path, cache: Path) -> None:
    (tmp_path / "whatever.bin").write_bytes(CONTENT)
    assert weights.add(tmp_path / "whatever.bin", "other") == "tiny"
    assert weights.resolve("tiny", offline=True) == cache / "Tiny_x4.pth"


def test_an_ncnn_pair_is_added_as_one_file(weights_file: Finder, cache: Path) -> None:
    weights.add(weights_file("ncnn/realesr-general-x4v3.param"), "mine")
    tensors = load_file(weights.resolve("mine"))
    assert tensors["body.0.weight"].dtype == torch.float16
    assert len(tensors) == 101


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "a b", "x.pth", "-m"])
def test_unusable_names_are_refused(own: Path, cache: Path, name: str) -> None:
    if name:
        with pytest.raises(UsageError, match="no usable name"):
            weights.add(own, name)
    assert not cache.exists()


def test_names_that_are_taken_are_refused(entry: CatalogEntry, own: Path, cache: Path) -> None:
    with pytest.raises(UsageError, match="published"):
        weights.add(own, "Tiny_x4")
    weights.add(own, "mine")
    with pytest.raises(UsageError, match="before"):
        weights.add(own, "Mine")


def test_what_is_no_network_is_not_added(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "x.pth").write_text("<html>")
    with pytest.raises(CorruptWeights, match="web page"):
        weights.add(tmp_path / "x.pth")
    with pytest.raises(ModelNotFound):
        weights.add(tmp_path / "none.pth")
    assert not cache.exists()


def test_remove_takes_all_files_of_a_name_and_nothing_else(by_hand: Path, own: Path, cache: Path) -> None:
    weights.resolve("tiny", offline=True)
    weights.add(own, "mine")
    (cache / "Tiny_x4.pth.part").write_bytes(b"x")
    (cache / "other.pth").write_bytes(b"x")
    weights.remove("tiny")
    assert sorted(path.name for path in cache.iterdir()) == ["added", "other.pth"]
    weights.remove("mine")
    assert list((cache / "added").iterdir()) == []
    assert own.exists()


class TestClean:
    """`realesr models clean`: what realesr has put into the cache goes, and nothing else."""

    @pytest.fixture
    def full(self, by_hand: Path, own: Path, cache: Path) -> Iterator[list[str]]:
        """A cache with a file of each kind that realesr leaves; their names."""
        weights.resolve("tiny", offline=True)  # writes the record
        weights.add(own, "mine")
        cache_files.store("of-an-earlier-version.pth", b"x", hashlib.sha256(b"x").hexdigest(), "test")
        for name in ("J.pth.part", ".Tiny_x4.pth.lock", ".Tiny_x4.pth.4711.part", ".tiny.4711.part.safetensors"):
            (cache / name).write_bytes(b"x")
        yield sorted(str(path.relative_to(cache)) for path in cache.rglob("*") if path.is_file())
        shutil.rmtree(cache, ignore_errors=True)

    def test_everything_goes_and_the_folder_too(self, full: list[str], cache: Path) -> None:
        found = weights.cached_files()
        assert sorted(str(path.relative_to(cache)) for path in found) == full
        assert len(full) == 10
        cache_files.clean(found)
        assert not cache.exists()
        assert weights.cached_files() == ()

    def test_files_of_others_stay(self, full: list[str], cache: Path) -> None:
        theirs = {"notes.json", "picture.png", "added/thesis.txt", "mine.part", "Tiny_x4.pth.bak", ".x.lock"}
        for name in theirs:
            (cache / name).write_text("[]")
        cache_files.clean(weights.cached_files())
        assert {str(path.relative_to(cache)) for path in cache.rglob("*") if path.is_file()} == theirs

    def test_nothing_outside_the_cache_is_ever_deleted(self, full: list[str], own: Path) -> None:
        cache_files.clean([own])
        assert own.is_file()

    def test_a_download_under_way_is_left_alone(self, full: list[str], cache: Path) -> None:
        with (cache / ".Tiny_x4.pth.lock").open("rb+") as file:
            assert cache_files.try_lock(file)
            names = {path.name for path in weights.cached_files()}
        assert not any("Tiny" in name for name in names)
        assert "J.pth.part" in names


def test_present_names_include_damaged_files(by_hand: Path, own: Path) -> None:
    by_hand.write_bytes(b"x")
    weights.add(own, "mine")
    assert weights.present_names() == ("tiny", "mine")


class TestEmbedded:
    """A file that is part of the package: at hand at once, and nothing of it is ever written or deleted."""

    @pytest.fixture
    def file(self, monkeypatch: pytest.MonkeyPatch, entry: CatalogEntry, tmp_path: Path) -> Path:
        path = tmp_path / "package" / "own.safetensors"
        path.parent.mkdir()
        path.write_bytes(CONTENT)
        own = replace(entry, name="own", file_name=path.name, urls=(), aliases=(), is_embedded=True)
        monkeypatch.setattr(catalog, "CATALOG", (own,))
        monkeypatch.setattr(weights, "_embedded", lambda entry: path)
        return path

    def test_it_is_found_and_verified_without_a_cache(self, file: Path, cache: Path) -> None:
        assert weights.resolve("own", offline=True) == weights.cached_path("own") == file
        assert weights.verify("own") and weights.present_names() == ("own",)
        assert [path.name for path in file.parent.iterdir()] == [file.name] and not cache.exists()

    def test_a_damaged_one_is_one_line_with_the_cure(self, file: Path) -> None:
        file.write_bytes(CONTENT[:-1] + b"?")
        assert not weights.is_cached("own") and not weights.verify("own")
        with pytest.raises(ChecksumMismatch, match="missing or damaged") as caught:
            weights.resolve("own")
        assert "install realesr-cli again" in str(caught.value.hint)
        assert [path.name for path in file.parent.iterdir()] == [file.name]
        file.unlink()
        with pytest.raises(ChecksumMismatch, match="missing or damaged"):
            weights.resolve("own")

    def test_it_cannot_be_removed_and_adding_it_again_changes_nothing(self, file: Path, cache: Path) -> None:
        with pytest.raises(UsageError, match="part of realesr"):
            weights.remove("own")
        assert weights.add(file) == "own"
        assert file.is_file() and not cache.exists()


def test_the_embedded_model_is_what_the_catalogue_says(cache: Path) -> None:
    entry = catalog.find(auto.EMBEDDED)
    path = weights.resolve(entry.name, offline=True)
    assert path.stat().st_size == entry.size_bytes and entry.size_bytes < 2_500_000
    assert hashlib.sha256(path.read_bytes()).hexdigest() == entry.sha256
    model = load_model(entry.name)
    assert (model.architecture, model.scale) == (entry.architecture, entry.scale)
    assert model.metadata["licence"] == entry.licence and model.metadata["config_sha256"]
    assert {tensor.dtype for tensor in load_file(path).values()} == {torch.float16}
    teachers = model.metadata["teachers"].split(", ")
    assert [catalog.find(name).name for name in teachers] == teachers
