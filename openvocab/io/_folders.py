"""Folders that results are written to."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from openvocab.errors import OpenVocabError, os_reason


@contextmanager
def writing_to(folder: Path | str) -> Iterator[None]:
    """Report an `OSError` of the block as one line that names the folder.

    Raises:
        OpenVocabError: the folder cannot be written to.

    >>> with writing_to("out"):
    ...     raise OSError(28, "No space left on device")
    Traceback (most recent call last):
    openvocab.errors.OpenVocabError: out cannot be written to (No space left on device); choose
    another folder.
    """
    try:
        yield
    except OpenVocabError:  # some of them are an OSError, too
        raise
    except OSError as error:
        raise OpenVocabError(
            f"{folder} cannot be written to ({os_reason(error)}); choose another folder."
        ) from error
