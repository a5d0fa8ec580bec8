"""What was worked out of documents that never change, so that it needn't be worked out again."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

V = TypeVar("V")


class Remembered(Generic[V]):
    """Values by all that they were made of. Thread-safe; whoever wasn't asked for longest goes
    first, and all keys together are `limit` bytes at most.

    Sound only for what depends on the key and on nothing else: a key holds the exact bytes of a
    document, so an altered one is another key and is looked at anew. What raises isn't kept.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._kept: OrderedDict[Hashable, tuple[V, int]] = OrderedDict()
        self._size = 0

    def get(self, key: Hashable, size: int, make: Callable[[], V]) -> V:
        """The value of `key`, made by `make` where it isn't known; `size` is the key's, in bytes.

        Keys over an eighth of the limit aren't kept: one of them would drive out all others.
        """
        with self._lock:
            known = self._kept.get(key)
            if known is not None:
                self._kept.move_to_end(key)
                return known[0]
        value = make()
        if size > self._limit // 8:
            return value
        with self._lock:
            if key not in self._kept:
                self._kept[key] = (value, size)
                self._size += size
            while self._size > self._limit:
                _, (_, freed) = self._kept.popitem(last=False)
                self._size -= freed
        return value
