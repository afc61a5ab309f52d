"""`realesr models`: results on stdout, talk on stderr, one line and the right status for each failure."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner, Result

from realesr_cli import catalog, read_image, weights
from realesr_cli.auto import EMBEDDED
from realesr_cli.cli.models import app

Finder = Callable[[str], Path]
REPOSITORY = Path(__file__).resolve().parents[2]
OFFICIAL = "realesr-animevideov3"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def events(result: Result, name: str) -> list[dict[str, Any]]:
    records = [json.loads(line) for line in result.stdout.splitlines()]
    assert records[0]["event"] == "start"
    assert records[-1]["event"] == "summary"
    assert all(record["v"] == 1 for record in records)
    return [record for record in records if record["event"] == name]


@pytest.fixture
def filled(cache: Path, weights_file: Finder) -> Path:
    """A cache that holds the official animevideov3 checkpoint; gives its path there."""
    weights.add(weights_file(f"{OFFICIAL}.pth"))
    return cache / f"{OFFICIAL}.pth"


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    paths = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    for number, path in enumerate(paths):
        save_file({"w": torch.full((2,), float(number))}, path)
    return paths


def test_list_shows_every_network_and_stars_the_cached_ones(filled: Path) -> None:
    result = run("list")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert len(lines) == len(catalog.list_models())
    starred = [line.split()[1] for line in lines if line.startswith("*")]
    assert starred == [EMBEDDED, OFFICIAL]
    assert result.stderr == ""
    assert len(run("list", "--all").stdout.splitlines()) == len(catalog.CATALOG)


def test_list_as_json_has_one_object_for_each_network(filled: Path, tmp_path: Path) -> None:
    save_file({"w": torch.ones(1)}, tmp_path / "mine.safetensors")
    weights.add(tmp_path / "mine.safetensors")
    entries = events(run("list", "--json"), "model_entry")
    assert [entry["name"] for entry in entries] == [*(entry.name for entry in catalog.list_models()), "mine"]
    cached = {entry["name"]: entry["cached_sha256"] for entry in entries if entry["cached"]}
    assert cached[OFFICIAL] == catalog.find(OFFICIAL).sha256


def test_list_and_help_load_nothing_heavy(cache: Path) -> None:
    script = """
import sys
from realesr_cli.cli.models import app
try:
    app(["list"])
except SystemExit as leaving:
    assert leaving.code == 0
