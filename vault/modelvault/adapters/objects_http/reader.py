"""`ObjectReader` by links: ranges, streamed straight into the caller's buffer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from urllib3.exceptions import HTTPError
from urllib3.response import BaseHTTPResponse

from modelvault.adapters.objects_http.links import ReadLinks
from modelvault.adapters.objects_http.transport import (
    Again,
    Expired,
    Transport,
    read_some,
    unavailable,
)
from modelvault.clock import steady_ns
from modelvault.errors import IntegrityError, NotFound, sealed
from modelvault.ports.objects import check_name

_LEAST = 32 << 10  # bytes, within a timeout: a KiB a second where that is half a minute


class HttpReader:
    """Any number of threads may read at once, each over a connection of its own.

    A stream that breaks, or only drips, goes on where it stopped, over a new connection and with a
    new link if need be; after several tries without a byte, or with next to none, it is Unavailable
    (`store_unavailable`).
    """

    def __init__(self, transport: Transport, links: ReadLinks) -> None:
        self._transport = transport
        self._links = links

    def size(self, name: str) -> int:
        """See `ObjectReader`. A signed link is for GET alone: the range says how much there is."""
        check_name(name)
        with _Stream(self._transport, self._links, name, 0, 1) as stream:
            try:
                return stream.total()
            except EOFError:
                return 0  # a range of an empty object is none

    def read_into(self, name: str, offset: int, buffer: memoryview) -> None:
        """See `ObjectReader`."""
        check_name(name)
        if len(buffer):
            with self.stream(name, offset, len(buffer)) as read:
                read(buffer)

    def stream(
        self, name: str, offset: int, size: int
    ) -> AbstractContextManager[Callable[[memoryview], None]]:
        """See `ObjectReader`."""
        return self._stream(check_name(name), offset, size)

    @contextmanager
    def _stream(self, name: str, offset: int, size: int) -> Iterator[Callable[[memoryview], None]]:
        with _Stream(self._transport, self._links, name, offset, size) as stream:
            yield stream.read


class _Stream:
    """Consecutive bytes of one object, over as many connections as it takes."""

    def __init__(
        self, transport: Transport, links: ReadLinks, name: str, offset: int, size: int
    ) -> None:
        self._transport = transport
        self._links = links
        self._name = name
        self._at = offset
        self._end = offset + size
        self._failures = 0
        self._refusals = 0
        self._pace = _Pace(transport.timeout_s)
        self._open: AbstractContextManager[BaseHTTPResponse] | None = None
        self._answer: BaseHTTPResponse | None = None

    def __enter__(self) -> _Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    @sealed
    def total(self) -> int:
        """How many bytes the object has. Raises EOFError for an empty one."""
        answer = self._connected()
        _, _, text = answer.headers.get("Content-Range", "").partition("/")
        if not text.isdecimal():
            raise unavailable()
        return int(text)

    @sealed
    def read(self, buffer: memoryview) -> None:
        """Fill `buffer` with the next bytes."""
        try:
            done = 0
            while done < len(buffer):
                began = steady_ns()
                count = self._some(buffer[done:])
                done += count
                if self._pace.drips(count, steady_ns() - began) and done < len(buffer):
                    self._close()
                    self._transport.patiently(self._pace.slow)
        except EOFError:
            raise _truncated(self._name) from None

    def _some(self, buffer: memoryview) -> int:
        answer = self._connected()
        try:
            count = read_some(answer, buffer)
        except (HTTPError, OSError):
            count = 0
        if not count:  # it was cut: go on from here
            self._close()
            self._failed()
            return 0
        self._at += count
        self._failures = 0
        return count

    def _connected(self) -> BaseHTTPResponse:
        while self._answer is None:
            link = self._links.get(self._name)
            opening = self._transport.get(link, self._at, self._end - 1)
            try:
                self._answer = opening.__enter__()
                self._open = opening
            except Expired:
                self._links.drop(self._name, link)
                self._refused()
            except Again:
                self._failed()
            except LookupError:
                raise NotFound(
                    "no_object",
                    f"the store has no object {self._name}",
                    "restore it from a copy, or load another version",
                ) from None
        return self._answer

    def _failed(self) -> None:
        self._failures += 1
        self._transport.patiently(self._failures)

    def _refused(self) -> None:
        """A fresh link that is refused too is no matter of time."""
        self._refusals += 1
        if self._refusals > 2:
            raise unavailable()

    def _close(self) -> None:
        opening, self._open, self._answer = self._open, None, None
        if opening is not None:
            opening.__exit__(None, None, None)


class _Pace:
    """Whether a stream brings anything worth waiting for.

    A timeout bounds one read. A store that sends a byte now and then, or one for each connection,
    keeps within it for hours: so long it would hold up whoever wants to close the model.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_ns = timeout_s * 1e9
        self._waited_ns = 0
        self._came = 0
        self.slow = 0  # how often in a row it was too little

    def drips(self, count: int, waited_ns: int) -> bool:
        """Whether, with these `count` bytes, a timeout's time of waiting (connecting and pausing
        are part of it) has brought too little."""
        self._waited_ns += waited_ns
        self._came += count
        if self._waited_ns < self._timeout_ns:
            return False
        enough = self._came >= _LEAST
        self._waited_ns = self._came = 0
        self.slow = 0 if enough else self.slow + 1
        return not enough


def _truncated(name: str) -> IntegrityError:
    return IntegrityError(
        "truncated",
        f"the object {name} ends before what was to be read",
        "restore it from a copy, or load another version",
    )
