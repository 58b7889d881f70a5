"""Why a request is turned away, where it is not for what it says."""

from openvocab.errors import OpenVocabError

__all__ = ["BusyError", "LacksError"]


class BusyError(OpenVocabError):
    """As many requests wait, or streams run, as may."""


class LacksError(OpenVocabError):
    """There is no vocabulary, source or stream of that name."""
