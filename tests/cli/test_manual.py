"""Man page, completions and command reference: made of the command tree, and right in the programs that read them."""

import importlib.util
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

from realesr_cli import catalog
from realesr_cli.cli import command_tree
from realesr_cli.cli.command_tree import Command, read_tree
from realesr_cli.cli.completion import SCRIPTS
from realesr_cli.cli.main import app

ROOT = Path(__file__).resolve().parents[2]
SHARE = ROOT / "assets" / "share"


@pytest.fixture(scope="module")
def tree() -> Command:
    return read_tree(typer.main.get_command(app))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with two files in it."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for name in ("a.jpg", "b c.jpg"):
        Path(name).touch()
    return tmp_path


def test_what_is_made_of_the_command_tree_is_up_to_date() -> None:
    """Else run `python scripts/make_manual.py`."""
    spec = importlib.util.spec_from_file_location("make_manual", ROOT / "scripts" / "make_manual.py")
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    for path, text in script.outputs().items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: run scripts/make_manual.py"


def test_every_flag_of_every_help_text_is_in_the_tree(tree: Command, realesr: Callable[..., Any]) -> None:
    """So in the man page, the reference and the completions as well."""
    commands = list(tree.walk())
    assert len(commands) > 25
    for command in commands:
        options = realesr(*command.path, "--help").out.partition("Options:")[2]
        lines = re.findall(r"^  (-.*?)(?:  |$)", options, re.MULTILINE)
        shown = {flag for line in lines for flag in re.findall(r"(?<![\w-])--?[a-z][a-z-]*", line)}
        assert {flag for option in command.options for flag in option.flags} == shown, command.name


def test_words_are_offered_for_flags_and_commands_that_exist(tree: Command) -> None:
    names = {command.name for command in tree.walk()}
    flags = {flag for command in tree.walk() for option in command.options for flag in option.flags}
    for key in command_tree._words():
        *place, last = key.split(" ")
        assert last in flags if last.startswith("-") else " ".join([*place, last]) in names, key


def test_an_unknown_shell_is_one_line(realesr: Callable[..., Any]) -> None:
    done = realesr("completion", "tcsh")
    assert done.status == 2
    assert "choose one of bash, zsh, fish" in done.err


def test_the_script_that_is_printed_is_the_one_that_is_installed(realesr: Callable[..., Any]) -> None:
    for shell, file in (
        ("bash", "bash-completion/completions/realesr"),
        ("zsh", "zsh/site-functions/_realesr"),
        ("fish", "fish/vendor_completions.d/realesr.fish"),
    ):
        assert realesr("completion", shell).out == (SHARE / file).read_text(encoding="utf-8")
    assert set(SCRIPTS) == {"bash", "zsh", "fish"}


UPSCALERS = [entry.name for entry in catalog.list_models() if entry.name.startswith("realesr-")]
LINES = {
    "realesr mod": ["models"],
    "realesr models i": ["info", "interpolate"],
    "realesr image --dev": ["--device"],
    "realesr image --device c": ["cpu", "cuda"],
    "realesr image -m realesr-": UPSCALERS,
    "realesr models download qqq": [],
    "realesr models info esr": ["esrgan-x4"],
    "realesr train --recipe debug": ["debug_cpu"],
    "realesr completion ": ["bash", "fish", "zsh"],
    "realesr video --tile ": [],
    "realesr doctor --j": ["--json"],
}
"""What stands before the cursor, and what TAB offers."""


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_tab_in_bash(folder: Path) -> None:
    script = f"source {SHARE}/bash-completion/completions/realesr\n"
    for line in LINES:
        words = " ".join(f"'{word}'" for word in line.split(" "))
        script += f'COMP_WORDS=({words}); COMP_CWORD={line.count(" ")}; _realesr; echo "${{COMPREPLY[*]}}"\n'
    script += 'COMP_WORDS=(realesr image --device = c); COMP_CWORD=4; _realesr; echo "${COMPREPLY[*]}"\n'
    script += "complete -p realesr\n"  # where there is no reply, files
    *found, equals, how = _output("bash", "--norc", "-c", script).splitlines()
    assert [sorted(line.split()) for line in found] == [sorted(words) for words in LINES.values()]
    assert equals.split() == ["cpu", "cuda"]
    assert "-o default" in how


@pytest.mark.skipif(shutil.which("fish") is None, reason="no fish")
def test_tab_in_fish(folder: Path) -> None:
    lines = {**LINES, "realesr image ": ["a.jpg", "b c.jpg"], "realesr image -m a.": ["a.jpg"]}
    script = f"set -x HOME {folder}; source {SHARE}/fish/vendor_completions.d/realesr.fish\n"
    script += "".join(f"complete -C '{line}'; echo END\n" for line in lines)
    found = _output("fish", "--no-config", "-c", script).split("END\n")
    shown = [sorted(text.split("\t")[0] for text in part.splitlines()) for part in found[:-1]]
    assert shown == [sorted(words) for words in lines.values()]


ZSH = r"""
zmodload zsh/zpty
zpty shell zsh -f -i
zpty -w shell 'PS1= PS2=; stty -echo cols 200; autoload -Uz compinit; compinit -u -D; source SCRIPT'
zpty -w shell 'unset zle_bracketed_paste; LISTMAX=0; bindkey "^I" list-choices; bindkey "^U" kill-whole-line'
zpty -w shell 'print REA''DY'
zpty -r -m shell seen '*READY*'
for line last in $@; do
    zpty -w -n shell "$line"$'\t'
    zpty -r -m shell list "*$last*"
    zpty -w -n shell $'\x15'"print -r DO''NE"$'\n'
    zpty -r -m shell seen '*DONE*'
    print -r -- "$list$seen"
    print END
done
"""


@pytest.mark.skipif(shutil.which("zsh") is None, reason="no zsh")
def test_tab_in_zsh(folder: Path) -> None:
    lines = {**LINES, "realesr image ": ["a.jpg", r"b\ c.jpg"]}
    several = {line: words for line, words in lines.items() if len(words) > 1}  # a single one is put into the line
    script = ZSH.replace("SCRIPT", str(SHARE / "zsh/site-functions/_realesr"))
    arguments = [word for line, words in several.items() for word in (line, max(words))]
    found = _output("zsh", "-f", "-c", script, "zsh", *arguments).split("END\n")
    assert len(found) == len(several) + 1
    for (line, words), text in zip(several.items(), found, strict=False):
        assert all(word in text for word in words), f"{line}: {text}"


def test_the_man_page_is_set_without_a_warning() -> None:
    page = SHARE / "man" / "man1" / "realesr.1"
    text = page.read_text(encoding="utf-8")
    assert not re.findall(r"^\.(?!TH |SH |SS |TP$|br$)", text, re.MULTILINE)
    assert [line[4:] for line in text.splitlines() if line.startswith(".SH")][:3] == ["NAME", "SYNOPSIS", "DESCRIPTION"]
    if shutil.which("groff") is None:
        pytest.skip("no groff")
    command = ["groff", "-man", "-Tascii", "-ww", "-P-c", str(page)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    plain = re.sub(r".\x08", "", done.stdout)
    assert "realesr models clean [OPTIONS]" in plain
    assert "-m, --model NAME|FILE" in plain
    assert "EXIT STATUS" in plain


def _output(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr == ""
    return done.stdout
