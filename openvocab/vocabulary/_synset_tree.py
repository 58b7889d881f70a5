"""`SynsetTree`: WordNet's synsets and our own, as one tree."""

from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from math import log
from typing import Any

from openvocab.errors import ConfigError
from openvocab.vocabulary._nouns import Kind, Nouns, NounSense
from openvocab.vocabulary._phrases import phrase_key
from openvocab.vocabulary._relations import Lineage

__all__ = ["SynsetTree"]


class SynsetTree:
    """Synsets by number: WordNet's first, then those of `configs/synsets/everyday.toml`."""

    def __init__(self, nouns: Nouns, everyday: Mapping[str, Any]) -> None:
        """`everyday` is the table, whose comments say what it has.

        Raises:
            ConfigError: the table names a synset that does not exist.
        """
        self.nouns = nouns
        self._wordnet_size = len(nouns.kind)
        self._own_words: list[str] = []
        self._own_above: dict[int, list[int]] = {}
        self._own_below: dict[int, list[int]] = {}
        self._cut: set[tuple[int, int]] = set()
        self._meanings: dict[str, tuple[int, ...]] = {}
        self._add_synsets(everyday.get("synsets", {}))
        for child, parent in everyday.get("above", {}).items():
            self._link(child, parent)
        for child, parent in everyday.get("not_above", {}).items():
            self._cut.add((self._existing(child), self._existing(parent)))
        for word, names in everyday.get("meanings", {}).items():
            listed = [names] if isinstance(names, str) else names
            self._meanings[phrase_key(word)] = tuple(map(self._existing, listed))
        self.lineage = cache(self._lineage)

    def find(self, key: str) -> list[NounSense]:
        """The senses of a word, from our table if it is there; empty for an unknown one."""
        if key in self._meanings:
            return [NounSense(synset, 0) for synset in self._meanings[key]]
        return self.nouns.find(key)

    def number(self, name: str) -> int | None:
        """The synset of a name, such as `dog.n.01`; None if there is none."""
        word, _, rank = name.rpartition(".n.")
        if rank == "00" and word.replace("_", " ") in self._own_words:
            return self._wordnet_size + self._own_words.index(word.replace("_", " "))
        return self.nouns.number(name)

    def name(self, synset: int) -> str:
        """`dog.n.01`; our own have number 00."""
        if self._is_own(synset):
            return f"{self.word(synset).replace(' ', '_')}.n.00"
        return self.nouns.name(synset)

    def word(self, synset: int) -> str:
        """The first word of a synset."""
        if self._is_own(synset):
            return self._own_words[synset - self._wordnet_size]
        return self.nouns.word(synset)

    def kind(self, synset: int) -> Kind:
        """What a synset is, as far as a photo is concerned."""
        return Kind.THING if self._is_own(synset) else Kind(self.nouns.kind[synset])

    def count(self, synset: int) -> int:
        """How often its first word occurs in this sense; see `NounSense.count`."""
        return 0 if self._is_own(synset) else self.nouns.count(synset)

    def above(self, synset: int) -> Iterator[int]:
        """The hypernyms of a synset."""
        wordnet = () if self._is_own(synset) else self.nouns.above(synset)
        for links in (wordnet, self._own_above.get(synset, ())):
            yield from (each for each in links if (synset, each) not in self._cut)

    def below(self, synset: int) -> Iterator[int]:
        """The hyponyms of a synset."""
        wordnet = () if self._is_own(synset) else self.nouns.below(synset)
        for links in (wordnet, self._own_below.get(synset, ())):
            yield from (each for each in links if (each, synset) not in self._cut)

    def _lineage(self, synset: int) -> Lineage:
        found = {synset: None}
        for each in self.above(synset):
            found |= dict.fromkeys(self.lineage(each).synsets)
        return Lineage(tuple(found), self._content(synset))

    def _content(self, synset: int) -> float:
        """Information content in [0, 1]: 1 without hyponyms, 0 at the root.

        Source: Seco, Veale and Hayes, "An intrinsic information content metric for semantic
        similarity in WordNet" (ECAI 2004).
        """
        return 1 - log(self._below_count(synset) + 1) / log(self._wordnet_size)

    def _below_count(self, synset: int) -> int:
        if not self._is_own(synset):
            return int(self.nouns.hyponyms[synset])  # ours add next to nothing
        # What lies below two of them is counted twice, which a logarithm forgives.
        return sum(1 + self._below_count(each) for each in self._own_below.get(synset, ()))

    def _is_own(self, synset: int) -> bool:
        return synset >= self._wordnet_size

    def _add_synsets(self, table: Mapping[str, Mapping[str, Iterable[str]]]) -> None:
        for name, entry in table.items():  # all of them first, as they name each other
            number = self._wordnet_size + len(self._own_words)
            self._own_words.append(name)
            for word in (name, *entry.get("words", ())):
                self._meanings[phrase_key(word)] = (number,)
        for name, entry in table.items():
            own = f"{name}.n.00"
            for parent in entry.get("above", ()):
                self._link(own, parent)
            for child in entry.get("below", ()):
                self._link(child, own)

    def _link(self, child: str, parent: str) -> None:
        low, high = self._existing(child), self._existing(parent)
        self._own_above.setdefault(low, []).append(high)
        self._own_below.setdefault(high, []).append(low)

    def _existing(self, name: str) -> int:
        number = self.number(name)
        if number is None:
            raise ConfigError(f"everyday.toml has {name!r}, which is no synset; correct it.")
        return number
