"""Parses and checks the classes, negatives and thresholds of a call."""

import json
import os
from collections.abc import Hashable, Iterable, Mapping, Sequence, Set, Sized
from numbers import Real
from typing import TYPE_CHECKING, Any, TypedDict, Union

import numpy as np
from numpy.typing import NDArray

from openvocab.errors import ClassesError, describe
from openvocab.vocabulary._examples import Example, as_example
from openvocab.vocabulary._prompts import name_key, split_class_list

_MAX_KEY_PARTS = 5000  # longer lists are not cached as a whole

if TYPE_CHECKING:
    import PIL.Image

NameOrImage = Union[str, os.PathLike[str], np.ndarray, "PIL.Image.Image", Example]
"""A name (a plain string is always a name) or an example image: a `Path`, a BGR array, a PIL image,
or an `Example`, which may be one box of a picture."""

Classes = Sequence[str] | Mapping[str, Sequence[NameOrImage] | NameOrImage]
"""A list of names, or a mapping of names to synonyms and example images."""


class ClassOptions(TypedDict, total=False):
    """Keyword arguments that go with `classes`; described at `OpenVocabDetector.detect`."""

    negatives: Sequence[NameOrImage]
    score_threshold: float | None
    thresholds: Mapping[str, float] | None
    class_agnostic_nms: bool | None


ClassParts = dict[str, tuple[str | Example, ...]]


def parse_classes(classes: Classes) -> ClassParts:
    """The classes as `{name: (synonyms and example images, ...)}`, in the caller's order.

    Raises:
        ClassesError: `classes` is a bare string or empty, or a name is empty, repeated or not a
            string. Names that differ only in case, underscores or spaces count as repeated: they
            would share one prompt.

    >>> parse_classes(["bus", "traffic_light"])
    {'bus': ('bus',), 'traffic_light': ('traffic_light',)}
    >>> parse_classes({"car": ["car", "automobile"]})
    {'car': ('car', 'automobile')}
    """
    if isinstance(classes, Mapping):
        names = check_names(list(classes), "classes")
        return {name: _check_parts(name, classes[name]) for name in names}
    return {name: (name,) for name in check_names(classes, "classes")}


def parse_negatives(
    negatives: Sequence[NameOrImage], classes: ClassParts
) -> tuple[str | Example, ...]:
    """Names and example images of the negatives; no name may be a class or a synonym of one.

    Raises:
        ClassesError: `negatives` is not a list of names and images, or one of them is a class.
    """
    if not isinstance(negatives, str) and isinstance(negatives, Sized) and not len(negatives):
        return ()
    parts = [as_example(part) or part for part in _check_list(negatives, "negatives")]
    names = [part for part in parts if not isinstance(part, Example)]
    if names or not parts:
        check_names(names, "negatives")
    synonyms = (part for parts in classes.values() for part in parts if isinstance(part, str))
    class_keys = {name_key(name) for name in (*classes, *synonyms)}
    for name in names:
        if name_key(name) in class_keys:
            raise ClassesError(
                f"{describe(name)} is among the classes and the negatives; remove one."
            )
    return tuple(parts)


def cache_key(classes: ClassParts, negatives: tuple[str | Example, ...]) -> Hashable:
    """A cache key; None for long lists, and for example images, whose files may change.

    >>> cache_key({"bus": ("bus",)}, ()) == cache_key(parse_classes(["bus"]), ())
    True
    """
    parts = [*(part for parts in classes.values() for part in parts), *negatives]
    if len(parts) > _MAX_KEY_PARTS or not all(isinstance(part, str) for part in parts):
        return None
    return tuple(classes.items()), negatives


