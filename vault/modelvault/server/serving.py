"""Runs an application until it is told to stop, and then ends what it has begun."""

from __future__ import annotations

import errno
import json
import logging
import os
import signal
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec
import uvicorn
from fastapi import FastAPI

from modelvault.errors import InvalidRequest
from modelvault.server import tracing
from modelvault.server.protocol import BoundedProtocol

_PLAIN = frozenset({"127.0.0.1", "::1", "localhost"})
_NOT_HERE = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_KEPT = ("request", "call", "method", "status", "ms", "code", "failure", "frames")


class Serving(msgspec.Struct, frozen=True, kw_only=True):
    """Where to listen. `certificate` and `key` are PEM files; without them only loopback is taken:
    a token in the clear is everybody's. `drain_s` bounds the wait for what has begun, `notice_s`
    is how long readiness says no before the port closes. More than `connections` at a time get a
    503; `backlog` more wait in the kernel."""

    host: str
    port: int
    certificate: Path | None = None
    key: Path | None = None
    client_ca: Path | None = None
    client_optional: bool = False
    drain_s: float = 30.0
    notice_s: float = 0.0
    connections: int = 1000
    backlog: int = 1024


class Server:
    """One server in this process. `draining` is for the application's readiness."""

    def __init__(self) -> None:
        self._stopping = threading.Event()
        self._server: _Uvicorn | None = None

    def draining(self) -> bool:
        """Whether a stop has begun."""
        return self._stopping.is_set()

    def run(self, app: FastAPI, serving: Serving) -> None:
        """Serve until SIGTERM or SIGINT; returns when all that had begun has ended.

        Raises InvalidRequest (`bad_serving`) for a certificate that can't be used, a host that
        isn't loopback without one, and an address that can't be listened on.
        """
        config = _config(app, serving)
        sockets = _listen(serving)
        self._server = _Uvicorn(config, self._stopping, serving.notice_s)
        tracing.start()
        try:
            self._server.run(sockets)
        finally:
            for each in sockets:
                each.close()

    def stop(self) -> None:
        """As SIGTERM does. Thread-safe."""
        self._stopping.set()
        if self._server is not None:
            self._server.close_soon()


class _Uvicorn(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, stopping: threading.Event, notice_s: float) -> None:
        super().__init__(config)
        self._stopping = stopping
        self._notice_s = notice_s

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn's, but a signal that was heeded isn't raised again at the end: that would
        end the process before it has let go of its parts, and call a stop in order a failure."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {each: signal.signal(each, self.handle_exit) for each in _SIGNALS}
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal: readiness says no, and after a moment the port closes. The second
        doesn't wait for that moment."""
        if self._stopping.is_set():
            super().handle_exit(sig, frame)
            return
        self._stopping.set()
        self.close_soon()

    def close_soon(self) -> None:
        """Close the port when whoever asks for readiness had time to hear that it ends."""
        if self._notice_s <= 0:
            self._close()
            return
        timer = threading.Timer(self._notice_s, self._close)
        timer.daemon = True
        timer.start()

    def _close(self) -> None:
        self.should_exit = True


def _listen(serving: Serving) -> list[socket.socket]:
    """A socket for each address of the host; one that this machine doesn't have is left out."""
    opened: list[socket.socket] = []
    failed = "it has no address"
    try:
        found = socket.getaddrinfo(serving.host, serving.port, type=socket.SOCK_STREAM)
        for family, address in dict.fromkeys((one[0], one[4]) for one in found):
            try:
                opened.append(
                    socket.create_server(address[:2], family=family, backlog=serving.backlog)
                )
            except OSError as failure:
                if failure.errno not in _NOT_HERE:
                    raise
                failed = os.strerror(failure.errno)
    except OSError as failure:
        for each in opened:
            each.close()
        opened, failed = [], failure.strerror or "it isn't known"
    if not opened:
        raise InvalidRequest(
            "bad_serving",
            f"can't listen on {serving.host} port {serving.port}: {failed}",
            "choose another address in [serve], or end what listens there",
        )
    return opened


def _config(app: FastAPI, serving: Serving) -> uvicorn.Config:
    if serving.certificate is None and serving.host not in _PLAIN:
        raise InvalidRequest(
            "bad_serving",
            f"without TLS it can't listen on {serving.host}",
            "name a certificate and a key in [serve.tls], or listen on 127.0.0.1 behind a proxy",
        )
    verify = ssl.CERT_NONE
    if serving.client_ca is not None:
        verify = ssl.CERT_OPTIONAL if serving.client_optional else ssl.CERT_REQUIRED
    try:
        config = uvicorn.Config(
            app,
            http=BoundedProtocol,
            ssl_certfile=serving.certificate,
            ssl_keyfile=serving.key,
            ssl_ca_certs=None if serving.client_ca is None else str(serving.client_ca),
            ssl_cert_reqs=verify,
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # which proxies are believed is decided for each request
            timeout_keep_alive=30,
            timeout_graceful_shutdown=round(serving.drain_s),
            h11_max_incomplete_event_size=64 << 10,
            limit_concurrency=serving.connections,
            backlog=serving.backlog,
            ws="none",
            lifespan="on",
        )
        config.load()
    except (OSError, ssl.SSLError):
        raise InvalidRequest(
            "bad_serving",
            "the certificate, its key or the clients' CA can't be read",
            "check the files that [serve.tls] names, and who may read them",
        ) from None
    if config.ssl is not None:
        config.ssl.minimum_version = ssl.TLSVersion.TLSv1_2
    return config


def log(level: str) -> None:
    """Write the log to stderr, a JSON object for each line, with what is known not to be secret."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Lines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # Their lines hold addresses with queries, headers and bodies, at the lowest level.
    for name in ("urllib3", "boto3", "botocore", "hvac", "httpx", "sqlalchemy", "asyncio"):
        logging.getLogger(name).setLevel(logging.WARNING)


class _Lines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "at": self.formatTime(record, "%Y-%m-%dT%H:%M:%S"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: getattr(record, name) for name in _KEPT if hasattr(record, name)}
        if record.exc_info and record.exc_info[0] is not None:
            line["failure"] = record.exc_info[0].__name__  # its text and frames stay in here
        return json.dumps(line, ensure_ascii=True)
