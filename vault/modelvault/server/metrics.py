"""What Prometheus scrapes. No label holds a name that a caller chose: neither models, subjects nor
paths, whose number nobody bounds and which are nobody's business outside the vault."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    start_http_server,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from modelvault.clock import Clock, boot_ms
from modelvault.errors import ModelVaultError

_GRANTS = frozenset({"lease", "renew"})
FRESH_MS = 5_000
_BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)


class Metrics:
    """Thread-safe; a registry of its own, so that two servers in one process don't mix."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "modelvault_requests",
            "Requests, by call and how they ended (ok, or the error's family).",
            ("call", "outcome"),
            registry=self._registry,
        )
        self.seconds = Histogram(
            "modelvault_request_seconds",
            "Time to answer, by call.",
            ("call",),
            buckets=_BUCKETS,
            registry=self._registry,
        )
        self.errors = Counter(
            "modelvault_errors",
            "Errors told, by code.",
            ("code",),
            registry=self._registry,
        )
        self.running = Gauge(
            "modelvault_requests_running", "Requests being served.", registry=self._registry
        )
        self.leases = Counter(
            "modelvault_leases",
            "Leases and renewals asked for, by what became of them (granted, or a code).",
            ("call", "outcome"),
            registry=self._registry,
        )
        self.lease_seconds = Histogram(
            "modelvault_lease_seconds",
            "For how long leases and renewals were granted.",
            ("call",),
            buckets=(60, 300, 600, 900, 1800, 3600, 86400),
            registry=self._registry,
        )
        self.parts = Gauge(
            "modelvault_part_up",
            "Whether a part answered when readiness was last asked for.",
            ("part",),
            registry=self._registry,
        )

    def watch_leases(self, running: Callable[[], int], clock: Clock = boot_ms) -> None:
        """Tell how many leases run: `running` is asked when somebody scrapes."""
        self._registry.register(_Running(running, clock))

    @contextmanager
    def granting(self, call: str) -> Iterator[None]:
        """Around a call: counts what became of it, if it asks for a lease or a renewal."""
        if call not in _GRANTS:
            yield
            return
        try:
            yield
        except ModelVaultError as refused:
            self.leases.labels(call, refused.code).inc()
            raise
        self.leases.labels(call, "granted").inc()

    def listen(self, host: str, port: int) -> Callable[[], None]:
        """Serve them on a port of their own, from a thread that ends with the process; what is
        returned ends it before.

        On the port of the calls they would be open to everybody who can ask for a lease. Raises
        OSError where the port is taken.
        """
        server, thread = start_http_server(port, host, registry=self._registry)

        def close() -> None:
            server.shutdown()
            server.server_close()
            thread.join()

        return close

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self._registry)


class _Running(Collector):
    """The ledger's answer, asked for at most every few seconds. Without one there is no sample: a
    number that was true before an outage isn't told as if it were now."""

    def __init__(self, running: Callable[[], int], clock: Clock) -> None:
        self._running = running
        self._clock = clock
        self._asking = threading.Lock()
        self._known: tuple[int, int | None] | None = None

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """What it is, without asking."""
        yield self._family(None)

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """What it is now."""
        with self._asking:
            if self._known is None or self._clock() - self._known[0] >= FRESH_MS:
                number = self._ask()
                self._known = (self._clock(), number)
            yield self._family(self._known[1])

    def _ask(self) -> int | None:
        try:
            return self._running()
        except ModelVaultError:
            return None

    def _family(self, number: int | None) -> GaugeMetricFamily:
        told = "Leases that run, of the whole vault: each broker tells the same number."
        family = GaugeMetricFamily("modelvault_leases_running", told)
        if number is not None:
            family.add_metric((), number)
        return family
