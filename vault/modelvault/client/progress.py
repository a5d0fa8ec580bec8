"""Telling the caller how far something is."""

from __future__ import annotations

import threading
from collections.abc import Callable

Progress = Callable[[int, int], None]


def counter(progress: Progress | None, total: int) -> Callable[[int], None]:
    """A function that adds up the bytes of all threads and tells `progress(done, total)`.

    The caller's function is called by one thread at a time.
    """
    if progress is None:
        return lambda _count: None
    lock = threading.Lock()
    done = 0

    def count(more: int) -> None:
        nonlocal done
        with lock:
            done += more
            progress(done, total)

    return count
