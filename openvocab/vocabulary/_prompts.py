"""Turns class names into prompts: normalization, articles, templates."""

import unicodedata

from openvocab.errors import ConfigError

TEMPLATES: dict[str, tuple[str, ...]] = {
    "none": ("{}",),
    "simple": ("a photo of {article} {}", "a cropped photo of {article} {}", "{}"),
    # Eight of the 80 ImageNet templates give nearly all of their gain; compare
    # SIMPLE_IMAGENET_TEMPLATES in open_clip's zero_shot_metadata.py.
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
"""Named sets of templates; `{}` is the name, `{article}` its "a" or "an"."""

_VOWELS = frozenset("aeiouAEIOU")


def normalize_name(name: str) -> str:
    """The name as the text encoder reads it: NFC, underscores as spaces, single spaces.

    >>> normalize_name("  traffic_light ")
    'traffic light'
    """
    return " ".join(unicodedata.normalize("NFC", name).replace("_", " ").split())


def name_key(name: str) -> str:
    """A key that ignores case, underscores and spacing.

    >>> name_key("Traffic_Light") == name_key("traffic light")
    True
    """
    return normalize_name(name).casefold()


def article(name: str) -> str:
    """`an` before a vowel letter, else `a`.

    >>> article("umbrella"), article("bus")
    ('an', 'a')
    """
    return "an" if name[:1] in _VOWELS else "a"


def get_templates(name: str) -> tuple[str, ...]:
    """The templates of a named set.

    Raises:
        ConfigError: there is no such set.

    >>> get_templates("none")
    ('{}',)
    """
    if name not in TEMPLATES:
        raise ConfigError(f"templates is {name!r}; use one of {', '.join(TEMPLATES)}.")
    return TEMPLATES[name]


def render_prompts(name: str, templates: tuple[str, ...]) -> list[str]:
    """Fill the name into each template.

    >>> render_prompts("traffic_light", ("a photo of {article} {}",))
    ['a photo of a traffic light']
    """
    text = normalize_name(name)
    # Keep the article of a name that has one ("the Eiffel Tower").
    own_article, _, rest = text.partition(" ")
    if own_article.lower() in {"a", "an", "the"} and rest:
        text = rest
    else:
        own_article = article(text)
    # Not str.format, which would read braces in a name as fields.
    return [
        template.replace("{article}", own_article).replace("{}", text) for template in templates
    ]


def split_class_list(text: str) -> list[str]:
    """Split comma-separated names into a list.

    >>> split_class_list("bus, person with a hat,")
    ['bus', 'person with a hat']
    """
    return [name for part in text.split(",") if (name := part.strip())]
