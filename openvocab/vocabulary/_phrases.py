"""Finds the noun of a phrase: "a photo of two double-decker buses in the rain" is about "bus"."""

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
# A noun phrase ends before these.
_ENDS = re.compile(
    r"with|without|on|in|of|at|by|from|for|to|into|onto|under|over|above|below|near|behind|beside|"
    r"between|inside|outside|against|around|along|across|through|like|as|who|whom|whose|that|which|"
    r"where|is|are|was|were|has|have|and|or|while|wearing|holding|carrying"
)
# Callers may write more: words of a phrase that are read, letters of a word that is taken apart; words
# of a compound.
_LONGEST, _COMPOUND = 32, 6
# WordNet's rules of detachment for nouns, see `man 7WN morphy`.
_PLURALS = (
    ("s", ""), ("ses", "s"), ("xes", "x"), ("zes", "z"), ("ches", "ch"), ("shes", "sh"),
    ("men", "man"), ("ies", "y"),
)  # fmt: skip
# British to American and back, for compounds that WordNet has in one spelling only.
_SPELLINGS = (
    ("grey", "gray"), ("gray", "grey"), ("tyre", "tire"), ("mould", "mold"), ("plough", "plow"),
    ("colour", "color"), ("color", "colour"), ("jewellery", "jewelry"), ("aluminium", "aluminum"),
    ("moustache", "mustache"), ("doughnut", "donut"), ("yoghurt", "yogurt"), ("aero", "air"),
    ("our", "or"), ("tre", "ter"), ("ogue", "og"), ("ae", "e"), ("ise", "ize"), ("cheque", "check"),
    ("drier", "dryer"), ("dryer", "drier"), ("disk", "disc"), ("disc", "disk"),
)  # fmt: skip


def phrase_key(phrase: str) -> str:
    """The phrase in lower case, without articles, amounts, hyphens and what stands in brackets.

    >>> phrase_key("A photo of two Hot-Air balloons"), phrase_key("bat_(animal)")
    ('hot air balloons', 'bat')
    """
    text = normalize_name(phrase).casefold()
    text = re.sub(r"\([^)]*\)?", " ", text)
    # WordNet has "cafe" and "pinata".
    text = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    text = " ".join(text.translate(_PUNCTUATION).replace("/", " or ").split())
    leading = _LEADING.match(text)  # before hyphens go: a two-wheeler is not two of them
    text = text[leading.end() :] if leading else text
    return " ".join(text.replace("-", " ").split())


def spellings(key: str, irregular: Mapping[str, str]) -> Iterator[str]:
    """Other forms of a phrase, the likeliest first: singulars, spelling, as one word or as two.

    >>> list(spellings("tea cups", {}))
    ['tea cup', 'teacup', 'teacups']
    """
    forms = [*singulars(key, irregular), key]
    yield from forms[:-1]
    for form in forms:
        for one, other in _SPELLINGS:
            if one in form:
                yield form.replace(one, other)
    if key.count(" ") == 1:
        yield from (form.replace(" ", "") for form in forms)
    if " " not in key and len(key) <= _LONGEST:
        for form in forms:  # "firetruck"
            yield from (f"{form[:at]} {form[at:]}" for at in range(3, len(form) - 2))


def head_candidates(
    key: str, is_thing: Callable[[str], bool], is_living: Callable[[str], bool]
) -> Iterator[str]:
    """Shorter phrases that may be in the lexicon, the longest first: all end with the head noun.

    Args:
        key: from `phrase_key`.
        is_thing: whether a word is a noun that can be photographed.
        is_living: whether a word is a person or an animal, who can be doing something.

    >>> list(head_candidates("old delivery van in town", {"van"}.__contains__, set().__contains__))
    ['old delivery van', 'delivery van', 'van']
    """
    words = key.split()[:_LONGEST]
    if not words:
        return
    end = next((at for at, word in enumerate(words) if at and _ENDS.fullmatch(word)), len(words))
    for at in range(1, end):  # "woman walking", "dog chasing cats"; not "shopping bag", "painting"
        is_verb = words[at].endswith("ing") and not is_thing(words[at])
        if is_verb and (at == end - 1 or is_living(words[at - 1])):
            end = at
            break
    while end > 1 and words[end - 1].endswith("ed") and not is_thing(words[end - 1]):
        end -= 1  # "car parked"
    if words[0] == "toy" and end > 1:
        yield "toy"  # a toy car is no car
        return
    yield from (" ".join(words[start:end]) for start in range(max(0, end - _COMPOUND), end))


def singulars(key: str, irregular: Mapping[str, str]) -> Iterator[str]:
    """What the phrase may be the plural of.

    >>> list(singulars("glass boxes", {}))
    ['glass boxe', 'glass box']
    """
    if key in irregular:
        yield irregular[key]
    front, space, last = key.rpartition(" ")
    if last in irregular:
        yield front + space + irregular[last]
    if last.endswith("ss") or len(last) < 3:  # "glass", "us"
        return
    for ending, singular in _PLURALS:
        if last.endswith(ending):
            yield front + space + last.removesuffix(ending) + singular
