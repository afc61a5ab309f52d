"""docs/licences.md names everything that a user gets, and constraints.txt pins it."""

import importlib.util
import re
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement

from realesr_cli import catalog

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "licences.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def make_licences() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_licences", ROOT / "scripts" / "make_licences.py")
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


def test_every_package_of_an_installation_is_listed_with_a_licence_and_pinned(make_licences: ModuleType) -> None:
    """Else run `python scripts/make_licences.py`."""
    listed = dict(re.findall(r"^\| ([\w.-]+) \| (.+) \|$", PAGE, re.MULTILINE))
    pinned = re.findall(r"^([\w.-]+)==", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    names = [name for name in make_licences.closure(PROJECT["dependencies"]) if not is_of_a_gpu_build(name)]
    assert {"torch", "numpy", "sympy"} <= set(names)
    for name in names:
        assert listed.get(name, "").strip(), f"{name} is not in docs/licences.md"
        assert name in pinned, f"{name} is not in constraints.txt"


def is_of_a_gpu_build(name: str) -> bool:
    """The page speaks of them as a whole; which ones there are depends on the machine."""
    return name.startswith(("nvidia-", "cuda-", "triton", "pytorch-triton"))


def test_every_package_of_the_extras_is_listed(make_licences: ModuleType) -> None:
    for extra, requirements in PROJECT["optional-dependencies"].items():
        for text in requirements if extra not in make_licences.NOT_FOR_USERS else ():
            assert f"| `{extra}` | {Requirement(text).name} | " in PAGE, f"{text} is not in docs/licences.md"


def test_every_model_is_listed_as_the_catalogue_has_it(make_licences: ModuleType) -> None:
    rows = re.findall(r"^\| `[\w.-]+` \| [\w-]+ \| .*\]\(.*$|^\| `realesr-lite.*$", PAGE, re.MULTILINE)
    assert rows == make_licences.models()
    assert len(rows) == len(catalog.CATALOG)
    assert all(entry.licence.strip() for entry in catalog.CATALOG)


def test_the_licences_of_what_is_in_the_package_lie_beside_it() -> None:
    for file, name in (
        ("realesr_cli/embedded/LICENSE-realesr-lite-x4.txt", "BSD-3-Clause"),
        ("train/realesr_train/metrics/data/LICENSE-lpips.txt", "BSD-2-Clause"),
        ("train/realesr_train/metrics/data/LICENSE-niqe.txt", "Apache-2.0"),
        ("LICENSE", "MIT"),
    ):
        assert (ROOT / file).is_file()
        assert name in PROJECT["license"].split(" AND ")
        assert any((ROOT / file) in ROOT.glob(pattern) for pattern in PROJECT["license-files"]), file
