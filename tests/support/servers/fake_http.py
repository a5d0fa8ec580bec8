"""A real HTTP server that answers what a test wants: what no real part says on command."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Asked:
    """One request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Reply:
    """One answer. `declared` is the Content-Length told, where it isn't the body's (-1: none is);
    `delay` in seconds before it; `drip` sends a byte at a time with that pause between."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    declared: int | None = None
    delay: float = 0.0
    drip: float = 0.0


def answer(value: Any, status: int = 200, **more: Any) -> Reply:
    """A JSON answer."""
    return Reply(status, json.dumps(value).encode(), {"Content-Type": "application/json"}, **more)


class FakeServer:
    """`reply(asked)` decides; `asked` keeps all requests."""

    def __init__(self, reply: Callable[[Asked], Reply]) -> None:
        self.reply = reply
        self.asked: list[Asked] = []
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = self.rfile.read(length)
                asked = Asked(self.command, self.path, dict(self.headers.items()), body)
                owner.asked.append(asked)
                owner._send(self, owner.reply(asked))

            def __getattr__(self, name: str) -> Any:
                if name.startswith("do_"):
                    return self.handle_one
                raise AttributeError(name)

            def handle(self) -> None:
                with suppress(ConnectionError):  # the other side has had enough
                    super().handle()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> FakeServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _send(self, handler: BaseHTTPRequestHandler, reply: Reply) -> None:
        time.sleep(reply.delay)
        try:
            handler.send_response(reply.status)
            for name, text in reply.headers.items():
                handler.send_header(name, text)
            length = len(reply.body) if reply.declared is None else reply.declared
            if length >= 0:
                handler.send_header("Content-Length", str(length))
            handler.end_headers()
            if handler.command == "HEAD":
                return
            if not reply.drip:
                handler.wfile.write(reply.body)
            for byte in reply.body if reply.drip else b"":
                handler.wfile.write(bytes([byte]))
                time.sleep(reply.drip)
            if length != len(reply.body):
                handler.close_connection = True
        except OSError:  # the other side has had enough
            handler.close_connection = True
