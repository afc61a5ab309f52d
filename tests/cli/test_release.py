"""The wheel that users get: what is in it, that it works where only it is installed, and what it leaves behind."""

import importlib.util
import os
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def check_release() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_release", ROOT / "scripts" / "check_release.py")
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


@pytest.fixture(scope="module")
def wheel(check_release: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel made of the sdist of this checkout."""
    pytest.importorskip("build", reason="the package `build` is not installed")
    return check_release.build(tmp_path_factory.mktemp("release"))


def test_the_wheel_holds_the_checkout_and_nothing_else(check_release: ModuleType, wheel: Path, tmp_path: Path) -> None:
    check_release.check_contents(wheel)
    for change, fault in (
        (lambda name: None if name.endswith("compare.js") else name, "lacks"),
        (lambda name: None if "LICENSE-niqe" in name and "dist-info" in name else name, "lacks"),
        (lambda name: "tests/x.py" if name.endswith("auto.py") else name, "lacks"),
        (lambda name: name, "holds more"),
    ):
        spoilt = tmp_path / wheel.name
        with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(spoilt, "w") as target:
            for name in filter(None, map(change, source.namelist())):
                target.writestr(name, source.read(name) if name in source.namelist() else b"")
            if fault == "holds more":
                target.writestr("tests/test_x.py", b"")
        with pytest.raises(check_release.Fault, match=fault):
            check_release.check_contents(spoilt)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="the script speaks of bin/ folders")
def test_it_works_when_installed_and_leaves_only_the_cache_which_clean_removes(
    check_release: ModuleType, wheel: Path, tmp_path: Path
) -> None:
    check_release.check_installed(wheel, tmp_path)
