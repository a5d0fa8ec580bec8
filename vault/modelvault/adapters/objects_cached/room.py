"""How much the cache may hold, and what goes when there is more."""

from __future__ import annotations

import threading
from collections.abc import Container
from contextlib import suppress

from modelvault.adapters.objects_cached.folder import Folder
from modelvault.clock import Clock

# A process looks at the folder once for so many bytes that it writes, or for a 64th of the bound.
_MOST_AT_ONCE = 32 << 20
_PARTS = 64
# So many processes may be writing what they looked for, without the bound being overrun.
_WRITERS = 8
_PATIENCE_S = 5.0
_SKEW_MS = 3_600_000  # a file server's clock isn't this machine's


class Room:
    """At most `bound` bytes in a folder that many processes write to; thread-safe.

    No lock is held between processes: one that was stopped would stop them all. Each looks at
    what lies there and takes leave for a small part, and so much is kept free that eight may do
    so at the same moment. Each one beyond that can overrun the bound by its part, until the next
    of them looks.
    """

    def __init__(self, bound: int, clock: Clock) -> None:
        self._bound = bound
        self._clock = clock
        self._part = min(_MOST_AT_ONCE, bound // _PARTS)
        self._lock = threading.Lock()
        self._left = 0

    def take(self, folder: Folder, size: int, mine: Container[str]) -> bool:
        """Whether `size` bytes more may be written; for them, files that weren't used for longest
        are removed, but none of `mine`: a model that is larger than the cache would otherwise push
        its own beginning out at each load, and never find anything. Raises OSError."""
        # The lock can be one that another thread held when this process was forked.
        if not self._lock.acquire(timeout=_PATIENCE_S):
            return False
        try:
            if size > self._left:
                self._left = min(self._look(folder, size, mine), max(size, self._part))
            if size > self._left:
                return False
            self._left -= size
            return True
        finally:
            self._lock.release()

    def _look(self, folder: Folder, size: int, mine: Container[str]) -> int:
        """Bytes that may be written now: at least `size`, where that can be."""
        files = folder.files((self._clock() + _SKEW_MS) * 1_000_000)
        most = self._bound - _WRITERS * self._part
        room = min(most - sum(kept.size for kept in files), folder.free())
        for kept in files:
            if room >= size:
                break
            if kept.name not in mine:
                with suppress(OSError):  # another process was first, or it is another user's
                    folder.remove(kept.name)
                    room += kept.size
        return room
