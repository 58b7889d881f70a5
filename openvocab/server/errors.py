"""Why a request is turned away, where it is not for what it says."""

from openvocab.errors import OpenVocabError

__all__ = ["BusyError", "LacksError", "StoppingError"]


class BusyError(OpenVocabError):
    """As many requests wait, or streams run, as may."""


class StoppingError(OpenVocabError):
    """The server ends; another one may answer."""


class LacksError(OpenVocabError):
    """There is no vocabulary, source or stream of that name."""
