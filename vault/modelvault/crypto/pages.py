"""Memory that the kernel is told to keep from others, for keys and for decrypted weights.

Such pages are left out of core dumps, not handed to forked children, and locked against swapping
where the limit on locked memory allows. They are zeroed when the last reference to them goes, and
when the interpreter ends.

**What a fork gets.** Nothing: what a child would get of it lives on after its parent has wiped its
own. A child that asks for it by this library is told so. Numbers and arrays that were handed out
before can't be: reading them ends the child with SIGSEGV, and Python's traceback on stderr names
the line. The kernel could have shown zeros there instead, which nobody would notice; nor may the
addresses be free, or the child's own memory would come to lie there. `inherited()` is for jobs
that want otherwise.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import mmap
import os
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

# Python names MAP_NORESERVE from 3.13 on. Untouched pages then cost nothing to reserve, which is
# what reading one tensor out of a file larger than the machine needs.
_NORESERVE = getattr(
    mmap,
    "MAP_NORESERVE",
    0x4000 if sys.platform == "linux" and os.uname().machine in ("x86_64", "aarch64") else 0,
)
_FLAGS = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NORESERVE
_FIXED = 0x10  # MAP_FIXED, which Python doesn't name
_WIPEONFORK, _KEEPONFORK = 18, 19  # MADV_…, nor these: Linux 4.14
_MLOCK_ONFAULT = 1  # lock what is touched, when it is: reserving alone costs nothing

_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
if _libc is not None:
    _libc.mmap.restype = ctypes.c_void_p
    _libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]


class Pages(mmap.mmap):
    """A private mapping; `reserve` makes it. `absent` says that this is a forked child, which has
    the addresses only; `locked` that nothing of it can be swapped."""

    absent: bool
    locked: bool
    owner: int
    start: int

    def wipe(self) -> None:
        """Zero all of it."""
        # memset: it needs no source to read from, and other threads run meanwhile.
        ctypes.memset(self.start, 0, len(self))

    def __del__(self) -> None:
        # A child that inherited a copy only unmaps it: the plaintext is the parent's to wipe, and
        # writing to a copy would first double it. `owner` isn't there when the making failed.
        if getattr(self, "owner", None) == os.getpid():
            self.wipe()


P = TypeVar("P", bound=Pages)
_all: weakref.WeakSet[Pages] = weakref.WeakSet()
_inheriting = 0
_forks = 0
_forking = 0


def reserve(kind: type[P], size: int) -> P:
    """Zeroed pages. Raises OSError when there is no such room; what else isn't possible here is
    left out (`doctor` tells of it)."""
    pages = kind(-1, size, flags=_FLAGS)
    pages.absent = pages.locked = False
    pages.owner = os.getpid()
    pages.start = ctypes.addressof(ctypes.c_char.from_buffer(pages))
    _all.add(pages)
    _advise(pages, "MADV_HUGEPAGE")
    _advise(pages, "MADV_DONTDUMP")
    if not _inheriting:
        _advise(pages, "MADV_DONTFORK")
    pages.locked = _lock(pages)
    return pages


def mapped(descriptor: int, size: int) -> mmap.mmap:
    """A file in memory, mapped to be filled: meanwhile neither core dumps nor children that are
    forked have what is in it. Raises OSError."""
    mapping = mmap.mmap(descriptor, size)
    _advise(mapping, "MADV_DONTDUMP")
    _advise(mapping, "MADV_DONTFORK")
    return mapping


def forks() -> int:
    """How many forks lie between the start of the program and this process in which pages stayed
    behind. Whoever remembers another number isn't in the process that it was made in."""
    return _forks


def inheriting() -> bool:
    """Whether what is forked now inherits: within `inherited()`."""
    return _inheriting > 0


@contextmanager
def inherited() -> Iterator[None]:
    """Have processes that are forked within the block inherit decrypted weights and keys, as
    copies on write: for servers that load a model and fork their workers then.

    A child's copies go when it ends: revocations and closing the model don't reach them. The block
    counts for the whole process, whichever thread forks.
    """
    global _inheriting
    _inheriting += 1
    _advise_all("MADV_DOFORK")
    try:
        yield
    finally:
        _inheriting -= 1
        if not _inheriting:
            _advise_all("MADV_DONTFORK")


def _advise_all(name: str) -> None:
    for pages in list(_all):
        if not pages.absent:
            _advise(pages, name)


def _advise(pages: mmap.mmap, name: str) -> None:
    advice = getattr(mmap, name, None)
    if advice is not None:
        with contextlib.suppress(OSError):  # a kernel without it: memory works all the same
            pages.madvise(advice)


def _lock(pages: Pages) -> bool:
    """All of it or nothing: the kernel refuses what goes over the limit."""
    if _libc is None or not hasattr(_libc, "mlock2"):
        return False
    size = ctypes.c_size_t(len(pages))
    return bool(_libc.mlock2(ctypes.c_void_p(pages.start), size, _MLOCK_ONFAULT) == 0)


def _before_fork() -> None:
    """Have the child get zeros for a moment: were the addresses free until `_after_fork`, what the
    hooks of others allocate there before it would lie in them, and be unmapped under their feet."""
    global _forking
    _forking += 1
    if not _inheriting:
        for pages in list(_all):
            if not pages.absent:
                with contextlib.suppress(OSError):  # not wiped: then not forked either, as ever
                    pages.madvise(_WIPEONFORK)
                    _advise(pages, "MADV_DOFORK")


def _after_in_parent() -> None:
    global _forking
    _forking -= 1
    if _forking:
        return
    if not _inheriting:
        _advise_all("MADV_DONTFORK")
    for pages in list(_all):
        if not pages.absent:
            with contextlib.suppress(OSError):
                pages.madvise(_KEEPONFORK)


def _after_fork() -> None:
    """In the child: pages that stayed behind keep their addresses, which nobody may touch."""
    global _forks, _forking
    _forking = 0
    if _inheriting or _libc is None:
        return
    _forks += 1
    if not faulthandler.is_enabled():
        with contextlib.suppress(Exception):  # there may be no stderr: then nothing is told
            faulthandler.enable(all_threads=False)
    for pages in list(_all):
        if not pages.absent:
            pages.absent = True
            flags = _FLAGS | _FIXED
            _libc.mmap(pages.start, len(pages), 0, flags, -1, 0)


def _at_exit() -> None:
    for pages in list(_all):
        if not pages.absent and pages.owner == os.getpid():
            pages.wipe()


os.register_at_fork(
    before=_before_fork, after_in_parent=_after_in_parent, after_in_child=_after_fork
)


class _Interpreter:
    """Something that lives as long as it does."""


_interpreter = _Interpreter()
# By a finaliser: at exit the last one made runs first, so models are closed before.
weakref.finalize(_interpreter, _at_exit)
