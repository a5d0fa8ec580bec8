"""Kill a process at a chosen I/O call: every call of a walk that reaches the system is a point.

`arm` wraps the calls of `os`, `io` and `fcntl` that our code makes, and each statement and commit
of the ledger's database. A point is known by its label (the call and the line of ours that made
it) and by how often that label was reached before: threads may race, but each of them comes to its
own points the same number of times. A call that only reads has a label that begins with READ: it
leaves the disk as the call before it did.
"""

from __future__ import annotations

import fcntl
import io
import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import event
from sqlalchemy.engine import Engine
from sqlalchemy.engine.default import DefaultDialect

READ = "read: "
CHANGING = (
    "fsync",
    "fdatasync",
    "posix_fallocate",
    "ftruncate",
    "truncate",
    "link",
    "symlink",
    "rename",
    "replace",
    "unlink",
    "remove",
    "mkdir",
    "rmdir",
    "chmod",
    "fchmod",
)
WRITING = ("write", "pwrite", "writev", "pwritev")
READING = ("read", "pread", "preadv", "stat", "lstat", "fstat", "listdir", "scandir")
OURS = f"{os.sep}modelvault{os.sep}"


class Point(NamedTuple):
    """The `nth` time (from 1) that the point `label` is reached."""

    label: str
    nth: int


class CrashPoints:
    """Writes the label of each point that is reached to `log`; kills the process at `die_at`."""

    def __init__(self, log: Path, die_at: Point | None) -> None:
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._write = os.write
        self._die_at = die_at
        self._reached: Counter[str] = Counter()
        self._lock = threading.Lock()

    def reach(self, what: str, last_act: Callable[[], object] = lambda: None) -> None:
        """A point; `last_act` is what still happens if the process dies here."""
        place = _place()
        if place is None:
            return
        label = f"{what} {place}"
        with self._lock:
            self._reached[label] += 1
            self._write(self._log, f"{label}\n".encode())
            if Point(label, self._reached[label]) == self._die_at:
                last_act()
                os.kill(os.getpid(), signal.SIGKILL)

    def arm(self) -> None:
        """Wrap the calls; each is a point just before it happens, a commit also just after."""
        self._wrap(os, CHANGING, "os.")
        self._wrap(os, READING, READ + "os.")
        self._wrap(fcntl, ("flock",), READ + "fcntl.")
        setattr(io, "open", self._opening_file(io.open))  # noqa: B010 - as the others are set
        for name in WRITING:
            setattr(os, name, self._halving(f"os.{name}", getattr(os, name)))
        setattr(os, "open", self._opening(os.open))  # noqa: B010 - as the others are set
        event.listen(Engine, "before_cursor_execute", self._statement)
        commit = DefaultDialect.do_commit

        def do_commit(dialect: DefaultDialect, connection: Any) -> None:
            if connection.execute("PRAGMA query_only").fetchone()[0]:
                return commit(dialect, connection)
            self.reach("before commit")
            commit(dialect, connection)
            return self.reach("after commit")

        DefaultDialect.do_commit = do_commit  # type: ignore[method-assign]

    def _wrap(self, owner: object, names: tuple[str, ...], prefix: str) -> None:
        for name in names:
            if hasattr(owner, name):  # not each system has each of them
                setattr(owner, name, self._wrapped(prefix + name, getattr(owner, name)))

    def _wrapped(self, what: str, call: Callable[..., object]) -> Callable[..., object]:
        def wrapper(*args: object, **named: object) -> object:
            self.reach(what)
            return call(*args, **named)

        return wrapper

    def _opening(self, call: Callable[..., int]) -> Callable[..., int]:
        def wrapper(path: object, flags: int, *args: object, **named: object) -> int:
            changes = flags & (os.O_CREAT | os.O_TRUNC)
            self.reach("os.open" if changes else READ + "os.open")
            return call(path, flags, *args, **named)

        return wrapper

    def _opening_file(self, call: Callable[..., object]) -> Callable[..., object]:
        def wrapper(file: object, mode: str = "r", *args: object, **named: object) -> object:
            self.reach("io.open" if set(mode) & set("wax+") else READ + "io.open")
            return call(file, mode, *args, **named)

        return wrapper

    def _halving(self, what: str, call: Callable[..., int]) -> Callable[..., int]:
        """Two points: nothing is written yet; one half is."""

        def wrapper(descriptor: int, data: Any, *args: object) -> int:
            self.reach(what)
            if "v" not in what:  # a list of buffers is left whole
                half = memoryview(data)[: len(data) // 2]
                self.reach(f"half of {what}", lambda: call(descriptor, half, *args))
            return call(descriptor, data, *args)

        return wrapper

    def _statement(self, *told: object) -> None:
        statement = " ".join(str(told[2]).split()[:3])
        if statement.startswith("SELECT") or statement == "BEGIN":
            self.reach(READ + statement.split()[0])
        elif not statement.startswith("PRAGMA"):
            self.reach(statement)


def points(labels: list[str]) -> list[Point]:
    """Where to kill a walk that reached `labels`: at each change, each time; at each line that
    only reads, once."""
    return [
        Point(label, nth)
        for label, times in Counter(labels).items()
        for nth in range(1, 1 + (1 if label.startswith(READ) else times))
    ]


def _place() -> str | None:
    """The nearest line of ours on the stack; None where the call isn't ours at all."""
    frame = sys._getframe(2)
    while frame is not None:
        path = frame.f_code.co_filename
        if OURS in path:
            return f"{path[path.rindex(OURS) + len(OURS) :]}:{frame.f_lineno}"
        frame = frame.f_back
    return None
