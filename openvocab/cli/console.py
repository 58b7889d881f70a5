"""Standard output, standard error, and one-line complaints."""

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn
from rich.text import Text

from openvocab.errors import one_line

# No markup: brackets in a message or a class name are text.
out = Console(markup=False, highlight=False)
err = Console(markup=False, highlight=False, stderr=True)


def complain(message: str) -> None:
    """Print a message as one line on standard error, whatever it contains."""
    err.print(Text.assemble(("error:", "bold red"), " ", one_line(message)), soft_wrap=True)


def progress(*more: ProgressColumn, quiet: bool = False) -> Progress:
    """A progress bar on standard error, if that is a terminal; counts steps by default."""
    columns = TextColumn("{task.description}"), BarColumn(), *(more or (MofNCompleteColumn(),))
    return Progress(*columns, console=err, transient=True, disable=quiet or not err.is_terminal)
