"""Writes what is made of the command tree: the man page, the completions of three shells, and docs/reference.md.

python scripts/make_manual.py

To be run after any change of a command, flag, help text, recipe, version or of the catalogue; a test compares.
The files under assets/share/ are installed with the program.
"""

import re
from pathlib import Path

import typer

from realesr_cli import __version__
from realesr_cli.cli.command_tree import Command, Parameter, read_tree
from realesr_cli.cli.completion import SCRIPTS
from realesr_cli.cli.main import app

ROOT = Path(__file__).resolve().parents[1]
SHARE = ROOT / "assets" / "share"

ABOUT = (
    "realesr makes pictures and films larger and sharper with the Real-ESRGAN family of neural networks, on a CPU or a "
    "GPU, and trains such networks. A small network comes with it, so it works at once and offline; others are fetched "
    "by name, checked by their SHA-256 and kept in a cache. Inputs are never changed, and results that exist are only "
    "replaced with --overwrite."
)
EXAMPLES = (
    ("realesr image photo.jpg", "Writes photo_x4.jpg beside it."),
    ("realesr image photo.jpg -m x4plus -s 2.5 -o large.png", "Another model, any scale, any format."),
    ("realesr directory photos/ -o photos_x4/ --skip-existing", "A whole folder; the same command goes on later."),
    ("realesr video film.mp4 --preview 5 -o look.mkv", "Five seconds of a film, to judge by."),
    ("realesr models download realesr-general-x4v3", "A better model for photographs, fetched once."),
    ("realesr train --recipe debug_cpu --data photos/ -o runs/first", "A model of one's own."),
)
STATUS = (
    ("0", "Everything was done, or left out because that was asked for."),
    ("1", "Some of several files failed, or a film differs from its source."),
    ("2", "A wrong option, or options that contradict each other."),
    ("3", "A model could not be found, fetched or read."),
    ("4", "An input could not be read or used."),
    ("5", "A device is missing or out of memory."),
    ("6", "A result could not be written."),
    ("7", "A training diverged."),
    ("70", "A bug in realesr; the message names a file to report it with."),
    ("130, 143", "Interrupted by Ctrl-C or SIGTERM."),
)
ENVIRONMENT = (
    ("REALESR_CACHE", "The folder of fetched networks, instead of the user's cache folder."),
    ("HTTPS_PROXY", "A proxy for downloads."),
    ("CUDA_VISIBLE_DEVICES", "Which GPUs CUDA shows."),
)
FILES = (
    ("~/.cache/realesr", "Networks on Linux; ~/Library/Caches/realesr on macOS, %LOCALAPPDATA% on Windows. "
     "`realesr models clean` empties it."),
    ("FOLDER/.realesr-journal.jsonl", "What a run of `realesr directory` has finished."),
    ("FILM.segments/", "Finished pieces of a film that is not complete yet."),
)  # fmt: skip


def outputs() -> dict[Path, str]:
    """The content of every file that this script keeps."""
    tree = read_tree(typer.main.get_command(app))
    return {
        SHARE / "man" / "man1" / "realesr.1": man_page(tree),
        SHARE / "bash-completion" / "completions" / "realesr": SCRIPTS["bash"](tree),
        SHARE / "zsh" / "site-functions" / "_realesr": SCRIPTS["zsh"](tree),
        SHARE / "fish" / "vendor_completions.d" / "realesr.fish": SCRIPTS["fish"](tree),
        ROOT / "docs" / "reference.md": reference(tree),
    }


def man_page(tree: Command) -> str:
    """One page for all commands, in the macros of man(7)."""
    commands = [command for command in tree.walk() if command.path and not command.commands]
    lines = [
        f'.TH REALESR 1 "" "realesr {__version__}" "User Commands"',
        ".SH NAME",
        f"realesr \\- {_roff(tree.summary[0].lower() + tree.summary[1:])}",
        ".SH SYNOPSIS",
        "\n.br\n".join(f"\\fB{_name(one)}\\fR {_rest(one)}" for one in commands),
        ".SH DESCRIPTION",
        _roff(ABOUT),
        ".SH OPTIONS OF REALESR ITSELF",
        *_entries(tree.options),
        ".SH COMMANDS",
    ]
    for one in commands:
        lines += [f".SS {_name(one)} {_rest(one)}", _roff(one.help)]
        lines += _entries((*one.arguments, *one.options))
    for title, rows in (
        ("EXIT STATUS", STATUS),
        ("ENVIRONMENT", ENVIRONMENT),
        ("FILES", FILES),
        ("EXAMPLES", EXAMPLES),
    ):
        lines += [f".SH {title}"]
        lines += [line for name, text in rows for line in (".TP", f"\\fB{_roff(name)}\\fR", _roff(text))]
    lines += [".SH BUGS", _roff("Please report them with what `realesr --version` prints, and the command.")]
    return "\n".join(lines) + "\n"


def _entries(parameters: tuple[Parameter, ...]) -> list[str]:
    return [line for one in parameters for line in (".TP", f"\\fB{_roff(one.usage)}\\fR", _roff(one.help))]


def _name(command: Command) -> str:
    return _roff(f"realesr {command.name}")


def _rest(command: Command) -> str:
    """What may follow the command's name."""
    return _roff(" ".join(["[OPTIONS]", *(one.usage for one in command.arguments)]))


def _roff(text: str) -> str:
    text = (
        text.replace("\\", "\\e").replace("-", "\\-").replace("`", "\\(ga").replace("'", "\\(aq").replace("~", "\\(ti")
    )
    return "\\&" + text if text.startswith(".") else text


def reference(tree: Command) -> str:
    """A page with every command and flag."""
    lines = [
        "# All commands and flags",
        "",
        "Made by `scripts/make_manual.py` from the program itself. The same as a man page: `man realesr`.",
        "",
    ]
    for command in tree.walk():
        if command.commands:
            continue
        usage = " ".join(["realesr", *command.path, "[OPTIONS]", *(one.usage for one in command.arguments)])
        lines += [f"## realesr {command.name}", "", _markdown(command.help), "", "```text", usage, "```", ""]
        lines += [f"- `{one.usage}`: {_markdown(one.help)}" for one in (*command.arguments, *command.options)]
        lines += [""]
    lines += ["## Exit status", "", *[f"- `{number}`: {text}" for number, text in STATUS], ""]
    lines += ["## Environment and files", "", *[f"- `{name}`: {text}" for name, text in (*ENVIRONMENT, *FILES)]]
    return "\n".join(lines) + "\n"


def _markdown(text: str) -> str:
    """Help texts are plain: what Markdown would take for markup is escaped, outside of `code`."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else re.sub(r"([*_<>\[\]|~])", r"\\\1", part) for part in parts)


def main() -> None:
    for path, text in outputs().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
