"""Stored vocabularies: encoded once, kept in memory and, if there is a folder, on disk."""

import re
import threading
from pathlib import Path

from openvocab.detector import OpenVocabDetector
from openvocab.errors import ClassesError, ConfigError
from openvocab.server._errors import NotFoundError
from openvocab.vocabulary import Vocabulary

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
MAX_VOCABULARIES = 256


class Vocabularies:
    """The stored vocabularies of a server, by name; thread-safe."""

    def __init__(self, detector: OpenVocabDetector, folder: Path | None = None) -> None:
        """Load the vocabularies in the folder.

        Raises:
            ClassesError: a file is not a vocabulary, or was made with another encoder.
            ConfigError: the folder does not exist and cannot be created. A read-only folder is
                fine: it may hold vocabularies that others have stored.
        """
        if folder is not None:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ConfigError(
                    f"{folder} cannot keep vocabularies ({error.strerror}); choose another folder."
                ) from error
        self._folder, self._lock = folder, threading.Lock()
        self._vocabularies: dict[str, Vocabulary] = {}
        for path in sorted(folder.glob("*.npz")) if folder is not None else ():
            try:
                self._vocabularies[path.stem] = detector.vocabulary(Vocabulary.load(path))
            except ClassesError as error:
                reason = str(error).rpartition(";")[0] or str(error)
                raise ClassesError(f"{path}: {reason}; remove it and store it again.") from error

    @property
    def names(self) -> list[str]:
        """The names, in alphabetical order."""
        return sorted(self._vocabularies)

    def check_name(self, name: str) -> None:
        """Refuse a name under which nothing can be stored.

        Raises:
            ClassesError: the name has characters other than letters, digits, - and _, or there are
                too many vocabularies.
        """
        if not NAME.fullmatch(name):
            raise ClassesError(
                f"The name {name!r} is invalid; use letters, digits, - and _, 64 at most."
            )
        if name not in self._vocabularies and len(self._vocabularies) >= MAX_VOCABULARIES:
            raise ClassesError(f"{MAX_VOCABULARIES} vocabularies are stored; delete one.")

    def put(self, name: str, vocabulary: Vocabulary) -> None:
        """Store a vocabulary, replacing an older one of the same name.

        Raises:
            ClassesError: see `check_name`.
            OpenVocabError: it cannot be written.
        """
        with self._lock:
            self.check_name(name)
            if self._folder is not None:
                vocabulary.save(self._folder / f"{name}.npz")
            self._vocabularies[name] = vocabulary

    def get(self, name: str) -> Vocabulary:
        """Return a vocabulary by its name.

        Raises:
            NotFoundError: there is no vocabulary of that name.
        """
        vocabulary = self._vocabularies.get(name)
        if vocabulary is None:
            raise NotFoundError(f"There is no vocabulary {name!r}; store it first.")
        return vocabulary

    def remove(self, name: str) -> None:
        """Delete a vocabulary.

        Raises:
            NotFoundError: there is no vocabulary of that name.
            OSError: its file cannot be removed.
        """
        with self._lock:
            self.get(name)
            if self._folder is not None:
                (self._folder / f"{name}.npz").unlink(missing_ok=True)
            del self._vocabularies[name]
