"""`realesr completion`: scripts that make TAB complete commands, options and values.

All that TAB offers stands in the script, so it starts no program: asking realesr would take a fifth of a second each
time. The same scripts are installed under `share/`, where the shells of many systems look (scripts/make_manual.py).
"""

import re
from collections.abc import Callable, Iterator
from typing import Annotated

import typer

from realesr_cli.cli.command_tree import Command, Parameter, read_tree
from realesr_cli.errors import UsageError


def completion(
    context: typer.Context, shell: Annotated[str, typer.Argument(metavar="SHELL", help="bash, zsh or fish.")]
) -> None:
    """Print what makes TAB complete in a shell, for a file or for `source <(realesr completion bash)`."""
    if shell not in SCRIPTS:
        raise UsageError(f"there is no completion for {shell}", hint=f"choose one of {', '.join(SCRIPTS)}")
    typer.echo(SCRIPTS[shell](read_tree(context.find_root().command)), nl=False)


def bash_script(tree: Command) -> str:
    """For bash from 3.2 on. Where it gives no reply, bash completes files by itself."""
    replies: dict[str, list[str]] = {}
    arguments = []
    for command in tree.walk():
        for option in command.options:
            if option.values:
                patterns = replies.setdefault(_bash_reply(option), [])
                patterns += [f'"{command.name}:{flag}"' for flag in option.flags]
        words = [one.path[-1] for one in command.commands]
        reply = f'_realesr_words "{" ".join(words)}"' if words else "_realesr_words"
        reply = _bash_reply(command.arguments[0]) if command.arguments else reply
        flags = " ".join(flag for option in command.options for flag in option.flags)
        arguments.append(f'"{command.name}") flags="{flags}"; [[ $word == -* ]] || {{ {reply}; }} ;;')
    options = [f"{' | '.join(patterns)}) {reply}; return ;;" for reply, patterns in replies.items()]
    return f"""# TAB in bash for realesr: what `realesr completion bash` prints
_realesr_words() {{
    COMPREPLY+=($(compgen -W "$1" -- "$word"))
    compopt +o default +o bashdefault 2>/dev/null # no files instead
}}
_realesr_files() {{
    local IFS=$'\\n'
    COMPREPLY+=($(compgen -f -- "$word"))
    compopt -o filenames 2>/dev/null
}}
_realesr() {{
    local word="${{COMP_WORDS[COMP_CWORD]}}" previous="${{COMP_WORDS[COMP_CWORD - 1]}}" command= flags= index
    COMPREPLY=()
    for ((index = 1; index < COMP_CWORD; index++)); do
        case "$command ${{COMP_WORDS[index]}}" in
            {_places(tree, " | ")}) command="${{command:+$command }}${{COMP_WORDS[index]}}" ;;
        esac
    done
    if [[ $word == = ]]; then # bash makes three words of --device=cpu
        word=
    elif [[ $previous == = ]]; then
        previous="${{COMP_WORDS[COMP_CWORD - 2]}}"
    fi
    case "$command:$previous" in
        {_lines(options, 8)}
    esac
    case "$command" in
        {_lines(arguments, 8)}
    esac
    [[ $word != -* ]] || _realesr_words "$flags"
}}
complete -o bashdefault -o default -F _realesr realesr
"""


def _bash_reply(parameter: Parameter) -> str:
    words = f'_realesr_words "{" ".join(parameter.words)}"'
    if parameter.takes_file:
        return f"{words}; _realesr_files" if parameter.words else ":"
    return words


def zsh_script(tree: Command) -> str:
    """For a folder of `fpath`, and for `source`."""
    functions = "\n".join(_zsh_function(command) for command in tree.walk())
    return f"""#compdef realesr
# TAB in zsh for realesr: what `realesr completion zsh` prints
_realesr_or_files() {{ _alternative "words:word:($*)" 'files:file:_files' }}
{functions}
if [[ $funcstack[1] == _realesr ]]; then
    _realesr "$@"
else
    compdef _realesr realesr
fi
"""


