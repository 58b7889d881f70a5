"""Write `lexicon/nouns.npz`: WordNet's nouns as arrays, which load without parsing.

    python training/build_lexicon.py [FOLDER]

Needs Debian's `wordnet-base`. The same WordNet and zlib give the same file. Instances (named
persons, places and things) are left out: no detector has them as labels. The arrays are documented
in `openvocab/vocabulary/_nouns.py`, which reads them.
"""

import io
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import wordnet
from numpy.typing import NDArray

ROOT = Path(__file__).parents[1]
ABSTRACT, THING, PERSON, ANIMAL, PRODUCT, PLANT = range(6)  # as `openvocab.vocabulary._nouns.Kind`
SKINS = frozenset({"animal skin", "animal product", "leather"})
TOPS = 3  # lexicographer file of the broadest synsets, some of which are things
KIND_OF_FILE = {5: ANIMAL, 13: PRODUCT, 18: PERSON, 20: PLANT}


def build(net: wordnet.WordNet, counts: Mapping[tuple[str, int], int]) -> dict[str, NDArray]:
    """The arrays, by name."""
    order = _by_descent(net)
    number = {synset: index for index, synset in enumerate(order)}
    lemmas = sorted(
        (word for word, synsets in net.synsets.items() if any(map(number.__contains__, synsets))),
        key=lambda word: (_key(word), word),
    )
    senses = [
        (word, rank, synset)
        for word in lemmas
        for rank, synset in enumerate(net.synsets[word], 1)
        if synset in number
    ]
    parents = [sorted(number[parent] for parent in net.broader[synset]) for synset in order]
    return {
        "lemmas": _text(lemmas),
        "irregular": _text(
            [f"{plural} {singular}" for plural, singular in _irregular(set(lemmas))]
        ),
        "lemma_senses": np.array(
            [sum(synset in number for synset in net.synsets[word]) for word in lemmas], np.uint8
        ),
        "sense_synset": np.array([number[synset] for _, _, synset in senses], np.int32),
        "sense_rank": np.array([rank for _, rank, _ in senses], np.uint8),
        "sense_names": np.packbits([net.words[synset][0] == word for word, _, synset in senses]),
        "sense_count": np.array(
            [min(counts.get((word, rank), 0), 255) for word, rank, _ in senses], np.uint8
        ),
        "synset_kind": np.array([_kind(net, synset) for synset in order], np.uint8),
        "synset_parents": np.array([len(indices) for indices in parents], np.uint8),
        "parent_step": np.array(
            [child - parent for child, indices in enumerate(parents) for parent in indices],
            np.int32,
        ),
        "hyponyms": _hyponyms(parents),
    }


def write(arrays: Mapping[str, NDArray], path: Path) -> None:
    """Write an `.npz` file without timestamps, at the highest compression level."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            buffer = io.BytesIO()
            np.save(buffer, array, allow_pickle=False)
            info = zipfile.ZipInfo(f"{name}.npy")
            archive.writestr(info, buffer.getvalue(), zipfile.ZIP_DEFLATED, compresslevel=9)


def _by_descent(net: wordnet.WordNet) -> list[str]:
    """Synsets depth first from the root, so that most are close to their parents."""
    children: dict[str, list[str]] = {}
    for synset, parents in net.broader.items():
        for parent in parents:
            if synset not in net.instances:
                children.setdefault(parent, []).append(synset)
    stack = [synset for synset, parents in net.broader.items() if not parents]
    visited: dict[str, None] = {}  # a dict keeps the order
    while stack:
        synset = stack.pop()
        if synset not in visited:
            visited[synset] = None
            stack += reversed(children.get(synset, ()))
    return list(visited)


def _hyponyms(parents: list[list[int]]) -> NDArray:
    """The number of distinct synsets below each synset."""
    counts = np.zeros(len(parents), np.int32)
    for index in range(len(parents)):
        ancestors, level = set(), set(parents[index])
        while level:
            ancestors |= level
            level = {parent for child in level for parent in parents[child]} - ancestors
        counts[list(ancestors)] += 1
    return counts


def _kind(net: wordnet.WordNet, synset: str) -> int:
    file = net.lexicon[synset]
    names = {net.words[ancestor][0] for ancestor in (synset, *net.ancestors(synset))}
    if file == TOPS:
        if names & {"person", "animal"}:
            return PERSON if "person" in names else ANIMAL
        return THING if names & {"object", "substance", "thing"} else ABSTRACT
    if names & SKINS:
        return PRODUCT
    return KIND_OF_FILE.get(file, THING if file in wordnet.CONCRETE else ABSTRACT)


def _irregular(lemmas: set[str]) -> list[tuple[str, str]]:
    return sorted(
        (plural, singular) for plural, singular in wordnet.irregular().items() if singular in lemmas
    )


def _key(lemma: str) -> str:
    """The look-up key of a lemma, the same as in `openvocab.vocabulary._nouns`."""
    return lemma.replace("-", " ").replace("'", "").replace(".", "")


def _text(lines: list[str]) -> NDArray:
    return np.frombuffer("\n".join(lines).encode(), np.uint8)


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "lexicon"
    target.mkdir(exist_ok=True)
    write(build(wordnet.read(), wordnet.counts()), target / "nouns.npz")
    (target / "LICENSE-WordNet").write_text(wordnet.licence(), "utf-8")
