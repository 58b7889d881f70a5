"""WordNet's nouns as arrays, read from `lexicon/nouns.npz` without parsing."""

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from openvocab.errors import OpenVocabError

__all__ = ["Kind", "NounSense", "Nouns"]

# Look-ups ignore hyphens, apostrophes and full stops.
_SPACES, _DROPPED = bytes.maketrans(b"-", b" "), b"'."


class Kind(IntEnum):
    """What a synset is, as far as a photo is concerned."""

    ABSTRACT = 0
    THING = 1
    PERSON = 2
    ANIMAL = 3
    PRODUCT = 4  # food, fur and leather
    PLANT = 5


@dataclass(frozen=True, slots=True)
class NounSense:
    """One meaning of one word."""

    synset: int
    count: int
    """How often WordNet's sense-tagged texts have the word in this sense; at most 255."""


@dataclass(frozen=True, eq=False)
class Nouns:
    """N nouns with W senses, and S synsets with their hypernyms.

    Source: WordNet 3.0 (Princeton University), by `training/build_lexicon.py`. Synsets are numbered
    depth first from `entity`, the root, so most are close to their hypernyms.
    """

    lemmas: bytes
    """The nouns, one per line, sorted by the key that they are looked up by."""
    irregular: dict[str, str]
    """Irregular plurals and their singulars."""
    sense_start: NDArray[np.int64]
    """`(N + 1,)`: the senses of noun `i` are the rows `sense_start[i]` to `sense_start[i + 1]`."""
    sense_synset: NDArray[np.int32]
    """`(W,)`, the most frequent sense of each noun first."""
    sense_rank: NDArray[np.uint8]
    """`(W,)`, the number of the sense in WordNet, from 1; instances are left out."""
    sense_names: NDArray[np.bool_]
    """`(W,)`, whether the noun is the first word of the synset, which names it."""
    sense_count: NDArray[np.uint8]
    """`(W,)`, see `NounSense.count`."""
    kind: NDArray[np.uint8]
    """`(S,)`, the `Kind` of each synset."""
    hyponyms: NDArray[np.int32]
    """`(S,)`, how many distinct synsets are below."""
    parent_start: NDArray[np.int64]
    """`(S + 1,)`, as `sense_start`."""
    parents: NDArray[np.int64]
    """The hypernyms of all synsets, one after the other."""

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read the file.

        Raises:
            OpenVocabError: it is missing or damaged.
        """
        try:
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
                return cls._from_arrays(arrays)
        # NumPy, zipfile and zlib raise a dozen kinds of errors on a damaged file.
        except Exception as error:
            raise OpenVocabError(
                f"{path} is not a readable lexicon ({type(error).__name__}); "
                "install openvocab again."
            ) from error

    @classmethod
    def _from_arrays(cls, arrays: Any) -> Self:  # noqa: ANN401  NpzFile has no item types
        pairs = arrays["irregular"].tobytes().decode().split("\n")
        parent_start = _starts(arrays["synset_parents"])
        children = np.repeat(np.arange(len(parent_start) - 1), arrays["synset_parents"])
        ranks = arrays["sense_rank"]
        return cls(
            lemmas=arrays["lemmas"].tobytes(),
            irregular=dict(pair.rsplit(" ", 1) for pair in pairs),
            sense_start=_starts(arrays["lemma_senses"]),
            sense_synset=arrays["sense_synset"],
            sense_rank=ranks,
            sense_names=np.unpackbits(arrays["sense_names"], count=len(ranks)).view(np.bool_),
            sense_count=arrays["sense_count"],
            kind=arrays["synset_kind"],
            hyponyms=arrays["hyponyms"],
            parent_start=parent_start,
            parents=children - arrays["parent_step"],
        )

    @cached_property
    def _keys(self) -> list[bytes]:
        return self.lemmas.translate(_SPACES, _DROPPED).split(b"\n")

    @cached_property
    def _line_ends(self) -> NDArray[np.int64]:
        breaks = np.flatnonzero(np.frombuffer(self.lemmas, np.uint8) == ord("\n"))
        return np.concatenate([[-1], breaks, [len(self.lemmas)]])

    @cached_property
    def _synset_name_senses(self) -> NDArray[np.int64]:
        """`(S,)`, the sense row that names the synset."""
        rows = np.flatnonzero(self.sense_names)
        result = np.zeros(len(self.kind), np.int64)
        result[self.sense_synset[rows]] = rows
        return result

    @cached_property
    def _children(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        order = np.argsort(self.parents, kind="stable")
        children = np.repeat(np.arange(len(self.kind)), np.diff(self.parent_start))[order]
        return _starts(np.bincount(self.parents, minlength=len(self.kind))), children

    def find(self, key: str) -> list[NounSense]:
        """The senses of a noun in lower case without hyphens; empty if WordNet lacks it."""
        rows = self._rows(key)
        counts: dict[int, int] = {}
        synsets, tagged = self.sense_synset[rows].tolist(), self.sense_count[rows].tolist()
        for synset, count in zip(synsets, tagged, strict=True):
            counts[synset] = max(count, counts.get(synset, 0))
        return [NounSense(synset, count) for synset, count in counts.items()]

    def _rows(self, key: str) -> slice:
        """The senses of all nouns with a key: "x-ray" and "x ray" share one."""
        encoded = key.encode(errors="replace")
        start = bisect_left(self._keys, encoded)
        end = bisect_right(self._keys, encoded, lo=start)
        return slice(int(self.sense_start[start]), int(self.sense_start[end]))

    def name(self, synset: int) -> str:
        """`dog.n.01`: the first word and the number of its sense."""
        row = int(self._synset_name_senses[synset])
        return f"{self.word(synset).replace(' ', '_')}.n.{self.sense_rank[row]:02d}"

    def word(self, synset: int) -> str:
        """The first word of a synset."""
        row = self._synset_name_senses[synset]
        line = int(np.searchsorted(self.sense_start, row, side="right")) - 1
        start, end = self._line_ends[line : line + 2]
        return self.lemmas[start + 1 : end].decode()

    def count(self, synset: int) -> int:
        """How often the first word of a synset occurs in its sense; at most 255."""
        return int(self.sense_count[self._synset_name_senses[synset]])

    def number(self, name: str) -> int | None:
        """The synset of a name; None if there is none.

        Instances and other parts of speech are not included.
        """
        word, _, rank = name.replace("_", " ").rpartition(".n.")
        rows = self._rows(word.encode().translate(_SPACES, _DROPPED).decode())
        if not rank.isdecimal():
            return None
        is_match = self.sense_names[rows] & (self.sense_rank[rows] == int(rank))
        return next(iter(self.sense_synset[rows][is_match].tolist()), None)

    def above(self, synset: int) -> list[int]:
        """The hypernyms of a synset."""
        start, end = self.parent_start[synset], self.parent_start[synset + 1]
        return self.parents[start:end].tolist()

    def below(self, synset: int) -> list[int]:
        """The hyponyms of a synset."""
        starts, children = self._children
        return children[starts[synset] : starts[synset + 1]].tolist()


def _starts(counts: NDArray[Any]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
