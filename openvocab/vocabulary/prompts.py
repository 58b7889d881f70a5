"""Turns words into prompts: template sets, articles, and tidying of the caller's strings."""

import unicodedata

from openvocab.errors import ConfigError

TEMPLATES: dict[str, tuple[str, ...]] = {
    "none": ("{}",),
    "simple": ("a photo of {article} {}", "a cropped photo of {article} {}", "{}"),
    # Eight of the 80 ImageNet templates carry nearly all of their gain (open_clip's
    # zero_shot_metadata.py calls the same idea SIMPLE_IMAGENET_TEMPLATES).
    "openai": (
        "itap of {article} {}",
        "a bad photo of the {}",
        "a origami {}",
        "a photo of the large {}",
        "{article} {} in a video game",
        "art of the {}",
        "a photo of the small {}",
        "a photo of {article} {}",
    ),
}
"""Named template sets; `{}` is the word, `{article}` its "a" or "an"."""

_VOWELS = frozenset("aeiouAEIOU")


def tidy(word: str) -> str:
    """The word as the text tower reads it: NFC, underscores as spaces, single blanks.

    >>> tidy("  traffic_light ")
    'traffic light'
    """
    return " ".join(unicodedata.normalize("NFC", word).replace("_", " ").split())


def folded(word: str) -> str:
    """A form that is equal for equal words: neither case nor blanks make a difference.

    >>> folded("Traffic_Light") == folded("traffic light")
    True
    """
    return tidy(word).casefold()


def article(word: str) -> str:
    """`an` before a vowel letter, else `a`.

    >>> article("umbrella"), article("bus")
    ('an', 'a')
    """
    return "an" if word[:1] in _VOWELS else "a"


def render(word: str, templates: str) -> list[str]:
    """The word in every template of a set.

    Raises:
        ConfigError: there is no such template set.

    >>> render("traffic_light", "none")
    ['traffic light']
    """
    if templates not in TEMPLATES:
        raise ConfigError(f"Unknown template set {templates!r}; use one of {', '.join(TEMPLATES)}.")
    text = tidy(word)
    # A word with its own article ("the Eiffel Tower") needs no second one.
    own, _, rest = text.partition(" ")
    if own.lower() in {"a", "an", "the"} and rest:
        text = rest
    else:
        own = article(text)
    # Not str.format: a caller's braces are text, not fields.
    return [
        template.replace("{article}", own).replace("{}", text) for template in TEMPLATES[templates]
    ]


def split_list(text: str) -> list[str]:
    """Split comma-separated words into a list.

    >>> split_list("bus, person with a hat,")
    ['bus', 'person with a hat']
    """
    return [part for raw in text.split(",") if (part := raw.strip())]
