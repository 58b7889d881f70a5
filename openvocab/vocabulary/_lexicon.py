"""`Lexicon`: what a word means, as synsets of WordNet with their weights."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import log
from typing import Any

import numpy as np

from openvocab._internal.files import package_data, read_table
from openvocab.errors import ClassesError, ConfigError
from openvocab.vocabulary._nouns import Kind, Nouns, NounSense
from openvocab.vocabulary._phrases import head_candidates, phrase_key, singulars, spellings
from openvocab.vocabulary._relations import Meaning, Meanings, Relations, Tree, compare

__all__ = ["KindOf", "Lexicon", "Sense", "load_lexicon"]

# Shares of a word's senses. The counts of WordNet's texts (newspapers, novels of 1961) are small
# and not about photos: they are damped, and no thing is left out.
_DAMPING = 0.75
_RANK_DAMPING = 0.5
_SMALLEST = 0.05
_ABSTRACT = 0.1  # of a word that has a sense that can be photographed: "train" of thought
# Persons of a word that is also a thing or an animal: "dog" for a chap, "coach", "pitcher". What a
# thing is can be seen, what somebody does for a living mostly cannot.
_PERSON = 0.3
_MEAT = 0.15  # food of a word that is an animal: "crayfish"
_TREE = 0.5  # the plant of a word that is its fruit: "pomegranate"

_DEPTH_LIMIT = 30  # deeper than WordNet


@dataclass(frozen=True, slots=True)
class Sense:
    """One meaning of a phrase."""

    synset: str
    """`raccoon.n.02`: the first word of the synset and the number of its sense in WordNet 3.0;
    number 0 is a synset of our own, from `configs/synsets/everyday.toml`."""
    weight: float
    """Share among the senses of the phrase, whose sum is 1."""
    is_head: bool
    """The lexicon has only the head noun, so that the phrase is a kind of this synset."""


@dataclass(frozen=True, slots=True)
class KindOf:
    """A synset below another."""

    phrase: str
    """Its first word, in lower case."""
    synset: str
    depth: int
    """Steps down from the phrase that was asked for, from 1."""
    frequency: int
    """How often WordNet's sense-tagged texts have the word in this sense; at most 255."""


