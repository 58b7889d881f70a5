"""Errors for requests that are refused for reasons other than their content."""

from openvocab.errors import OpenVocabError


class BusyError(OpenVocabError):
    """The maximum number of requests is waiting, or of streams is running."""


class ShuttingDownError(OpenVocabError):
    """The server is stopping; another one may answer."""


class NotFoundError(OpenVocabError):
    """There is no vocabulary, source or stream of this name."""
