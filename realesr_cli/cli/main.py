"""The command `realesr`: its sub-commands, and the one place where an error outside a run becomes an exit status."""

import io
import sys
from typing import Annotated, NoReturn

import typer

from realesr_cli import __version__, machine
from realesr_cli.cli import compare, completion, data, directory, doctor, eval, faces, image, models, train, video
from realesr_cli.errors import RealesrError

app = typer.Typer(
    name="realesr",
    help="Upscale pictures and films with the Real-ESRGAN family of networks.",
    rich_markup_mode=None,
    add_completion=False,  # it edits shells' start files, and each TAB would start this program
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("image")(image.image)
app.command("directory")(directory.directory)
app.command("video")(video.video)
app.command("compare")(compare.compare)
app.command("faces")(faces.faces)
app.add_typer(models.app, name="models", help="List, fetch, check and blend models.")
app.add_typer(data.app, name="data", help="Make low-resolution pictures of clean ones, for training and tests.")
app.command("train")(train.train)
app.command("eval")(eval.evaluate)
app.command("doctor")(doctor.doctor)
app.command("completion")(completion.completion)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"realesr {__version__}", flush=True)
        for name, value in machine.facts().items():
            print(f"{name:8} {value}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_print_version,
            is_eager=True,
            help="Print the versions of everything, for a bug report, and stop.",
        ),
    ] = False,
) -> None:
    pass


def main() -> NoReturn:
    """Runs the command line and leaves with its exit status (errors.py lists them)."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name that the terminal cannot show is no error
    try:
        app(prog_name="realesr")
    except RealesrError as error:
        print(f"error: {error.message}" + (f"\nhint: {error.hint}" if error.hint else ""), file=sys.stderr)
        sys.exit(error.exit_status)
    sys.exit(0)
