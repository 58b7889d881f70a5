"""Errors for requests that are refused for reasons other than their content."""

from openvocab.errors import OpenVocabError


class BusyError(OpenVocabError):
    """Too many requests are waiting, or too many streams are running."""


class ShuttingDownError(OpenVocabError):
    """The server is shutting down; another one may answer."""


class SizeError(OpenVocabError):
    """The detector cannot be run at the input size or tile size of a request."""


class NotFoundError(OpenVocabError):
    """No vocabulary, source or stream has this name."""
