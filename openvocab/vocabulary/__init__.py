"""Classes as prompts and unit features."""

from openvocab.vocabulary._classes import Classes, ClassOptions, Example, parse_classes
from openvocab.vocabulary._prompts import split_class_list
from openvocab.vocabulary._vocabulary import Vocabulary

__all__ = [
    "ClassOptions", "Classes", "Example", "Vocabulary", "parse_classes", "split_class_list",
]  # fmt: skip
