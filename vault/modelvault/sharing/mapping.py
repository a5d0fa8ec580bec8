"""Pages of a memory file in this process: mapped without keeping a descriptor open for them.

Python's own mmap duplicates the descriptor for as long as the mapping lives: with a few thousand
tensors a process would run into its limit on open files.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
import weakref
from typing import Any

from modelvault.errors import Unavailable

PAGE = mmap.PAGESIZE
SHARED = mmap.MAP_SHARED
# What is written stays this process's own. NORESERVE: a page is only counted once it is copied.
PRIVATE = mmap.MAP_PRIVATE | (0x4000 if sys.platform == "linux" else 0)
READ = mmap.PROT_READ
WRITE = mmap.PROT_READ | mmap.PROT_WRITE

Pages = ctypes.Array[ctypes.c_ubyte]
_MLOCK_ONFAULT = 1
_FAILED = ctypes.c_void_p(-1).value


def pages(
    descriptor: int,
    begin: int,
    size: int,
    *,
    flags: int,
    protection: int,
    holder: object = None,
    forked: bool = True,
) -> Pages:
    """`size` bytes of a memory file from `begin` on, which is a multiple of PAGE.

    Unmapped when nothing refers to them any more, views included; `holder` lives as long. With
    `forked=False` a forked child hasn't them. Core dumps never do.

    Raises Unavailable (`insufficient_memory`) when the system gives no room for them.
    """
    libc = _libc()
    address = libc.mmap(None, size, protection, flags, descriptor, begin)
    if address is None or address == _FAILED:
        raise Unavailable(
            "insufficient_memory",
            f"{size:,} bytes of shared memory can't be mapped ({os.strerror(ctypes.get_errno())})",
            "raise the limit on this process's address space (ulimit -v), or use fewer files",
        )
    for advice in ("MADV_HUGEPAGE", "MADV_DONTDUMP") + ("MADV_DONTFORK",) * (not forked):
        libc.madvise(address, size, getattr(mmap, advice))  # it works without a kernel that knows
    if protection & mmap.PROT_WRITE and flags & mmap.MAP_SHARED:
        # What is written is locked against swapping, where the limit allows. Private copies never
        # are: to lock them the kernel would copy every page.
        libc.mlock2(ctypes.c_void_p(address), ctypes.c_size_t(size), _MLOCK_ONFAULT)
    mapped = (ctypes.c_ubyte * size).from_address(address)
    mapped.holder = holder  # type: ignore[attr-defined]
    # Not when the interpreter ends: others may look at the pages until the very last moment.
    weakref.finalize(mapped, _unmap, address, size, None if forked else os.getpid()).atexit = False
    return mapped


def view(mapped: Pages, begin: int, end: int) -> memoryview:
    """Some of them; it keeps all of them mapped."""
    return memoryview(mapped).cast("B")[begin:end]


def _unmap(address: int, size: int, owner: int | None) -> None:
    # Where a forked child hasn't got the pages, something else may be at their address by now.
    if owner is None or owner == os.getpid():
        _libc().munmap(address, size)


def _libc() -> Any:  # noqa: ANN401
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [
        ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64,
    ]  # fmt: skip
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return libc
