"""`Places` by a broker's links."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from modelvault.access import Caller
from modelvault.adapters.objects_http.links import AskLinks, ReadLinks
from modelvault.adapters.objects_http.reader import HttpReader
from modelvault.adapters.objects_http.transport import Transport
from modelvault.adapters.objects_http.writer import HttpUploads
from modelvault.clock import Clock
from modelvault.ports.broker import Broker

# The caller of a request that names a recipient key by its hash, or none.
CallerFor = Callable[[str | None], Caller]


class HttpPlaces:
    """Thread-safe. `clock` is a boot clock; `threads` send one object at once."""

    source = "object_store"

    def __init__(
        self, broker: Broker, caller: CallerFor, transport: Transport, clock: Clock, threads: int
    ) -> None:
        self._broker = broker
        self._caller = caller
        self._transport = transport
        self._clock = clock
        self._threads = threads

    def leased(self, lease: str, key_hash: str, objects: Sequence[str]) -> HttpReader:
        """See `ports.objects.Places`."""
        return self._reader(
            lambda names: self._broker.lease_links(self._caller(key_hash), lease, names), objects
        )

    def pulled(self, reference: str, objects: Sequence[str]) -> HttpReader:
        """See `ports.objects.Places`."""
        return self._reader(
            lambda names: self._broker.pull_links(self._caller(None), reference, names), objects
        )

    def opened(self, upload: str, key_hash: str | None) -> HttpUploads:
        """See `ports.objects.Places`."""
        return HttpUploads(
            upload,
            self._transport,
            lambda ask: self._broker.put_links(self._caller(key_hash), upload, ask),
            lambda ask: self._broker.put_done(self._caller(key_hash), upload, ask),
            self._clock,
            self._threads,
        )

    def _reader(self, ask: AskLinks, objects: Sequence[str]) -> HttpReader:
        return HttpReader(self._transport, ReadLinks(ask, self._clock, objects))
