"""The same classes in other words, and among others, which a dataset's own names never test."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from openvocab._internal.files import package_data, read_lines, read_table
from openvocab.errors import ClassesError, DatasetError
from openvocab.vocabulary import parse_classes
from openvocab.vocabulary.prompts import article, name_key, normalize_name

DISTRACTORS = (50, 1000)
AUTOMATIC = ("names", "upper case", "a photo of")


@dataclass(frozen=True, slots=True)
class PromptVariant:
    """One way to ask for a dataset's classes."""

    name: str
    classes: tuple[str, ...]
    """The K classes in the dataset's order, then distractors."""
    automatic: bool = False
    """Whether it was made from the names by rule."""


@dataclass(frozen=True, slots=True)
class PromptMap:
    """A dataset's classes in other words."""

    tables: dict[str, dict[str, str]] = field(default_factory=dict)
    """By name of the variant, the words for some classes; the others keep their names."""
    absent: tuple[str, ...] = ()
    """Words for things that are in none of the pictures."""
    distractors: tuple[str, ...] = ()
    """Words to ask for as well, which are not classes, nor kinds or parts of them."""

    @classmethod
    def from_file(cls, name_or_path: str) -> Self:
        """Read a TOML file: tables of words, `absent`, `distractors` (a list, or a text file).

        Args:
            name_or_path: the path, or the name of one that ships with the package (`coco`).

        Raises:
            ConfigError: the file cannot be read.
            DatasetError: a value is not a word.
        """
        shipped = package_data("configs") / "classes" / f"{name_or_path}.toml"
        path = shipped if shipped.is_file() else Path(name_or_path)
        raw = read_table(path)
        absent, others = raw.pop("absent", []), raw.pop("distractors", [])
        if isinstance(others, str):
            others = read_lines(path.parent / others)
        tables = {}
        for name, table in raw.items():
            if not isinstance(table, dict) or name in AUTOMATIC:
                raise DatasetError(
                    f"{path}: {name!r} is no table of words; give [a name of its own]."
                )
            tables[name] = dict(zip(table, _words(path, list(table.values())), strict=True))
        return cls(tables, _words(path, absent), _words(path, others))


def prompt_variants(classes: Sequence[str], words: PromptMap | None = None) -> list[PromptVariant]:
    """List the names, upper case, "a photo of", the map's tables, and ever more distractors.

    Raises:
        DatasetError: the map names a class that the dataset does not have, or gives two classes
            the same word.

    >>> [each.name for each in prompt_variants(["bus"])]
    ['names', 'upper case', 'a photo of']
    >>> prompt_variants(["bus"])[2].classes
    ('a photo of a bus',)
    """
    words = words or PromptMap()
    plain = [normalize_name(name) for name in classes]
    result = [
        PromptVariant(AUTOMATIC[0], tuple(classes)),
        PromptVariant(AUTOMATIC[1], tuple(name.upper() for name in classes), automatic=True),
        PromptVariant(
            AUTOMATIC[2],
            tuple(f"a photo of {article(name)} {name}" for name in plain),
            automatic=True,
        ),
    ]
    for name, table in words.tables.items():
        unknown = [key for key in table if key not in classes]
        if unknown:
            raise DatasetError(f"[{name}] names {unknown[0]!r}, which is no class; remove it.")
        result.append(PromptVariant(name, tuple(table.get(each, each) for each in classes)))
    taken = {name_key(word) for word in classes}
    others = [
        word
        for key, word in {name_key(word): word for word in words.distractors}.items()
        if key not in taken
    ]
    for count in DISTRACTORS:
        if len(others) >= count:
            # Spread over the list, which is sorted by frequency of the words.
            some = others[:: len(others) // count][:count]
            result.append(PromptVariant(f"+{count:,} distractors", (*classes, *some)))
    for variant in result:
        try:
            parse_classes(variant.classes)
        except ClassesError as error:
            raise DatasetError(f"{variant.name}: {error}") from error
    return result


def _words(path: Path, words: object) -> tuple[str, ...]:
    """Check that words are strings, and all different."""
    if not isinstance(words, list):
        raise DatasetError(f"{path} holds {words!r} where a list of words should be; mend it.")
    for word in words:
        if not isinstance(word, str) or not normalize_name(word):
            raise DatasetError(f"{path} holds {word!r} where a word should be; mend it.")
    return tuple(words)