class Lexicon:
    """The nouns of WordNet 3.0 and our table of everyday words; immutable and thread-safe.

    >>> lexicon = load_lexicon()
    >>> [(sense.synset, sense.is_head) for sense in lexicon.senses("double-decker bus")][0]
    ('bus.n.01', True)
    >>> relations = lexicon.relations(["animal", "puppy"], ["dog", "bus"])
    >>> relations.broader.round(1)[0].tolist(), relations.kind.round(1)[1].tolist()
    ([0.8, 0.0], [0.7, 0.0])
    """

    def __init__(self, nouns: Nouns, everyday: Mapping[str, Any]) -> None:
        """`everyday` is the table of `configs/synsets/everyday.toml`.

        Raises:
            ConfigError: the table has a synset that does not exist.
        """
        self._nouns = nouns
        self._own_names: list[str] = []
        self._own_parents: dict[int, list[int]] = {}
        self._own_children: dict[int, list[int]] = {}
        self._cut: set[tuple[int, int]] = set()
        self._meanings: dict[str, tuple[int, ...]] = {}
        self._add_everyday(everyday)
        # Without bound: a word costs some hundred bytes, and the lists of a process are few.
        self._senses_of = cache(self._find)
        self._lineage_of = cache(self._lineage)

    def senses(self, phrase: str) -> tuple[Sense, ...]:
        """What a phrase means, the heaviest sense first; empty if the lexicon does not know it.

        Case, articles, underscores, hyphens and number do not matter. Of a phrase that WordNet
        lacks, the senses are those of its head noun.
        """
        return tuple(
            Sense(self._name(meaning.synset), meaning.weight, meaning.is_head)
            for meaning in self._senses_of(phrase)
        )

    def relations(
        self,
        words: Sequence[str],
        labels: Sequence[str],
        label_senses: Sequence[str | None] | None = None,
    ) -> Relations:
        """How K words are related to L labels, from the senses of both.

        Args:
            words: the caller's.
            labels: the detector's.
            label_senses: a synset for every label, or None for those that are to be looked up;
                see `synsets_for`.

        Raises:
            ClassesError: a synset does not exist, or there are not as many as labels.
        """
        exact: Sequence[str | None] = label_senses or [None] * len(labels)
        if len(exact) != len(labels):
            raise ClassesError(
                f"label_senses has {len(exact)} synsets for {len(labels)} labels; give one each."
            )
        fixed = [name and self._fixed(name) for name in exact]
        label_meanings = [
            one or self._senses_of(label) for one, label in zip(fixed, labels, strict=True)
        ]
        word_meanings = [self._senses_of(word) for word in words]
        same_name = (
            np.array([phrase_key(word) for word in words])[:, None]
            == np.array([phrase_key(label) for label in labels])[None, :]
        )
        return compare(word_meanings, label_meanings, same_name, self._lineage_of)

    def kinds(self, phrase: str, synset: str | None = None) -> list[KindOf]:
        """Everything that is a kind of a phrase's heaviest sense: breadth first, commonest first.

        Args:
            phrase: as for `senses`; an unknown one has no kinds.
            synset: another sense of it.

        Raises:
            ClassesError: there is no such synset.
        """
        senses = self._fixed(synset) if synset is not None else self._senses_of(phrase)
        level = [senses[0].synset] if senses else []
        seen, found = set(level), []
        for depth in range(1, _DEPTH_LIMIT):
            below = dict.fromkeys(each for one in level for each in self._below(one))
            level = sorted((each for each in below if each not in seen), key=self._commonness)
            seen.update(level)
            found += [
                KindOf(self._word(each), self._name(each), depth, -self._commonness(each))
                for each in level
            ]
        return found

    def has_synset(self, name: str) -> bool:
        """Whether there is a synset of this name, such as `dog.n.01`."""
        return self._number(name) is not None

    def _find(self, phrase: str) -> Meanings:
        key = phrase_key(phrase)
        found = self._look_up(key) if key else []
        is_head = not found
        if key and not found:
            candidates = head_candidates(key, self._is_thing, self._is_living)
            # Not the phrase itself, which is not there; with "of" cut off, it may be.
            found = next(filter(None, map(self._look_up, candidates)), [])
        weights = _weights(found, [self._kind(sense.synset) for sense in found])
        meanings = [
            Meaning(sense.synset, weight, is_head)
            for sense, weight in zip(found, weights, strict=True)
        ]
        return tuple(sorted(meanings, key=lambda meaning: -meaning.weight))

    def _look_up(self, key: str) -> list[NounSense]:
        exact = self._entry(key)
        if exact and all(self._kind(sense.synset) == Kind.ABSTRACT for sense in exact):
            # WordNet has "men" as a work force and "cards" as a game.
            exact += self._tagged_things(singulars(key, self._nouns.irregular))
        if exact:
            return exact
        return next(filter(None, map(self._entry, spellings(key, self._nouns.irregular))), [])

    def _entry(self, key: str) -> list[NounSense]:
        if key in self._meanings:
            return [NounSense(synset, 0) for synset in self._meanings[key]]
        return self._nouns.find(key)

    def _tagged_things(self, keys: Iterable[str]) -> list[NounSense]:
        senses = next(filter(None, map(self._entry, keys)), [])
        return [
            sense for sense in senses if sense.count and self._kind(sense.synset) != Kind.ABSTRACT
        ]

    def _is_thing(self, word: str) -> bool:
        return any(self._kind(sense.synset) != Kind.ABSTRACT for sense in self._look_up(word))

    def _is_living(self, word: str) -> bool:
        senses = self._look_up(word)
        return bool(senses) and self._kind(senses[0].synset) in (Kind.PERSON, Kind.ANIMAL)

    def _add_everyday(self, table: Mapping[str, Any]) -> None:
        for name, entry in table.get("synsets", {}).items():  # first: they name each other
            number = len(self._nouns.kind) + len(self._own_names)
            self._own_names.append(name)
            self._meanings |= {phrase_key(w): (number,) for w in (name, *entry.get("words", ()))}
        for number, entry in enumerate(table.get("synsets", {}).values(), len(self._nouns.kind)):
            for parent in map(self._known, entry.get("above", ())):
                self._link(number, parent)
            for child in map(self._known, entry.get("below", ())):
                self._link(child, number)
        for child, parent in table.get("above", {}).items():
            self._link(self._known(child), self._known(parent))
        for child, parent in table.get("not_above", {}).items():
            self._cut.add((self._known(child), self._known(parent)))
        for word, names in table.get("meanings", {}).items():
            listed = [names] if isinstance(names, str) else names
            self._meanings[phrase_key(word)] = tuple(map(self._known, listed))

    def _link(self, child: int, parent: int) -> None:
        self._own_parents.setdefault(child, []).append(parent)
        self._own_children.setdefault(parent, []).append(child)

    def _known(self, name: str) -> int:
        number = self._number(name)
        if number is None:
            raise ConfigError(f"everyday.toml has {name!r}, which is no synset; correct it.")
        return number

    def _number(self, name: str) -> int | None:
        own, _, number = name.rpartition(".n.")
        own = own.replace("_", " ")
        if number == "00" and own in self._own_names:
            return len(self._nouns.kind) + self._own_names.index(own)
        return self._nouns.number(name)

    def _fixed(self, name: str) -> Meanings:
        number = self._number(name)
        if number is None:
            raise ClassesError(f"There is no synset {name!r}; give one such as 'dog.n.01'.")
        return (Meaning(number, 1.0, is_head=False),)

    def _is_own(self, synset: int) -> bool:
        return synset >= len(self._nouns.kind)

    def _name(self, synset: int) -> str:
        if self._is_own(synset):
            return f"{self._word(synset).replace(' ', '_')}.n.00"
        return self._nouns.name(synset)

    def _word(self, synset: int) -> str:
        if self._is_own(synset):
            return self._own_names[synset - len(self._nouns.kind)]
        return self._nouns.word(synset)

    def _kind(self, synset: int) -> int:
        return Kind.THING if self._is_own(synset) else int(self._nouns.kind[synset])

    def _commonness(self, synset: int) -> int:
        """For sorting: minus the count."""
        return 0 if self._is_own(synset) else -self._nouns.count(synset)

    def _above(self, synset: int) -> Iterable[int]:
        wordnet = [] if self._is_own(synset) else self._nouns.above(synset)
        links = (*wordnet, *self._own_parents.get(synset, ()))
        return [above for above in links if (synset, above) not in self._cut]

    def _below(self, synset: int) -> Iterable[int]:
        wordnet = [] if self._is_own(synset) else self._nouns.below(synset)
        links = (*wordnet, *self._own_children.get(synset, ()))
        return [below for below in links if (below, synset) not in self._cut]

    def _lineage(self, synset: int) -> Tree:
        above: dict[int, None] = {}
        level = [synset]
        while level:
            above |= dict.fromkeys(level)
            level = [each for one in level for each in self._above(one) if each not in above]
        return Tree(tuple(above), self._content(synset))

    def _content(self, synset: int) -> float:
        """Information content in [0, 1]: 1 without hyponyms, 0 at the root.

        Source: Seco, Veale and Hayes, "An intrinsic information content metric for semantic
        similarity in WordNet" (ECAI 2004).
        """
        hyponyms = self._nouns.hyponyms
        if self._is_own(synset):
            below = self._own_children.get(synset, ())
            count = len(below) + sum(
                int(hyponyms[each]) for each in below if not self._is_own(each)
            )
        else:
            count = int(hyponyms[synset])
        return 1 - log(count + 1) / log(len(hyponyms))


