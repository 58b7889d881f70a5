"""`SynsetTree`: the hierarchy of WordNet's synsets and our own."""

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
        """Add the synsets and links of `everyday`; comments in the file explain its entries.

        Raises:
            ConfigError: the table names a synset that does not exist.
        """
        self.nouns = nouns
        self._wordnet_size = len(nouns.kind)
        self._own_words: list[str] = []
        self._added_parents: dict[int, list[int]] = {}
        self._added_children: dict[int, list[int]] = {}
        self._removed_links: set[tuple[int, int]] = set()  # (child, parent)
        self._meanings: dict[str, tuple[int, ...]] = {}
        self._add_synsets(everyday.get("synsets", {}))
        for child, parent in everyday.get("above", {}).items():
            self._link(child, parent)
        for child, parent in everyday.get("not_above", {}).items():
            self._removed_links.add((self._require(child), self._require(parent)))
        for word, names in everyday.get("meanings", {}).items():
            synset_names = [names] if isinstance(names, str) else names
            self._meanings[phrase_key(word)] = tuple(map(self._require, synset_names))
        self.lineage = cache(self._lineage)

    def find(self, key: str) -> list[NounSense]:
        """The senses of a word, from our table if it has the word; empty for an unknown word."""
        if key in self._meanings:
            return [NounSense(synset, 0) for synset in self._meanings[key]]
        return self.nouns.find(key)

    def number(self, name: str) -> int | None:
        """The synset of a name, such as `dog.n.01`; None for an unknown name."""
        word, _, rank = name.rpartition(".n.")
        if rank == "00" and word.replace("_", " ") in self._own_words:
            return self._wordnet_size + self._own_words.index(word.replace("_", " "))
        return self.nouns.number(name)

    def name(self, synset: int) -> str:
        """The name, such as `dog.n.01`; our own synsets have sense number 00."""
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
        wordnet_parents = () if self._is_own(synset) else self.nouns.above(synset)
        for parent in (*wordnet_parents, *self._added_parents.get(synset, ())):
            if (synset, parent) not in self._removed_links:
                yield parent

    def below(self, synset: int) -> Iterator[int]:
        """The hyponyms of a synset."""
        wordnet_children = () if self._is_own(synset) else self.nouns.below(synset)
        for child in (*wordnet_children, *self._added_children.get(synset, ())):
            if (child, synset) not in self._removed_links:
                yield child

    def _lineage(self, synset: int) -> Lineage:
        synsets = {synset: None}  # a dict keeps the order
        for parent in self.above(synset):
            synsets |= dict.fromkeys(self.lineage(parent).synsets)
        return Lineage(tuple(synsets), self._content(synset))

    def _content(self, synset: int) -> float:
        """Information content in [0, 1]: 1 without hyponyms, 0 at the root.

        Source: Seco, Veale and Hayes, "An intrinsic information content metric for semantic
        similarity in WordNet" (ECAI 2004).
        """
        return 1 - log(self._below_count(synset) + 1) / log(self._wordnet_size)

    def _below_count(self, synset: int) -> int:
        if not self._is_own(synset):
            return int(self.nouns.hyponyms[synset])  # without the few that we add
        # A synset below two of the children is counted twice, which hardly changes the logarithm.
        children = self._added_children.get(synset, ())
        return sum(1 + self._below_count(child) for child in children)

    def _is_own(self, synset: int) -> bool:
        return synset >= self._wordnet_size

    def _add_synsets(self, table: Mapping[str, Mapping[str, Iterable[str]]]) -> None:
        for name, entry in table.items():  # all names first, as entries refer to each other
            number = self._wordnet_size + len(self._own_words)
            self._own_words.append(name)
            for word in (name, *entry.get("words", ())):
                self._meanings[phrase_key(word)] = (number,)
        for name, entry in table.items():
            own_name = f"{name}.n.00"
            for parent in entry.get("above", ()):
                self._link(own_name, parent)
            for child in entry.get("below", ()):
                self._link(child, own_name)

    def _link(self, child: str, parent: str) -> None:
        child_number, parent_number = self._require(child), self._require(parent)
        self._added_parents.setdefault(child_number, []).append(parent_number)
        self._added_children.setdefault(parent_number, []).append(child_number)

    def _require(self, name: str) -> int:
        number = self.number(name)
        if number is None:
            raise ConfigError(f"everyday.toml has {name!r}, which is no synset; correct it.")
        return number
