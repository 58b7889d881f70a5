"""Standard output, standard error, and error messages of one line."""

import sys

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn
from rich.text import Text

from openvocab._internal.files import write_atomic
from openvocab.errors import one_line

# No markup: brackets in a message or a class name are text.
out = Console(markup=False, highlight=False)
err = Console(markup=False, highlight=False, stderr=True)


def write_json(payload: bytes, target: str | None) -> bool:
    """Write a report to a file, if one is named; True if it went to standard output (`-`).

    Raises:
        OpenVocabError: the file cannot be written.
    """
    if target == "-":
        sys.stdout.buffer.write(payload)
        sys.stdout.flush()
        return True
    if target is not None:
        write_atomic(target, payload)
    return False


def complain(message: str) -> None:
    """Print an error as one line on standard error, whatever it contains."""
    err.print(Text.assemble(("error:", "bold red"), " ", one_line(message)), soft_wrap=True)


def progress(*columns: ProgressColumn, quiet: bool = False) -> Progress:
    """A progress bar on standard error, if that is a terminal; counts steps by default."""
    layout = TextColumn("{task.description}"), BarColumn(), *(columns or (MofNCompleteColumn(),))
    return Progress(*layout, console=err, transient=True, disable=quiet or not err.is_terminal)
