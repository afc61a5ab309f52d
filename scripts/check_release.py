"""Builds wheel and sdist, installs the wheel, uses it without a network, removes it, and looks at what is left.

python scripts/check_release.py [--pipx] [--keep DIR]

Without --pipx the packages that realesr needs are borrowed from this Python, which takes seconds and no network; with
it `pipx` fetches everything, as a user's would, in the versions of constraints.txt.
"""

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NOT_SOURCE = (".git", ".venv", "build", "dist", "runs", "*.egg-info", "__pycache__", ".*_cache", ".hypothesis")
SHARED = (
    "share/man/man1/realesr.1",
    "share/bash-completion/completions/realesr",
    "share/zsh/site-functions/_realesr",
    "share/fish/vendor_completions.d/realesr.fish",
)
HEADER = b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
SMALLEST_MODEL = len(HEADER).to_bytes(8, "little") + HEADER + bytes(4)


class Fault(Exception):
    """What is wrong with the release, in one line."""


def expect(is_right: bool, fault: str) -> None:
    if not is_right:
        raise Fault(fault)


def build(folder: Path) -> Path:
    """The wheel of `python -m build`, which makes it of the sdist; that lies beside it."""
    source = folder / "source"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(*NOT_SOURCE))
    run([sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "dist", source])
    expect(len(list((folder / "dist").glob("*.tar.gz"))) == 1, "there is no sdist")
    (wheel,) = (folder / "dist").glob("*.whl")
    return wheel


