"""An attached process's line to the holder of its model."""

from __future__ import annotations

import os
import select
import socket
import struct
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress

from modelvault.errors import AccessDenied, Conflict, InvalidRequest, Unavailable
from modelvault.sharing import messages
from modelvault.sharing.address import near
from modelvault.sharing.messages import Describe, Memory, Need, Request

_LOOK_S = 1.0


class Link:
    """Asks the holder, one question at a time. Thread-safe; a forked child gets a line of its own.

    Each question may raise what the holder answers, Unavailable (`host_gone`, `host_unreadable`),
    AccessDenied (`foreign_host`), and what `meanwhile` raises, which is called while an answer is
    waited for: a holder that was stopped gives none.
    """

    def __init__(self, address: str, meanwhile: Callable[[], None] = lambda: None) -> None:
        self._address = address
        self._meanwhile = meanwhile
        self._lock = threading.RLock()  # a finaliser may hang up while its own thread asks
        self._taken: set[str] = set()
        self._line: socket.socket | None = None
        self.closed = False
        _links.add(self)

    def describe(self) -> list[int]:
        """The descriptors of the description and of the holder's page; the caller's to close."""
        with self._lock:
            return self._ask(Describe(), 2)

    def take(self, path: str) -> int:
        """The descriptor of a file's memory; the caller's to close."""
        with self._lock:
            return self._take(path)

    def need(self, path: str, begin: int, end: int, memory: int) -> None:
        """Have these bytes in the memory of descriptor `memory`, which `take` gave.

        Raises Conflict (`memory_replaced`) when the holder has given that memory back: it does so
        once nobody is connected who took it.
        """
        with self._lock:
            if path not in self._taken:  # this line is a new one
                again = self._take(path)
                try:
                    same = os.path.samestat(os.fstat(again), os.fstat(memory))
                finally:
                    os.close(again)
                if not same:
                    raise Conflict(
                        "memory_replaced",
                        f"{path}: the model's holder has given this memory back",
                        "attach anew in this process",
                    )
            self._ask(Need(path, begin, end), 0)

    def wait(self, seconds: float) -> bool:
        """Whether either side has hung up, after `seconds` at most. Nothing may be asked
        meanwhile."""
        line = self._line
        if line is None:
            return True
        poll = select.poll()
        poll.register(line, 0)  # hanging up is told of in any case
        return bool(poll.poll(seconds * 1000))

    def close(self) -> None:
        """Hang up. Twice is fine."""
        self.closed = True
        line = self._line
        if line is not None:
            with suppress(OSError):  # who waits for an answer gets none
                line.shutdown(socket.SHUT_RDWR)
        with self._lock:
            self._drop()

    def _take(self, path: str) -> int:
        (descriptor,) = self._ask(Memory(path), 1)
        self._taken.add(path)
        return descriptor

    def _ask(self, question: Request, wanted: int) -> list[int]:
        """The descriptors that came with the answer."""
        line = self._connected()
        try:
            with suppress(BrokenPipeError):  # who hung up may have said why
                messages.send(line, question, [])
            data, descriptors = self._answer(line)
        except OSError:
            self._drop()
            self._meanwhile()  # knows better why
            raise _gone(self._address) from None
        except BaseException:  # the answer to this question must not be taken for the next one's
            self._drop()
            raise
        try:
            messages.answer(data)
            if len(descriptors) != wanted:
                raise Unavailable(
                    "host_unreadable", f"{len(descriptors)} descriptors came, not {wanted}"
                )
        except BaseException:
            for descriptor in descriptors:
                os.close(descriptor)
            raise
        return descriptors

    def _answer(self, line: socket.socket) -> tuple[bytes, list[int]]:
        hung_up = False
        while True:
            try:
                data, descriptors, _, _ = socket.recv_fds(
                    line, messages.MAX_ANSWER, 2, socket.MSG_CMSG_CLOEXEC
                )
            except TimeoutError:
                self._meanwhile()
                continue
            except ConnectionResetError:  # told once, even where an answer lies ready
                if hung_up:
                    raise
                hung_up = True
                continue
            if not data:
                raise ConnectionResetError
            return data, descriptors

    def _connected(self) -> socket.socket:
        if self.closed:
            raise Conflict("closed", "this model was closed", "attach again")
        if self._line is None:
            self._line = _connect(self._address)
            self._line.settimeout(_LOOK_S)
        return self._line

    def _drop(self) -> None:
        self._taken.clear()
        line, self._line = self._line, None
        if line is not None:
            with suppress(OSError):  # a process that closed all of its descriptors closed it, too
                line.close()

    def _forked(self) -> None:
        """In a forked child: the line is the parent's, and nobody holds the lock any more."""
        self._lock = threading.RLock()
        self._drop()


_links: weakref.WeakSet[Link] = weakref.WeakSet()


def _in_child() -> None:
    for link in list(_links):
        link._forked()


os.register_at_fork(after_in_child=_in_child)


def _connect(address: str) -> socket.socket:
    line = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        with near(address) as name:
            line.connect(name)
        raw = line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("iII"))
    except (OSError, ValueError, InvalidRequest):
        line.close()
        raise _gone(address) from None
    uid = struct.unpack("iII", raw)[1]
    if uid != os.geteuid():
        line.close()
        raise AccessDenied(
            "foreign_host",
            f"whoever serves at {address} is user {uid}, and this process runs as {os.geteuid()}",
            "run both as the same user",
        )
    return line


def _gone(address: str) -> Unavailable:
    return Unavailable(
        "host_gone",
        f"nobody serves a model at {address}: the process that held it has ended, or hung up",
        "start it again, with what it runs; `modelvault run` shares its model with --stream",
    )
