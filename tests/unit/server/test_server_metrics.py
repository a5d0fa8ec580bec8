"""What Prometheus gets, and what it doesn't."""

from __future__ import annotations

import socket
from urllib.request import urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families

from modelvault.errors import AccessDenied, Unavailable
from modelvault.server.metrics import Metrics
from support.servers.process import free_port
from support.serving import Running, until
from support.stub_broker import RENEWAL, StubBroker

ID = "0" * 32


def samples(metrics: Metrics) -> dict[tuple[str, ...], float]:
    """{(name, label's value, ...): value}, without buckets."""
    families = text_string_to_metric_families(metrics.text().decode())
    return {
        (sample.name, *(sample.labels[name] for name in sorted(sample.labels))): sample.value
        for family in families
        for sample in family.samples
        if "le" not in sample.labels
    }


def test_requests_leases_and_errors_are_counted() -> None:
    broker = StubBroker()
    with Running(broker) as server:

        def renew() -> int:
            return server.ask("POST", f"/v1/leases/{ID}/renew", body=b'{"key_hash":"x"}').status

        def refuse(_name: str) -> None:
            raise AccessDenied("revoked", "no")

        def down(_name: str) -> None:
            raise Unavailable("ledger_unavailable", "no")

        assert renew() == 200
        for broker.answer, status in ((refuse, 403), (down, 503)):
            assert renew() == status
        server.ask("GET", "/v1/secret-path")
        until(lambda: samples(server.metrics).get(("modelvault_requests_running",)) == 0)
        found = samples(server.metrics)
    # outcomes are sorted behind calls, as their labels' names are
    assert found["modelvault_requests_total", "renew", "ok"] == 1
    assert found["modelvault_requests_total", "renew", "access_denied"] == 1
    assert found["modelvault_requests_total", "renew", "unavailable"] == 1
    assert found["modelvault_leases_total", "renew", "granted"] == 1
    assert found["modelvault_leases_total", "renew", "revoked"] == 1
    assert found["modelvault_leases_total", "renew", "ledger_unavailable"] == 1
    assert found["modelvault_requests_total", "other", "invalid_request"] == 1
    assert found["modelvault_errors_total", "no_route"] == 1
    assert found["modelvault_request_seconds_count", "renew"] == 3
    assert found["modelvault_lease_seconds_sum", "renew"] == RENEWAL.ttl_s
    assert not any("secret" in part for key in found for part in key)


class TestRunningLeases:
    def test_are_asked_for_at_most_every_few_seconds(self) -> None:
        metrics, answers, now = Metrics(), iter((3, 5)), [0]
        metrics.watch_leases(lambda: next(answers), lambda: now[0])
        for at, told in ((0, 3), (4_999, 3), (5_000, 5), (9_999, 5)):
            now[0] = at
            assert samples(metrics)["modelvault_leases_running",] == told

    def test_an_unreachable_ledger_tells_nothing(self) -> None:
        """Neither 0 nor what was true before."""
        metrics, now, asked = Metrics(), [0], []

        def running() -> int:
            asked.append(now[0])
            if 5_000 <= now[0] < 10_000:
                raise Unavailable("ledger_unavailable", "no")
            return 7

        metrics.watch_leases(running, lambda: now[0])
        assert samples(metrics)["modelvault_leases_running",] == 7
        for at in (5_000, 7_000):  # nor is it asked again and again while it is down
            now[0] = at
            found = samples(metrics)
            assert ("modelvault_leases_running",) not in found
            assert ("modelvault_requests_running",) in found
        now[0] = 10_000
        assert samples(metrics)["modelvault_leases_running",] == 7
        assert asked == [0, 5_000, 10_000]

    def test_nobody_asks_before_the_first_scrape(self) -> None:
        def never() -> int:
            raise AssertionError

        Metrics().watch_leases(never)


def test_other_calls_arent_leases() -> None:
    metrics = Metrics()
    with metrics.granting("show"):
        pass
    assert not any(key[0] == "modelvault_leases_total" for key in samples(metrics))


def test_a_port_of_their_own() -> None:
    metrics, port = Metrics(), free_port()
    metrics.errors.labels("denied").inc()
    close = metrics.listen("127.0.0.1", port)
    try:
        with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            assert b'modelvault_errors_total{code="denied"} 1.0' in answer.read()
        with pytest.raises(OSError, match=r"in use"):
            metrics.listen("127.0.0.1", port)
    finally:
        close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), 1)
