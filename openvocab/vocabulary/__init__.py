"""Classes as prompts and unit features."""

from openvocab.vocabulary.bank import Vocabulary
from openvocab.vocabulary.classes import Classes, ClassOptions, Example, parse_classes

__all__ = ["ClassOptions", "Classes", "Example", "Vocabulary", "parse_classes"]
