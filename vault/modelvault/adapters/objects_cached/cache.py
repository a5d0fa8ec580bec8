"""The cache of one session: a folder and its bound, and whether it can be used at all."""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections.abc import Sequence
from pathlib import Path

from modelvault.adapters.objects_cached.folder import Folder
from modelvault.adapters.objects_cached.pieces import Files
from modelvault.adapters.objects_cached.reader import CachedReader
from modelvault.adapters.objects_cached.room import Room
from modelvault.adapters.objects_cached.shelf import Shelf
from modelvault.artifact.meter import Meter
from modelvault.clock import utc_ms
from modelvault.manifest import FileEntry
from modelvault.ports.objects import ObjectReader

_LOG = logging.getLogger("modelvault.cache")


class SegmentCache:
    """`client.context.Cache` over the folder `path`, of at most `bound` bytes. Thread-safe.

    It holds what a store gives to anybody with a link: ciphertext and leaf lists, never plaintext
    and never a key, under names that tell nothing. Whoever reads checks each piece against the
    signed manifest, whether it came from here or not: a folder that is altered, full, read-only or
    broken makes a load slow, and does nothing else. What is wrong is told to the log, once.
    """

    def __init__(self, path: Path, bound: int) -> None:
        """Nothing is made or opened before the first load."""
        self._path = path
        self._room = Room(bound, utc_ms)
        self._lock = threading.Lock()
        self._folder: Folder | None = None
        self._told: set[str] = set()

    def over(self, store: ObjectReader, files: Sequence[FileEntry], meter: Meter) -> CachedReader:
        """See `client.context.Cache`."""
        mine = Files(files)
        shelf = Shelf(self._opened(), self._room, mine, self._tell)
        return CachedReader(store, shelf, mine, meter)

    def _opened(self) -> Folder | None:
        """Tried anew for each load: a disk may be mounted later than a job begins."""
        with self._lock:
            if self._folder is None:
                try:
                    self._folder = Folder(self._path)
                except OSError as error:
                    self._tell("not used", error)
            return self._folder

    def _tell(self, what: str, error: OSError) -> None:
        if what not in self._told:
            self._told.add(what)
            why = error.strerror or os.strerror(error.errno or errno.EIO)
            _LOG.warning("the cache %s is %s: %s", self._path, what, why)
