"""Other prompts for a dataset's classes: synonyms, plurals, distractors, and absent objects."""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from openvocab._internal.files import package_data, read_lines, read_table
from openvocab.errors import ClassesError, DatasetError
from openvocab.evaluation._datasets import Dataset, DatasetImage
from openvocab.vocabulary import parse_classes
from openvocab.vocabulary._prompts import article, name_key, normalize_name

_DISTRACTOR_COUNTS = (50, 1000)
_GENERATED = ("names", "upper case", "a photo of")
_BROADER = "broader"  # name of the table of broader words
ABSENT_COUNT = 5  # absent classes that are prompted for in each image


@dataclass(frozen=True, slots=True)
class PromptVariant:
    """A prompt for each of a dataset's classes."""

    name: str
    classes: tuple[str, ...]
    """Prompts for the K classes in the dataset's order, then distractors."""
    generated: bool = False
    """Whether the prompts were made from the class names by a rule."""


@dataclass(frozen=True, slots=True)
class PromptMap:
    """Other prompts for a dataset's classes, read from a file."""

    tables: dict[str, dict[str, str]] = field(default_factory=dict)
    """By name of the variant, prompts for some classes; the others keep their names."""
    absent: tuple[str, ...] = ()
    """Prompts for objects that are in none of the images."""
    distractors: tuple[str, ...] = ()
    """Prompts that are not classes, nor kinds or parts of them."""
    broader: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """By broader word, the classes that are kinds of it: `animal`, of dogs and cats."""

    @classmethod
    def from_file(cls, name_or_path: str) -> Self:
        """Read a TOML file: tables of prompts, `broader`, `absent`, `distractors` (list or file).

        Args:
            name_or_path: the path, or the name of a bundled file (`coco`).

        Raises:
            ConfigError: the file cannot be read.
            DatasetError: a value is not a prompt.
        """
        bundled = package_data("configs") / "classes" / f"{name_or_path}.toml"
        path = bundled if bundled.is_file() else Path(name_or_path)
        raw = read_table(path)
        absent, distractors = raw.pop("absent", []), raw.pop("distractors", [])
        if isinstance(distractors, str):
            distractors = read_lines(path.parent / distractors)
        broader = raw.pop(_BROADER, {})
        if not isinstance(broader, dict):
            raise DatasetError(f"{path}: broader is not a table; write [broader] above the words.")
        broader = {word: _check_prompts(path, classes) for word, classes in broader.items()}
        tables = {}
        for name, table in raw.items():
            if not isinstance(table, dict) or name in _GENERATED:
                raise DatasetError(
                    f"{path}: {name!r} is not a table of prompts, or has a reserved name; "
                    "write [another name] above them."
                )
            prompts = _check_prompts(path, list(table.values()))
            tables[name] = dict(zip(table, prompts, strict=True))
        absent, distractors = _check_prompts(path, absent), _check_prompts(path, distractors)
        return cls(tables, absent, distractors, broader)


