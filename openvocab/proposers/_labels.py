"""Which classes of a detector are labels."""

from collections.abc import Collection, Iterable, Mapping
from typing import Self

import numpy as np
from numpy.typing import NDArray

from openvocab.errors import ModelError

UNNAMED = "object"
"""A class of this name, beside others, is no label: it scores objects that no label fits."""


def label_names(names: Iterable[str]) -> tuple[str, ...]:
    """The labels among the class names of a detector, each once.

    >>> label_names(["bus", "dog", "dog", "object"]), label_names(["object"])
    (('bus', 'dog'), ('object',))
    """
    labels = dict.fromkeys(names)
    return tuple(name for name in labels if name != UNNAMED or len(labels) == 1)


class OutputClasses:
    """The classes that a network scores, by number, and the labels among them."""

    def __init__(self, names: Mapping[int, str]) -> None:
        self.names = dict(names)
        self.labels = label_names(self.names.values())
        self.label_ids = {
            number: self.labels.index(name)
            for number, name in self.names.items()
            if name in self.labels
        }
        """Index into `labels` of each class that is one, by number."""

    def without(self, ignored: Collection[str], *, one_per_box: bool) -> Self:
        """The classes but for some labels.

        Args:
            ignored: labels.
            one_per_box: the network outputs one class per box instead of a score for each.

        Raises:
            ModelError: a name is not among the labels, no label would be left, or `one_per_box`.
        """
        unknown = [name for name in ignored if name not in self.labels]
        if unknown:
            raise ModelError(f"The detector has no label {unknown[0]!r}; name one of its labels.")
        if one_per_box:
            raise ModelError(
                "This detector outputs one label per box, so none can be left out; use one that "
                "scores every label, or export it without NMS and with end2end=False."
            )
        if set(self.labels) <= set(ignored):
            raise ModelError("Every label of the detector would be ignored; leave one.")
        return type(self)({n: name for n, name in self.names.items() if name not in ignored})

    def label_boxes(
        self, numbers: NDArray[np.floating], confidence: NDArray[np.float32]
    ) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
        """The labels of N boxes whose classes are given, and how sure they are: 0 without a label.

        Args:
            numbers: `(N,)`, the class of each box.
            confidence: `(N,)`, of that class.

        >>> classes = OutputClasses({0: "bus", 1: "object"})
        >>> classes.label_boxes(np.array([0.0, 1.0]), np.array([0.5, 0.25], np.float32))
        (array([0, 0]), array([0.5, 0. ], dtype=float32))
        """
        label_ids = [self.label_ids.get(int(number)) for number in numbers]
        is_labelled = np.array([label_id is not None for label_id in label_ids], np.bool_)
        filled = np.array([label_id or 0 for label_id in label_ids], np.intp)
        return filled, np.where(is_labelled, confidence, 0).astype(np.float32)
