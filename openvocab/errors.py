"""Errors that the package raises on purpose: one root, each also a built-in error."""

import difflib
from collections.abc import Iterable, Sized
from numbers import Number

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

MAX_SHOWN = 100  # characters of a text in a message
MAX_ITEMS = 6  # of a list in a message


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


def describe(value: object) -> str:
    """A value for a message: text and numbers themselves, anything larger by its type and shape.

    >>> describe("bus"), describe(0.5), describe([0] * 1000)
    ("'bus'", '0.5', 'a list of 1000')
    """
    if isinstance(value, str):  # a NumPy string would show its type
        text = repr(str(value[:MAX_SHOWN]))
        return text if len(value) <= MAX_SHOWN else f"{text}..."
    if value is None or isinstance(value, bool | Number):
        return str(value)
    if isinstance(value, tuple | list) and len(value) <= MAX_ITEMS:
        return f"({', '.join(map(describe, value))})"
    kind = {"ndarray": "array"}.get(type(value).__name__, type(value).__name__)
    article = "an" if kind[:1].lower() in {"a", "e", "i", "o", "u"} else "a"
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple):
        return f"{article} {kind} of shape {shape}"
    return f"{article} {kind} of {len(value)}" if isinstance(value, Sized) else f"{article} {kind}"


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
