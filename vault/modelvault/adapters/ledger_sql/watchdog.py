"""Ends a conversation with a database server that has fallen silent.

The server's own timeouts don't help when the server itself hangs or the network swallows packets,
and libpq waits for ever. So a connection that is out for too long has its socket shut down from
another thread: whoever waits on it gets the driver's error for a lost connection.
"""

from __future__ import annotations

import os
import socket
import threading
from typing import Any

from sqlalchemy import Engine, event

from modelvault.clock import boot_ms

_LOOK_S = 0.25


class Watchdog:
    """Watches the connections of some engines. Its thread starts with the first connection."""

    def __init__(self, limit_s: float) -> None:
        self._limit_ms = round(limit_s * 1000)
        self._out: dict[int, tuple[int, socket.socket]] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def watch(self, engine: Engine) -> None:
        """Watch what this engine's pool lends from now on."""
        event.listen(engine.pool, "checkout", self._lent)
        event.listen(engine.pool, "checkin", self._returned)

    def close(self) -> None:
        """End the thread. Idempotent."""
        self._stop.set()
        if self._thread is not None and self._thread.is_alive():
            self._thread.join()

    def _lent(self, connection: Any, _record: Any, _proxy: Any) -> None:  # noqa: ANN401
        # A duplicate: the number of a socket that was closed may by then be somebody else's.
        copy = socket.socket(fileno=os.dup(connection.fileno()))
        with self._lock:
            self._out[id(connection)] = (boot_ms() + self._limit_ms, copy)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="modelvault-ledger-watchdog", daemon=True
                )
                self._thread.start()

    def _returned(self, connection: Any, _record: Any) -> None:  # noqa: ANN401
        with self._lock:
            lent = self._out.pop(id(connection), None)
        if lent is not None:
            lent[1].close()

    def _run(self) -> None:
        while not self._stop.wait(_LOOK_S):
            now = boot_ms()
            with self._lock:
                for until, copy in self._out.values():
                    if until <= now:
                        _shut(copy)


def _shut(copy: socket.socket) -> None:
    try:
        copy.shutdown(socket.SHUT_RDWR)
    except OSError:  # it is gone already
        return
