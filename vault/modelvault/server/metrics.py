"""What Prometheus scrapes. No label holds a name that a caller chose: neither models, subjects nor
paths, whose number nobody bounds and which are nobody's business outside the vault."""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    start_http_server,
)

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

    def listen(self, host: str, port: int) -> None:
        """Serve them on a port of their own, from a thread that ends with the process.

        Raises OSError where the port is taken.
        """
        start_http_server(port, host, registry=self._registry)

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self._registry)
