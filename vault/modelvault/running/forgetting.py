"""Variables that the kernel shows to whoever may look at a process: /proc/<pid>/environ."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Collection
from pathlib import Path


def cover(names: Collection[str]) -> None:
    """Overwrite these variables where the kernel looks for them. `os.environ` still has them.

    Where the system doesn't say where that is, nothing happens.
    """
    block = _block()
    if block is None:
        return
    start, end = block
    position = start
    for entry in ctypes.string_at(start, end - start).split(b"\0"):
        name, equals, value = entry.partition(b"=")
        if equals and os.fsdecode(name) in names:
            ctypes.memset(position + len(name) + 1, ord("x"), len(value))
        position += len(entry) + 1


def _block() -> tuple[int, int] | None:
    try:
        text = Path("/proc/self/stat").read_bytes()
    except OSError:
        return None
    # The name in brackets is the second of the fields, which are counted from one.
    fields = text[text.rindex(b")") + 2 :].split()
    start, end = int(fields[50 - 3]), int(fields[51 - 3])
    return (start, end) if 0 < start < end else None
