"""The command line: the only place that prints."""

import sys
from typing import Annotated, Any

import typer

from openvocab import __version__
from openvocab.cli import _demo as demo
from openvocab.cli import _detect as detect
from openvocab.cli import _doctor as doctor
from openvocab.cli import _evaluate as evaluate
from openvocab.cli import _export as export
from openvocab.cli import _parquet as parquet
from openvocab.cli import _serve as serve
from openvocab.cli import _stream as stream
from openvocab.cli import _weights as weights
from openvocab.cli import _words as words
from openvocab.cli._console import complain, out
from openvocab.errors import OpenVocabError

app = typer.Typer(
    help="Find objects in images and videos, in your own words.",
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(detect.detect)
app.command()(parquet.parquet)
app.command()(stream.stream)
app.command()(demo.demo)
app.command("eval")(evaluate.evaluate)
app.command()(evaluate.calibrate)
app.command("explain-word")(words.explain_word)
app.command()(export.export)
app.command()(serve.serve)
app.command()(doctor.doctor)
app.add_typer(weights.app, name="weights")


UsageError: Any = typer.BadParameter.__base__  # Typer has no public name for it


def main() -> None:
    """Run the command line; an openvocab or usage error gives one line and exit code 2."""
    try:
        sys.exit(app(prog_name="openvocab", standalone_mode=False))
    except UsageError as error:
        command = error.ctx.command_path if error.ctx else "openvocab"
        complain(f"{error.format_message().rstrip('.?')}; see `{command} --help`.")
    except typer.Abort:  # Ctrl-C, or the end of the input, at a prompt
        sys.exit(130)
    except OpenVocabError as error:
        complain(str(error))
    sys.exit(2)


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    *,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        out.print(__version__)
        raise typer.Exit
    if context.invoked_subcommand is None:
        out.print(context.get_help())
