"""Open files, kept for the next read: opening costs more than reading a segment's first page."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class _Held:
    """A descriptor and how many hold it: each user, and the cache itself."""

    __slots__ = ("descriptor", "holders")

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.holders = 1


class Descriptors:
    """At most `limit` kept descriptors, the least recently used closed first; thread-safe.

    One that is in use is closed by its last user: never under a reader, whose next read would
    otherwise go to whatever file got the number.
    """

    def __init__(self, opener: Callable[[str], int], limit: int) -> None:
        self._opener = opener
        self._limit = limit
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, _Held] = OrderedDict()

    @contextmanager
    def use(self, name: str) -> Iterator[int]:
        """The descriptor of `name`, opened if need be. Raises what the opener raises."""
        with self._lock:
            held = self._kept.get(name)
            if held is not None:
                held.holders += 1
                self._kept.move_to_end(name)
        if held is None:
            held = self._open(name)
        try:
            yield held.descriptor
        finally:
            self._release(held)

    @contextmanager
    def use_fresh(self, name: str) -> Iterator[int]:
        """The same, opened anew: what the name leads to now."""
        held = self._open(name)
        try:
            yield held.descriptor
        finally:
            self._release(held)

    def forget(self, name: str) -> None:
        """Keep `name` no longer."""
        with self._lock:
            held = self._kept.pop(name, None)
        if held is not None:
            self._release(held)

    def close(self) -> None:
        """Keep nothing any longer."""
        with self._lock:
            names = list(self._kept)
        for name in names:
            self.forget(name)

    def _open(self, name: str) -> _Held:
        """Open and keep, for the cache and for the one user who asked."""
        held = _Held(self._opener(name))
        with self._lock:
            held.holders += 1
            dropped = [self._kept.pop(name)] if name in self._kept else []
            self._kept[name] = held
            if len(self._kept) > self._limit:
                dropped.append(self._kept.popitem(last=False)[1])
        for old in dropped:
            self._release(old)
        return held

    def _release(self, held: _Held) -> None:
        with self._lock:
            held.holders -= 1
            last = held.holders == 0
        if last:
            os.close(held.descriptor)
