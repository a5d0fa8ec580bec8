"""Connections to a broker: TLS that is verified, and an end to the wait for an answer's head.

A timeout of a socket bounds one read. A head that comes a byte at a time keeps within it for hours;
so a timer cuts the connection.
"""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.response import HTTPResponse

from modelvault.errors import InvalidRequest

CONNECT_S = 10.0
KEPT = 16  # connections
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """Where a broker is: https://host[:port], or plain http on loopback. `ca` is a PEM file; with
    `certificate` and `key` the client shows a certificate of its own. `timeout_s` is how long the
    broker may think about one request.

    Raises InvalidRequest (`bad_broker`).
    """

    url: str
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    timeout_s: float = 30.0

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            port = parts.port
        except ValueError:
            raise _bad(self.url, "it isn't https://host:port") from None
        if parts.scheme not in {"http", "https"} or not parts.hostname or port == 0:
            raise _bad(self.url, "it isn't https://host:port")
        if parts.query or parts.fragment or "@" in parts.netloc or parts.path not in {"", "/"}:
            raise _bad(self.url, "it has more in it than a host and a port")
        if parts.scheme == "http" and parts.hostname not in _LOOPBACK:
            raise _bad(self.url, "without TLS anybody on the way could read the token")


def make(address: Address) -> urllib3.PoolManager:
    """A pool that takes no proxy out of the environment, follows nothing and repeats nothing.

    Raises InvalidRequest (`bad_tls_files`).
    """
    pool = urllib3.PoolManager(
        maxsize=KEPT,
        retries=False,
        timeout=urllib3.Timeout(connect=min(CONNECT_S, address.timeout_s), read=address.timeout_s),
        ssl_context=_tls(address),
    )
    pool.pool_classes_by_scheme = {"http": _PlainPool, "https": _SecurePool}
    return pool


@contextmanager
def _cut_after(connection: HTTPConnection) -> Iterator[None]:
    """Cut the connection where what is done here takes longer than its timeout. Whoever reads then
    finds an end: an answer that broke off."""
    within, timeout = connection.sock, connection.timeout
    if not isinstance(within, socket.socket) or not isinstance(timeout, (int, float)):
        yield
        return

    def cut() -> None:
        with suppress(OSError):  # it may be cut already
            # Not SSLSocket's own: that one forgets its TLS under the reader's feet.
            socket.socket.shutdown(within, socket.SHUT_RDWR)

    timer = threading.Timer(timeout, cut)
    timer.daemon = True
    with suppress(RuntimeError):  # no further thread, as while the interpreter ends
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


class _Plain(HTTPConnection):
    def getresponse(self) -> HTTPResponse:  # type: ignore[override]
        with _cut_after(self):
            return super().getresponse()


class _Secure(HTTPSConnection):
    def getresponse(self) -> HTTPResponse:  # type: ignore[override]
        with _cut_after(self):
            return super().getresponse()


class _PlainPool(HTTPConnectionPool):
    ConnectionCls = _Plain


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls: Any = _Secure


def _tls(address: Address) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=str(address.ca) if address.ca else None)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if address.certificate is not None:
            context.load_cert_chain(address.certificate, address.key)
    except (OSError, ssl.SSLError):
        raise InvalidRequest(
            "bad_tls_files",
            "the CA, the certificate or its key can't be read",
            "check the files that the profile names: PEM, and readable for this process",
        ) from None
    return context


def _bad(url: str, why: str) -> InvalidRequest:
    shown = url.partition("?")[0].rpartition("@")[2][:200]
    return InvalidRequest(
        "bad_broker", f"the broker's address {shown!r} can't be used: {why}", "write https://host"
    )
