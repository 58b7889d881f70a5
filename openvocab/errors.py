"""Every error that the package raises on purpose: one root, each also a built-in error."""

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
    "did_you_mean",
    "one_line",
    "first_line",
]


def one_line(text: str) -> str:
    r"""Text with line breaks, control characters and halves of characters escaped.

    >>> one_line("a\nb") == r"a\nb"
    True
    """
    return "".join(
        sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text
    )


def first_line(error: BaseException) -> str:
    r"""The kind and the first line of a foreign error, cut to fit a message.

    >>> first_line(ValueError("no header\n  at byte 3"))
    'ValueError: no header'
    """
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"[:160]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The known name that an unknown one probably means, or else all known names.

    >>> did_you_mean("startr", ["starter", "fast"]), did_you_mean("x", ["starter", "fast"])
    ("did you mean 'starter'?", 'use one of starter, fast.')
    """
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {close[0]!r}?" if close else f"use one of {', '.join(names)}."


class OpenVocabError(Exception):
    """Base class of all errors of openvocab; the message is one line that ends with the remedy.

    >>> issubclass(ImageError, OpenVocabError) and issubclass(ImageError, ValueError)
    True
    """

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class ImageError(OpenVocabError, ValueError):
    """An image cannot be read, or is not what was expected; the message names the file."""


class ClassesError(OpenVocabError, ValueError):
    """The classes, negatives or thresholds of a call cannot be used."""


class ConfigError(OpenVocabError, ValueError):
    """A preset, option or configuration file is missing, unknown, or has a value out of range."""


class DatasetError(OpenVocabError, ValueError):
    """LabelledImage pictures cannot be read, do not fit their labels, or are too few."""


class WeightsError(OpenVocabError, ValueError):
    """A weights file is damaged, has the wrong hash, or could not be fetched."""


class WeightsNotFoundError(OpenVocabError, FileNotFoundError):
    """Weights that a preset names are not on this machine; the message names the command to run."""


class ModelError(OpenVocabError, RuntimeError):
    """A network cannot be loaded, or an optional package is missing."""


class SourceError(OpenVocabError, OSError):
    """A film or camera cannot be opened, or was lost; the message names it."""


class SinkError(OpenVocabError, OSError):
    """The output of a stream cannot be written; the message names the file."""
