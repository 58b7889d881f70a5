"""A thread-safe cache of limited size."""

import threading
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Mapping
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class LRUCache(Generic[Key, Value]):
    """A cache that drops the least recently used values; thread-safe.

    `functools.lru_cache` cannot look up and store many keys at once, which lets all new names of
    a class list share one forward pass.

    >>> cache = LRUCache(2)
    >>> for name in ("cat", "dog", "bus"):
    ...     cache.put_many({name: len(name)})
    >>> cache.get_many(["cat", "bus"])
    {'bus': 3}
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._values: OrderedDict[Key, Value] = OrderedDict()
        self._lock = threading.Lock()

    def get_many(self, keys: Iterable[Key]) -> dict[Key, Value]:
        """The cached values of these keys; keys that are not cached are left out."""
        with self._lock:
            cached = {key: self._values[key] for key in keys if key in self._values}
            for key in cached:
                self._values.move_to_end(key)
            return cached

    def put_many(self, values: Mapping[Key, Value]) -> None:
        """Store the values."""
        with self._lock:
            self._values.update(values)
            while len(self._values) > self._capacity:
                self._values.popitem(last=False)
