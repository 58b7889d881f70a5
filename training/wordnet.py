"""WordNet's nouns, read from its database files (Debian: `wordnet-base`; WordNet licence)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["CONCRETE", "THINGS", "WordNet", "counts", "irregular", "licence", "read"]

FOLDER = Path("/usr/share/wordnet")
# Lexicographer files of things one can photograph: the tops (person, animal, plant), animal,
# artifact, body, food, object, person, plant, substance. See `man 5WN lexnames`.
CONCRETE = frozenset({3, 5, 6, 8, 13, 17, 18, 20, 27})
THINGS = frozenset({5, 6, 13})  # animal, artifact, food


@dataclass(frozen=True, slots=True)
class WordNet:
    """Nouns by word; every synset is named by its offset in `data.noun`."""

    words: dict[str, tuple[str, ...]]
    """Synset to its words."""
    lexicon: dict[str, int]
    """Synset to the number of its lexicographer file."""
    synsets: dict[str, tuple[str, ...]]
    """Word to its synsets, the commonest sense first."""
    broader: dict[str, tuple[str, ...]]
    """Synset to its hypernyms."""
    common: frozenset[str]
    """Words that occur in WordNet's sense-tagged texts."""
    instances: frozenset[str]
    """Synsets of a single named person, place or thing."""

    def is_concrete(self, word: str) -> bool:
        """Whether the commonest sense of a word can be photographed."""
        return word in self.synsets and self.lexicon[self.synsets[word][0]] in CONCRETE

    def everyday(self, tokenize: Callable[[str], list[int]]) -> set[str]:
        """Concrete nouns that occur in tagged texts, or that a tokenizer of merged pairs has whole.

        Its merges are the commonest of the texts it was made from: it tells common words from rare.
        """
        return {
            word
            for word in self.synsets
            if self.is_concrete(word) and (word in self.common or len(tokenize(word)) == 1)
        }

    def synonyms(self, word: str, sense: int = 0) -> tuple[str, ...]:
        """The words of a sense (the commonest: 0), itself among them; empty for an unknown word."""
        return self.words[self.synsets[word][sense]] if word in self.synsets else ()

    def ancestors(self, synset: str) -> Iterator[str]:
        """Its hypernyms, the nearest first."""
        level = self.broader[synset]
        while level:
            yield from level
            level = tuple(above for each in level for above in self.broader[each])


def read(folder: Path = FOLDER) -> WordNet:
    """Read `data.noun` and `index.noun`.

    Raises:
        SystemExit: they are not there.
    """
    if not (folder / "data.noun").is_file():
        raise SystemExit(f"No WordNet in {folder}; run `apt-get install wordnet-base`.")
    words: dict[str, tuple[str, ...]] = {}
    lexicon: dict[str, int] = {}
    broader: dict[str, tuple[str, ...]] = {}
    instances = set()
    for line in _lines(folder / "data.noun"):
        fields = line.partition("|")[0].split()
        count = int(fields[3], 16)
        words[fields[0]] = tuple(_plain(fields[4 + 2 * index]) for index in range(count))
        lexicon[fields[0]] = int(fields[1])
        pointers = fields[4 + 2 * count :]  # their number, then four fields each
        broader[fields[0]] = tuple(
            pointers[at + 1] for at in range(1, len(pointers), 4) if pointers[at] in ("@", "@i")
        )
        if "@i" in pointers:
            instances.add(fields[0])
    synsets: dict[str, tuple[str, ...]] = {}
    common = set()
    for line in _lines(folder / "index.noun"):
        fields = line.split()
        word, kinds = _plain(fields[0]), int(fields[3])
        synsets[word] = tuple(fields[6 + kinds :])
        if int(fields[5 + kinds]):
            common.add(word)
    return WordNet(words, lexicon, synsets, broader, frozenset(common), frozenset(instances))


def counts(folder: Path = FOLDER) -> dict[tuple[str, int], int]:
    """How often a noun and its sense (the commonest: 1) occur in the sense-tagged texts."""
    found = {}
    for line in (folder / "cntlist.rev").read_text("latin-1").splitlines():
        key, sense, count = line.split()
        word, _, rest = key.partition("%")
        if rest.startswith("1:"):  # nouns
            found[_plain(word), int(sense)] = int(count)
    return found


def irregular(folder: Path = FOLDER) -> dict[str, str]:
    """Plurals that no rule explains, and their singular (the first, where there are several)."""
    lines = (folder / "noun.exc").read_text("latin-1").splitlines()
    return {_plain(plural): _plain(singular) for plural, singular, *_ in map(str.split, lines)}


def licence(folder: Path = FOLDER) -> str:
    """The licence at the head of every file, without its line numbers."""
    lines = (folder / "data.noun").read_text("latin-1").splitlines()[:29]
    return "\n".join(line.lstrip().partition(" ")[2].strip() for line in lines) + "\n"


def _lines(path: Path) -> list[str]:
    """Without the licence at the head, whose lines are indented."""
    return [line for line in path.read_text("latin-1").splitlines() if not line.startswith("  ")]


def _plain(word: str) -> str:
    return word.replace("_", " ").lower()
