"""One process's connection to the holder: what it asks is done, one request after the other."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable
from contextlib import suppress

from modelvault.errors import InvalidRequest, ModelVaultError, Unavailable
from modelvault.sharing import messages
from modelvault.sharing.messages import Describe, Done, Memory, Request
from modelvault.sharing.peers import Peer
from modelvault.sharing.shelf import Shelf

_LOG = logging.getLogger("modelvault.sharing")


class Served:
    """A connection and the thread that answers it, until either side hangs up."""

    def __init__(
        self,
        connection: socket.socket,
        peer: Peer,
        shelf: Shelf,
        described: Callable[[], list[int]],
        on_end: Callable[[Served], None],
    ) -> None:
        """`described` gives the descriptors that answer `Describe`."""
        self.peer = peer
        self._connection = connection
        self._shelf = shelf
        self._described = described
        self._on_end = on_end
        self._thread = threading.Thread(target=self._run, name="modelvault-served", daemon=True)

    def start(self) -> None:
        """Raises RuntimeError where the system gives no thread."""
        self._thread.start()

    def hang_up(self) -> None:
        """The other side notices at once, and so does the thread here, after what it is doing."""
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)

    def forget(self) -> None:
        """In a forked child: the connection is the parent's."""
        self._connection.close()

    def join(self, seconds: float) -> None:
        """Wait for the thread."""
        self._thread.join(seconds)

    def _run(self) -> None:
        try:
            while self._serve():
                pass
        except OSError as gone:
            _LOG.debug("process %d hung up: %s", self.peer.pid, gone.strerror)
        finally:
            self._shelf.leave(self)
            self._connection.close()
            self._on_end(self)

    def _serve(self) -> bool:
        """Answer one request; False when there is none, or none that makes sense."""
        data, _, flags, _ = self._connection.recvmsg(messages.MAX_REQUEST)
        if not data:
            return False
        try:
            if flags & socket.MSG_TRUNC:
                raise InvalidRequest("too_large", f"more than {messages.MAX_REQUEST} bytes")
            asked = messages.request(data)
        except InvalidRequest as refused:
            messages.send(self._connection, messages.refusal(refused), [])
            return False
        try:
            descriptors = self._do(asked)
        except ModelVaultError as refused:
            messages.send(self._connection, messages.refusal(refused), [])
        except Exception:  # noqa: BLE001  whatever it was, one process's request ends no other's
            _LOG.exception("a request of process %d failed", self.peer.pid)
            failed = Unavailable("host_failed", "the model's holder failed", "see its log")
            messages.send(self._connection, messages.refusal(failed), [])
        else:
            messages.send(self._connection, Done(), descriptors)
        return True

    def _do(self, asked: Request) -> list[int]:
        if isinstance(asked, Describe):
            return self._described()
        if isinstance(asked, Memory):
            return [self._shelf.take(asked.path, self)]
        self._shelf.need(asked.path, asked.begin, asked.end, self)
        return []
