"""The frame of the pages: its files are installed, and nothing of a page comes from elsewhere."""

import base64
import fnmatch
import hashlib
import re
import tomllib
from importlib.resources import files
from pathlib import Path

import pytest

from realesr_cli.pages.frame import escaped, page_frame

PARTS = {"compare": {"table": "<table></table>", "about": "about"}, "contact": {}}


def test_the_files_of_the_pages_are_part_of_the_package() -> None:
    project = tomllib.loads((Path(__file__).resolve().parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = project["tool"]["setuptools"]["package-data"]["realesr_cli"]
    found = [
        f"pages/{one.name}" for one in files("realesr_cli.pages").iterdir() if not one.name.endswith((".py", "__"))
    ]
    assert len(found) == 7
    for name in found:
        assert any(fnmatch.fnmatch(name, pattern) for pattern in patterns), name


@pytest.mark.parametrize("name", PARTS)
def test_styles_and_scripts_run_by_their_hash_and_nothing_else_does(name: str) -> None:
    text = "".join(page_frame(name, "a <b> & c", **PARTS[name]))
    assert "<title>a &lt;b&gt; &amp; c</title>" in text
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]+)"', text)
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    assert rules["img-src"] == "data:"
    for tag in ("style", "script"):
        (body,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
        assert rules[f"{tag}-src"] == f"'sha256-{digest}'"
    assert not re.search(r"https?://|url\(|@import|\bon\w+=", text)
    assert " style=" not in text
    assert not re.search(r"\$[a-z]", text)  # every place is filled


def test_names_that_are_no_text_are_shown_all_the_same() -> None:
    assert escaped("a\udce9<") == "a?&lt;"
