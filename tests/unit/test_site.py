"""The pages of docs/: each is in the navigation, their links lead somewhere, and the site is what the check sees."""

import importlib.util
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
CONFIGURATION = (ROOT / ".ci" / "mkdocs.yml").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def faults() -> Callable[[Path], list[str]]:
    spec = importlib.util.spec_from_file_location("check_links", ROOT / "scripts" / "check_links.py")
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script.faults  # type: ignore[no-any-return]


def test_every_page_is_in_the_navigation_and_there() -> None:
    named = set(re.findall(r"^\s+- [^#\n]+: (\S+\.md)$", CONFIGURATION, re.MULTILINE))
    later = set(re.findall(r"^  (\w+\.md)$", CONFIGURATION, re.MULTILINE))
    there = {path.name for path in DOCS.glob("*.md")}
    assert there - later == named


def test_links_and_pictures_of_the_sources_exist() -> None:
    for path in (ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", *DOCS.glob("*.md")):
        for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
            if not target.startswith("https://"):
                assert ":" not in target, f"{path.name}: {target}"
                assert (path.parent / target.partition("#")[0]).exists(), f"{path.name}: {target}"


def test_pictures_are_small_and_used() -> None:
    pictures = list((DOCS / "pictures").iterdir())
    assert sum(path.stat().st_size for path in pictures) < 700_000
    text = "".join(path.read_text(encoding="utf-8") for path in DOCS.glob("*.md"))
    assert all(f"](pictures/{path.name})" in text for path in pictures)


@pytest.mark.parametrize(
    ("link", "fault"),
    [
        ('<a href="other.html#there">', None),
        ('<a href="#here">', None),
        ('<a href="https://example.org/x">', None),
        ('<a href="other.html#gone">', "no such place"),
        ('<a href="gone.html">', "does not exist"),
        ('<img src="gone.png">', "does not exist"),
        ('<a href="http://example.org">', "no address"),
        ('<a href="https://exa mple.org">', "no address"),
        ('<script src="https://example.org/x.js">', "from elsewhere"),
        ('<link href="//example.org/x.css">', "from elsewhere"),
    ],
)
def test_the_check_of_links(faults: Callable[[Path], list[str]], tmp_path: Path, link: str, fault: str | None) -> None:
    (tmp_path / "index.html").write_text(f'<h1 id="here">x</h1>{link}', "utf-8")
    (tmp_path / "other.html").write_text('<h2 id="there">x</h2>', "utf-8")
    found = faults(tmp_path)
    assert (not found) if fault is None else (len(found) == 1 and fault in found[0]), found


def test_the_site_is_built_without_a_warning_and_has_no_dead_link(
    faults: Callable[[Path], list[str]], tmp_path: Path
) -> None:
    pytest.importorskip("mkdocs", reason="the extra `docs` is not installed")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-f", ".ci/mkdocs.yml", "-d", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert faults(tmp_path) == []
    assert (tmp_path / "reference.html").is_file()
