"""An object store in a dict, which keeps the port's promises and counts what is read."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from modelvault.errors import Conflict, IntegrityError, NotFound
from modelvault.ports.objects import piecewise


class MemoryStore:
    """ObjectReader and ObjectWriter; `objects` may be edited by tests that play the attacker."""

    def __init__(self, threads: int = 2) -> None:
        self.objects: dict[str, bytes] = {}
        self.reads: list[tuple[str, int, int]] = []
        self._threads = threads
        self._lock = threading.Lock()

    def size(self, name: str) -> int:
        return len(self._object(name))

    def stream(self, name: str, offset: int, size: int) -> Any:
        return piecewise(self, name, offset)

    def read_into(self, name: str, offset: int, buffer: memoryview) -> None:
        data = self._object(name)
        with self._lock:
            self.reads.append((name, offset, len(buffer)))
        if offset + len(buffer) > len(data):
            raise IntegrityError("truncated", "the object ends early")
        buffer[:] = data[offset : offset + len(buffer)]

    def put(self, name: str, sizes: Sequence[int], fill: Callable[[int, memoryview], None]) -> None:
        if name in self.objects:
            raise Conflict("object_exists", f"{name} is there already")
        parts = [bytearray(size) for size in sizes]
        with ThreadPoolExecutor(self._threads) as pool:
            list(pool.map(lambda i: fill(i, memoryview(parts[i])), range(len(parts))))
        self.objects[name] = b"".join(parts)

    def _object(self, name: str) -> bytes:
        if name not in self.objects:
            raise NotFound("no_object", f"no object {name}")
        return self.objects[name]
