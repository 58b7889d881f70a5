"""Caches text features by word: a known word costs a look-up, a new one a forward pass."""

import threading
import zlib
from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from openvocab.types import Encoder, Features
from openvocab.vocabulary.prompts import TEMPLATES, render, tidy

CAPACITY = 20_000  # words; 40 MB at 512 dimensions, 15 times LVIS

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class LRUCache(Generic[Key, Value]):
    """A cache of limited size that drops the least recently used values; thread-safe.

    >>> two = LRUCache(2)
    >>> for word in ("cat", "dog", "bus"):
    ...     two.update({word: len(word)})
    >>> two.look_up(["cat", "bus"])
    {'bus': 3}
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._known: OrderedDict[Key, Value] = OrderedDict()
        self._lock = threading.Lock()

    def look_up(self, keys: Sequence[Key]) -> dict[Key, Value]:
        """The known ones among the keys, with their values."""
        with self._lock:
            found = {key: self._known[key] for key in keys if key in self._known}
            for key in found:
                self._known.move_to_end(key)
            return found

    def update(self, values: Mapping[Key, Value]) -> None:
        """Remember the values."""
        with self._lock:
            self._known.update(values)
            while len(self._known) > self._capacity:
                self._known.popitem(last=False)


class TextFeatureCache:
    """Turns words into unit features pooled over templates; caches the last used ones."""

    def __init__(self, encoder: Encoder, templates: str, capacity: int = CAPACITY) -> None:
        self._encoder = encoder
        self._templates = templates
        self._known: LRUCache[str, NDArray[np.float32]] = LRUCache(capacity)
        self._encoding = threading.Lock()  # guards the text tower

    @property
    def fingerprint(self) -> str:
        """Identifies encoder and prompts: equal fingerprints give equal features."""
        prompts = "|".join(TEMPLATES[self._templates])
        return f"{self._encoder.fingerprint}/{zlib.crc32(prompts.encode()):08x}"

    def __call__(self, words: Sequence[str]) -> Features:
        """Features `(K, D)` of the words, in order; new words share one forward pass."""
        keys = [tidy(word) for word in words]
        if not keys:
            return self._encoder.encode_text([])
        rows = self._known.look_up(keys)
        if any(key not in rows for key in keys):
            # If two threads have the same new word, one encodes it; known words never wait.
            with self._encoding:
                rows |= self._known.look_up(keys)
                if new := [key for key in dict.fromkeys(keys) if key not in rows]:
                    fresh = dict(zip(new, self._encode(new), strict=True))
                    self._known.update(fresh)
                    rows |= fresh
        return np.stack([rows[key] for key in keys])

    def _encode(self, words: Sequence[str]) -> Features:
        prompts = [render(word, self._templates) for word in words]
        flat = self._encoder.encode_text([prompt for group in prompts for prompt in group])
        pooled = flat.reshape(len(words), len(prompts[0]), -1).mean(axis=1)
        result: Features = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
        return result
