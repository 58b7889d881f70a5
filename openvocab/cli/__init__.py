"""The command line: the only place that prints."""

import sys
from typing import Annotated

import typer

from openvocab import __version__
from openvocab.cli import batch, demo, detect, doctor, evaluate, export, serve, stream, weights
from openvocab.cli.console import complain, out
from openvocab.errors import OpenVocabError

__all__ = ["app", "main"]

app = typer.Typer(
    help="Find things in pictures, in your own words.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(detect.detect)
app.command()(batch.batch)
app.command()(stream.stream)
app.command()(demo.demo)
app.command("eval")(evaluate.evaluate)
app.command()(evaluate.calibrate)
app.command()(export.export)
app.command()(serve.serve)
app.command()(doctor.doctor)
app.add_typer(weights.app, name="weights")


def main() -> None:
    """Run the command line; an error of ours is one line and exit code 2."""
    try:
        app()
    except OpenVocabError as error:
        complain(str(error))
        sys.exit(2)


@app.callback(invoke_without_command=True)
def _root(
    *,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        out.print(__version__)
        raise typer.Exit
