"""Plaintext buffers that are reused, and wiped at the end."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Buffers:
    """As many buffers of `size` bytes as threads are using at once. Thread-safe."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._free: list[bytearray] = []
        self._all: list[bytearray] = []
        self._lock = threading.Lock()

    @contextmanager
    def one(self, length: int) -> Iterator[memoryview]:
        """The first `length` bytes of a buffer, for the caller alone."""
        buffer = self._take()
        try:
            yield memoryview(buffer)[:length]
        finally:
            with self._lock:
                self._free.append(buffer)

    def wipe(self) -> None:
        """Zero all of them, once no thread uses one any more."""
        with self._lock:
            for buffer in self._all:
                buffer[:] = bytes(len(buffer))

    def _take(self) -> bytearray:
        with self._lock:
            if self._free:
                return self._free.pop()
            buffer = bytearray(self._size)
            self._all.append(buffer)
            return buffer
