"""Text features of words, remembered: a known word costs a look-up, a new one its own forward."""

import threading
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

from openvocab.prompts import render, tidy
from openvocab.protocols import Encoder, Features

__all__ = ["WordFeatures"]

CAPACITY = 20_000  # words; 40 MB at 512 dimensions, 15 times LVIS


class WordFeatures:
    """Words to pooled, unit template features, least recently used ones forgotten first."""

    def __init__(self, encoder: Encoder, templates: str, capacity: int = CAPACITY) -> None:
        self._encoder = encoder
        self._templates = templates
        self._capacity = capacity
        self._known: OrderedDict[str, Features] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def fingerprint(self) -> str:
        """Identifies encoder and templates: equal fingerprints give equal features."""
        return f"{self._encoder.fingerprint}/{self._templates}"

    def __call__(self, words: Sequence[str]) -> Features:
        """Features `(K, D)` of the words in order; all unknown words go in one text forward."""
        keys = [tidy(word) for word in words]
        if not keys:
            return self._encoder.encode_text([])
        # The lock is held over the forward: of two threads with the same new word, one encodes.
        with self._lock:
            if new := [key for key in dict.fromkeys(keys) if key not in self._known]:
                self._known.update(zip(new, self._encode(new), strict=True))
            for key in keys:
                self._known.move_to_end(key)
            rows = np.stack([self._known[key] for key in keys])
            while len(self._known) > self._capacity:
                self._known.popitem(last=False)
        return rows

    def _encode(self, words: Sequence[str]) -> Features:
        prompts = [render(word, self._templates) for word in words]
        flat = self._encoder.encode_text([prompt for group in prompts for prompt in group])
        pooled = flat.reshape(len(words), len(prompts[0]), -1).mean(axis=1)
        result: Features = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
        return result
