"""`Vocabulary`: classes and negatives as sets of prototypes of one encoder."""

import io
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from openvocab._internal.files import write_atomic
from openvocab.errors import ClassesError
from openvocab.types import Features
from openvocab.vocabulary._classes import ClassParts, check_names
from openvocab.vocabulary._examples import Example

_LENGTH_TOLERANCE = 0.01  # of a unit row


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Vocabulary:
    """Classes and negatives as sets of prototypes of one encoder; immutable and thread-safe.

    A prototype is the feature of one name (the mean over its prompt templates, renormalized, as in
    CLIP's zero-shot classifier; Radford et al., ICML 2021) or of one example image. A class is
    scored by its best prototype.

    >>> prototypes = np.eye(2, dtype=np.float32)
    >>> vocabulary = Vocabulary(("bus",), prototypes, np.array([0, 0]), ("bus", "coach"), "test")
    >>> vocabulary, vocabulary.names, vocabulary.is_image
    (Vocabulary(1 class, 0 negatives, D=2), ('bus',), array([False, False]))
    """

    names: tuple[str, ...]
    """`(K,)`, exactly the caller's strings; the `class_id` of a result is an index into them."""
    features: Features
    """`(P, D)`, unit rows: the prototypes, grouped by class."""
    class_ids: NDArray[np.intp]
    """`(P,)`, ascending: 0 to K - 1 for the classes, K to K + J - 1 for the J negatives, which
    compete with the classes and are never returned."""
    words: tuple[str | None, ...]
    """`(P,)`, the name that each prototype encodes; None for an example image."""
    fingerprint: str
    """Identifies the encoder and the templates that made the features."""

    def __post_init__(self) -> None:
        check_names(self.names, "classes")
        if not np.isfinite(self.features).all():
            raise ClassesError("The vocabulary has features that are not numbers; build it again.")
        count = len(self.class_ids)
        steps = np.diff(self.class_ids, prepend=-1)
        if (
            self.features.ndim != 2
            or not len(self.features) == len(self.words) == count
            or ((steps != 0) & (steps != 1)).any()
            or steps[:1].tolist() != [1]
            or self.class_ids[-1] + 1 < len(self.names)
        ):
            raise ClassesError(
                f"The vocabulary has {len(self.names)} names, but features {self.features.shape} "
                f"for {count} prototypes; build it with a detector's vocabulary()."
            )
        lengths = np.linalg.norm(self.features, axis=1)
        if np.abs(lengths - 1).max() > _LENGTH_TOLERANCE:
            raise ClassesError("The vocabulary's features are not unit rows; build it again.")

    @property
    def negative_count(self) -> int:
        """The number of negatives, J."""
        return int(self.class_ids[-1]) + 1 - len(self.names)

    @property
    def is_image(self) -> NDArray[np.bool_]:
        """`(P,)`, whether the prototype is that of an example image."""
        return np.array([word is None for word in self.words], np.bool_)

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        classes, negatives = len(self), self.negative_count
        return (
            f"Vocabulary({classes} class{'es' if classes != 1 else ''}, "
            f"{negatives} negative{'s' if negatives != 1 else ''}, D={self.features.shape[1]})"
        )

    @classmethod
    def build(
        cls,
        classes: ClassParts,
        negatives: Sequence[str | Example],
        encode_names: Callable[[Sequence[str]], Features],
        encode_examples: Callable[[Sequence[Example]], Features],
        fingerprint: str,
    ) -> Self:
        """Encode all names in one call, and all example images in another.

        Args:
            classes: from `parse_classes`.
            negatives: from `parse_negatives`.
            encode_names: names to unit features `(N, D)`.
            encode_examples: example images to unit features `(N, D)`.
            fingerprint: identifies the encoder and the templates.
        """
        class_parts = [*classes.values(), *((negative,) for negative in negatives)]
        parts = [part for parts_of_class in class_parts for part in parts_of_class]
        examples = [part for part in parts if isinstance(part, Example)]
        name_features = encode_names([part for part in parts if isinstance(part, str)])
        name_rows = iter(name_features)
        example_rows = iter(encode_examples(examples) if examples else ())
        features = np.empty((len(parts), name_features.shape[1]), np.float32)
        for row, part in zip(features, parts, strict=True):
            row[:] = next(name_rows if isinstance(part, str) else example_rows)
        class_ids = np.repeat(np.arange(len(class_parts)), list(map(len, class_parts)))
        words = tuple(part if isinstance(part, str) else None for part in parts)
        return cls(tuple(classes), features, class_ids, words, fingerprint)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write an `.npz` file of plain arrays (no pickle).

        Raises:
            OpenVocabError: the file cannot be written.
        """
        buffer = io.BytesIO()
        np.savez(
            buffer,
            names=np.array(json.dumps(self.names)),  # NumPy strings lose trailing NULs
            features=self.features,
            class_ids=self.class_ids,
            words=np.array(json.dumps(self.words)),
            fingerprint=np.array(self.fingerprint),
        )
        write_atomic(path, buffer.getvalue())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a file that `save` wrote; only a detector with the same fingerprint accepts it.

        Raises:
            ClassesError: the file is missing, is not an `.npz` file, or lacks an array.
        """
        try:
            with Path(path).open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
                names = check_names(json.loads(str(arrays["names"])), "names")
                fingerprint = str(arrays["fingerprint"])
                words = tuple(json.loads(str(arrays["words"])))
                return cls(names, arrays["features"], arrays["class_ids"], words, fingerprint)
        # NumPy, zipfile, zlib and json raise a dozen kinds of errors on a damaged file.
        except Exception as error:
            raise ClassesError(
                f"{path} is not a saved vocabulary ({type(error).__name__}); "
                "write one with Vocabulary.save."
            ) from error
