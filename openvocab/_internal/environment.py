"""Leaves the process as it was: environment variables, logging, optional packages, devices."""

import logging
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from openvocab.errors import ModelError

LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "::1")

_environ_lock = threading.RLock()
_environ_lock_pid = os.getpid()


@contextmanager
def preserve_environ() -> Iterator[None]:
    """Restore `os.environ`, in which Ultralytics, open_clip and torch set variables.

    One thread at a time: the end of another block would remove the variables that this one has
    set. An import or an export may take a while.

    >>> with preserve_environ():
    ...     os.environ["OPENVOCAB_DOCTEST"] = "1"
    >>> "OPENVOCAB_DOCTEST" in os.environ
    False
    """
    with _process_lock():
        saved = dict(os.environ)
        try:
            yield
        finally:
            for key in os.environ.keys() - saved.keys():
                del os.environ[key]
            os.environ.update(saved)


def _process_lock() -> threading.RLock:
    """A lock of this process: in a forked child, the parent's may be held forever."""
    global _environ_lock, _environ_lock_pid
    if os.getpid() != _environ_lock_pid:
        _environ_lock, _environ_lock_pid = threading.RLock(), os.getpid()
    return _environ_lock


@contextmanager
def preserve_logging() -> Iterator[None]:
    """Leave the root logger without a handler, which open_clip's `logging.info` would add.

    With one, the program's own `logging.basicConfig` would have no effect.
    """
    root = logging.root
    # This handler serves messages that have no handler anyway.
    placeholder = None if root.handlers else logging.lastResort or logging.NullHandler()
    if placeholder is not None:
        root.addHandler(placeholder)
    try:
        yield
    finally:
        if placeholder is not None:
            root.removeHandler(placeholder)


@contextmanager
def silence_logs() -> Iterator[None]:
    """Suppress logs and warnings: exporters report on their own internals.

    >>> with silence_logs():
    ...     warnings.warn("torch.jit.trace is deprecated")
    """
    saved_level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(saved_level)


def require_packages(feature: str, extra: str, *packages: str) -> None:
    """Refuse a feature whose optional packages are missing.

    Args:
        feature: subject of the error message.
        extra: extra of openvocab that installs the packages.
        packages: names by which they are imported.

    Raises:
        ModelError: a package is missing; the message names it.

    >>> require_packages("The demo", "demo", "numpy")
    """
    for name in packages:
        if find_spec(name) is None:
            package = name.replace("_", "-")
            raise ModelError(f'{feature} needs {package}; run `pip install "openvocab[{extra}]"`.')


def resolve_device(device: str | None) -> str:
    """The torch device of that name; without a name, `cuda:0` if available, else `cpu`.

    Raises:
        ModelError: there is no such device on this machine.

    >>> resolve_device("cpu")
    'cpu'
    """
    import torch

    if device is None:
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=device).cpu()  # fails for "meta", which holds no data
    # torch raises RuntimeError, AssertionError or NotImplementedError, depending on the device.
    except Exception as error:
        raise ModelError(f"There is no device {device!r} on this machine; use cpu.") from error
    return device
