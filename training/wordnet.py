"""WordNet's nouns, read from its database files (Debian: `wordnet-base`; WordNet licence)."""

from dataclasses import dataclass
from pathlib import Path

__all__ = ["CONCRETE", "WordNet", "read"]

FOLDER = Path("/usr/share/wordnet")
# Lexicographer files of things one can photograph: animal, artifact, body, food, object, person,
# plant, substance. See `man 5WN lexnames`.
CONCRETE = frozenset({5, 6, 8, 13, 17, 18, 20, 27})


@dataclass(frozen=True, slots=True)
class WordNet:
    """Nouns by word; every synset is named by its offset in `data.noun`."""

    words: dict[str, tuple[str, ...]]
    """Synset to its words."""
    lexicon: dict[str, int]
    """Synset to the number of its lexicographer file."""
    synsets: dict[str, tuple[str, ...]]
    """Word to its synsets, the commonest sense first."""
    common: frozenset[str]
    """Words that occur in WordNet's sense-tagged texts."""

    def is_concrete(self, word: str) -> bool:
        """Whether the commonest sense of a word can be photographed."""
        return word in self.synsets and self.lexicon[self.synsets[word][0]] in CONCRETE

    def synonyms(self, word: str) -> tuple[str, ...]:
        """The words of its commonest sense, itself among them; empty for an unknown word."""
        return self.words[self.synsets[word][0]] if word in self.synsets else ()


def read(folder: Path = FOLDER) -> WordNet:
    """Read `data.noun` and `index.noun`.

    Raises:
        SystemExit: they are not there.
    """
    if not (folder / "data.noun").is_file():
        raise SystemExit(f"No WordNet in {folder}; run `apt-get install wordnet-base`.")
    words: dict[str, tuple[str, ...]] = {}
    lexicon: dict[str, int] = {}
    for line in _lines(folder / "data.noun"):
        fields = line.partition("|")[0].split()
        count = int(fields[3], 16)
        words[fields[0]] = tuple(_plain(fields[4 + 2 * index]) for index in range(count))
        lexicon[fields[0]] = int(fields[1])
    synsets: dict[str, tuple[str, ...]] = {}
    common = set()
    for line in _lines(folder / "index.noun"):
        fields = line.split()
        word, pointers = _plain(fields[0]), int(fields[3])
        synsets[word] = tuple(fields[6 + pointers :])
        if int(fields[5 + pointers]):
            common.add(word)
    return WordNet(words, lexicon, synsets, frozenset(common))


def _lines(path: Path) -> list[str]:
    """Without the licence at the head, whose lines are indented."""
    return [line for line in path.read_text("latin-1").splitlines() if not line.startswith("  ")]


def _plain(word: str) -> str:
    return word.replace("_", " ").lower()
