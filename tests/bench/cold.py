"""Taking files out of the page cache, and seeing that they are out of it."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterable
from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
MOST_LEFT = 0.001  # a page or two may be anybody's


def evict(files: Iterable[Path]) -> None:
    """Put these files out of the page cache. RuntimeError where they stay: a figure that is called
    cold must be one."""
    for path in files:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)  # pages that aren't on the disk yet can't be dropped
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)
        left = cached(path)
        if left > MOST_LEFT:
            raise RuntimeError(f"{left:.1%} of {path} is still in the page cache")


def cached(path: Path) -> float:
    """Which part of a file's pages is in the page cache: 0 to 1."""
    size = path.stat().st_size
    if size == 0:
        return 0.0
    with path.open("rb") as file, mmap.mmap(file.fileno(), size, mmap.MAP_PRIVATE) as mapped:
        pages = -(-size // mmap.PAGESIZE)
        found = (ctypes.c_ubyte * pages)()
        start = ctypes.c_ubyte.from_buffer(mapped)
        failed = _libc.mincore(ctypes.addressof(start), size, found)
        del start
    if failed:
        raise OSError(ctypes.get_errno(), "mincore")
    return sum(byte & 1 for byte in bytes(found)) / pages
