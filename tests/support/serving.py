"""A broker's HTTP server in a thread, and raw talk to it."""

from __future__ import annotations

import json
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import msgspec

from modelvault.server.app import create
from modelvault.server.metrics import Metrics
from modelvault.server.service import Service
from modelvault.server.serving import Server, Serving
from support.servers.process import free_port, listening


class Running:
    """A server over a broker, both roles, from the moment it listens. `changes` are of Service."""

    def __init__(
        self,
        of: Any,
        /,
        *,
        revision: Callable[[], str | None] = lambda: None,
        tls: tuple[Path, Path] | None = None,
        threads: int = 8,
        serving: dict[str, Any] | None = None,
        **changes: Any,
    ) -> None:
        self.server = Server()
        self.port = free_port()
        self.metrics = Metrics()
        parts: dict[str, Any] = {
            "broker": of,
            "steward": of,
            "states": dict,
            "metrics": self.metrics,
            "revision": revision,
            "draining": self.server.draining,
        }
        self.service = Service(**(parts | changes))
        told = {
            "host": "127.0.0.1",
            "port": self.port,
            "certificate": None if tls is None else tls[0],
            "key": None if tls is None else tls[1],
        }
        app = create(self.service, threads)
        self._thread = threading.Thread(
            target=self.server.run, args=(app, Serving(**(told | (serving or {}))))
        )
        self._thread.start()
        while not listening(self.port):
            assert self._thread.is_alive()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self.server.stop()
        self.join()

    def join(self) -> None:
        self._thread.join(20)
        assert not self._thread.is_alive()

    def connections(self) -> int:
        """How many are open, as the server sees it."""
        running = self.server._server
        return 0 if running is None else len(running.server_state.connections)

    def open(self, context: ssl.SSLContext | None = None) -> socket.socket:
        """A raw connection, that waits 10 s for bytes."""
        plain = socket.create_connection(("127.0.0.1", self.port), 10)
        return plain if context is None else context.wrap_socket(plain, server_hostname="127.0.0.1")

    def raw(self, data: bytes, context: ssl.SSLContext | None = None) -> Answer:
        """What these bytes get. The request must ask for its connection to end."""
        with self.open(context) as connection:
            connection.sendall(data)
            return parse(read_all(connection))

    def ask(
        self,
        method: str,
        path: str,
        *,
        token: str | None = "a.b.c",  # noqa: S107  a stand-in
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        lines = {"Host": "127.0.0.1", "Connection": "close"}
        if token is not None:
            lines["Authorization"] = f"Bearer {token}"
        if body is not None:
            lines |= {"Content-Type": "application/json", "Content-Length": str(len(body))}
        lines |= headers or {}
        head = "".join(f"{name}: {text}\r\n" for name, text in lines.items())
        return self.raw(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + (body or b""))


@dataclass
class Answer:
    """An HTTP answer, taken apart."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The code of a problem document."""
        assert self.headers["content-type"] == "application/problem+json", self
        document = msgspec.json.decode(self.body)
        assert document["status"] == self.status
        return str(document["type"]).removeprefix("urn:modelvault:problem:")


def read_all(connection: socket.socket) -> bytes:
    """All that comes until the other end closes."""
    data = b""
    try:
        while part := connection.recv(1 << 16):
            data += part
    except ConnectionResetError:
        pass
    return data


def read_one(connection: socket.socket) -> Answer:
    """One answer with its whole body; the connection may go on."""
    data = b""
    while b"\r\n\r\n" not in data or len(data.partition(b"\r\n\r\n")[2]) < int(
        parse(data).headers.get("content-length", "0")
    ):
        part = connection.recv(1 << 16)
        assert part, "the connection ended"
        data += part
    return parse(data)


def parse(data: bytes) -> Answer:
    """The first answer in these bytes, which hold no more than it."""
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): text.strip() for name, _, text in (x.partition(":") for x in lines)}
    return Answer(int(first.split()[1]), headers, body)


def until(true: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait for something that happens in another thread."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)
