"""The settings that a process is begun with, and that it begins anew once at most."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from realesr_cli import process

_TUNABLES = "glibc.malloc.tcache_count=0"
_glibc_only = pytest.mark.skipif(not process._is_glibc(), reason="needs glibc")


class Left(Exception):
    """Stands for the process that begins."""


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The command lines that were begun instead of going on."""
    lines: list[list[str]] = []

    def execv(path: str, arguments: list[str]) -> None:
        lines.append([path, *arguments[1:]])
        raise Left

    monkeypatch.setattr(os, "execv", execv)
    monkeypatch.setattr(os, "environ", {})
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    return lines


@_glibc_only
def test_a_process_is_begun_anew_with_its_own_command_line_and_only_once(begun: list[list[str]]) -> None:
    with pytest.raises(Left):
        process.restart_with_settings()
    assert begun == [[sys.executable, *sys.orig_argv[1:]]]
    assert os.environ["GLIBC_TUNABLES"] == _TUNABLES
    assert os.environ["GOMP_SPINCOUNT"] == "20000"
    del os.environ["GLIBC_TUNABLES"]  # as the system does for a process with more rights than its caller
    process.restart_with_settings()
    assert len(begun) == 1
    assert "REALESR_RESTARTED" not in os.environ, "a child of this process may need a restart of its own"


@_glibc_only
@pytest.mark.parametrize("command", ["image", "directory", "compare", "faces", "eval"])
def test_commands_for_pictures_of_many_sizes_begin_anew(
    command: str, begun: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["realesr", command, "in"])
    with pytest.raises(Left):
        process.start()
    assert len(begun) == 1


@_glibc_only
def test_tunables_of_other_things_stay(begun: list[list[str]]) -> None:
    os.environ["GLIBC_TUNABLES"] = "glibc.pthread.rseq=0"
    with pytest.raises(Left):
        process.restart_with_settings()
    assert os.environ["GLIBC_TUNABLES"] == f"glibc.pthread.rseq=0:{_TUNABLES}"


@pytest.mark.parametrize(
    ("attribute", "value"),
    [("argv", ["-"]), ("argv", [""]), ("executable", ""), ("executable", "/bin/sh"), ("executable", "/no/such/file")],
)
def test_what_would_not_be_the_same_program_goes_on_as_it_is(
    attribute: str, value: object, begun: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, attribute, value)
    process.restart_with_settings()
    assert not begun


def test_one_size_of_maps_needs_no_new_process_before_torch_is_loaded(
    begun: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    process.restart_with_settings(many_sizes=False)
    assert not begun
    assert {name for name in os.environ if name != "PYTEST_CURRENT_TEST"} == {"GOMP_SPINCOUNT"}
    if sys.platform == "linux":
        os.environ.clear()
        monkeypatch.setitem(sys.modules, "torch", sys)
        with pytest.raises(Left):
            process.restart_with_settings(many_sizes=False)


@pytest.mark.parametrize(
    ("said", "spins"),
    [({}, "20000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, None)],
)
def test_what_the_user_says_is_left_alone(said: dict[str, str], spins: str | None, begun: list[list[str]]) -> None:
    os.environ.update(said, GLIBC_TUNABLES="glibc.malloc.tcache_count=3")
    process.restart_with_settings()
    assert not begun
    assert os.environ.get("GOMP_SPINCOUNT") == spins
    assert os.environ["GLIBC_TUNABLES"] == "glibc.malloc.tcache_count=3"


@pytest.mark.parametrize("arguments", [["video", "film.mp4"], ["--help"], []])
def test_other_commands_keep_the_quick_way_to_small_blocks(
    arguments: list[str], begun: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("realesr_cli.cli.main.main", lambda: sys.exit(5))
    monkeypatch.setattr(sys, "argv", ["realesr", *arguments])
    with pytest.raises(SystemExit, match="5"):
        process.start()
    assert not begun
    assert "GLIBC_TUNABLES" not in os.environ


@_glibc_only
def test_a_real_process_begins_anew_once_and_keeps_arguments_input_and_status(tmp_path: Path) -> None:
    code = (
        "import os, sys\n"
        f"open({str(tmp_path / 'begun')!r}, 'a').write('x')\n"
        "from realesr_cli.process import restart_with_settings\n"
        "restart_with_settings()\n"
        "said = [os.environ[name] for name in ('GLIBC_TUNABLES', 'GOMP_SPINCOUNT')]\n"
        "print(*said, sys.argv[1:], sys.stdin.read(), os.getpid())\n"
        "sys.exit(3)"
    )
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("GLIBC_", "GOMP_", "OMP_"))}
    clean.pop("REALESR_RESTARTED", None)
    with subprocess.Popen(
        [sys.executable, "-c", code, "a b", "-x"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=clean,
    ) as running:  # fmt: skip
        out, _ = running.communicate("typed")
    assert out == f"{_TUNABLES} 20000 ['a b', '-x'] typed {running.pid}\n"
    assert running.returncode == 3
    assert (tmp_path / "begun").read_text() == "xx"
