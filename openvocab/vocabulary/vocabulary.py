"""The caller's classes, given as words and example pictures, as one bank of unit features."""

import io
import json
import os
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence, Set, Sized
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from openvocab._internal.files import write_atomic
from openvocab.errors import ClassesError
from openvocab.types import Features
from openvocab.vocabulary.prompts import folded, split_list

LONG = 5000  # words; longer lists are not compared as a whole

Example = os.PathLike[str] | np.ndarray
"""An example picture of a class: a `Path` or a BGR array. A plain string is always a word."""

Classes = Sequence[str] | Mapping[str, Sequence[str | Example] | str | Example]
"""A list of names, or a mapping of names to synonyms and example pictures."""

EncodeWords = Callable[[Sequence[str]], Features]
EncodeExamples = Callable[[Sequence[Example]], Features]


NOT_UNIT = 0.01  # deviation from a length of one


@dataclass(frozen=True, slots=True, eq=False)
class Vocabulary:
    """Classes and negatives as features of one encoder; immutable, and safe to share by threads.

    Source: a class is the renormalised mean of its prompts' features, as in CLIP's zero-shot
    classifier (Radford et al., ICML 2021). Example pictures are pooled with the words.

    >>> bank = Vocabulary(("bus",), np.eye(2, dtype=np.float32)[:1], np.empty((0, 2)), "test")
    >>> len(bank), bank.names
    (1, ('bus',))
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
        _check_names(self.names, "classes")
        if not (np.isfinite(self.features).all() and np.isfinite(self.negatives).all()):
            raise ClassesError(
                "The vocabulary holds features that are not numbers; build it again."
            )
        shapes = self.features.shape, self.negatives.shape
        if shapes[0] != (len(self.names), *shapes[1][1:]) or len(shapes[1]) != 2:
            raise ClassesError(
                f"{len(self.names)} names with features {shapes[0]} and negatives {shapes[1]}; "
                "build the vocabulary with a detector's vocabulary()."
            )
        lengths = np.linalg.norm(np.vstack([self.features, self.negatives]), axis=1)
        if np.abs(lengths - 1).max() > NOT_UNIT:
            raise ClassesError("The vocabulary's features are no unit rows; build it again.")

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def build(
        cls,
        classes: Classes,
        negatives: Sequence[str],
        encode_words: EncodeWords,
        encode_examples: EncodeExamples,
        fingerprint: str,
    ) -> Self:
        """Encode every word in one call, every example picture in another, and pool by class.

        Raises:
            ClassesError: the classes or negatives cannot be used; see `parse`.
        """
        groups = parse(classes)
        words = [word for parts in groups.values() for word in parts if isinstance(word, str)]
        rejected = _check_negatives(negatives, [*groups, *words])
        examples = [
            part for parts in groups.values() for part in parts if not isinstance(part, str)
        ]
        encoded = encode_words([*words, *rejected])
        word_rows, negative_rows = iter(encoded[: len(words)]), encoded[len(words) :]
        example_rows = iter(encode_examples(examples)) if examples else iter(())
        pooled = [
            _pool([next(word_rows if isinstance(part, str) else example_rows) for part in parts])
            for parts in groups.values()
        ]
        return cls(tuple(groups), np.stack(pooled), negative_rows, fingerprint)

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
            with Path(path).open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                names = json.loads(str(file["names"]))
                fingerprint = str(file["fingerprint"])
                return cls(
                    _check_names(names, "names"), file["features"], file["negatives"], fingerprint
                )
        # NumPy, zipfile, zlib and json raise a dozen kinds of errors on a damaged file.
        except Exception as error:
            raise ClassesError(
                f"{path} is not a saved vocabulary ({type(error).__name__}); "
                "write one with Vocabulary.save."
            ) from error


def parse(classes: Classes) -> dict[str, tuple[str | Example, ...]]:
    """The caller's classes as `{name: (words and example pictures, ...)}`, in the caller's order.

    Raises:
        ClassesError: `classes` is a bare string or empty, or a name is empty, repeated or not a
            string. Names that differ only in case, underscores or blanks count as repeated: they
            would share one prompt.

    >>> parse(["bus", "traffic_light"])
    {'bus': ('bus',), 'traffic_light': ('traffic_light',)}
    >>> parse({"car": ["car", "automobile"]})
    {'car': ('car', 'automobile')}
    """
    if isinstance(classes, Mapping):
        names = _check_names(list(classes), "classes")
        return {name: _check_parts(name, classes[name]) for name in names}
    return {name: (name,) for name in _check_names(classes, "classes")}


def words_alone(classes: Classes | Vocabulary, negatives: Sequence[str]) -> Hashable:
    """A key that identifies a list of classes; None with pictures, which may change, or if long.

    >>> words_alone(["bus"], []) == words_alone({"bus": ["bus"]}, ())
    True
    """
    if not isinstance(negatives, list | tuple):
        return None
    if isinstance(classes, Vocabulary):
        return None if negatives else classes
    if isinstance(classes, list | tuple):
        groups = [(name, (name,)) for name in classes]
    elif isinstance(classes, dict):
        groups = [
            (name, tuple(parts) if isinstance(parts, list | tuple) else (parts,))
            for name, parts in classes.items()
        ]
    else:
        return None
    words = [*(word for name, parts in groups for word in (name, *parts)), *negatives]
    if len(words) > LONG or not all(type(word) is str for word in words):
        return None
    return tuple(groups), tuple(negatives)


def class_thresholds(
    names: Sequence[str], default: float, own: Mapping[str, float] | None = None
) -> NDArray[np.float32]:
    """Lowest score `(K,)` of each class.

    Args:
        names: the classes.
        default: threshold of the classes that are not in `own`.
        own: separate thresholds, by name.

    Raises:
        ClassesError: a threshold is not a number from 0 to 1, or its class is not in `names`.

    >>> class_thresholds(["bus", "dog"], 0.25, {"dog": 0.5})
    array([0.25, 0.5 ], dtype=float32)
    """
    own = {} if own is None else own
    _check_number("score_threshold", default)
    if not isinstance(own, Mapping):
        kind = type(own).__name__
        raise ClassesError(f"thresholds is a {kind}; pass a number for each name, {{name: 0.5}}.")
    known = set(names)
    for name, value in own.items():
        if name not in known:
            raise ClassesError(
                f"thresholds names {name!r}, which is not among the classes; add it."
            )
        _check_number(f"threshold of {name!r}", value)
    return np.array([own.get(name, default) for name in names], np.float32)


def _check_number(what: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= float(value) <= 1:
        raise ClassesError(f"{what} is {value!r}; give a number from 0 to 1.")


def _check_names(names: Iterable[str], what: str) -> tuple[str, ...]:
    if isinstance(names, str | bytes):
        text = names.decode(errors="replace") if isinstance(names, bytes) else names
        listed = json.dumps(split_list(text) or [text], ensure_ascii=False)
        raise ClassesError(f"{what} is the string {names!r}; pass a list: {what}={listed}.")
    flat = not isinstance(names, np.ndarray) or names.ndim == 1
    if not isinstance(names, Iterable) or isinstance(names, Set | Mapping) or not flat:
        # The order of a set is arbitrary, and class_id is an index into it.
        raise ClassesError(f"{what} is {type(names).__name__}; pass a list of strings.")
    seen: dict[str, str] = {}
    for name in names:
        if not isinstance(name, str):
            raise ClassesError(f"{what} holds {name!r}, a {type(name).__name__}; use strings.")
        key = folded(name)
        if not key:
            raise ClassesError(f"{what} holds an empty string; remove it.")
        if key in seen:
            raise ClassesError(f"{what} holds {seen[key]!r} and {name!r}, the same; remove one.")
        seen[key] = name
    if not seen:
        raise ClassesError(f"{what} is empty; name at least one thing to look for.")
    return tuple(seen.values())


def _check_negatives(negatives: Sequence[str], names: Iterable[str]) -> tuple[str, ...]:
    if not isinstance(negatives, str) and isinstance(negatives, Sized) and not len(negatives):
        return ()
    rejected = _check_names(negatives, "negatives")
    wanted = {folded(name) for name in names}
    for name in rejected:
        if folded(name) in wanted:
            raise ClassesError(f"{name!r} is among the classes and the negatives; remove one.")
    return rejected


def _check_parts(name: str, parts: object) -> tuple[str | Example, ...]:
    if isinstance(parts, str | os.PathLike) or (isinstance(parts, np.ndarray) and parts.ndim > 1):
        parts = [parts]
    if not isinstance(parts, list | tuple):
        kind = type(parts).__name__
        raise ClassesError(f"class {name!r} is a {kind}; give a list of words and pictures.")
    if not parts:
        raise ClassesError(f"class {name!r} has no words or pictures; give a list of them.")
    for part in parts:
        if isinstance(part, str) and not folded(part):
            raise ClassesError(f"class {name!r} holds an empty string; remove it.")
        if not isinstance(part, str | os.PathLike | np.ndarray):
            raise ClassesError(
                f"class {name!r} holds a {type(part).__name__}; use strings, Paths or arrays."
            )
    return tuple(parts)


def _pool(rows: Sequence[Features]) -> Features:
    mean = np.mean(rows, axis=0)
    result: Features = (mean / max(float(np.linalg.norm(mean)), 1e-12)).astype(np.float32)
    return result
