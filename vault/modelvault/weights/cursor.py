"""Going forward over a file's bytes without having the whole of it, for formats whose headers
don't say how long they are. What is skipped is never read, so a loader decrypts none of it.
"""

from __future__ import annotations

from collections.abc import Callable

from modelvault.errors import IntegrityError

Read = Callable[[int, int], bytes]  # the bytes from begin to end (not included)

_BLOCK = 64 << 10


class Cursor:
    """A position in a file of `size` bytes that `read` gives, in blocks.

    Every step that would leave the file, or begin behind `limit`, raises what `lie` makes of it.
    """

    def __init__(
        self, read: Read, size: int, lie: Callable[[str], IntegrityError], limit: int
    ) -> None:
        self.position = 0
        self.size = size
        self._read = read
        self._lie = lie
        self._limit = limit
        self._block = b""
        self._begin = 0

    def take(self, count: int) -> bytes:
        """The next `count` bytes."""
        start = self.position
        self.skip(count)
        if start > self._limit:
            raise self._lie(f"more than {self._limit:,} bytes of it would have to be read")
        at = start - self._begin
        if at < 0 or at + count > len(self._block):
            self._begin, at = start, 0
            self._block = self._read(start, min(start + max(count, _BLOCK), self.size))
        return self._block[at : at + count]

    def skip(self, count: int) -> None:
        """Go `count` bytes further without looking at them."""
        if count > self.size - self.position:
            raise self._lie(f"{count:,} bytes at byte {self.position:,} of a file of {self.size:,}")
        self.position += count

    def skip_texts(self, count: int) -> None:
        """Go over `count` texts, each behind its length in eight bytes: a block at a time, since
        vocabularies have hundreds of thousands."""
        while count:
            start = self.position
            self.take(8)
            block, at = self._block, start - self._begin
            while count and at + 8 <= len(block):
                at += 8 + int.from_bytes(block[at : at + 8], "little")
                count -= 1
            self.position = start
            self.skip(self._begin + at - start)

    def number(self, width: int) -> int:
        """An unsigned little-endian integer of `width` bytes."""
        return int.from_bytes(self.take(width), "little")
