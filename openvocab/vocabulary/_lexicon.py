"""`Lexicon`: the meanings of a word, as weighted WordNet synsets."""

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

# Constants for the share of each sense of a word, chosen by inspecting some 200 words. WordNet's
# sense counts come from a small corpus (newspapers and novels of 1961) that does not describe
# photos, so they are damped. Where all counts are 0, only the order of the senses is informative.
_COUNT_POWER = 0.75
_RANK_POWER = 0.5
_MIN_SHARE = 0.05  # of a sense that none of the factors below applies to
# An abstract sense of a word that also names something visible: "train" of thought.
_ABSTRACT_FACTOR = 0.1
# A person sense of a word that also names a thing or an animal: "coach", "pitcher", "dog" for a
# man. An occupation can rarely be seen in a photo.
_PERSON_FACTOR = 0.3
_PRODUCT_FACTOR = 0.15  # the food or fur of an animal of the same name: "crayfish", "raccoon"
_PLANT_FACTOR = 0.5  # the plant of a fruit of the same name: "pomegranate"

# Phrases, as for the cached text features; bounded because the clients of a server choose them.
_CACHE_SIZE = 20_000


@dataclass(frozen=True, slots=True)
class Sense:
    """One meaning of a phrase."""

    synset: str
    """`raccoon.n.02`: the first word of the synset and the number of its sense in WordNet 3.0;
    number 0 is a synset of our own, from `configs/synsets/everyday.toml`."""
    weight: float
    """Share among the senses of the phrase, whose sum is 1."""
    is_head: bool
    """Only the head noun is in the lexicon; the phrase is a kind of this synset."""


@dataclass(frozen=True, slots=True)
class KindOf:
    """A synset below another."""

    phrase: str
    """Its first word, in lower case."""
    synset: str
    depth: int
    """Steps below the queried phrase, from 1."""
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
        """Join WordNet with `everyday`, the table of `configs/synsets/everyday.toml`.

        Raises:
            ConfigError: the table has a synset that does not exist.
        """
        self._tree = SynsetTree(nouns, everyday)
        self._meanings = lru_cache(_CACHE_SIZE)(self._find)

    def senses(self, phrase: str) -> tuple[Sense, ...]:
        """The senses of a phrase, the heaviest first; empty for an unknown one.

        Case, articles, underscores, hyphens and plurals are ignored. A phrase that WordNet lacks
        has the senses of its head noun.
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
            label_senses: the synset of each label, or None to look the label up; see
                `synsets_for`.

        Raises:
            ClassesError: a synset does not exist, or their number is not that of labels.
        """
        synsets = [None] * len(labels) if label_senses is None else label_senses
        if len(synsets) != len(labels):
            raise ClassesError(
                f"label_senses has {len(synsets)} synsets for {len(labels)} labels; give one each."
            )
        name_ids: dict[str, int] = {}
        word_name_ids, label_name_ids = (
            np.array(
                [name_ids.setdefault(_name(phrase), len(name_ids)) for phrase in phrases], np.int64
            )
            for phrases in (words, labels)
        )
        return compare(
            [self._meanings(word) for word in words],
            [
                self._meanings(label) if synset is None else (Meaning(self._number(synset)),)
                for label, synset in zip(labels, synsets, strict=True)
            ],
            word_name_ids[:, None] == label_name_ids,
            self._tree.lineage,
        )

    def kinds(self, phrase: str, synset: str | None = None) -> list[KindOf]:
        """All kinds of a phrase's heaviest sense, breadth first, then the most frequent first.

        Args:
            phrase: as for `senses`; an unknown one has no kinds.
            synset: the sense to use instead of the heaviest.

        Raises:
            ClassesError: there is no such synset.
        """
        tree = self._tree
        level = [meaning.synset for meaning in self._meanings(phrase)[:1]]
        if synset is not None:
            level = [self._number(synset)]
        visited = set(level)
        kinds: list[KindOf] = []
        while level:
            children = {child for parent in level for child in tree.below(parent)} - visited
            level = sorted(children, key=lambda child: (-tree.count(child), child))
            depth = kinds[-1].depth + 1 if kinds else 1
            visited |= children
            kinds += [
                KindOf(tree.word(child), tree.name(child), depth, tree.count(child))
                for child in level
            ]
        return kinds

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
        senses = self._look_up(key)
        is_head = not senses
        if is_head:
            candidates = head_candidates(key, self._is_thing, self._is_living)
            senses = next(filter(None, map(self._look_up, candidates)), [])
        weights = _weights(senses, [self._tree.kind(sense.synset) for sense in senses])
        meanings = [
            Meaning(sense.synset, weight, is_head)
            for sense, weight in zip(senses, weights, strict=True)
        ]
        return tuple(sorted(meanings, key=lambda meaning: -meaning.weight))

    def _look_up(self, key: str) -> list[NounSense]:
        senses = self._tree.find(key)
        irregular = self._tree.nouns.irregular
        if senses and not any(map(self._is_visible, senses)):
            # "cards" itself is only a game in WordNet.
            senses += self._everyday_things(singulars(key, irregular))
        return senses or next(filter(None, map(self._tree.find, spellings(key, irregular))), [])

    def _everyday_things(self, keys: Iterable[str]) -> list[NounSense]:
        senses = next(filter(None, map(self._tree.find, keys)), [])
        return [sense for sense in senses if sense.count and self._is_visible(sense)]

    def _is_visible(self, sense: NounSense) -> bool:
        return self._tree.kind(sense.synset) != Kind.ABSTRACT

    def _is_thing(self, word: str) -> bool:
        return any(map(self._is_visible, self._look_up(word)))

    def _is_living(self, word: str) -> bool:
        senses = self._look_up(word)
        return bool(senses) and self._tree.kind(senses[0].synset) in (Kind.PERSON, Kind.ANIMAL)


