"""Standard output, standard error, and one-line complaints."""

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn
from rich.text import Text

from openvocab.errors import one_line

__all__ = ["complain", "err", "out", "progress"]

# No markup: what is in brackets in a message or a class name is text.
out = Console(markup=False, highlight=False)
err = Console(markup=False, highlight=False, stderr=True)


def complain(message: str) -> None:
    """One line on standard error, whatever is in it."""
    err.print(Text.assemble(("error:", "bold red"), " ", one_line(message)), soft_wrap=True)


def progress(*more: ProgressColumn, quiet: bool = False) -> Progress:
    """A bar on standard error, where that is a terminal; with how many of how many, by default."""
    columns = TextColumn("{task.description}"), BarColumn(), *(more or (MofNCompleteColumn(),))
    return Progress(*columns, console=err, transient=True, disable=quiet or not err.is_terminal)
