"""What the loader needs from others: somebody who reads, and somebody who says whether it may."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from modelvault.crypto import pages
from modelvault.errors import AccessDenied, Conflict
from modelvault.manifest import FileEntry


class Reader(Protocol):
    """One file's verified plaintext; `artifact.reader.FileReader` is it. Thread-safe."""

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` with what begins at `offset`; nothing unverified is left in it.

        All threads that write to the buffer have ended when this returns or raises.
        """
        ...

    def wipe(self) -> None:
        """Forget the keys."""
        ...


class Guard(Protocol):
    """The lease, as the loader sees it. Thread-safe and cheap."""

    def check(self) -> None:
        """Raises AccessDenied once the lease has ended or was revoked."""
        ...


class Memory(Protocol):
    """Where one file's plaintext lives: `memory.Region`, or memory that processes share.

    Threads may take views at once; one fills at a time. Places are bytes of the file.
    """

    @property
    def grain(self) -> int:
        """Bytes from multiple to multiple of this that `editable` touches must be filled before."""
        ...

    @property
    def alive(self) -> bool:
        """Whether the memory is still there."""
        ...

    def fill(self, begin: int, end: int, read: Callable[[memoryview], None]) -> None:
        """Have these bytes in it, as `read` writes them; after an error they are zeros."""
        ...

    def view(self, begin: int, end: int) -> memoryview:
        """These bytes, read-only and not copied. Keeps the memory alive."""
        ...

    def editable(self, begin: int, end: int) -> memoryview:
        """As `view`, but it may be written to: no other process sees the change."""
        ...

    def close(self) -> None:
        """Wipe and unmap, or raise Conflict (`views_alive`). Doing it twice is fine."""
        ...

    def abandon(self) -> None:
        """Let go: it goes now, or with its last view."""
        ...


Readers = Callable[[FileEntry], Reader]
Memories = Callable[[FileEntry, object], Memory]
Fits = Callable[[int], None]


class Gate:
    """Whether decrypted bytes may be had: not after a close, not after a drop, not without lease.

    The only state that all parts of one model share. Looked at before every access and, within a
    long one, before every stride.
    """

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._forks = pages.forks()
        self._shut = False
        self._dropped = False

    def shut(self) -> None:
        """From now on there is no access."""
        self._shut = True

    def reopen(self) -> None:
        """A close that couldn't be done is taken back."""
        self._shut = False

    def drop(self) -> None:
        """From now on access is denied, whatever the lease says later."""
        self._dropped = True

    @property
    def forked(self) -> bool:
        """Whether this is a forked child that inherited nothing. Locks of its parent's threads may
        be held here for ever, so whoever takes one looks at this before."""
        return self._forks != pages.forks()

    def check(self) -> None:
        """Raises Conflict (`closed`; `forked` in a child that inherited nothing), or AccessDenied
        by the lease's own words where it has any."""
        if self._shut:
            raise Conflict("closed", "this model was closed", "load it again")
        if self.forked:
            raise Conflict(
                "forked",
                "this model stayed in the process that this one was forked from",
                "load it in this process (the start method `spawn` makes that plain), or fork "
                "within `with modelvault.inherited():`",
            )
        self._guard.check()
        if self._dropped:
            raise AccessDenied(
                "revoked", "access to this model was withdrawn", "ask for a new lease"
            )