def _name(phrase: str) -> str:
    """A key that "a bus" and "Bus" share, but "bat (animal)" and "bat" do not."""
    return name_key(phrase) if "(" in phrase else phrase_key(phrase)


def _weights(senses: Sequence[NounSense], kinds: Sequence[int]) -> list[float]:
    """Shares of the senses of a word; WordNet orders them by frequency where it is known."""
    distinct_kinds = set(kinds)
    factors = dict.fromkeys(Kind, 1.0)
    if distinct_kinds - {Kind.ABSTRACT}:
        factors[Kind.ABSTRACT] = _ABSTRACT_FACTOR
    if distinct_kinds - {Kind.ABSTRACT, Kind.PERSON}:
        factors[Kind.PERSON] = _PERSON_FACTOR
    if Kind.ANIMAL in distinct_kinds:
        factors[Kind.PRODUCT] = _PRODUCT_FACTOR
    elif Kind.PRODUCT in distinct_kinds:
        factors[Kind.PLANT] = _PLANT_FACTOR
    shares = [
        factors[Kind(kind)] * (sense.count + 1) ** _COUNT_POWER / rank**_RANK_POWER
        for rank, (sense, kind) in enumerate(zip(senses, kinds, strict=True), 1)
    ]
    total = sum(shares)
    raised = [
        max(share / total, _MIN_SHARE if factors[Kind(kind)] == 1 else 0)
        for share, kind in zip(shares, kinds, strict=True)
    ]
    return [share / sum(raised) for share in raised]


@cache
def load_lexicon() -> Lexicon:
    """The lexicon of the package; read on the first call (about 30 ms), then cached.

    Raises:
        OpenVocabError: the file is missing or damaged.
    """
    everyday = read_table(package_data("configs") / "synsets" / "everyday.toml")
    return Lexicon(Nouns.load(package_data("lexicon") / "nouns.npz"), everyday)
