"""Synsets for the labels of well-known datasets, from the tables in `configs/synsets`."""

from collections.abc import Mapping, Sequence
from functools import cache

from openvocab._internal.files import package_data, read_table
from openvocab.vocabulary._prompts import name_key

__all__ = ["synsets_for"]

_TABLES = ("coco", "objects365", "lvis")
# A detector's labels are taken for those of a dataset if nearly all are in its table (a few may
# have been added or renamed), and if there are too many for a coincidence: the "mouse" of a
# detector with the labels "mouse" and "cat" may be the animal.
_MIN_MATCHED = 0.9
_MIN_LABELS = 40


def synsets_for(labels: Sequence[str]) -> tuple[str | None, ...]:
    """The synset of each label if the labels are those of COCO, Objects365 or LVIS, else None.

    Labels that the dataset lacks get None, and so do all labels of any other detector. Pass the
    result to `Lexicon.relations`, which looks up the labels with None.

    Raises:
        ConfigError: a table of the package is missing or damaged.

    >>> synsets_for(["mouse", "cat"])
    (None, None)
    """
    keys = [name_key(label) for label in labels]
    if len(keys) < _MIN_LABELS:
        return (None,) * len(keys)
    tables = [_table(name) for name in _TABLES]
    best_table = max(tables, key=lambda table: sum(_find(table, key) is not None for key in keys))
    synsets = tuple(_find(best_table, key) for key in keys)
    matched = len(synsets) - synsets.count(None)
    return synsets if matched >= _MIN_MATCHED * len(keys) else (None,) * len(keys)


@cache
def _table(name: str) -> Mapping[str, str]:
    table = read_table(package_data("configs") / "synsets" / f"{name}.toml")
    return {name_key(label): synset for label, synset in table.items()}


def _find(table: Mapping[str, str], key: str) -> str | None:
    """The synset; Ultralytics names LVIS classes by all synonyms: "aerosol can/spray can"."""
    return table.get(key) or table.get(key.partition("/")[0])
