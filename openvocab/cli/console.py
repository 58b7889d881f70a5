"""Standard output, standard error, and one-line complaints."""

from rich.console import Console
from rich.text import Text

__all__ = ["complain", "err", "out"]

# No markup: what is in brackets in a message or a class name is text.
out = Console(markup=False, highlight=False)
err = Console(markup=False, highlight=False, stderr=True)


def complain(message: str) -> None:
    """One line on standard error, whatever is in it."""
    line = " ".join(message.split())
    err.print(Text.assemble(("error:", "bold red"), " ", line), soft_wrap=True)
