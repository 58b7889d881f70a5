"""Short phrases to distil: what people call things, with attributes, in relations, in plural."""

import random
from collections.abc import Sequence

from wordnet import WordNet

__all__ = ["TEMPLATES", "build"]

ATTRIBUTES = (
    "red orange yellow green blue purple pink brown black white grey golden silver striped spotted "
    "wooden metal plastic glass leather stone paper fluffy furry shiny dirty clean old new broken "
    "big small tall long round square open closed empty full wet dry young wild toy stuffed parked "
    "flying running sleeping sitting standing electric fresh sliced cooked dark bright colourful "
    "transparent heavy name_key antique modern rusty soft pointed curved flat tiny huge baby adult "
    "male female"
).split()
PEOPLE = "person man woman child boy girl worker player cyclist".split()
RELATIONS = (
    "with a {}", "with {}", "wearing a {}", "holding a {}", "carrying a {}", "riding a {}",
    "next to a {}", "without a {}",
)  # fmt: skip
ACTIONS = (
    "walking", "running", "sitting", "standing", "jumping", "sleeping", "eating", "cooking",
    "reading", "talking on the phone", "waving", "falling", "swimming", "skiing", "surfing",
    "playing football", "playing tennis",
)  # fmt: skip
TEMPLATES = (
    "a photo of a {}", "a photo of the {}", "a photo of an {}", "a cropped photo of a {}", "a {}",
    "an {}", "the {}", "a picture of a {}", "a close-up of a {}", "a photo of one {}",
    "a bad photo of a {}", "a blurry photo of the {}", "an image of a {}",
    "there is a {} in the scene", "itap of a {}", "a photo of a large {}", "a photo of a small {}",
    "a black and white photo of a {}", "a photo of many {}", "{} in a photo",
)  # fmt: skip
"""What the text tower learns to ignore: it meets a phrase in them and is to say the same."""


def build(
    wordnet: WordNet, everyday: Sequence[str], names: Sequence[str], composed: int, seed: int = 0
) -> dict[str, str | None]:
    """Phrases, each with the noun it is about (None: with more than one).

    Args:
        wordnet: all of its nouns are taken as they are.
        everyday: common nouns; more phrases are made of them and of names than of rare nouns.
        names: of the datasets.
        composed: how many phrases with attributes and relations.
        seed: equal seeds give equal phrases.
    """
    phrases: dict[str, str | None] = {word: word for word in wordnet.synsets}
    phrases |= {word: word for words in wordnet.words.values() for word in words}
    phrases |= {name: name for name in names}
    concrete = [word for word in wordnet.synsets if wordnet.is_concrete(word)]
    pool = list(everyday) * 8 + list(names) * 8 + concrete
    total, dice = len(phrases) + composed, random.Random(seed)
    while len(phrases) < total:
        phrase, noun = _compose(dice, dice.choice(pool), dice.choice(pool))
        phrases.setdefault(phrase, noun)
    return phrases


def _compose(dice: random.Random, noun: str, other: str) -> tuple[str, str | None]:
    kinds = "attribute two relation action on and plural".split()
    kind = dice.choices(kinds, [50, 8, 16, 4, 8, 7, 7])[0]
    attribute, person = dice.choice(ATTRIBUTES), dice.choice(PEOPLE)
    made: dict[str, tuple[str, str | None]] = {
        "attribute": (f"{attribute} {noun}", noun),
        "two": (f"{attribute} {dice.choice(ATTRIBUTES)} {noun}", noun),
        "relation": (f"{person} {dice.choice(RELATIONS).format(noun)}", None),
        "action": (f"{person} {dice.choice(ACTIONS)}", None),
        "on": (f"{noun} on a {other}", None),
        "and": (f"{noun} and {other}", None),
        "plural": (_plural(noun), noun),
    }
    return made[kind]


def _plural(word: str) -> str:
    if word.endswith(("s", "x", "ch", "sh")):
        return word + "es"
    if word.endswith("y") and word[-2:-1] not in "aeiou":
        return word[:-1] + "ies"
    return word + "s"
