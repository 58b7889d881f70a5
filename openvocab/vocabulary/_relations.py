"""How words are related to labels: the same, a kind of it, broader, and how near."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Lineage", "Meaning", "Meanings", "Relations", "compare"]

# Rare senses are less likely to be meant: one with an eighth of the share of the most frequent
# sense has half its nearness.
_NEAR_POWER = 1 / 3
# If the lexicon has only the head noun of a word ("old vehicle"), a label that is a kind of the
# head noun may or may not be a kind of the word.
_HEAD_ONLY_WEIGHT = np.float32(0.5)

Array = NDArray[np.float32]


class Meaning(NamedTuple):
    """A synset number, its share among the senses of a phrase, and `Sense.is_head`."""

    synset: int
    weight: float = 1.0
    is_head: bool = False


Meanings = tuple[Meaning, ...]


class Lineage(NamedTuple):
    """A synset, followed by all its hypernyms, and its information content in [0, 1]."""

    synsets: tuple[int, ...]
    content: float


@dataclass(frozen=True, slots=True, eq=False)
class Relations:
    """K words by L labels, float32 in [0, 1].

    `same`, `kind` and `broader` are the part of the word's meaning that is in the relation: the
    shares of its senses times those of the label's senses. The three sum to at most 1 per pair.
    """

    same: Array
    """`(K, L)`: word and label mean the same; 1 where they are the same string."""
    kind: Array
    """`(K, L)`: the word is a kind of the label (boy, of person)."""
    broader: Array
    """`(K, L)`: the label is a kind of the word (dog, of animal); halved if the lexicon has only
    the head noun of the word (dog, of "stray animal")."""
    nearness: Array
    """`(K, L)`: similarity of the meanings, whatever the relation: 1 for the same synset, else the
    information content of their nearest common hypernym. It is lower for rare senses; of all pairs
    of senses, the largest value counts.

    Source: Resnik, "Using information content to evaluate semantic similarity in a taxonomy"
    (IJCAI 1995), with the content of Seco et al. (ECAI 2004), which is in [0, 1]. Measures that
    divide by the content of word and label, such as Lin's, overrate broad labels: with them, "tree"
    is nearer to "person" than to "potted plant".
    """
    known: NDArray[np.bool_]
    """`(K,)`: the lexicon has the word or its head noun."""
    label_known: NDArray[np.bool_]
    """`(L,)`: the lexicon has the label or its head noun."""


def compare(
    words: Sequence[Meanings],
    labels: Sequence[Meanings],
    same_name: NDArray[np.bool_],
    lineage: Callable[[int], Lineage],
) -> Relations:
    """Compare every sense of the words with every sense of the labels, and sum by pair.

    Args:
        words: the senses of K words; empty for an unknown word.
        labels: the senses of L labels.
        same_name: `(K, L)`, whether they are the same string.
        lineage: looks up a synset with its hypernyms.
    """
    rows, columns = _Senses(words), _Senses(labels)
    shape = (len(words), len(labels))
    same, kind, broader, nearness = (np.zeros(shape, np.float32) for _ in range(4))
    relations = Relations(same, kind, broader, nearness, rows.is_known, columns.is_known)
    if rows.size and columns.size:
        _compare_senses(relations, rows, columns, lineage)
    np.minimum(same, 1, out=same)  # sums of shares may exceed 1 by rounding
    same[same_name] = nearness[same_name] = 1
    np.clip(kind, 0, 1 - same, out=kind)
    np.clip(broader, 0, 1 - same - kind, out=broader)
    return relations


class _Senses:
    """The senses of several phrases, concatenated."""

    def __init__(self, phrases: Sequence[Meanings]) -> None:
        senses = [meaning for meanings in phrases for meaning in meanings]
        counts = np.array([len(meanings) for meanings in phrases], np.int64)
        self.size = len(senses)
        self.is_known = counts > 0
        self.starts = (np.cumsum(counts) - counts)[self.is_known]
        self.synsets = np.array([meaning.synset for meaning in senses], np.int64)
        self.weights = np.array([meaning.weight for meaning in senses], np.float32)
        self.is_head = np.array([meaning.is_head for meaning in senses], np.bool_)
        if self.size:
            max_weights = np.maximum.reduceat(self.weights, self.starts)  # by phrase
            relative_weights = self.weights / np.repeat(max_weights, counts[self.is_known])
            self.nearness = relative_weights ** np.float32(_NEAR_POWER)


def _compare_senses(
    relations: Relations, rows: _Senses, columns: _Senses, lineage: Callable[[int], Lineage]
) -> None:
    row_lineages = [lineage(synset) for synset in rows.synsets.tolist()]
    column_lineages = [lineage(synset) for synset in columns.synsets.tolist()]
    equal = rows.synsets[:, None] == columns.synsets
    below = _is_below(row_lineages, columns.synsets)
    above = _is_below(column_lineages, rows.synsets).T
    row_is_head, column_is_head = rows.is_head[:, None], columns.is_head
    same = equal & ~row_is_head & ~column_is_head
    kind = (below & ~equal & ~column_is_head) | (equal & row_is_head & ~column_is_head)
    broader = np.where(row_is_head, _HEAD_ONLY_WEIGHT, np.float32(1)) * (above & ~equal)
    broader[equal & column_is_head & ~row_is_head] = 1
    joint_weights = rows.weights[:, None] * columns.weights
    known_pairs = np.ix_(rows.is_known, columns.is_known)
    # The overlap of the shares and not their product, so that words with the same senses ("sofa"
    # and "couch") get 1.
    min_weights = np.minimum(rows.weights[:, None], columns.weights)
    relations.same[known_pairs] = _pool(np.add, same * min_weights, rows, columns)
    relations.kind[known_pairs] = _pool(np.add, kind * joint_weights, rows, columns)
    relations.broader[known_pairs] = _pool(np.add, broader * joint_weights, rows, columns)
    shared_content = _shared_content(row_lineages, column_lineages, lineage)
    nearness = np.where(equal, np.float32(1), shared_content)
    nearness *= rows.nearness[:, None] * columns.nearness
    relations.nearness[known_pairs] = _pool(np.maximum, nearness, rows, columns)


def _pool(function: np.ufunc, values: Array, rows: _Senses, columns: _Senses) -> Array:
    """Reduce values of pairs of senses to pairs of known phrases."""
    by_word = function.reduceat(values, rows.starts, axis=0)
    return function.reduceat(by_word, columns.starts, axis=1)


def _is_below(lineages: Sequence[Lineage], synsets: NDArray[np.int64]) -> NDArray[np.bool_]:
    """`(lineages, synsets)`: whether the lineage contains the synset."""
    columns_by_synset: dict[int, list[int]] = {}
    for column, synset in enumerate(synsets.tolist()):
        columns_by_synset.setdefault(synset, []).append(column)
    result = np.zeros((len(lineages), len(synsets)), np.bool_)
    for row, lineage in enumerate(lineages):
        for synset in lineage.synsets:
            if synset in columns_by_synset:
                result[row, columns_by_synset[synset]] = True
    return result


def _shared_content(
    rows: Sequence[Lineage], columns: Sequence[Lineage], lineage: Callable[[int], Lineage]
) -> Array:
    """`(rows, columns)`: the content of the nearest common hypernym."""
    column_synsets = {synset for column in columns for synset in column.synsets}
    indices = {synset: index for index, synset in enumerate(column_synsets)}
    content = np.array([lineage(synset).content for synset in indices], np.float32)
    # (synsets, rows), the content of those synsets that are in the lineage of the row, else 0.
    # Transposed, so that the last loop reads whole rows of memory.
    row_content = np.zeros((len(indices), len(rows)), np.float32)
    for row_index, row in enumerate(rows):
        common = [indices[synset] for synset in row.synsets if synset in indices]
        row_content[common, row_index] = content[common]
    shared = np.empty((len(columns), len(rows)), np.float32)
    for column_index, column in enumerate(columns):
        column_rows = [indices[synset] for synset in column.synsets]
        shared[column_index] = row_content[column_rows].max(axis=0)
    return shared.T
