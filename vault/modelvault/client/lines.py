"""Private files that processes add lines to, and read again when one of them was cut off."""

from __future__ import annotations

import fcntl
import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import msgspec

T = TypeVar("T")

MAX_BYTES = 256 << 20


class LineFile:
    """A locked file of `lock_file`'s. Threads may write to it at once; other processes can't."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor
        self._lock = threading.Lock()

    def empty(self) -> None:
        """Forget all lines."""
        with self._lock:
            os.ftruncate(self._descriptor, 0)

    def write(self, line: msgspec.Struct) -> None:
        """Add a line. A disk that takes no more is no reason to stop what is written down here."""
        data = msgspec.json.encode(line) + b"\n"
        with self._lock, suppress(OSError):
            os.write(self._descriptor, data)

    def remove(self) -> None:
        """What it is about is over. Idempotent."""
        with suppress(OSError):
            self._path.unlink()
        self.close()

    def close(self) -> None:
        """Leave it for the next process. Idempotent."""
        with self._lock:
            if self._descriptor >= 0:
                os.close(self._descriptor)
            self._descriptor = -1


def lock_file(path: Path) -> int | None:
    """A private file to append to, locked; None where it can't be had or another has it."""
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, flags, 0o600)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def read_lines(descriptor: int, decoder: msgspec.json.Decoder[T]) -> list[T]:
    """The lines up to the first that isn't whole: a process may have died while it wrote. What
    follows them is cut off, so that new lines don't stand behind something broken."""
    lines: list[T] = []
    whole = 0
    with os.fdopen(os.dup(descriptor), "rb") as file:
        file.seek(0)
        while data := file.readline(MAX_BYTES - whole):
            try:
                if not data.endswith(b"\n"):
                    break
                lines.append(decoder.decode(data))
            except (msgspec.MsgspecError, UnicodeDecodeError):
                break
            whole += len(data)
    os.ftruncate(descriptor, whole)
    return lines