def check_contents(wheel: Path) -> None:
    """Raises: Fault when the wheel holds other files, or other bytes, than the two packages of the checkout, what is
    installed under share/, and licences.
    """
    release = "-".join(wheel.name.split("-")[:2])
    wanted = {
        path.relative_to(home.parent).as_posix(): path
        for home in (ROOT / "realesr_cli", ROOT / "train" / "realesr_train")
        for path in home.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    wanted |= {f"{release}.data/data/{name}": ROOT / "assets" / name for name in SHARED}
    wanted |= {f"{release}.dist-info/licenses/{path.relative_to(ROOT).as_posix()}": path for path in licence_files()}
    notes = ("METADATA", "WHEEL", "RECORD", "entry_points.txt", "top_level.txt")
    with zipfile.ZipFile(wheel) as archive:
        found = set(archive.namelist()) - {f"{release}.dist-info/{name}" for name in notes}
        expect(found >= set(wanted), f"the wheel lacks {sorted(set(wanted) - found)[:5]}")
        expect(found <= set(wanted), f"the wheel holds more: {sorted(found - set(wanted))[:5]}")
        for name, path in wanted.items():
            expect(archive.read(name) == path.read_bytes(), f"{name} in the wheel is not that of the checkout")
    expect("realesr_cli/embedded/realesr-lite-x4.safetensors" in found, "the wheel has no model")


def licence_files() -> list[Path]:
    packages = (ROOT / "realesr_cli", ROOT / "train" / "realesr_train")
    return [ROOT / "LICENSE", *(path for home in packages for path in sorted(home.rglob("LICENSE-*")))]


class Borrowed:
    """A fresh environment that holds the wheel, and borrows what it needs from this Python."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "venv"
        venv.create(self.home, symlinks=True)
        self.python = self.home / "bin" / "python"
        self.program = self.home / "bin" / "realesr"
        self.man_page = self.home / SHARED[0]
        site = run([self.python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]).strip()
        paths = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
        Path(site, "borrowed.pth").write_text("".join(f"{path}\n" for path in paths), "utf-8")

    def install(self, wheel: Path) -> None:
        self._pip("install", "--no-deps", "--no-index", "--no-compile", str(wheel))

    def uninstall(self) -> None:
        self._pip("uninstall", "--yes", "realesr-cli")

    def _pip(self, *arguments: str) -> None:
        run([sys.executable, "-m", "pip", "--python", self.python, "--quiet", *arguments])


class Pipx:
    """`pipx install`, with everything of pipx in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "pipx" / "venvs" / "realesr-cli"
        self.program = folder / "bin" / "realesr"
        self.man_page = folder / "man" / "man1" / "realesr.1"
        self.environment = os.environ | {
            "PIPX_HOME": str(folder / "pipx"),
            "PIPX_BIN_DIR": str(self.program.parent),
            "PIPX_MAN_DIR": str(folder / "man"),
            "PIP_CONSTRAINT": str(ROOT / "constraints.txt"),
        }
        self._pipx("--version")

    def install(self, wheel: Path) -> None:
        started = time.monotonic()
        self._pipx("install", str(wheel))
        size_bytes = sum(path.lstat().st_size for path in self.home.rglob("*") if path.is_file())
        print(f"pipx install: {time.monotonic() - started:.0f} s, {size_bytes / 2**20:.0f} MiB")

    def uninstall(self) -> None:
        self._pipx("uninstall", "realesr-cli")

    def _pipx(self, *arguments: str) -> None:
        run([shutil.which("pipx") or "pipx", *arguments], self.environment)


def check_installed(wheel: Path, folder: Path, *, with_pipx: bool = False) -> None:
    """Installs the wheel, uses it offline, removes it, and looks at every file that is left.

    Raises: Fault.
    """
    user, work = folder / "user", folder / "work"
    user.mkdir()
    work.mkdir()
    shutil.copy(ROOT / "assets" / "budgie.jpg", work)
    nowhere = "http://127.0.0.1:9"  # a proxy that refuses: whatever asks the network fails
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("REALESR_", "XDG_", "PYTHON"))
    }
    environment |= {"HOME": str(user), "HTTP_PROXY": nowhere, "HTTPS_PROXY": nowhere, "PYTHONDONTWRITEBYTECODE": "1"}
    place = Pipx(folder) if with_pipx else Borrowed(folder)
    empty = files_of(place.home)

    def realesr(*arguments: str) -> str:
        return run([place.program, *arguments], environment, work)

    place.install(wheel)
    expect(place.man_page.is_file(), f"no man page at {place.man_page}")
    version = realesr("--version").splitlines()
    expect(version[0] == f"realesr {wheel.name.split('-')[1]}", f"--version says {version[0]}")
    realesr("image", "budgie.jpg", "-o", "large.png", "--offline")
    expect((work / "large.png").stat().st_size > 100_000, "the enlarged picture is too small a file")
    recipes = realesr("train", "--list-recipes")
    expect(recipes.count("\n") >= 15, "recipes are missing")
    (work / "own.safetensors").write_bytes(SMALLEST_MODEL)
    realesr("models", "add", "own.safetensors")
    cache = Path(realesr("models", "path", "own").strip()).parents[1]
    left = {path for path in files_of(user) if not path.is_relative_to(cache)}
    expect(not left, f"outside of the cache there is {sorted(map(str, left))[:5]}")
    place.uninstall()
    expect(files_of(place.home) == empty, f"left behind: {sorted(files_of(place.home) - empty)[:5]}")
    expect(not place.program.exists() and not place.man_page.exists(), "the program or its man page is still there")
    expect(any(path.is_relative_to(cache) for path in files_of(user)), "the cache did not outlive the program")
    place.install(wheel)
    realesr("models", "clean", "--yes")
    place.uninstall()
    expect(not files_of(user), f"left behind: {sorted(map(str, files_of(user)))[:5]}")
    expect(not cache.exists(), "the cache folder is still there")
    beside = {path.name for path in work.iterdir()} - {"budgie.jpg", "large.png", "own.safetensors"}
    expect(not beside, f"written beside the results: {beside}")


def files_of(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if not path.is_dir()} if folder.exists() else set()


def run(command: list[str | Path], environment: dict[str, str] | None = None, folder: Path | None = None) -> str:
    """What a program prints. Raises: Fault with its last lines when it fails."""
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)
    last = "\n".join((done.stdout + done.stderr).splitlines()[-5:])
    expect(done.returncode == 0, f"{' '.join(map(str, command[:6]))} failed: {last}")
    return done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pipx", action="store_true", help="install with pipx, everything fetched")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="copy wheel and sdist there")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="realesr-release-") as name:
        try:
            wheel = build(Path(name))
            check_contents(wheel)
            check_installed(wheel, Path(name), with_pipx=arguments.pipx)
        except Fault as fault:
            sys.exit(f"not fit for release: {fault}")
        if arguments.keep:
            shutil.copytree(wheel.parent, arguments.keep, dirs_exist_ok=True)
        print(f"{wheel.name} is fit for release")


if __name__ == "__main__":
    main()
