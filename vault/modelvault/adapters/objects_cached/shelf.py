"""The cache's folder as one load sees it: what failed once in it isn't tried again."""

from __future__ import annotations

import errno
from collections.abc import Callable, Container, Iterator
from contextlib import ExitStack, contextmanager, suppress

from modelvault.adapters.objects_cached import folder as folders
from modelvault.adapters.objects_cached.folder import Folder
from modelvault.adapters.objects_cached.pieces import Piece
from modelvault.adapters.objects_cached.room import Room

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Of this file alone: another user's that may only be read, or something that isn't a file.
_THIS_ONE = (errno.EACCES, errno.EPERM, errno.EINVAL)
Tell = Callable[[str, OSError], None]


class Shelf:
    """Thread-safe. Nothing escapes from it: a cache that fails is only slow."""

    def __init__(self, folder: Folder | None, room: Room, mine: Container[str], tell: Tell) -> None:
        """`mine` are the cache's files of this load; without a folder nothing is held or kept."""
        self._folder = folder
        self._room = room
        self._mine = mine
        self._tell = tell
        self._writes = folder is not None
        self._unread: set[str] = set()
        self._unwritten: set[str] = set()
        self._touched: set[str] = set()

    @contextmanager
    def reading(self, file: str) -> Iterator[int | None]:
        """A descriptor of the cache's file; None where it can't be read."""
        with ExitStack() as stack:
            yield self._open(stack, file)

    def failed(self, file: str, error: OSError) -> None:
        """It couldn't be read: not tried again."""
        self._unread.add(file)
        self._tell("read only in part", error)

    def keep(self, piece: Piece, buffer: memoryview) -> None:
        """Write a piece that isn't held, where there is room."""
        if self._folder is None or not self._writes or piece.file in self._unwritten:
            return
        try:
            with self._folder.writing(piece.file) as descriptor:
                if folders.held(descriptor, [piece])[0]:
                    return
                self._writes = self._room.take(self._folder, piece.size, self._mine)
                if self._writes:
                    folders.write(descriptor, piece, buffer)
        except OSError as error:
            if error.errno in _THIS_ONE:
                self._unwritten.add(piece.file)
            else:
                self._writes = False
            self._tell("full" if error.errno in _FULL else "not written to", error)

    def drop(self, piece: Piece) -> None:
        """Hold a piece no longer, as far as that is possible."""
        if self._folder is None:
            return
        try:
            with self._folder.writing(piece.file) as descriptor:
                folders.drop(descriptor, piece)
        except OSError as error:
            self._tell("not written to", error)

    def _open(self, stack: ExitStack, file: str) -> int | None:
        if self._folder is None or file in self._unread:
            return None
        try:
            descriptor = stack.enter_context(self._folder.reading(file))
        except FileNotFoundError:
            return None
        except OSError as error:
            self.failed(file, error)
            return None
        if file not in self._touched:
            self._touched.add(file)
            with suppress(OSError):  # read-only, or another user's
                self._folder.touch(file)
        return descriptor
