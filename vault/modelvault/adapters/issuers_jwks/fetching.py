"""Where a JWKS document comes from: an address or a file of the configuration, nothing else."""

from __future__ import annotations

import ipaddress
import os
import ssl
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import urllib3
from urllib3.exceptions import HTTPError
from urllib3.exceptions import TimeoutError as TookTooLong
from urllib3.response import BaseHTTPResponse

from modelvault.adapters.issuers_jwks.document import MAX_BYTES
from modelvault.clock import Clock
from modelvault.errors import InvalidRequest
from modelvault.identity.presets import KeySource, Trusted

CONNECT_S = 2.0
READ_S = 3.0
WHOLE_MS = 8_000
_CHUNK = 64 << 10
_MAX_TOKEN = 16 << 10

Fetch = Callable[[], bytes]


class NotFetched(Exception):
    """No document, and why: a few words of ours, for the log."""


def fetcher(trusted: Trusted, clock: Clock) -> Fetch:
    """What fetches an issuer's document. Raises InvalidRequest (`bad_issuers`)."""
    source = trusted.keys
    if source.file is not None:
        path = source.file
        return lambda: read_file(path, MAX_BYTES)
    if source.url is None or not _allowed(source.url):
        raise _bad(trusted, "its jwks isn't https:// (http:// is for loopback alone)")
    return _Http(source.url, source, _context(trusted), clock)


def read_file(path: Path, limit: int) -> bytes:
    """A small file. Raises NotFetched."""
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise NotFetched(f"{path}: {os.strerror(error.errno or 0)}") from None
    if len(data) > limit:
        raise NotFetched(f"{path} is larger than {limit} bytes")
    return data


class _Http:
    """GET without redirects, retries or proxies, bounded in bytes and in time."""

    def __init__(self, url: str, source: KeySource, context: ssl.SSLContext, clock: Clock) -> None:
        self._url = url
        self._token_file = source.token_file
        self._clock = clock
        self._pool = urllib3.PoolManager(
            maxsize=1,
            retries=False,
            timeout=urllib3.Timeout(connect=CONNECT_S, read=READ_S),
            ssl_context=context,
        )

    def __call__(self) -> bytes:
        until = self._clock() + WHOLE_MS
        try:
            answer = self._pool.request(
                "GET",
                self._url,
                headers=self._headers(),
                redirect=False,
                preload_content=False,
                decode_content=False,
            )
            try:
                return self._body(answer, until)
            finally:
                answer.close()  # one fetch in some minutes: no connection is worth keeping
        except TookTooLong:
            raise NotFetched("no answer in time") from None
        except (HTTPError, OSError, ValueError) as error:
            raise NotFetched(f"no usable answer ({type(error).__name__})") from None

    def _headers(self) -> dict[str, str]:
        headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        if self._token_file is not None:
            token = read_file(self._token_file, _MAX_TOKEN).decode("ascii").strip()
            headers["Authorization"] = f"Bearer {token}"
        return headers

    def _body(self, answer: BaseHTTPResponse, until: int) -> bytes:
        if answer.status != 200:
            raise NotFetched(f"status {answer.status}")
        data = bytearray()
        while chunk := answer.read1(_CHUNK):
            data += chunk
            if len(data) > MAX_BYTES:
                raise NotFetched(f"more than {MAX_BYTES} bytes")
            if self._clock() > until:
                raise NotFetched("the answer takes too long")
        return bytes(data)


def _allowed(url: str) -> bool:
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        return False
    if not host or parts.username is not None or parts.fragment:
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and _loopback(host))


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _context(trusted: Trusted) -> ssl.SSLContext:
    ca = trusted.keys.ca
    try:
        context = ssl.create_default_context(cafile=None if ca is None else str(ca))
    except (OSError, ssl.SSLError):
        raise _bad(trusted, f"no CA certificates can be read from {ca}") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _bad(trusted: Trusted, why: str) -> InvalidRequest:
    return InvalidRequest(
        "bad_issuers",
        f"issuer {trusted.issuer.name!r} of the configuration can't be used: {why}",
        "mend its jwks, jwks_file or ca",
    )
