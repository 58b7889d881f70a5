"""Write `lexicon/nouns.npz`: WordNet's nouns as arrays that are read without parsing.

    python training/build_lexicon.py [FOLDER]

Needs Debian's `wordnet-base`. The same WordNet and zlib give the same file. Left out are the
instances (named persons, places and things), which no detector knows. What the arrays mean is said
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
TOPS = 3  # lexicographer file of the broadest synsets, of which some are things
SPECIAL = {5: ANIMAL, 13: PRODUCT, 18: PERSON, 20: PLANT}


def build(net: wordnet.WordNet, counts: Mapping[tuple[str, int], int]) -> dict[str, NDArray]:
    """The arrays, by name."""
    order = _by_descent(net)
    number = {synset: index for index, synset in enumerate(order)}
    lemmas = sorted(
        (word for word in net.synsets if any(s in number for s in net.synsets[word])),
        key=lambda word: (_key(word), word),
    )
    senses = [
        (word, rank, synset)
        for word in lemmas
        for rank, synset in enumerate(net.synsets[word], 1)
        if synset in number
    ]
    parents = [sorted(number[above] for above in net.broader[synset]) for synset in order]
    return {
        "lemmas": _text(lemmas),
        "irregular": _text([f"{many} {one}" for many, one in _irregular(set(lemmas))]),
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
        "synset_parents": np.array([len(above) for above in parents], np.uint8),
        "parent_step": np.array(
            [index - each for index, above in enumerate(parents) for each in above], np.int32
        ),
        "hyponyms": _hyponyms(parents),
    }


def write(arrays: Mapping[str, NDArray], path: Path) -> None:
    """An `.npz` file without the time of day, compressed as far as zlib goes."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            buffer = io.BytesIO()
            np.save(buffer, array, allow_pickle=False)
            info = zipfile.ZipInfo(f"{name}.npy")
            archive.writestr(info, buffer.getvalue(), zipfile.ZIP_DEFLATED, compresslevel=9)


def _by_descent(net: wordnet.WordNet) -> list[str]:
    """Synsets depth first from the root: parents are near their children, so steps are short."""
    below: dict[str, list[str]] = {}
    for synset, above in net.broader.items():
        for each in above:
            if synset not in net.instances:
                below.setdefault(each, []).append(synset)
    stack = [synset for synset, above in net.broader.items() if not above]
    found: dict[str, None] = {}
    while stack:
        synset = stack.pop()
        if synset not in found:
            found[synset] = None
            stack += reversed(below.get(synset, ()))
    return list(found)


def _hyponyms(parents: list[list[int]]) -> NDArray:
    """How many different synsets lie below each."""
    counts = np.zeros(len(parents), np.int32)
    for index in range(len(parents)):
        above, level = set(), set(parents[index])
        while level:
            above |= level
            level = {each for one in level for each in parents[one]} - above
        counts[list(above)] += 1
    return counts


def _kind(net: wordnet.WordNet, synset: str) -> int:
    file = net.lexicon[synset]
    above = {net.words[each][0] for each in (synset, *net.ancestors(synset))}
    if file == TOPS:
        if above & {"person", "animal"}:
            return PERSON if "person" in above else ANIMAL
        return THING if above & {"object", "substance", "thing"} else ABSTRACT
    if above & SKINS:
        return PRODUCT
    return SPECIAL.get(file, THING if file in wordnet.CONCRETE else ABSTRACT)


def _irregular(lemmas: set[str]) -> list[tuple[str, str]]:
    return sorted((many, one) for many, one in wordnet.irregular().items() if one in lemmas)


def _key(lemma: str) -> str:
    """What a lemma is found by: as `openvocab.vocabulary._nouns` makes it."""
    return lemma.replace("-", " ").replace("'", "").replace(".", "")


def _text(lines: list[str]) -> NDArray:
    return np.frombuffer("\n".join(lines).encode(), np.uint8)


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "lexicon"
    target.mkdir(exist_ok=True)
    write(build(wordnet.read(), wordnet.counts()), target / "nouns.npz")
    (target / "LICENSE-WordNet").write_text(wordnet.licence(), "utf-8")
