"""The process we run in: the device to compute on, environment variables left as they were."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from openvocab.errors import ModelError

__all__ = ["device_name", "environment_kept"]


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


def device_name(wanted: str | None) -> str:
    """The torch device of a name, or `cuda:0` where there is one, else `cpu`.

    Raises:
        ModelError: there is no such device on this machine.

    >>> device_name("cpu")
    'cpu'
    """
    import torch

    if wanted is None:
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=wanted)
    # torch raises RuntimeError, AssertionError or NotImplementedError, by the kind of device.
    except Exception as error:
        raise ModelError(f"There is no device {wanted!r} on this machine; use cpu.") from error
    return wanted
