"""Which classes of a detector are labels."""

from collections.abc import Iterable

UNNAMED = "object"
"""A class of this name, beside others, is no label: it scores objects that no label fits."""


def label_names(names: Iterable[str]) -> tuple[str, ...]:
    """The labels among the class names of a detector, each once.

    >>> label_names(["bus", "dog", "dog", "object"]), label_names(["object"])
    (('bus', 'dog'), ('object',))
    """
    labels = dict.fromkeys(names)
    return tuple(name for name in labels if name != UNNAMED or len(labels) == 1)
