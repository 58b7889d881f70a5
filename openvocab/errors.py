"""Errors that the package raises on purpose: one root, each also a built-in error."""

import difflib
from collections.abc import Iterable

__all__ = [
    "ClassesError",
    "ConfigError",
    "DatasetError",
    "ImageError",
    "ModelError",
    "OpenVocabError",
    "SinkError",
    "SourceError",
    "WeightsError",
    "WeightsNotFoundError",
]


def one_line(text: str) -> str:
    r"""Escape line breaks, control characters and lone surrogates.

    >>> print(one_line("a\nb"))
    a\nb
    """
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def first_line(error: BaseException) -> str:
    r"""The type and the first line of another library's error, cut to fit a message.

    >>> first_line(ValueError("no header\n  at byte 3"))
    'ValueError: no header'
    """
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"[:160]


def os_reason(error: BaseException) -> str:
    """What the operating system says is wrong, without the number and the path; else the message.

    >>> os_reason(OSError(28, "No space left on device", "out.csv")), os_reason(ValueError("closed"))
    ('No space left on device', 'closed')
    """
    return str(getattr(error, "strerror", None) or error)


def did_you_mean(name: str, valid_names: Iterable[str]) -> str:
    """Suggest the valid name closest to an unknown one, or list all valid names.

    >>> did_you_mean("startr", ["starter", "fast"]), did_you_mean("x", ["starter", "fast"])
    ("did you mean 'starter'?", 'use one of starter, fast.')
    """
    names = list(valid_names)
    closest = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {closest[0]!r}?" if closest else f"use one of {', '.join(names)}."


class OpenVocabError(Exception):
    """Base class of all errors of openvocab; the message is one line that ends with the remedy."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class ImageError(OpenVocabError, ValueError):
    """An image cannot be read, or has an unsupported format; the message names the file."""


class ClassesError(OpenVocabError, ValueError):
    """The classes, negatives or thresholds of a call cannot be used."""


class ConfigError(OpenVocabError, ValueError):
    """A preset, option or configuration file is missing, unknown, or has a value out of range."""


class DatasetError(OpenVocabError, ValueError):
    """A labelled dataset cannot be read, is inconsistent, or is too small."""


class WeightsError(OpenVocabError, ValueError):
    """A weights file is damaged, has the wrong hash, or could not be downloaded."""


class WeightsNotFoundError(OpenVocabError, FileNotFoundError):
    """Weights of a preset are not on this machine; the message names the command to run."""


class ModelError(OpenVocabError, RuntimeError):
    """A model cannot be loaded, or an optional package is missing."""


class SourceError(OpenVocabError, OSError):
    """A video or camera cannot be opened, or was lost; the message names it."""


class SinkError(OpenVocabError, OSError):
    """The output of a stream cannot be written; the message names the file."""
