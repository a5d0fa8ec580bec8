"""Share work out to threads that live for one call."""

from __future__ import annotations

import threading
from collections.abc import Callable


def run_blocks(work: Callable[[int, int], None], count: int, block: int, threads: int) -> None:
    """Call `work(start, stop)` for consecutive blocks of `range(count)`, `block` long but the last.

    At most `threads` at once, the caller's own thread among them; a single block starts no other
    thread. Returns when all are done. After an error no new block is begun; the first error is
    raised here once all threads have stopped, so nothing is written behind the caller's back.

    Threads begin and end with the call: starting one costs a tenth of a millisecond, and there is
    no pool to outlive a fork or to shut down. Where the system gives no further thread (a limit on
    processes or memory), those that there are do the work, be it the caller's alone.
    """
    shared = _Blocks(work, count, block)
    helpers = [
        threading.Thread(target=shared.run, name="modelvault-segments", daemon=True)
        for _ in range(min(threads, -(-count // block)) - 1)
    ]
    try:
        for helper in helpers:
            try:
                helper.start()
            except RuntimeError:
                break
        shared.run()
    finally:
        shared.stop()
        _wait(helpers)
    error, shared.error = shared.error, None
    try:
        if error is not None:
            raise error
    finally:
        del error  # else error and frame would keep each other, and the caller's buffer, alive


def _wait(threads: list[threading.Thread]) -> None:
    """Wait for all that run. Ctrl-C doesn't end the waiting, but is raised after it: the caller
    is about to close or wipe what those threads still write to."""
    interrupted: KeyboardInterrupt | None = None
    for thread in threads:
        while thread.is_alive():
            try:
                thread.join()
            except KeyboardInterrupt as error:
                interrupted = error
    if interrupted is not None:
        raise interrupted


class _Blocks:
    def __init__(self, work: Callable[[int, int], None], count: int, block: int) -> None:
        self._work = work
        self._count = count
        self._block = block
        self._next = 0
        self._lock = threading.Lock()
        self.error: BaseException | None = None

    def run(self) -> None:
        """Take blocks until none is left."""
        try:
            while (start := self._take()) < self._count:
                self._work(start, min(start + self._block, self._count))
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            with self._lock:
                self.error = self.error or error
            self.stop()

    def stop(self) -> None:
        with self._lock:
            self._next = self._count

    def _take(self) -> int:
        with self._lock:
            start = self._next
            self._next += self._block
            return start