def class_thresholds(
    names: Sequence[str], score_threshold: float, thresholds: Mapping[str, float] | None = None
) -> NDArray[np.float32]:
    """Lowest score `(K,)` of each class.

    Args:
        names: the classes.
        score_threshold: for the classes that are not in `thresholds`.
        thresholds: separate thresholds, by name.

    Raises:
        ClassesError: a threshold is not a number from 0 to 1, or its class is not in `names`.

    >>> class_thresholds(["bus", "dog"], 0.25, {"dog": 0.5})
    array([0.25, 0.5 ], dtype=float32)
    """
    thresholds = {} if thresholds is None else thresholds
    check_score("score_threshold", score_threshold)
    if not isinstance(thresholds, Mapping):
        kind = type(thresholds).__name__
        raise ClassesError(f"thresholds is a {kind}; pass a number for each name, {{name: 0.5}}.")
    valid_names = set(names)
    for name, value in thresholds.items():
        if name not in valid_names:
            raise ClassesError(
                f"thresholds has {describe(name)}, which is not among the classes; add it."
            )
        check_score(f"threshold of {describe(name)}", value)
    return np.array([thresholds.get(name, score_threshold) for name in names], np.float32)


def check_score(argument: str, value: object) -> None:
    """Raise unless `value` is a number from 0 to 1.

    Raises:
        ClassesError: `value` is something else; the message names the argument.
    """
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= float(value) <= 1:
        raise ClassesError(f"{argument} is {describe(value)}; give a number from 0 to 1.")


def check_names(names: Iterable[str], argument: str) -> tuple[str, ...]:
    """The names as a tuple, none of them empty or repeated.

    Raises:
        ClassesError: `names` is not a list of distinct strings; the message names the argument.
    """
    by_key: dict[str, str] = {}
    for name in _check_list(names, argument):
        if not isinstance(name, str):
            raise ClassesError(f"{argument} has {describe(name)}; use strings.")
        key = name_key(name)
        if not key:
            raise ClassesError(f"{argument} has an empty string; remove it.")
        if key in by_key:
            raise ClassesError(
                f"{argument} has {describe(by_key[key])} and {describe(name)}, which are the "
                "same; remove one."
            )
        by_key[key] = name
    if not by_key:
        raise ClassesError(f"{argument} is empty; give at least one name.")
    return tuple(by_key.values())


def _check_list(names: Iterable[Any], argument: str) -> list[Any]:
    """The items of a list or another ordered iterable; bare strings and sets are rejected."""
    if isinstance(names, str | bytes):
        text = names.decode(errors="replace") if isinstance(names, bytes) else str(names)
        as_list = json.dumps(split_class_list(text) or [text], ensure_ascii=False)
        raise ClassesError(
            f"{argument} is the string {describe(text)}; pass a list: {argument}={as_list}."
        )
    is_flat = not isinstance(names, np.ndarray) or names.ndim == 1
    if not isinstance(names, Iterable) or isinstance(names, Set | Mapping) or not is_flat:
        # The order of a set is arbitrary, and class_id is an index into it.
        raise ClassesError(f"{argument} is {type(names).__name__}; pass a list of strings.")
    return list(names)


def _check_parts(name: str, parts: object) -> tuple[str | Example, ...]:
    is_one_dimensional = isinstance(parts, np.ndarray) and parts.ndim < 2
    if isinstance(parts, str) or (as_example(parts) is not None and not is_one_dimensional):
        parts = [parts]
    if not isinstance(parts, list | tuple):
        raise ClassesError(
            f"class {describe(name)} is {describe(parts)}; give a list of names and images."
        )
    if not parts:
        raise ClassesError(f"class {describe(name)} has no names or images; give a list of them.")
    return tuple(_check_part(name, part) for part in parts)


def _check_part(name: str, part: object) -> str | Example:
    if isinstance(part, str):
        if not name_key(part):
            raise ClassesError(f"class {describe(name)} has an empty string; remove it.")
        return part
    example = as_example(part)
    if example is None:
        raise ClassesError(
            f"class {describe(name)} has {describe(part)}; use strings, Paths, arrays, PIL images "
            "or an Example."
        )
    return example
