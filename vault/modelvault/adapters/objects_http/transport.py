"""Requests to an object store by signed URLs: few, retried where that is safe, and bounded.

A URL is a credential. It stands in no message, no log and no exception of ours.
"""

from __future__ import annotations

import logging
import secrets
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import urllib3
from urllib3.exceptions import HTTPError
from urllib3.response import BaseHTTPResponse

from modelvault.errors import InvalidRequest, Unavailable
from modelvault.lease import Link

# urllib3 writes the path and query of each request into its debug log: the signature is in there.
logging.getLogger("urllib3").setLevel(max(logging.INFO, logging.getLogger("urllib3").level))

TRIES = 5
_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 5.0
_AGAIN = frozenset({408, 429, 500, 502, 503, 504})
_EXPIRED = frozenset({400, 401, 403})

Pause = Callable[[float], None]


class Expired(Exception):
    """The store refuses the link: it ended, or the clock of one of us is wrong."""


class Again(Exception):
    """No usable answer; asking again may give one."""


class Transport:
    """Connections to the store. Thread-safe. `ca` is a PEM file; `connections` bounds how many are
    kept open to one host, `timeout_s` how long one read or write may take."""

    def __init__(
        self,
        *,
        ca: Path | None = None,
        connections: int = 16,
        timeout_s: float = 30.0,
        pause: Pause = time.sleep,
    ) -> None:
        self.timeout_s = timeout_s
        self._pause = pause
        context = ssl.create_default_context(cafile=str(ca) if ca else None)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        # A pool of our own takes no proxy out of the environment.
        self._pool = urllib3.PoolManager(
            maxsize=connections,
            retries=False,
            timeout=urllib3.Timeout(connect=10.0, read=timeout_s),
            ssl_context=context,
        )

    @contextmanager
    def get(self, link: Link, first: int, last: int) -> Iterator[BaseHTTPResponse]:
        """Bytes `first` to `last` of an object: the raw answer, its status and range checked.

        Raises Expired, Again, LookupError when the object isn't there, EOFError when it ends before
        `first`.
        """
        headers = {**link.headers, "Range": f"bytes={first}-{last}", "Accept-Encoding": "identity"}
        with answered(lambda: self._send("GET", link, headers, None)) as answer:
            _check_status(answer.status, {206})
            if not answer.headers.get("Content-Range", "").startswith(f"bytes {first}-"):
                raise Again
            if "Content-Length" not in answer.headers:  # stores say it of a range; see `read_some`
                raise Again
            yield answer

    def put(self, link: Link, body: memoryview) -> int:
        """Send the whole body; the status: 200, or 412 where there is an object already.

        Raises Expired, Again.
        """
        # Content-Length is among the signed headers, and urllib3 makes it of the body itself.
        headers = {name: text for name, text in link.headers.items() if name != "Content-Length"}
        with answered(lambda: self._send("PUT", link, headers, bytes(body))) as answer:
            answer.read(cache_content=False)
            if answer.status in {409, 412}:
                return 412
            _check_status(answer.status, {200, 201, 204})
            return 200

    def patiently(self, number: int) -> None:
        """Wait before the try after the `number`-th; with jitter, so that a thousand jobs which
        lost the store at one moment don't come back at one moment. Raises Unavailable when there
        were enough tries."""
        if number >= TRIES:
            raise unavailable()
        longest = min(_PAUSE_S * 2**number, _LONGEST_PAUSE_S)
        self._pause(longest * (0.5 + secrets.randbelow(512) / 1024))

    def close(self) -> None:
        """Close the connections."""
        self._pool.clear()

    def _send(
        self, method: str, link: Link, headers: Mapping[str, str], body: bytes | None
    ) -> BaseHTTPResponse:
        return self._pool.request(
            method,
            link.url,
            headers=dict(headers),
            body=body,
            redirect=False,
            preload_content=False,
            decode_content=False,
        )


@contextmanager
def answered(send: Callable[[], BaseHTTPResponse]) -> Iterator[BaseHTTPResponse]:
    """An answer whose connection goes back to the pool if it was read to its end, else is closed:
    what is left in it must not be taken for the next one's."""
    with lost():
        answer = send()
    try:
        with lost():
            yield answer
    finally:
        if _at_end(answer):
            answer.release_conn()
        else:
            answer.close()


def read_some(answer: BaseHTTPResponse, buffer: memoryview) -> int:
    """What has come of the body, straight off the connection into `buffer`; 0 at its end.

    urllib3's own `readinto` copies every byte once more, and what it wraps (`http.client`) waits
    until the buffer is full, however slowly bytes come: so what that one wraps is read, which takes
    what there is, and the count of what is left is kept for it.
    """
    raw: Any = getattr(answer, "_fp", None)
    if raw is None or raw.fp is None or raw.length is None:  # there is nothing left
        return 0
    count = int(raw.fp.readinto1(buffer[: raw.length]))
    raw.length -= count
    if not raw.length:
        raw.read(0)  # sees that nothing is left, and lets go of the connection
    return count


def _at_end(answer: BaseHTTPResponse) -> bool:
    """Whether nothing of this answer is left in the connection."""
    raw = getattr(answer, "_fp", None)
    return raw is not None and bool(raw.isclosed())


@contextmanager
def lost() -> Iterator[None]:
    """A connection's failure as Again."""
    try:
        yield
    except (HTTPError, OSError):
        raise Again from None


def _check_status(status: int, wanted: set[int]) -> None:
    if status in wanted:
        return
    if status == 404:
        raise LookupError
    if status == 416:
        raise EOFError
    if status in _EXPIRED:
        raise Expired
    if status in _AGAIN:
        raise Again
    raise unavailable()


def unavailable() -> Unavailable:
    """The store gave no usable answer, for as long as it was asked."""
    return Unavailable(
        "store_unavailable",
        "the object store can't be reached, or gives no usable answer",
        "check that this machine reaches the store (its address, CA and firewall), then try again",
    )


def bad_link() -> InvalidRequest:
    """The broker's answer holds other links than were asked for."""
    return InvalidRequest(
        "bad_links", "the broker gave other links than were asked for", "ask who runs the vault"
    )
