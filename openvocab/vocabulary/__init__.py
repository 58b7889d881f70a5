"""Classes as prompts and unit features."""

from openvocab.vocabulary._bank import Vocabulary
from openvocab.vocabulary._classes import Classes, ClassOptions, Example, parse_classes

__all__ = ["ClassOptions", "Classes", "Example", "Vocabulary", "parse_classes"]
