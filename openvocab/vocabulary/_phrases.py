"""Finds the noun of a phrase: "bus" in "a photo of two double-decker buses in the rain"."""

import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping

from openvocab.vocabulary._prompts import normalize_name

__all__ = ["head_candidates", "phrase_key", "singulars", "spellings"]

_LEADING = re.compile(
    r"(?:(?:an?|the|some|any|every|each|all|this|that|these|those|my|your|his|her|its|our|their|"
    r"one|two|three|four|five|several|many|more|other|\d+)\s+"
    r"|(?:photo|photograph|picture|image|view|close[- ]up|shot|pair|piece|slice|bunch|group|set|stack"
    r"|pile|herd|flock|row|couple|lot|lots|number|kind|type|sort|bit)s? of\s+)+(?=\w)"
)
_PUNCTUATION = str.maketrans("", "", ".,;:!?\"'\u2019")
# Words that a noun phrase ends before.
_ENDS = re.compile(
    r"with|without|on|in|of|at|by|from|for|to|into|onto|under|over|above|below|near|behind|beside|"
    r"between|inside|outside|against|around|along|across|through|like|as|who|whom|whose|that|which|"
    r"where|is|are|was|were|has|have|and|or|while|wearing|holding|carrying"
)
# Limits, as the input may be of any length.
_MAX_WORDS = 32  # of a phrase; the rest is ignored
_MAX_LETTERS = 32  # of a word that is split in two
_MAX_COMPOUND = 6  # words
# WordNet's rules of detachment for nouns, see `man 7WN morphy`.
_PLURALS = (
    ("s", ""), ("ses", "s"), ("xes", "x"), ("zes", "z"), ("ches", "ch"), ("shes", "sh"),
    ("men", "man"), ("ies", "y"),
)  # fmt: skip
# British and American, in both directions: WordNet has some compounds in one spelling only.
_SPELLINGS = (
    ("grey", "gray"), ("gray", "grey"), ("tyre", "tire"), ("mould", "mold"), ("plough", "plow"),
    ("colour", "color"), ("color", "colour"), ("jewellery", "jewelry"), ("aluminium", "aluminum"),
    ("moustache", "mustache"), ("doughnut", "donut"), ("yoghurt", "yogurt"), ("aero", "air"),
    ("our", "or"), ("tre", "ter"), ("ogue", "og"), ("ae", "e"), ("ise", "ize"), ("cheque", "check"),
    ("drier", "dryer"), ("dryer", "drier"), ("disk", "disc"), ("disc", "disk"),
)  # fmt: skip


def phrase_key(phrase: str) -> str:
    """The phrase in lower case, without articles, amounts, hyphens and text in brackets.

    >>> phrase_key("A photo of two Hot-Air balloons"), phrase_key("bat_(animal)")
    ('hot air balloons', 'bat')
    """
    text = normalize_name(phrase).casefold()
    text = re.sub(r"\([^)]*\)?", " ", text)
    # WordNet has no accents: "cafe", "pinata".
    decomposed = unicodedata.normalize("NFKD", text)
    text = "".join(character for character in decomposed if not unicodedata.combining(character))
    text = " ".join(text.translate(_PUNCTUATION).replace("/", " or ").split())
    leading = _LEADING.match(text)  # before hyphens are removed: "two-wheeler" is not an amount
    text = text[leading.end() :] if leading else text
    return " ".join(text.replace("-", " ").split())


def spellings(key: str, irregular: Mapping[str, str]) -> Iterator[str]:
    """Other forms of a phrase, the likeliest first: singular, spelling variant, joined, split.

    >>> list(spellings("tea cups", {}))
    ['tea cup', 'teacup', 'teacups']
    """
    forms = [*singulars(key, irregular), key]
    yield from forms[:-1]
    for form in forms:
        for spelling, variant in _SPELLINGS:
            if spelling in form:
                yield form.replace(spelling, variant)
    if key.count(" ") == 1:
        yield from (form.replace(" ", "") for form in forms)
    if " " not in key and len(key) <= _MAX_LETTERS:
        for form in forms:  # "firetruck"
            yield from (f"{form[:split]} {form[split:]}" for split in range(3, len(form) - 2))


def head_candidates(
    key: str, is_thing: Callable[[str], bool], is_living: Callable[[str], bool]
) -> Iterator[str]:
    """Shorter phrases that the lexicon may have, the longest first; all end with the head noun.

    Args:
        key: from `phrase_key`.
        is_thing: whether a word is a noun that can be photographed.
        is_living: whether a word is a person or an animal, so that a verb may follow it.

    >>> list(head_candidates("old delivery van in town", {"van"}.__contains__, set().__contains__))
    ['old delivery van', 'delivery van', 'van']
    """
    words = key.split()[:_MAX_WORDS]
    if not words:
        return
    ends = (index for index, word in enumerate(words) if index and _ENDS.fullmatch(word))
    end = next(ends, len(words))
    # "woman walking", "dog chasing cats"; not "shopping bag", "painting"
    for index in range(1, end):
        is_verb = words[index].endswith("ing") and not is_thing(words[index])
        if is_verb and (index == end - 1 or is_living(words[index - 1])):
            end = index
            break
    while end > 1 and words[end - 1].endswith("ed") and not is_thing(words[end - 1]):
        end -= 1  # "car parked"
    if words[0] == "toy" and end > 1:
        yield "toy"  # a toy car is not a car
        return
    yield from (" ".join(words[start:end]) for start in range(max(0, end - _MAX_COMPOUND), end))


def singulars(key: str, irregular: Mapping[str, str]) -> Iterator[str]:
    """Possible singulars of a phrase.

    >>> list(singulars("glass boxes", {}))
    ['glass boxe', 'glass box']
    """
    if key in irregular:
        yield irregular[key]
    modifiers, space, noun = key.rpartition(" ")
    if noun in irregular:
        yield modifiers + space + irregular[noun]
    if noun.endswith("ss") or len(noun) < 3:  # "glass", "us"
        return
    for plural_ending, singular_ending in _PLURALS:
        if noun.endswith(plural_ending):
            yield modifiers + space + noun.removesuffix(plural_ending) + singular_ending
