"""Standard output, standard error, and one-line complaints."""

from rich.console import Console
from rich.text import Text

from openvocab.errors import one_line

__all__ = ["complain", "err", "out"]

# No markup: what is in brackets in a message or a class name is text.
out = Console(markup=False, highlight=False)
err = Console(markup=False, highlight=False, stderr=True)


def complain(message: str) -> None:
    """One line on standard error, whatever is in it."""
    err.print(Text.assemble(("error:", "bold red"), " ", one_line(message)), soft_wrap=True)
