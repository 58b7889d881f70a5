"""Environment variables as the user set them, whatever a library does as it loads."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["environment_kept"]


@contextmanager
def environment_kept() -> Iterator[None]:
    """Give `os.environ` back as it was: Ultralytics, open_clip and torch set variables.

    >>> with environment_kept():
    ...     os.environ["OPENVOCAB_DOCTEST"] = "1"
    >>> "OPENVOCAB_DOCTEST" in os.environ
    False
    """
    before = dict(os.environ)
    try:
        yield
    finally:
        for key in os.environ.keys() - before.keys():
            del os.environ[key]
        os.environ.update(before)
