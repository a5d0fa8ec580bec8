"""A model's file as Python's binary files are."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from modelvault.errors import InvalidRequest
from modelvault.loader.resident import Resident

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


class OpenedFile(io.RawIOBase):
    """Read-only and seekable; decrypts the segments that are read and keeps them for the model."""

    def __init__(self, resident: Resident) -> None:
        self.name = resident.path
        self._resident = resident
        self._position = 0

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def tell(self) -> int:
        """The position in bytes."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """As files do; behind the end reads give nothing.

        Raises InvalidRequest (`bad_seek`) for a position before the beginning.
        """
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._resident.size}
        if whence not in start or start[whence] + offset < 0:
            raise InvalidRequest("bad_seek", f"{self.name}: no such position to seek to")
        self._position = start[whence] + offset
        return self._position

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Fill as much of `buffer` as there is; 0 at the end. Errors as the model's other reads."""
        with memoryview(buffer).cast("B") as out:
            begin = min(self._position, self._resident.size)
            end = min(begin + len(out), self._resident.size)
            with self._resident.view(begin, end) as view:
                out[: end - begin] = view
        self._position += end - begin
        return end - begin

    def readall(self) -> bytes:
        """The rest, in one go and not by thousands of small reads."""
        begin = min(self._position, self._resident.size)
        with self._resident.view(begin, self._resident.size) as view:
            rest = bytes(view)
        self._position += len(rest)
        return rest


def opened(resident: Resident) -> io.BufferedReader:
    """The file, buffered, positioned at its beginning."""
    return io.BufferedReader(OpenedFile(resident))
