"""Caches text features by name: a cached name costs a look-up, a new one a forward pass."""

import threading
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from openvocab._internal.lru_cache import LRUCache
from openvocab.types import Encoder, Features
from openvocab.vocabulary._prompts import get_templates, normalize_name, render_prompts

_CAPACITY = 20_000  # names; 40 MB at 512 dimensions, 15 times LVIS


class TextFeatureCache:
    """Encodes names as unit features pooled over templates; keeps the last used ones.

    Raises:
        ConfigError: there is no such set of templates.
    """

    def __init__(self, encoder: Encoder, templates: str, capacity: int = _CAPACITY) -> None:
        self._encoder = encoder
        self._templates = get_templates(templates)
        self._features: LRUCache[str, NDArray[np.float32]] = LRUCache(capacity)
        self._encoding = threading.Lock()  # one forward pass for a name that two threads need

    @property
    def fingerprint(self) -> str:
        """Identifies encoder and templates: equal fingerprints give equal features."""
        templates = "|".join(self._templates)
        return f"{self._encoder.fingerprint}/{zlib.crc32(templates.encode()):08x}"

    def __call__(self, names: Sequence[str]) -> Features:
        """Features `(K, D)` of the names, in order; new names share one forward pass."""
        keys = [normalize_name(name) for name in names]
        if not keys:
            return self._encoder.encode_text([])
        features = self._features.get_many(keys)
        if any(key not in features for key in keys):
            with self._encoding:  # cached names never wait for it
                features |= self._features.get_many(keys)
                if new := [key for key in dict.fromkeys(keys) if key not in features]:
                    encoded = dict(zip(new, self._encode(new), strict=True))
                    self._features.put_many(encoded)
                    features |= encoded
        return np.stack([features[key] for key in keys])

    def _encode(self, names: Sequence[str]) -> Features:
        prompts = [prompt for name in names for prompt in render_prompts(name, self._templates)]
        by_prompt = self._encoder.encode_text(prompts)
        pooled = by_prompt.reshape(len(names), len(self._templates), -1).mean(axis=1)
        result: Features = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
        return result
