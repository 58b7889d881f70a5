"""Write the 1,000 distractor classes: everyday things that are none of COCO's 80, nor kinds of them.

    python training/distractors.py --coco FOLDER > configs/classes/distractors.txt

Animals, artifacts, food and plants whose commonest sense occurs in WordNet's sense-tagged texts, the
commonest first (Debian's `wordnet-base`).
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import names
import wordnet

KINDS = frozenset({5, 6, 13, 20})  # lexicographer files: animal, artifact, food, plant
COUNT = 1000
# What stands in half of all photos, is a part of COCO's things, or too broad to be looked for.
NOT = frozenset(
    "animal artifact article beast being bird body building construction creature device equipment "
    "fixture food fruit furniture goods instrument line machine material meal object part piece "
    "plant product room side stuff surface system thing top tree unit vehicle way vegetable wall "
    "floor window door street road wheel tool meat flower dish glass field area place cover "
    "covering structure clothing clothes dress garment apparatus implement container vessel "
    "machinery facility installation ware work set sheet strip structure support".split()
)


def distractors(coco: Path) -> Iterator[str]:
    """Words, the commonest first."""
    net = wordnet.read()
    meant = {
        net.synsets[name][names.MEANT.get(name, 0)]
        for name in names.coco(coco)
        if name in net.synsets
    }
    above = {each for synset in meant for each in net.ancestors(synset)}
    own = {word for synset in meant for word in net.words[synset]} | set(names.coco(coco))
    lasts = {name.rpartition(" ")[2] for name in own}
    for word in _by_count(net):
        synset = net.synsets[word][0]
        if (
            net.lexicon[synset] not in KINDS
            or word in own | NOT
            or word.rpartition(" ")[2] in lasts
        ):
            continue
        if (
            word.startswith("human")
            or synset in above | meant
            or meant & set(net.ancestors(synset))
        ):
            continue
        yield word


def _by_count(net: wordnet.WordNet) -> list[str]:
    """Words by how often their commonest noun sense occurs in the tagged texts."""
    counts: dict[str, int] = {}
    for line in (wordnet.FOLDER / "cntlist.rev").read_text(encoding="utf-8").splitlines():
        key, _, count = line.split()
        word, _, sense = key.partition("%")
        if sense.startswith("1:"):
            word = word.replace("_", " ")
            counts[word] = max(counts.get(word, 0), int(count))
    known = [word for word in counts if word in net.synsets and word.isascii()]
    return sorted(known, key=lambda word: (-counts[word], word))


def main() -> None:
    """Print them, one a line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--coco", type=Path, required=True, help="folder of labelled COCO photos")
    found = list(distractors(parser.parse_args().coco))[:COUNT]
    lines = [
        "# Everyday objects that are neither COCO classes nor kinds of them, the most common first.",
        "# Chosen by training/distractors.py from WordNet 3.0, (c) 2006 Princeton University, free for",
        "# any use with this notice: https://wordnet.princeton.edu/license-and-commercial-use",
    ]
    sys.stdout.write("\n".join([*lines, *found]) + "\n")


if __name__ == "__main__":
    main()
