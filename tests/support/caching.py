"""Files in a store that is far away, read through a cache; what came from where is counted."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from modelvault.adapters.objects_cached import SegmentCache
from modelvault.artifact.meter import Meter, Metered
from modelvault.artifact.reader import FileReader
from modelvault.manifest import FileEntry
from support.artifacts import file_key, put_file, read
from support.memory_store import MemoryStore

SEGMENT = 4096
SIZE = 10 * SEGMENT
BOUND = 64 << 20


def plain(number: int, size: int = SIZE) -> bytes:
    return hashlib.shake_128(str(number).encode()).digest(size)


class Far:
    """A store with some files, each of other contents."""

    def __init__(self, files: int = 1, size: int = SIZE, segment_length: int = SEGMENT) -> None:
        self.store = MemoryStore()
        self.size = size
        self.entries = [
            put_file(self.store, plain(number, size), f"f{number}", number, segment_length)
            for number in range(files)
        ]

    def load(self, cache: SegmentCache, numbers: Iterable[int] = (0,), threads: int = 3) -> Meter:
        """As a job does: the whole of some files of one version."""
        loading = Loading(self, cache, [self.entries[number] for number in numbers], threads)
        for number in numbers:
            assert loading.read(number) == plain(number, self.size)
        return loading.meter


class Loading:
    """One load: readers of files that share a cache, and what they cost."""

    def __init__(
        self, far: Far, cache: SegmentCache, entries: list[FileEntry], threads: int = 3
    ) -> None:
        self.meter = Meter()
        self.cached = cache.over(Metered(far.store, "store", self.meter), entries, self.meter)
        self._readers = {
            entry.path: FileReader(
                self.cached, entry, file_key(entry.path), "blake3", threads, self.meter, self.cached
            )
            for entry in entries
        }

    def read(self, number: int = 0, offset: int = 0, length: int | None = None) -> bytes:
        return read(self._readers[f"f{number}"], offset, length)


def came(meter: Meter) -> tuple[int, int]:
    """Bytes from the store, and from the cache."""
    found = meter.costs().read_bytes
    return found.get("store", 0), found.get("cache", 0)


def taken(folder: Path) -> int:
    """Bytes that the cache has on its disk."""
    return sum(path.stat().st_blocks * 512 for path in folder.iterdir())
