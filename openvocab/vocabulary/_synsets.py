"""What the labels of well-known datasets mean, by the tables of `configs/synsets`."""

from collections.abc import Mapping, Sequence
from functools import cache

from openvocab._internal.files import package_data, read_table
from openvocab.vocabulary._prompts import name_key

__all__ = ["synsets_for"]

_TABLES = ("coco", "objects365", "lvis")
# A detector's labels are those of a dataset if nearly all are in its table (somebody may have added
# or renamed a few), and if they are not so few that this may be chance: a detector of "mouse" and
# "cat" may have been trained in a barn.
_SHARE = 0.9
_FEWEST = 40


def synsets_for(labels: Sequence[str]) -> tuple[str | None, ...]:
    """The synset of each label if the labels are those of COCO, Objects365 or LVIS, else None.

    A label that the dataset lacks has None, as have all labels of another detector: they are to be
    looked up. Pass the result to `Lexicon.relations`.

    Raises:
        ConfigError: a table of the package is missing or damaged.

    >>> synsets_for(["mouse", "cat"])
    (None, None)
    """
    keys = [name_key(label) for label in labels]
    if len(keys) < _FEWEST:
        return (None,) * len(keys)
    tables = [_table(name) for name in _TABLES]
    best = max(tables, key=lambda table: sum(_find(table, key) is not None for key in keys))
    synsets = tuple(_find(best, key) for key in keys)
    known = len(synsets) - synsets.count(None)
    return synsets if known >= _SHARE * len(keys) else (None,) * len(keys)


@cache
def _table(name: str) -> Mapping[str, str]:
    table = read_table(package_data("configs") / "synsets" / f"{name}.toml")
    return {name_key(label): synset for label, synset in table.items()}


def _find(table: Mapping[str, str], key: str) -> str | None:
    """Also of "aerosol can/spray can", as Ultralytics calls a class of LVIS with its synonyms."""
    return table.get(key) or table.get(key.partition("/")[0])
