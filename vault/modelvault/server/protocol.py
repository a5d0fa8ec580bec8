"""uvicorn's HTTP/1.1, with an end to what a slow or silent client may hold.

uvicorn bounds the time between two requests, not that of a request's head, nor that of an answer
which nobody reads: a few thousand idle connections would be all that it takes to stop a broker.
Bodies are bounded in `requests.body`.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import Callable
from typing import Any

import h11
import msgspec
from uvicorn.protocols.http.h11_impl import H11Protocol

from modelvault.wire import problem

HEAD_S = 10.0
UNREAD_S = 60.0
CLOSE_S = 1.0


class BoundedProtocol(H11Protocol):
    """One connection. `head_s` is the time for a request's whole head, from the connection's or its
    first byte on; `unread_s` how long the other end may read nothing of an answer; `close_s` how
    long it may take to end TLS: a client whose connection idles in a pool never does."""

    head_s = HEAD_S
    unread_s = UNREAD_S
    close_s = CLOSE_S

    def __init__(self, *args: Any, **more: Any) -> None:  # noqa: ANN401  uvicorn's own arguments
        super().__init__(*args, **more)
        self.access_log = False  # whoever listens: its lines hold queries
        self._head = _Timer(self.loop)
        self._unread = _Timer(self.loop)
        self._closing = _Timer(self.loop)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A silent connection counts as a head that doesn't come."""
        super().connection_made(transport)
        # An answer's head and its body are two writes: without this the second one waits until
        # the other end has acknowledged the first, which takes 40 ms. asyncio sets it itself only
        # on sockets that were made for it by name.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """More of a head, or of a body."""
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is waited for any more."""
        self._head.stop()
        self._unread.stop()
        self._closing.stop()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The other end is slower than we are."""
        super().pause_writing()
        self._unread.start(self.unread_s, self.transport.abort)

    def resume_writing(self) -> None:
        """It has read something."""
        self._unread.stop()
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002  uvicorn's own words
        """What isn't HTTP gets a problem document too, and then the connection ends."""
        document = problem.Problem(
            type=problem.TYPE + "bad_request",
            title="bad request",
            status=400,
            detail="the request isn't HTTP as this broker takes it",
            family="invalid_request",
            hint="heads up to 64 KiB, one way of telling the body's length",
            instance=secrets.token_hex(8),
        )
        body = msgspec.json.encode(document)
        headers = [
            (b"content-type", problem.MEDIA_TYPE.encode()),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        if self.conn.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            answer = h11.Response(status_code=400, headers=headers, reason=b"Bad Request")
            for event in (answer, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
        self._end()

    def on_response_complete(self) -> None:
        """An answer was the last one where the server stops, or the client said so."""
        super().on_response_complete()
        self._end()

    def shutdown(self) -> None:
        """The server stops: a connection without a request ends now."""
        super().shutdown()
        self._end()

    def timeout_keep_alive_handler(self) -> None:
        """Nothing more has come."""
        super().timeout_keep_alive_handler()
        self._end()

    def _end(self) -> None:
        if self.transport.is_closing():
            self._closing.start(self.close_s, self._cut)

    def _cut(self) -> None:
        """What is still being read is left to `unread_s`."""
        self._closing.stop()
        if self.transport.get_write_buffer_size():
            self._end()
        else:
            self.transport.abort()

    def _watch(self) -> None:
        serving = self.cycle is not None and not self.cycle.response_complete
        if serving or self.transport.is_closing():
            self._head.stop()
        else:
            self._head.start(self.head_s, self.transport.abort)


class _Timer:
    """Runs once, unless it is stopped before; starting it again while it runs changes nothing."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._handle: asyncio.TimerHandle | None = None

    def start(self, seconds: float, then: Callable[[], None]) -> None:
        if self._handle is None:
            self._handle = self._loop.call_later(seconds, then)

    def stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
