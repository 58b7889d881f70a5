"""Classes as prompts and unit features."""

from openvocab.vocabulary._classes import Classes, ClassOptions, NameOrImage, parse_classes
from openvocab.vocabulary._examples import Example
from openvocab.vocabulary._prompts import split_class_list
from openvocab.vocabulary._vocabulary import Vocabulary

__all__ = [
    "ClassOptions", "Classes", "Example", "NameOrImage", "Vocabulary", "parse_classes",
    "split_class_list",
]  # fmt: skip
