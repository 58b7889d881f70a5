"""Classes as prompts and unit features, and the meanings of words."""

from typing import TYPE_CHECKING

from openvocab._internal.lazy import lazy_imports
from openvocab.vocabulary._classes import Classes, ClassOptions, NameOrImage, parse_classes
from openvocab.vocabulary._examples import Example
from openvocab.vocabulary._prompts import split_class_list
from openvocab.vocabulary._vocabulary import Vocabulary

if TYPE_CHECKING:
    from openvocab.vocabulary._lexicon import KindOf, Lexicon, Sense, load_lexicon
    from openvocab.vocabulary._relations import Relations
    from openvocab.vocabulary._synsets import synsets_for

__all__ = [
    "ClassOptions", "Classes", "Example", "KindOf", "Lexicon", "NameOrImage", "Relations", "Sense",
    "Vocabulary", "load_lexicon", "parse_classes", "split_class_list", "synsets_for",
]  # fmt: skip

__getattr__ = lazy_imports(
    __name__,
    {
        "KindOf": "openvocab.vocabulary._lexicon",
        "Lexicon": "openvocab.vocabulary._lexicon",
        "Relations": "openvocab.vocabulary._relations",
        "Sense": "openvocab.vocabulary._lexicon",
        "load_lexicon": "openvocab.vocabulary._lexicon",
        "synsets_for": "openvocab.vocabulary._synsets",
    },
)