def _zsh_function(command: Command) -> str:
    specs = [spec for option in command.options for spec in _zsh_option(option)]
    specs += [
        f"'{'*' if one.is_repeatable else ''}:{_zsh(one.metavar)}:{_zsh_action(one)}'" for one in command.arguments
    ]
    name = "_".join(["_realesr", *command.path])
    if not command.commands:
        return f"{name}() {{\n    _arguments -s -S {_lines(specs, 8, continued=True)}\n}}"
    names = [f"'{one.path[-1]}:{_zsh(one.summary)}'" for one in command.commands]
    rest = [f"{one.path[-1]}) {'_'.join(['_realesr', *one.path])} ;;" for one in command.commands]
    return f"""{name}() {{
    local curcontext="$curcontext" state line
    local -a commands=(
        {_lines(names, 8)}
    )
    _arguments -C -s -S {_lines(specs, 8, continued=True)} \\
        '1: :->command' '*:: :->rest'
    case $state in
        command) _describe -t commands command commands ;;
        rest) case $words[1] in
            {_lines(rest, 12)}
        esac ;;
    esac
}}"""


def _zsh_option(option: Parameter) -> Iterator[str]:
    exclusive = "*" if option.is_repeatable else f"({' '.join(option.flags)})"
    value = "".join(f":{_zsh(word)}:{_zsh_action(option)}" for word in _value_names(option))
    for flag in option.flags:
        mark = ("=" if flag.startswith("--") else "+") if option.values == 1 else ""
        yield f"'{exclusive}{flag}{mark}[{_zsh(_short(option.help))}]{value}'"


def _value_names(option: Parameter) -> list[str]:
    return (option.metavar.split() * 2)[: option.values]


def _zsh_action(parameter: Parameter) -> str:
    words = " ".join(parameter.words)
    if parameter.takes_file:
        return f" _realesr_or_files {words}" if words else "_files"
    return f"({words})" if words else " "


def _zsh(text: str) -> str:
    return re.sub(r"([\[\]:\\])", r"\\\1", text).replace("'", "'\\''")


def fish_script(tree: Command) -> str:
    """For ~/.config/fish/completions, and for `source`."""
    lines = []
    for command in tree.walk():
        here = f"complete -c realesr -n '__realesr_at {command.name}'"
        lines += [f"{here} -a {one.path[-1]} -d {_fish(one.summary)}" for one in command.commands]
        for one in command.arguments:
            lines += [f"{here} -F"] if one.takes_file else []
            lines += [f"{here} -a '{' '.join(one.words)}'"] if one.words else []
        for one in command.options:
            words = f" -a '{' '.join(one.words)}'" if one.words else ""
            value = (" -r -F" if one.takes_file else " -x") + words if one.values else ""
            flags = "".join(f" -l {flag[2:]}" if flag.startswith("--") else f" -s {flag[1:]}" for flag in one.flags)
            lines.append(f"{here}{flags}{value} -d {_fish(_short(one.help))}")
    return f"""# TAB in fish for realesr: what `realesr completion fish` prints
function __realesr_at --description 'Whether the command line is at this command of realesr'
    set -l at ''
    set -l words (commandline -opc)
    set -e words[1]
    for word in $words
        switch "$at $word"
            case {_places(tree, " ")}
                set at (string trim "$at $word")
        end
    end
    test "$at" = "$argv"
end
complete -c realesr -f
{_lines(lines, 0)}
"""


def _fish(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _places(tree: Command, separator: str) -> str:
    """Each command as "what stands before" and its own name, the way the scripts find out where they are."""
    return separator.join(f'"{" ".join(one.path[:-1])} {one.path[-1]}"' for one in list(tree.walk())[1:])


def _short(text: str) -> str:
    """The first part of a help text: menus are narrow."""
    return re.split(r"(?<!e\.g)[.;] | \[(?:default|required)", text)[0].rstrip(".;")


def _lines(lines: list[str], indent: int, *, continued: bool = False) -> str:
    return ((" \\" if continued else "") + "\n" + " " * indent).join(lines)


SCRIPTS: dict[str, Callable[[Command], str]] = {"bash": bash_script, "zsh": zsh_script, "fish": fish_script}
