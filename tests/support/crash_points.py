"""Kill a process at a chosen I/O call: every change a walk makes to a disk is a crash point.

`arm` wraps what reaches the operating system: the calls of `os` that change a file system, and
each statement and commit of the ledger's database. Points are counted in the order in which they
come; where threads race the order may differ between runs, so a point is known by its label (the
call and the line of ours that made it), and whoever uses this checks that each label was hit.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import event
from sqlalchemy.engine import Engine
from sqlalchemy.engine.default import DefaultDialect

CALLS = (
    "open",
    "write",
    "pwrite",
    "pwritev",
    "fsync",
    "fdatasync",
    "posix_fallocate",
    "ftruncate",
    "link",
    "rename",
    "replace",
    "unlink",
    "remove",
    "mkdir",
    "chmod",
    "fchmod",
)
OURS = f"{os.sep}modelvault{os.sep}"


class CrashPoints:
    """Counts points; writes each label to `log`; kills the process at point `die_at` (from 1)."""

    def __init__(self, log: Path, die_at: int | None) -> None:
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._write = os.write
        self._die_at = die_at
        self._count = 0
        self._lock = threading.Lock()

    def reach(self, what: str) -> None:
        """A point. The label is written before the process dies, so nothing is lost."""
        place = _place()
        if place is None:
            return
        with self._lock:
            self._count += 1
            self._write(self._log, f"{what} {place}\n".encode())
            if self._count == self._die_at:
                os.kill(os.getpid(), signal.SIGKILL)

    def arm(self) -> None:
        """Wrap the calls; each is a point just before it happens, a commit also just after."""
        for name in CALLS:
            if hasattr(os, name):
                setattr(os, name, self._wrapped(f"os.{name}", getattr(os, name)))
        event.listen(Engine, "before_cursor_execute", self._statement)
        commit = DefaultDialect.do_commit

        def do_commit(dialect: DefaultDialect, connection: object) -> None:
            self.reach("before commit")
            commit(dialect, connection)
            self.reach("after commit")

        DefaultDialect.do_commit = do_commit  # type: ignore[method-assign]

    def _wrapped(self, what: str, call: Callable[..., object]) -> Callable[..., object]:
        def wrapper(*args: object, **named: object) -> object:
            self.reach(what)
            return call(*args, **named)

        return wrapper

    def _statement(self, *told: object) -> None:
        statement = str(told[2]).lstrip()
        if not statement.upper().startswith(("SELECT", "PRAGMA")):
            self.reach(" ".join(statement.split()[:3]))


def _place() -> str | None:
    """The nearest line of ours on the stack; None where the call isn't ours at all."""
    frame = sys._getframe(2)
    while frame is not None:
        path = frame.f_code.co_filename
        if OURS in path:
            return f"{path[path.rindex(OURS) + len(OURS) :]}:{frame.f_lineno}"
        frame = frame.f_back
    return None
