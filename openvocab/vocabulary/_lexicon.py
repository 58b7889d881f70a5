"""`Lexicon`: what a word means, as synsets of WordNet with their weights."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import numpy as np

from openvocab._internal.files import package_data, read_table
from openvocab.errors import ClassesError
from openvocab.vocabulary._nouns import Kind, Nouns, NounSense
from openvocab.vocabulary._phrases import head_candidates, phrase_key, singulars, spellings
from openvocab.vocabulary._prompts import name_key
from openvocab.vocabulary._relations import Meaning, Meanings, Relations, compare
from openvocab.vocabulary._synset_tree import SynsetTree

__all__ = ["KindOf", "Lexicon", "Sense", "load_lexicon"]

# Shares of a word's senses. The counts of WordNet's texts (newspapers, novels of 1961) are small
# and not about photos: they are damped, and no thing is left out. Where all counts are 0, the order
# is all that is known. Chosen by looking at some 200 words.
_DAMPING = 0.75
_RANK_DAMPING = 0.5
_SMALLEST = 0.05
_ABSTRACT = 0.1  # of a word that has a sense that can be photographed: "train" of thought
# Persons of a word that is also a thing or an animal: "dog" for a chap, "coach", "pitcher". What a
# thing is can be seen, what somebody does for a living mostly cannot.
_PERSON = 0.3
_PRODUCT = 0.15  # food or fur of a word that is an animal: "crayfish", "raccoon"
_TREE = 0.5  # the plant of a word that is its fruit: "pomegranate"

_CAPACITY = 20_000  # phrases, as of text features: callers of a server choose them


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
    >>> lexicon.senses("double-decker buses")
    (Sense(synset='bus.n.01', weight=1.0, is_head=True),)
    >>> relations = lexicon.relations(["animal", "lorry"], ["dog", "truck"], ["dog.n.01", None])
    >>> relations.broader[0].round(2), relations.same[1].round(2)
    (array([1., 0.], dtype=float32), array([0.  , 0.93], dtype=float32))
    """

    def __init__(self, nouns: Nouns, everyday: Mapping[str, Any]) -> None:
        """`everyday` is the table of `configs/synsets/everyday.toml`.

        Raises:
            ConfigError: the table has a synset that does not exist.
        """
        self._tree = SynsetTree(nouns, everyday)
        self._meanings = lru_cache(_CAPACITY)(self._find)

    def senses(self, phrase: str) -> tuple[Sense, ...]:
        """What a phrase means, the heaviest sense first; empty if the lexicon does not know it.

        Case, articles, underscores, hyphens and number do not matter. Of a phrase that WordNet
        lacks, the senses are those of its head noun.
        """
        return tuple(
            Sense(self._tree.name(synset), weight, is_head)
            for synset, weight, is_head in self._meanings(phrase)
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
        exact = [None] * len(labels) if label_senses is None else label_senses
        if len(exact) != len(labels):
            raise ClassesError(
                f"label_senses has {len(exact)} synsets for {len(labels)} labels; give one each."
            )
        names: dict[str, int] = {}
        word_names, label_names = (
            np.array([names.setdefault(_identity(each), len(names)) for each in phrases], np.int64)
            for phrases in (words, labels)
        )
        return compare(
            [self._meanings(word) for word in words],
            [
                self._meanings(label) if synset is None else (Meaning(self._number(synset)),)
                for label, synset in zip(labels, exact, strict=True)
            ],
            word_names[:, None] == label_names,
            self._tree.lineage,
        )

    def kinds(self, phrase: str, synset: str | None = None) -> list[KindOf]:
        """Everything that is a kind of a phrase's heaviest sense: breadth first, commonest first.

        Args:
            phrase: as for `senses`; an unknown one has no kinds.
            synset: another sense of it.

        Raises:
            ClassesError: there is no such synset.
        """
        tree = self._tree
        level = [meaning.synset for meaning in self._meanings(phrase)[:1]]
        if synset is not None:
            level = [self._number(synset)]
        seen = set(level)
        found: list[KindOf] = []
        while level:
            below = {each for one in level for each in tree.below(one)} - seen
            level = sorted(below, key=lambda each: (-tree.count(each), each))
            depth = found[-1].depth + 1 if found else 1
            seen |= below
            found += [
                KindOf(tree.word(each), tree.name(each), depth, tree.count(each)) for each in level
            ]
        return found

    def has_synset(self, name: str) -> bool:
        """Whether there is a synset of this name, such as `dog.n.01`."""
        return self._tree.number(name) is not None

    def _number(self, name: str) -> int:
        number = self._tree.number(name)
        if number is None:
            raise ClassesError(f"There is no synset {name!r}; give one such as 'dog.n.01'.")
        return number

    def _find(self, phrase: str) -> Meanings:
        key = phrase_key(phrase)
        found = self._look_up(key)
        is_head = not found
        if is_head:
            candidates = head_candidates(key, self._is_thing, self._is_living)
            found = next(filter(None, map(self._look_up, candidates)), [])
        weights = _weights(found, [self._tree.kind(sense.synset) for sense in found])
        meanings = [
            Meaning(sense.synset, weight, is_head)
            for sense, weight in zip(found, weights, strict=True)
        ]
        return tuple(sorted(meanings, key=lambda meaning: -meaning.weight))

    def _look_up(self, key: str) -> list[NounSense]:
        exact = self._tree.find(key)
        irregular = self._tree.nouns.irregular
        if exact and not any(map(self._is_visible, exact)):
            # WordNet has "cards" as a game only.
            exact += self._everyday_things(singulars(key, irregular))
        return exact or next(filter(None, map(self._tree.find, spellings(key, irregular))), [])

    def _everyday_things(self, keys: Iterable[str]) -> list[NounSense]:
        senses = next(filter(None, map(self._tree.find, keys)), [])
        return [sense for sense in senses if sense.count and self._is_visible(sense)]

    def _is_visible(self, sense: NounSense) -> bool:
        return self._tree.kind(sense.synset) != Kind.ABSTRACT

    def _is_thing(self, word: str) -> bool:
        return any(map(self._is_visible, self._look_up(word)))

    def _is_living(self, word: str) -> bool:
        first = self._look_up(word)[:1]
        return any(self._tree.kind(each.synset) in (Kind.PERSON, Kind.ANIMAL) for each in first)


def _identity(phrase: str) -> str:
    """Equal for phrases that are the same: "a bus" and "Bus", but not "bat (animal)" and "bat"."""
    return name_key(phrase) if "(" in phrase else phrase_key(phrase)


def _weights(senses: Sequence[NounSense], kinds: Sequence[int]) -> list[float]:
    """Shares of the senses of a word, in WordNet's order, which is by frequency where it is known."""
    present = set(kinds)
    factors = dict.fromkeys(Kind, 1.0)
    if present - {Kind.ABSTRACT}:
        factors[Kind.ABSTRACT] = _ABSTRACT
    if present - {Kind.ABSTRACT, Kind.PERSON}:
        factors[Kind.PERSON] = _PERSON
    if Kind.ANIMAL in present:
        factors[Kind.PRODUCT] = _PRODUCT
    elif Kind.PRODUCT in present:
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
