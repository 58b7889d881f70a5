"""Class lists by name: encoded once, kept in memory and, if there is a folder, on disk."""

import re
import threading
from pathlib import Path

from openvocab.detector import OpenVocabDetector
from openvocab.errors import ClassesError, ConfigError, OpenVocabError
from openvocab.server.errors import NotFoundError
from openvocab.vocabulary import Vocabulary

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
MOST = 256


class Vocabularies:
    """The stored vocabularies of a server; thread-safe."""

    def __init__(self, detector: OpenVocabDetector, folder: Path | None = None) -> None:
        """Read the vocabularies in the folder.

        Raises:
            ClassesError: a file is not a vocabulary, or was made with another encoder.
            ConfigError: it is not a folder, and cannot be created. A read-only folder is fine: it
                may hold vocabularies that others have stored.
        """
        if folder is not None:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ConfigError(
                    f"{folder} cannot keep vocabularies ({error.strerror}); choose another folder."
                ) from error
        self._folder, self._lock = folder, threading.Lock()
        self._known: dict[str, Vocabulary] = {}
        for file in sorted(folder.glob("*.npz")) if folder is not None else ():
            try:
                self._known[file.stem] = detector.vocabulary(Vocabulary.load(file))
            except ClassesError as error:
                said = str(error).rpartition(";")[0] or str(error)
                raise ClassesError(f"{file}: {said}; remove it, and store it anew.") from error

    @property
    def names(self) -> list[str]:
        """The names, in alphabetical order."""
        return sorted(self._known)

    def check(self, name: str) -> None:
        """Refuse a name under which nothing can be stored.

        Raises:
            ClassesError: the name has characters other than letters, digits, - and _, or there are
                too many vocabularies.
        """
        if not NAME.fullmatch(name):
            raise ClassesError(f"{name!r} is no name; use letters, digits, - and _, 64 at most.")
        if name not in self._known and len(self._known) >= MOST:
            raise ClassesError(f"There are {MOST} vocabularies; delete one.")

    def put(self, name: str, vocabulary: Vocabulary) -> None:
        """Store a vocabulary, replacing an older one of the same name.

        Raises:
            ClassesError: see `check`.
            OpenVocabError: it cannot be written.
        """
        with self._lock:
            self.check(name)
            if self._folder is not None:
                vocabulary.save(self._folder / f"{name}.npz")
            self._known[name] = vocabulary

    def get(self, name: str) -> Vocabulary:
        """Return a vocabulary by its name.

        Raises:
            NotFoundError: there is no vocabulary of that name.
        """
        found = self._known.get(name)
        if found is None:
            raise NotFoundError(f"There is no vocabulary {name!r}; store it first.")
        return found

    def remove(self, name: str) -> None:
        """Forget a vocabulary.

        Raises:
            NotFoundError: there is no vocabulary of that name.
            OpenVocabError: its file cannot be removed.
        """
        with self._lock:
            self.get(name)
            if self._folder is not None:
                try:
                    (self._folder / f"{name}.npz").unlink(missing_ok=True)
                except OSError as error:
                    raise OpenVocabError(
                        f"{name} cannot be removed from {self._folder} ({error.strerror}); "
                        "check its permissions."
                    ) from error
            del self._known[name]