heavy = {"torch", "numpy", "cv2", "av", "requests", "tqdm", "safetensors"}
print(sorted(heavy & set(sys.modules)), file=sys.stderr)
"""
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


def test_info_tells_what_is_cached_and_where_from(filled: Path) -> None:
    text = run("info", "animevideov3").stdout
    entry = catalog.find(OFFICIAL)
    for part in (entry.licence, entry.description, "SRVGGNetCompact", str(filled), str(entry.sha256), "added from"):
        assert part in text
    assert "cached sha256" not in run("info", "x4plus").stdout
    fields = events(run("info", "general", "--json"), "model_entry")[0]
    assert (fields["scale"], fields["companion"], fields["cached"]) == (4, "realesr-general-wdn-x4v3", None)


def test_path_prints_only_the_path(filled: Path) -> None:
    result = run("path", "animevideov3")
    assert (result.exit_code, result.stdout, result.stderr) == (0, f"{filled}\n", "")


def test_path_fetches_nothing(cache: Path) -> None:
    result = run("path", "x4plus")
    assert result.exit_code == 3
    assert result.stdout == ""
    assert "not in the cache" in result.stderr
    assert not cache.exists()


def test_download_of_a_cached_network_gives_its_path(filled: Path) -> None:
    assert run("download", OFFICIAL, "--offline").stdout == f"{filled}\n"
    done = events(run("download", OFFICIAL, "--json"), "path")[0]
    assert done["sha256"] == catalog.find(OFFICIAL).sha256


def test_download_goes_on_after_a_failure(filled: Path) -> None:
    result = run("download", "nonsense", OFFICIAL, "--offline")
    assert result.exit_code == 1
    assert result.stdout == f"{filled}\n"
    assert "no model is called nonsense" in result.stderr
    assert run("download", "nonsense").exit_code == 3


def test_verify_checks_all_that_is_there(filled: Path) -> None:
    assert run("verify").stdout == f"{EMBEDDED}: intact\n{OFFICIAL}: intact\n"
    filled.write_bytes(filled.read_bytes()[:-1] + b"x")
    result = run("verify")
    assert (result.exit_code, run("verify", OFFICIAL).exit_code) == (1, 3)
    assert result.stdout == f"{EMBEDDED}: intact\n"
    assert "has changed" in result.stderr
    assert events(run("verify", "--json"), "failed")[0]["error"] == "ChecksumMismatch"


def test_verify_of_an_empty_cache_is_no_failure(cache: Path) -> None:
    assert run("verify").exit_code == 0
    assert run("verify", "x4plus").exit_code == 3


def test_add_path_and_remove(cache: Path, pair: tuple[Path, Path]) -> None:
    assert run("add", pair[0], "--name", "mine").stdout == "mine\n"
    found = Path(run("path", "mine").stdout.strip())
    assert found.is_relative_to(cache)
    assert "added from" in run("info", "MINE").stdout
    assert run("remove", "mine").exit_code == 0
    assert not found.exists()
    assert run("path", "mine").exit_code == 3
    assert run("remove", "mine").exit_code == 3


def test_clean_first_names_what_it_would_delete_and_then_leaves_nothing(filled: Path, cache: Path) -> None:
    asked = run("clean")
    files = sorted(str(path) for path in cache.iterdir())
    assert asked.exit_code == 0
    assert asked.stdout.splitlines()[:-1] == files
    assert "clean --yes" in asked.stdout.splitlines()[-1]
    assert sorted(str(path) for path in cache.iterdir()) == files
    done = run("clean", "--yes", "--json")
    assert [event["path"] for event in events(done, "removed")] == files
    assert events(done, "cleaned")[0]["done"] is True
    assert not cache.exists()
    assert "nothing to delete" in run("clean").stdout


def test_clean_leaves_and_names_what_is_not_its_own(filled: Path, cache: Path) -> None:
    (cache / "thesis.pdf").write_text("mine")
    assert "left: thesis.pdf" in run("clean", "--yes").stdout
    assert [path.name for path in cache.iterdir()] == ["thesis.pdf"]


def test_add_refuses_what_is_no_network(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "x.pth").write_text("<html>")
    result = run("add", tmp_path / "x.pth")
    assert result.exit_code == 3
    assert "web page" in result.stderr
    assert run("add", tmp_path / "none.pth").exit_code == 3


def test_interpolate_is_one_minus_alpha_a_plus_alpha_b(cache: Path, pair: tuple[Path, Path], tmp_path: Path) -> None:
    target = tmp_path / "c.safetensors"
    result = run("interpolate", *pair, "--alpha", "0.75", "-o", target)
    assert (result.exit_code, result.stdout) == (0, f"{target}\n")
    assert load_file(target)["w"].tolist() == [0.75, 0.75]
    first = target.read_bytes()
    assert run("interpolate", *pair, "--alpha", "0.75", "-o", target).exit_code == 6
    assert run("interpolate", *pair, "--alpha", "0.75", "-o", target, "--overwrite").exit_code == 0
    assert target.read_bytes() == first


def test_interpolate_names_the_parents_in_the_file(cache: Path, pair: tuple[Path, Path], tmp_path: Path) -> None:
    from safetensors import safe_open

    target = tmp_path / "c.safetensors"
    event = events(run("interpolate", *pair, "-o", target, "--json"), "interpolated")[0]
    with safe_open(target, "pt") as file:
        metadata = file.metadata()
    assert metadata["a"] == str(pair[0])
    assert metadata["alpha"] == "0.5"
    assert metadata["b_sha256"] == event["b_sha256"] == weights.recorded_sha256(pair[1])


def test_interpolate_refuses_what_cannot_work(cache: Path, pair: tuple[Path, Path], tmp_path: Path) -> None:
    save_file({"v": torch.ones(1)}, tmp_path / "other.safetensors")
    target = tmp_path / "c.safetensors"
    assert run("interpolate", pair[0], tmp_path / "other.safetensors", "-o", target).exit_code == 2
    assert run("interpolate", *pair, "-o", tmp_path / "c.pth").exit_code == 2
    assert run("interpolate", *pair, "-o", pair[0], "--overwrite").exit_code == 2
    assert run("interpolate", *pair, "--alpha", "1.5", "-o", target).exit_code == 2
    assert run("interpolate", pair[0], tmp_path / "none.pth", "-o", target).exit_code == 3
    assert run("interpolate", *pair, "-o", tmp_path / "no" / "c.safetensors").exit_code == 6
    assert not target.exists()
    assert load_file(pair[0])["w"].tolist() == [0.0, 0.0]


ALL_FORMATS = ("--safetensors", "--pth", "--onnx", "--ncnn")


def test_export_writes_all_formats_at_once(filled: Path, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    result = run("export", "animevideov3", *ALL_FORMATS, "-o", folder)
    names = [f"{OFFICIAL}.{suffix}" for suffix in ("safetensors", "pth", "onnx", "param")]
    assert (result.exit_code, result.stdout.splitlines()) == (0, [str(folder / name) for name in names])
    assert {path.name for path in folder.iterdir()} == {*names, f"{OFFICIAL}.bin"}
    original = torch.load(filled, map_location="cpu", weights_only=True)["params"]
    exported = load_file(folder / names[0])
    assert all(torch.equal(exported[key], value) for key, value in original.items())


def test_export_as_json_has_one_event_for_each_format(filled: Path, tmp_path: Path) -> None:
    exported = events(run("export", OFFICIAL, "--onnx", "--ncnn", "-o", tmp_path, "--json"), "exported")
    assert [(event["name"], event["format"], Path(event["output"]).name) for event in exported] == [
        (OFFICIAL, "onnx", f"{OFFICIAL}.onnx"),
        (OFFICIAL, "ncnn", f"{OFFICIAL}.param"),
    ]


def test_export_refuses_what_cannot_work(filled: Path, tmp_path: Path) -> None:
    file = tmp_path / "net.onnx"
    for status, arguments in (
        (2, [OFFICIAL, "-o", file]),  # no format
        (2, [OFFICIAL, "--onnx", "--pth", "-o", file]),  # two formats, one file
        (2, [OFFICIAL, "--pth", "-o", file]),  # another suffix
        (2, [filled, "--pth", "--overwrite", "-o", filled]),  # the network itself
        (2, [filled, "--pth", "--onnx", "--overwrite", "-o", filled.parent]),
        (3, ["nonsense", "--pth", "-o", file]),
        (3, [tmp_path / "none.pth", "--onnx", "-o", file]),
        (6, [OFFICIAL, "--onnx", "-o", tmp_path / "none" / "net.onnx"]),
    ):
        result = run("export", *arguments)
        assert result.exit_code == status, f"{arguments}: {result.stderr}"
        assert result.stderr.count("\n") <= 3
        assert not file.exists()
    assert weights.recorded_sha256(filled) == catalog.find(OFFICIAL).sha256


def test_export_replaces_only_when_asked_and_writes_nothing_before_it_knows(filled: Path, tmp_path: Path) -> None:
    (tmp_path / f"{OFFICIAL}.bin").write_text("mine")
    result = run("export", OFFICIAL, *ALL_FORMATS, "-o", tmp_path)
    assert result.exit_code == 6
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [f"{OFFICIAL}.bin"]
    assert run("export", OFFICIAL, "--ncnn", "-o", tmp_path, "--overwrite").exit_code == 0
    assert (tmp_path / f"{OFFICIAL}.bin").stat().st_size == 1_247_368


def test_an_exported_file_enlarges_as_the_original_does(
    realesr_process: Callable[..., Any], filled: Path, tmp_path: Path, picture: Callable[[str], Path]
) -> None:
    assert realesr_process("models", "export", OFFICIAL, "--pth", "--ncnn", "-o", tmp_path).status == 0
    source, results = picture("a.png"), []
    for model in (OFFICIAL, tmp_path / f"{OFFICIAL}.pth", tmp_path / f"{OFFICIAL}.param"):
        target = tmp_path / f"{len(results)}.png"
        assert realesr_process("image", source, "-m", model, "--precision", "fp32", "-o", target).status == 0
        results.append(read_image(target).pixels.astype(int))
    assert (results[0] == results[1]).all()
    assert abs(results[0] - results[2]).max() <= 2  # ncnn files hold weights in float16


def test_the_flags_of_export_are_frozen() -> None:
    """A new flag is a decision: extend this list, the README and the CHANGELOG together."""
    words = {word.strip(",") for word in run("export", "--help").stdout.split() if word.startswith("-")}
    assert {word for word in words if word.startswith("--")} == {
        *ALL_FORMATS, "--output", "--overwrite", "--offline", "--json", "--help",
    }  # fmt: skip
