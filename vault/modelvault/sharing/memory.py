"""A file's plaintext in memory that several processes have: one writes, the others read.

The memory is a memfd. Its holder maps it for writing and then seals it: it can't grow or shrink,
and nobody, the holder included, can map it for writing again (F_SEAL_FUTURE_WRITE). Descriptors of
it may then be given away. A forked child of the holder hasn't the writing pages either.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import weakref
from collections.abc import Callable, Iterator

from modelvault.errors import Conflict, Unavailable
from modelvault.manifest import FileEntry
from modelvault.sharing import mapping, readers
from modelvault.sharing.mapping import PAGE, PRIVATE, READ, SHARED, WRITE, Pages

_BLOCK = 1 << 20
_OURS = 2  # mappings that the holder has of its own: one to read, one to write
_SEAL_FUTURE_WRITE = 0x10  # Linux 5.1; Python has a name for it from 3.13 on


class Seen:
    """What everybody has: the pages to read, and private copies of them to write to.

    Threads may use it at once. Takes over `descriptor`.
    """

    grain = PAGE  # a page that was edited doesn't show what is filled into it later

    def __init__(self, descriptor: int, size: int, holder: object = None) -> None:
        """`holder` lives at least as long as the memory does."""
        self.descriptor = descriptor
        self.size = size
        self._pages: Pages | None = mapping.pages(
            descriptor, 0, max(size, 1), flags=SHARED, protection=READ, holder=holder
        )
        self._mapped = weakref.ref(self._pages)
        weakref.finalize(self._pages, os.close, descriptor).atexit = False

    def view(self, begin: int, end: int) -> memoryview:
        """The bytes `begin` to `end`, read-only and not copied. Keeps the memory alive."""
        return mapping.view(self._held(), begin, end).toreadonly()

    def editable(self, begin: int, end: int) -> memoryview:
        """The same, to be written to: a page that is written becomes a copy, which only this view
        shows. What shares a page with these bytes must have been filled before.
        """
        held = self._held()
        if begin == end:
            return memoryview(bytearray())
        low = begin - begin % PAGE
        own = mapping.pages(
            self.descriptor, low, end - low, flags=PRIVATE, protection=WRITE, holder=held
        )
        return mapping.view(own, begin - low, end - low)

    def close(self) -> None:
        """Unmap. Doing it twice is fine.

        Raises Conflict (`views_alive`) while anything here refers to the memory; it then stays as
        it was, and a later close works.
        """
        abandoned = self._pages is None
        self._pages = None  # the last reference, if there are no views: it is unmapped now
        if self.alive:
            if not abandoned:
                self._pages = self._mapped()
            raise Conflict(
                "views_alive",
                "decrypted memory is still in use",
                "drop the arrays, tensors and memoryviews taken from the model, then close again",
            )

    def abandon(self) -> None:
        """Let go: unmapped now, or when the last view dies. Nothing new can be taken."""
        self._pages = None

    @property
    def alive(self) -> bool:
        """Whether it is still mapped here."""
        return self._mapped() is not None

    def _held(self) -> Pages:
        held = self._pages
        if held is None:
            raise Conflict("closed", "this memory was closed", "load the model again")
        return held


class Shared(Seen):
    """The holder's. When its own last view is gone it is zeroed, unless another process has it
    mapped: then it is let go, and the kernel takes it back when the last of them is gone.
    """

    def __init__(self, size: int, holder: object = None) -> None:
        """Raises Unavailable: `no_shared_memory`, `insufficient_memory`."""
        descriptor = _create(size)
        try:
            writing = mapping.pages(
                descriptor, 0, max(size, 1), flags=SHARED, protection=WRITE, forked=False
            )
            _seal(descriptor)
            super().__init__(descriptor, size, holder)
        except BaseException:
            os.close(descriptor)
            raise
        self._writing = _Writing(writing, size, descriptor)
        assert self._pages is not None  # noqa: S101
        # Registered last, so it is called first: while the descriptor is open. Also when the
        # interpreter ends.
        weakref.finalize(self._pages, self._writing.end)
        _all.add(self._writing)

    def fill(self, begin: int, end: int, read: Callable[[memoryview], None]) -> None:
        """Have `read` write the bytes `begin` to `end`; they are zeroed if it raises.

        Raises Unavailable (`insufficient_memory`), Conflict (`forked`), and what `read` does.
        """
        self._held()
        self._writing.fill(begin, end, read)

    def writable(self, begin: int, end: int) -> memoryview:
        """Bytes that were filled, to be written over: that can't fail, and isn't undone."""
        return mapping.view(self._writing.pages, begin, end)

    def give(self) -> int:
        """The descriptor, to be sent to another process."""
        self._writing.given = True
        readers.stir()
        return self.descriptor

    def wipe(self) -> None:
        """Zero it now, whoever looks at it."""
        self._writing.wipe()


class _Writing:
    """The pages that are written to. `touched` has a byte for each block of 1 MiB, and `given` says
    whether another process may have been given the memory, or forked with it.
    """

    def __init__(self, pages: Pages, size: int, descriptor: int) -> None:
        self.given = False
        self.pages = pages
        self._size = size
        self._descriptor = descriptor
        self._touched = bytearray((size - 1) // _BLOCK + 1) if size else bytearray()
        self._owner = os.getpid()

    def fill(self, begin: int, end: int, read: Callable[[memoryview], None]) -> None:
        if self._owner != os.getpid():
            raise Conflict(
                "forked",
                "a forked child can't decrypt into memory that its parent shares",
                "use modelvault.attach() in the child",
            )
        pages = self.pages
        if begin == end:
            read(memoryview(bytearray()))
            return
        self._allocate(begin, end)
        self._touched[begin // _BLOCK : (end - 1) // _BLOCK + 1] = b"\1" * (
            (end - 1) // _BLOCK + 1 - begin // _BLOCK
        )
        filled = False
        try:
            with mapping.view(pages, begin, end) as buffer:
                read(buffer)
            filled = True
        finally:
            if not filled:
                ctypes.memset(ctypes.addressof(pages) + begin, 0, end - begin)

    def wipe(self) -> None:
        if self._owner == os.getpid():
            for begin, end in self._runs():
                ctypes.memset(ctypes.addressof(self.pages) + begin, 0, end - begin)

    def end(self) -> None:
        """Nobody here looks at it any more."""
        if self._owner == os.getpid() and not (self.given and self._used_elsewhere()):
            self.wipe()

    def _allocate(self, begin: int, end: int) -> None:
        """Have the pages, so that a machine that is full is an error and no signal."""
        try:
            os.posix_fallocate(self._descriptor, begin, end - begin)
        except OSError as error:
            raise Unavailable(
                "insufficient_memory",
                f"{end - begin:,} bytes of shared memory couldn't be had ({error.strerror})",
                "give the machine or the container more memory, or load fewer files",
            ) from None

    def _used_elsewhere(self) -> bool:
        status = os.fstat(self._descriptor)
        return bool(readers.mapped_by(status.st_dev, status.st_ino, _OURS))

    def _runs(self) -> Iterator[tuple[int, int]]:
        start = self._touched.find(1)
        while start >= 0:
            stop = self._touched.find(0, start)
            stop = len(self._touched) if stop < 0 else stop
            yield start * _BLOCK, min(stop * _BLOCK, self._size)
            start = self._touched.find(1, stop)


_all: weakref.WeakSet[_Writing] = weakref.WeakSet()


def _in_parent() -> None:
    for writing in list(_all):
        writing.given = True


os.register_at_fork(after_in_parent=_in_parent)


def shared(entry: FileEntry, holder: object) -> Shared:
    """Memory for one file that can be given to other processes (a `source.Memories`)."""
    return Shared(entry.size, holder)


def sealed(data: bytes) -> int:
    """A descriptor of a memory file that holds `data` and never changes. The caller closes it.

    Raises Unavailable: `no_shared_memory`, `insufficient_memory`.
    """
    descriptor = _create(len(data))
    try:
        with mmap.mmap(descriptor, max(len(data), 1)) as whole:
            whole[: len(data)] = data
        seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _create(size: int) -> int:
    if not hasattr(os, "memfd_create") or not hasattr(fcntl, "F_ADD_SEALS"):
        raise _impossible("this system has no sealed memory files")
    try:
        descriptor = os.memfd_create("modelvault", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except OSError as error:
        raise Unavailable(
            "no_shared_memory",
            f"no memory file could be made ({error.strerror})",
            "use fewer files, or raise the limit on open files (ulimit -n)",
        ) from None
    try:
        os.ftruncate(descriptor, max(size, 1))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _seal(descriptor: int) -> None:
    seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | _SEAL_FUTURE_WRITE | fcntl.F_SEAL_SEAL
    try:
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    except OSError:
        raise _impossible(
            "this kernel can't keep other processes from writing (before 5.1)"
        ) from None


def _impossible(what: str) -> Unavailable:
    return Unavailable(
        "no_shared_memory", what, "let each process load the model by itself, with connect()"
    )
