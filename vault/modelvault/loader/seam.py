"""Reading a file from front to back in parts, with no segment decrypted twice."""

from __future__ import annotations

from modelvault.loader.memory import Region
from modelvault.loader.resident import Resident


class Seam:
    """Keeps the last segment of one read for the next one, which may begin within it.

    One thread's at a time. Close it: the kept segment is wiped then.
    """

    def __init__(self, resident: Resident) -> None:
        self.resident = resident
        self._begin = -1
        self._kept: Region | None = None
        self._length = 0

    def cover(self, begin: int, end: int) -> tuple[int, int]:
        """The whole segments that hold bytes `begin` to `end`."""
        payload = self.resident.payload
        return begin - begin % payload, min(-(-end // payload) * payload, self.resident.size)

    def fill(self, first: int, out: memoryview) -> None:
        """Write the file's bytes from `first`, the beginning of a segment, on into `out`, which
        ends with a segment, too. Errors as `Resident.fill`."""
        done = 0
        if self._kept is not None and self._begin == first:
            done = min(self._length, len(out))
            with self._kept.view(0, done) as kept:
                out[:done] = kept
        if done < len(out):
            with out[done:] as rest:
                self.resident.fill(rest, first + done)
        self._keep(first, out)

    def close(self) -> None:
        """Wipe. Doing it twice is fine; another `fill` works all the same."""
        self._begin = -1
        if self._kept is not None:
            self._kept.abandon()
            self._kept = None

    def _keep(self, first: int, out: memoryview) -> None:
        payload = self.resident.payload
        if not out:
            return
        at = (len(out) - 1) // payload * payload
        if self._kept is None:
            self._kept = Region(payload)
        self._begin = first + at
        self._length = len(out) - at
        with self._kept.writable(0, self._length) as kept:
            kept[:] = out[at:]
