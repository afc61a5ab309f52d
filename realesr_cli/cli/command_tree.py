"""All commands and their parameters as plain records: what completions, man page and command reference are made of."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from realesr_cli import catalog
from realesr_cli.image_formats import FORMATS

_UPSCALERS = tuple(entry.name for entry in catalog.list_models())
_WORDS: dict[str, tuple[str, ...]] = {
    "--model": ("auto", *_UPSCALERS),
    "eval --model": (*_UPSCALERS, "nearest", "bicubic", "lanczos"),
    "--models": _UPSCALERS,
    "models interpolate": _UPSCALERS,
    "models export": _UPSCALERS,
    **dict.fromkeys(
        ("models info", "models download", "models path", "models verify", "models remove"),
        tuple(entry.name for entry in catalog.CATALOG),
    ),
    "--face-model": tuple(entry.name for entry in catalog.list_models("face-restorer")),
    "--device": ("auto", "cpu", "cuda", "mps", "xpu"),
    "--precision": ("auto", "fp32", "fp16", "bf16"),
    "--format": tuple(suffix.lstrip(".") for kind in FORMATS for suffix in kind.suffixes[:1]),
    "--alpha-mode": ("model", "resize"),
    "--codec": ("h264", "hevc", "av1", "prores", "ffv1"),
    "--hwaccel": ("cuda", "vaapi", "qsv", "videotoolbox"),
    "--deinterlace": ("auto", "off", "bwdif"),
    "--on-unsupported": ("error", "drop", "transcode"),
    "--degradation": ("bicubic", "first", "second"),
    "--metrics": ("psnr", "ssim", "niqe", "lpips"),
    "--kernel": ("bicubic",),
    "--method": ("spectrum", "gan", "published"),
    "completion": ("bash", "zsh", "fish"),
}
"""What TAB offers for the value of an option (of one command), or for a command's arguments."""

_KINDS = {"Path": "PATH", "float": "NUMBER", "int": "INTEGER", "str": "TEXT"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Parameter:
    """An option, or an argument: that has no `flags`."""

    flags: tuple[str, ...]
    usage: str
    """As in `--help`: `-m, --model NAME|FILE`."""
    help: str
    metavar: str
    values: int
    """Number of words that follow an option: 0 of a switch."""
    is_repeatable: bool
    words: tuple[str, ...]
    takes_file: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    path: tuple[str, ...]
    """("models", "list"); () for realesr itself."""
    usage: str
    help: str
    summary: str
    """The first sentence of the help."""
    options: tuple[Parameter, ...]
    arguments: tuple[Parameter, ...]
    commands: tuple["Command", ...]

    @property
    def name(self) -> str:
        return " ".join(self.path)

    def walk(self) -> Iterator["Command"]:
        """This command and all below it, in the order of the help texts."""
        yield self
        for command in self.commands:
            yield from command.walk()


def read_tree(root: Any) -> Command:
    """The commands below the one that Typer has built of the program (`typer.main.get_command`)."""
    return _read(root, root.context_class(root, info_name="realesr", **root.context_settings), ())


def _read(command: Any, context: Any, path: tuple[str, ...]) -> Command:
    parameters = [_parameter(one, context, " ".join(path)) for one in command.get_params(context) if not one.hidden]
    text = " ".join((command.help or "").split())
    below = [
        _read(one, one.context_class(one, info_name=name, parent=context), (*path, name))
        for name, one in getattr(command, "commands", {}).items()
        if not one.hidden
    ]
    return Command(
        path=path,
        usage=" ".join([context.command_path, *command.collect_usage_pieces(context)]),
        help=text,
        summary=text.split(". ")[0].rstrip("."),
        options=tuple(one for one in parameters if one.flags),
        arguments=tuple(one for one in parameters if not one.flags),
        commands=tuple(below),
    )


def _parameter(parameter: Any, context: Any, command: str) -> Parameter:
    _, text = parameter.get_help_record(context)
    # the set of help flags has no order of its own
    flags = tuple(sorted(parameter.opts, key=len)) if parameter.param_type_name == "option" else ()
    values = 0 if flags and parameter.is_flag else max(parameter.nargs, 1)
    kind = parameter.bare_type().removeprefix("list[").removesuffix("]")
    metavar = parameter.metavar or _KINDS.get(kind, kind)
    is_repeatable = parameter.nargs < 0 or bool(getattr(parameter, "multiple", False))
    if flags:
        usage = ", ".join(flags) + (f" {metavar}" if values else "")
        usage += "".join(f" / {flag}" for flag in parameter.secondary_opts)
    else:
        usage = metavar + ("..." if is_repeatable and "..." not in metavar else "")
    keys = (f"{command} {flags[-1]}", flags[-1]) if flags else (command,)
    words = _words()
    return Parameter(
        flags=(*flags, *parameter.secondary_opts) if flags else (),
        usage=usage,
        help=" ".join(text.split()),
        metavar=metavar,
        values=values,
        is_repeatable=is_repeatable,
        words=next((words[key] for key in keys if key in words), ()),
        takes_file="Path" in parameter.bare_type() or "FILE" in metavar or command == "models interpolate",
    )


def _words() -> dict[str, tuple[str, ...]]:
    from realesr_train import recipes

    return {**_WORDS, "--recipe": tuple(one.name for one in recipes.list_recipes())}
