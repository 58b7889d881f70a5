"""The process around openvocab: devices, forks, and environment variables left unchanged."""

import logging
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from typing import Any

from openvocab.errors import ModelError

LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "::1")
"""Names by which this machine calls itself."""

_CHANGING = threading.RLock()


def _renew() -> None:
    """In a forked child, stop waiting for threads that exist only in the parent.

    GNU OpenMP, which torch's CPU builds use, would wait for them for ever: one thread is left.
    """
    global _CHANGING  # noqa: PLW0603
    _CHANGING = threading.RLock()
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)


@contextmanager
def preserve_environ() -> Iterator[None]:
    """Restore `os.environ`, in which Ultralytics, open_clip and torch set variables.

    One thread at a time, because another one's end would remove the variables that this one has
    set. An import or an export may take a while.

    >>> with preserve_environ():
    ...     os.environ["OPENVOCAB_DOCTEST"] = "1"
    >>> "OPENVOCAB_DOCTEST" in os.environ
    False
    """
    with _CHANGING:
        before = dict(os.environ)
        try:
            yield
        finally:
            for key in os.environ.keys() - before.keys():
                del os.environ[key]
            os.environ.update(before)


def resolve_device(wanted: str | None) -> str:
    """The torch device of that name; without a name, `cuda:0` if there is one, else `cpu`.

    Raises:
        ModelError: there is no such device on this machine.

    >>> resolve_device("cpu")
    'cpu'
    """
    import torch

    if wanted is None:
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=wanted).cpu()  # fails for "meta", which holds no data
    # torch raises RuntimeError, AssertionError or NotImplementedError, by the kind of device.
    except Exception as error:
        raise ModelError(f"There is no device {wanted!r} on this machine; use cpu.") from error
    return wanted


@contextmanager
def single_openmp_thread() -> Iterator[None]:
    """Limit torch to one core in this thread, around a call of ONNX Runtime.

    A second OpenMP thread, once woken, spins while it waits for more work and takes a core from
    ONNX Runtime's own threads: on two cores, a detector takes twice as long beside it.

    >>> import torch
    >>> with single_openmp_thread():
    ...     torch.get_num_threads()
    1
    """
    with _openmp().limit(limits=1):
        yield


@contextmanager
def preserve_logging() -> Iterator[None]:
    """Leave the root logger as it is, though open_clip's `logging.info` gives it a handler.

    With that, the program's own `logging.basicConfig` would have no effect any more.
    """
    root = logging.root
    # This handles messages that have no handler anyway.
    stand_in = None if root.handlers else logging.lastResort or logging.NullHandler()
    if stand_in is not None:
        root.addHandler(stand_in)
    try:
        yield
    finally:
        if stand_in is not None:
            root.removeHandler(stand_in)


@contextmanager
def silence_logs() -> Iterator[None]:
    """Suppress logs and warnings: exporters report on their own internals.

    >>> with silence_logs():
    ...     warnings.warn("torch.jit.trace is deprecated")
    """
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def require_packages(what: str, extra: str, *packages: str) -> None:
    """Refuse something that needs an optional package if that is missing.

    Args:
        what: subject of the error message.
        extra: extra of openvocab that brings the packages.
        packages: names by which they are imported.

    Raises:
        ModelError: a package is missing; the message names it.

    >>> require_packages("Nothing", "none", "numpy")
    """
    for name in packages:
        if find_spec(name) is None:
            raise ModelError(
                f'{what} needs {name.replace("_", "-")}; run `pip install "openvocab[{extra}]"`.'
            )


@cache
def _openmp() -> Any:  # noqa: ANN401
    import torch  # noqa: F401  its OpenMP library is to be found

    with preserve_environ():
        from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="openmp")