def _weights(senses: Sequence[NounSense], kinds: Sequence[int]) -> list[float]:
    """Shares of the senses of a word, in WordNet's order, which is by frequency where it is known."""
    present = set(kinds)
    factors = dict.fromkeys(Kind, 1.0)
    if present - {Kind.ABSTRACT}:
        factors[Kind.ABSTRACT] = _ABSTRACT
    if present - {Kind.ABSTRACT, Kind.PERSON}:
        factors[Kind.PERSON] = _PERSON
    if Kind.ANIMAL in present:
        factors[Kind.FOOD] = _MEAT
    elif Kind.FOOD in present:
        factors[Kind.PLANT] = _TREE
    shares = [
        factors[Kind(kind)] * (sense.count + 1) ** _DAMPING / rank**_RANK_DAMPING
        for rank, (sense, kind) in enumerate(zip(senses, kinds, strict=True), 1)
    ]
    total = sum(shares)
    raised = [
        max(share / total, _SMALLEST if factors[Kind(kind)] == 1 else 0)
        for share, kind in zip(shares, kinds, strict=True)
    ]
    return [share / sum(raised) for share in raised]


@cache
def load_lexicon() -> Lexicon:
    """The lexicon of the package: read on the first call, some 30 ms, and kept.

    Raises:
        OpenVocabError: its file is missing or damaged.
    """
    everyday = read_table(package_data("configs") / "synsets" / "everyday.toml")
    return Lexicon(Nouns.load(package_data("lexicon") / "nouns.npz"), everyday)