@dataclass(frozen=True, slots=True)
class EvaluationTask:
    """A labelled dataset, and the prompts with which a detector is evaluated on it."""

    dataset: Dataset
    variants: tuple[PromptVariant, ...]
    """The dataset's own class names first."""
    absent: tuple[str, ...] = ()
    """Prompts for objects that are in none of the images, besides the dataset's absent classes."""
    negatives: tuple[str, ...] = ()
    """Negatives of every call; those that are classes of a call are left out of it."""
    broader: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """By broader word, those of the dataset's classes that are kinds of it."""
    examples: Dataset | None = None
    """Labelled images for example pictures; those that are in `dataset`, too, are not evaluated
    with them."""

    @classmethod
    def from_map(
        cls,
        dataset: Dataset,
        prompt_map: PromptMap | None = None,
        examples: Dataset | None = None,
    ) -> Self:
        """All variants of a dataset's classes.

        Raises:
            DatasetError: the map has an unknown class, or the same prompt for two classes.
        """
        prompt_map = prompt_map or PromptMap()
        variants = prompt_variants(dataset.classes, prompt_map)
        for word, classes in prompt_map.broader.items():
            _check_known(word, classes, dataset.classes)
        broader = prompt_map.broader
        return cls(dataset, tuple(variants), prompt_map.absent, broader=broader, examples=examples)

    def negatives_for(self, classes: Iterable[str]) -> list[str]:
        """The negatives that are none of the classes."""
        taken = set(classes)
        return [name for name in self.negatives if name not in taken]

    def absent_prompts(self, image: DatasetImage) -> dict[str, list[str]]:
        """Five of the dataset's classes and five of `absent`, by kind, that an image lacks.

        They are the same in every run; a kind with fewer than five is left out.
        """
        rng = random.Random(image.id)  # noqa: S311  not for secrets
        names = self.dataset.classes
        verified = range(len(names)) if image.absent is None else image.absent
        keys = {name_key(name) for name in names}
        kinds = {
            "dataset classes": [
                name
                for class_id, name in enumerate(names)
                if class_id not in image.present and class_id in verified
            ],
            "absent prompts": [prompt for prompt in self.absent if name_key(prompt) not in keys],
        }
        return {
            kind: rng.sample(prompts, ABSENT_COUNT)
            for kind, prompts in kinds.items()
            if len(prompts) >= ABSENT_COUNT
        }


def prompt_variants(classes: Sequence[str], prompt_map: PromptMap) -> list[PromptVariant]:
    """List the names, upper case, "a photo of", the map's tables, and the names with distractors.

    Raises:
        DatasetError: the map has an unknown class, or the same prompt for two classes.

    >>> [variant.name for variant in prompt_variants(["bus"], PromptMap())]
    ['names', 'upper case', 'a photo of']
    >>> prompt_variants(["bus"], PromptMap())[2].classes
    ('a photo of a bus',)
    """
    plain = [normalize_name(name) for name in classes]
    photo_of = tuple(f"a photo of {article(name)} {name}" for name in plain)
    variants = [
        PromptVariant(_GENERATED[0], tuple(classes)),
        PromptVariant(_GENERATED[1], tuple(name.upper() for name in classes), generated=True),
        PromptVariant(_GENERATED[2], photo_of, generated=True),
    ]
    for name, table in prompt_map.tables.items():
        _check_known(name, table, classes)
        variants.append(PromptVariant(name, tuple(table.get(key, key) for key in classes)))
    taken = {name_key(name) for name in classes}
    by_key = {name_key(prompt): prompt for prompt in prompt_map.distractors}
    distractors = [prompt for key, prompt in by_key.items() if key not in taken]
    for count in _DISTRACTOR_COUNTS:
        if len(distractors) >= count:
            # Spread over the list, which is sorted by frequency of the words.
            spread = distractors[:: len(distractors) // count][:count]
            variants.append(PromptVariant(f"+{count:,} distractors", (*classes, *spread)))
    for variant in variants:
        try:
            parse_classes(variant.classes)
        except ClassesError as error:
            raise DatasetError(f"{variant.name}: {error}") from error
    return variants


def _check_known(table: str, names: Iterable[str], classes: Sequence[str]) -> None:
    unknown = [name for name in names if name not in classes]
    if unknown:
        raise DatasetError(f"[{table}] has an unknown class {unknown[0]!r}; remove it.")


def _check_prompts(path: Path, prompts: object) -> tuple[str, ...]:
    if not isinstance(prompts, list):
        raise DatasetError(f"{path} has {prompts!r} instead of a list of prompts; correct it.")
    for prompt in prompts:
        if not isinstance(prompt, str) or not normalize_name(prompt):
            raise DatasetError(f"{path} has {prompt!r} instead of a prompt; correct it.")
    return tuple(prompts)
