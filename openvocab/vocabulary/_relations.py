"""How words are related to labels: the same, a kind, broader, or more or less near."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Lineage", "Meaning", "Meanings", "Relations", "compare"]

# A rare sense may be meant, but is less likely to be: an eighth of the commonest's share halves the
# nearness.
_NEAR_POWER = 1 / 3
# Of a phrase known by its head noun only ("old vehicle"), a kind of the head may be a kind or not.
_PERHAPS = np.float32(0.5)

Array = NDArray[np.float32]


class Meaning(NamedTuple):
    """A synset by its number, its share among the senses of a phrase, and `Sense.is_head`."""

    synset: int
    weight: float = 1.0
    is_head: bool = False


Meanings = tuple[Meaning, ...]


class Lineage(NamedTuple):
    """A synset with all above it, itself first, and its information content in [0, 1]."""

    synsets: tuple[int, ...]
    content: float


@dataclass(frozen=True, slots=True, eq=False)
class Relations:
    """K words by L labels, float32 in [0, 1].

    The first three say how much of the word's meaning is in the relation: shares of its senses,
    times those of the label's. A pair has at most 1 of all three.
    """

    same: Array
    """`(K, L)`: word and label mean the same; 1 where they are the same string."""
    kind: Array
    """`(K, L)`: the word is a kind of the label (boy, of person)."""
    broader: Array
    """`(K, L)`: the label is a kind of the word (dog, of animal); half of it for a word of which only
    the head noun is known (dog, of "stray animal")."""
    nearness: Array
    """`(K, L)`: how near the meanings are, whatever the relation: 1 for the same synset, else how
    specific the nearest synset above both is; that of the pair of senses where it is largest, if
    both are common.

    Source: Resnik, "Using information content to evaluate semantic similarity in a taxonomy"
    (IJCAI 1995), with the content of Seco et al. (ECAI 2004), which is in [0, 1]. Measures that
    divide by the content of word and label (Lin's) have broad labels too near: for them, a tree is
    nearer to "person" than to "potted plant".
    """
    known: NDArray[np.bool_]
    """`(K,)`: the lexicon has the word or its head noun."""
    label_known: NDArray[np.bool_]
    """`(L,)`: the same of the labels."""


def compare(
    words: Sequence[Meanings],
    labels: Sequence[Meanings],
    same_name: NDArray[np.bool_],
    lineage: Callable[[int], Lineage],
) -> Relations:
    """Compare every sense of the words with every sense of the labels, and sum by pair.

    Args:
        words: the senses of K words; none for an unknown one.
        labels: the senses of L labels.
        same_name: `(K, L)`, whether they are the same string.
        lineage: a synset with all above it.
    """
    rows, columns = _Senses(words), _Senses(labels)
    shape = len(words), len(labels)
    same, kind, broader, nearness = (np.zeros(shape, np.float32) for _ in range(4))
    relations = Relations(same, kind, broader, nearness, rows.known, columns.known)
    if rows.size and columns.size:
        _compare_senses(relations, rows, columns, lineage)
    np.minimum(same, 1, out=same)  # sums of shares are rounded
    same[same_name] = nearness[same_name] = 1
    np.clip(kind, 0, 1 - same, out=kind)
    np.clip(broader, 0, 1 - same - kind, out=broader)
    return relations


class _Senses:
    """The senses of several phrases in a row."""

    def __init__(self, phrases: Sequence[Meanings]) -> None:
        flat = [meaning for meanings in phrases for meaning in meanings]
        counts = np.array([len(meanings) for meanings in phrases], np.int64)
        self.size = len(flat)
        self.known = counts > 0
        self.starts = (np.cumsum(counts) - counts)[self.known]
        self.synsets = np.array([meaning.synset for meaning in flat], np.int64)
        self.weights = np.array([meaning.weight for meaning in flat], np.float32)
        self.heads = np.array([meaning.is_head for meaning in flat], np.bool_)
        if self.size:
            largest = np.maximum.reduceat(self.weights, self.starts)
            of_phrase = np.repeat(largest, counts[self.known])
            self.nearness = (self.weights / of_phrase) ** np.float32(_NEAR_POWER)


def _compare_senses(
    relations: Relations, rows: _Senses, columns: _Senses, lineage: Callable[[int], Lineage]
) -> None:
    row_trees = [lineage(synset) for synset in rows.synsets.tolist()]
    column_trees = [lineage(synset) for synset in columns.synsets.tolist()]
    equal = rows.synsets[:, None] == columns.synsets
    below = _is_below(row_trees, columns.synsets)
    above = _is_below(column_trees, rows.synsets).T
    row_heads, column_heads = rows.heads[:, None], columns.heads
    same = equal & ~row_heads & ~column_heads
    kind = (below & ~equal & ~column_heads) | (equal & row_heads & ~column_heads)
    broader = np.where(row_heads, _PERHAPS, np.float32(1)) * (above & ~equal)
    broader[equal & column_heads & ~row_heads] = 1
    product = rows.weights[:, None] * columns.weights
    where = np.ix_(rows.known, columns.known)
    # "sofa" and "couch" have all their senses in common: the overlap of their shares, not the
    # chance that two draws are the same.
    smaller = np.minimum(rows.weights[:, None], columns.weights)
    relations.same[where] = _pool(np.add, same * smaller, rows, columns)
    relations.kind[where] = _pool(np.add, kind * product, rows, columns)
    relations.broader[where] = _pool(np.add, broader * product, rows, columns)
    near = np.where(equal, np.float32(1), _shared_content(row_trees, column_trees, lineage))
    near *= rows.nearness[:, None] * columns.nearness
    relations.nearness[where] = _pool(np.maximum, near, rows, columns)


def _pool(function: np.ufunc, values: Array, rows: _Senses, columns: _Senses) -> Array:
    by_word = function.reduceat(values, rows.starts, axis=0)
    return function.reduceat(by_word, columns.starts, axis=1)


def _is_below(trees: Sequence[Lineage], synsets: NDArray[np.int64]) -> NDArray[np.bool_]:
    """`(trees, synsets)`: whether a synset is above or the same."""
    places: dict[int, list[int]] = {}
    for column, synset in enumerate(synsets.tolist()):
        places.setdefault(synset, []).append(column)
    result = np.zeros((len(trees), len(synsets)), np.bool_)
    for row, tree in enumerate(trees):
        for synset in tree.synsets:
            if synset in places:
                result[row, places[synset]] = True
    return result


def _shared_content(
    rows: Sequence[Lineage], columns: Sequence[Lineage], lineage: Callable[[int], Lineage]
) -> Array:
    """`(rows, columns)`: the content of the nearest synset above both."""
    numbers = {synset: at for at, synset in enumerate({s for t in columns for s in t.synsets})}
    content = np.array([lineage(synset).content for synset in numbers], np.float32)
    # Transposed, so that the loop below takes whole rows.
    contents = np.zeros((len(numbers), len(rows)), np.float32)
    for row, tree in enumerate(rows):
        places = [numbers[synset] for synset in tree.synsets if synset in numbers]
        contents[places, row] = content[places]
    shared = np.empty((len(columns), len(rows)), np.float32)
    for column, tree in enumerate(columns):
        shared[column] = contents[[numbers[synset] for synset in tree.synsets]].max(axis=0)
    return shared.T
