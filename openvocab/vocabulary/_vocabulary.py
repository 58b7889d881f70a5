"""`Vocabulary`: classes and negatives as unit features of one encoder."""

import io
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from openvocab._internal.files import write_atomic
from openvocab.errors import ClassesError
from openvocab.types import Features
from openvocab.vocabulary._classes import ClassParts, check_names
from openvocab.vocabulary._examples import Example

_LENGTH_TOLERANCE = 0.01  # of a unit row


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Vocabulary:
    """Classes and negatives as features of one encoder; immutable and thread-safe.

    Source: a class is the renormalized mean of its prompts' features, as in CLIP's zero-shot
    classifier (Radford et al., ICML 2021). Example images are pooled with the prompts.

    >>> vocabulary = Vocabulary(("bus",), np.eye(2, dtype=np.float32)[:1], np.empty((0, 2)), "test")
    >>> vocabulary, vocabulary.names
    (Vocabulary(1 class, 0 negatives, D=2), ('bus',))
    """

    names: tuple[str, ...]
    """`(K,)`, exactly the caller's strings; the `class_id` of a result is an index into them."""
    features: Features
    """`(K, D)`, one unit row per class."""
    negatives: Features
    """`(J, D)`, unit rows that compete with the classes and are never returned."""
    fingerprint: str
    """Identifies the encoder and the templates that made the features."""

    def __post_init__(self) -> None:
        check_names(self.names, "classes")
        if not (np.isfinite(self.features).all() and np.isfinite(self.negatives).all()):
            raise ClassesError("The vocabulary has features that are not numbers; build it again.")
        shapes = self.features.shape, self.negatives.shape
        if shapes[0] != (len(self.names), *shapes[1][1:]) or len(shapes[1]) != 2:
            raise ClassesError(
                f"The vocabulary has {len(self.names)} names, but features {shapes[0]} and "
                f"negatives {shapes[1]}; build it with a detector's vocabulary()."
            )
        lengths = np.linalg.norm(np.vstack([self.features, self.negatives]), axis=1)
        if np.abs(lengths - 1).max() > _LENGTH_TOLERANCE:
            raise ClassesError("The vocabulary's features are not unit rows; build it again.")

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        classes, negatives = len(self), len(self.negatives)
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
        """Encode all names in one call, all example images in another, and pool by class.

        Args:
            classes: from `parse_classes`.
            negatives: from `parse_negatives`.
            encode_names: names to unit features `(N, D)`.
            encode_examples: example images to unit features `(N, D)`.
            fingerprint: identifies the encoder and the templates.
        """
        parts = [*(part for parts in classes.values() for part in parts), *negatives]
        examples = [part for part in parts if isinstance(part, Example)]
        encoded = encode_names([part for part in parts if isinstance(part, str)])
        names, pictures = iter(encoded), iter(encode_examples(examples) if examples else ())
        rows = np.empty((len(parts), encoded.shape[1]), np.float32)
        for row, part in zip(rows, parts, strict=True):
            row[:] = next(names if isinstance(part, str) else pictures)
        ends = np.cumsum([len(parts) for parts in classes.values()])
        pooled = [_pool(of_class) for of_class in np.split(rows, ends)[:-1]]
        return cls(tuple(classes), np.stack(pooled), rows[ends[-1] :], fingerprint)

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
            negatives=self.negatives,
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
                return cls(names, arrays["features"], arrays["negatives"], fingerprint)
        # NumPy, zipfile, zlib and json raise a dozen kinds of errors on a damaged file.
        except Exception as error:
            raise ClassesError(
                f"{path} is not a saved vocabulary ({type(error).__name__}); "
                "write one with Vocabulary.save."
            ) from error


def _pool(rows: Features) -> Features:
    mean = np.mean(rows, axis=0)
    result: Features = (mean / max(float(np.linalg.norm(mean)), 1e-12)).astype(np.float32)
    return result
