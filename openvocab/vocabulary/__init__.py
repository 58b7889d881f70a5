"""Classes as prompts and unit features."""

from openvocab.vocabulary.vocabulary import Classes, Example, Vocabulary, parse

__all__ = ["Classes", "Example", "Vocabulary", "parse"]
