"""Traces through OpenTelemetry's own SDK and exporter, as a collector gets them."""

from __future__ import annotations

import json
import secrets
import signal
from collections.abc import Iterator

import pytest
import requests

from support.servers.collector import Collector, attributes
from support.servers.process import Process, free_port

SPAN = {"request", "call", "method", "status", "ms", "code"}
TRACE, PARENT = secrets.token_hex(16), secrets.token_hex(8)


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.close()


@pytest.fixture
def traced(stack, monkeypatch):
    """Starts one more broker, which sends its traces to an address."""

    def start(endpoint: str) -> tuple[int, Process]:
        port = free_port()
        number = len(stack.ports)
        config = stack.folder / f"traced-{port}.toml"
        first = stack.configs[0].read_text()
        config.write_text(first.replace(f"port = {stack.ports[0]}\n", f"port = {port}\n"))
        monkeypatch.setattr(stack, "ports", [*stack.ports, port])
        monkeypatch.setattr(stack, "configs", [*stack.configs, config])
        # Brokers of other tests had this number, and their lines are in that log.
        (stack.folder / f"broker-{number}.log").unlink(missing_ok=True)
        broker = stack.broker(
            number,
            OTEL_EXPORTER_OTLP_ENDPOINT=endpoint,
            OTEL_SERVICE_NAME="brokers",
            OTEL_BSP_SCHEDULE_DELAY="100",
            OTEL_EXPORTER_OTLP_TIMEOUT="1",
        )
        return number, broker

    return start


def logged(broker: Process) -> dict[str, dict]:
    """The log's lines about requests, by the request's id."""
    lines = broker.log.read_text().splitlines()
    told = [json.loads(line) for line in lines if line.startswith("{")]
    return {line["request"]: line for line in told if line["logger"] == "modelvault.access"}


def test_a_lease_is_traced_and_tells_nothing(
    stack, session, admin, name, model, collector, traced
) -> None:
    admin.create(name, classification="internal")
    admin.push(model, name)
    number, broker = traced(collector.url)
    token = stack.token("job", "inference")
    with session(token, number).load(name, purpose="inference") as loaded:
        loaded.read_bytes("config.json")
    url = stack.urls[number]
    misplaced = requests.get(
        f"{url}/v1/model?reference={name}&access_token={token}",
        headers={
            "Authorization": f"Bearer {token}", "X-Request-Id": "asked-by-the-test",
            "traceparent": f"00-{TRACE}-{PARENT}-01", "baggage": f"token={token}",
        },
        verify=str(stack.ca), timeout=10,
    )  # fmt: skip
    assert misplaced.status_code == 400
    broker.signal(signal.SIGTERM)
    broker.wait()
    assert broker.status() == 0  # what was still to be sent was sent

    lines = logged(broker)
    assert {(service, scope) for service, scope, _ in collector.spans} == {
        ("brokers", "modelvault")
    }
    found = {}
    for _, _, span in collector.spans:
        told = attributes(span)
        assert set(told) <= {f"modelvault.{each}" for each in SPAN}
        assert span.name == f"modelvault.{told['modelvault.call']}"
        assert not span.events
        assert not span.links
        assert not span.status.message
        assert span.kind == span.SPAN_KIND_SERVER
        line = lines[told["modelvault.request"]]
        assert {key: told[f"modelvault.{key}"] for key in ("call", "method", "status")} == {
            key: line[key] for key in ("call", "method", "status")
        }
        found[told["modelvault.request"]] = span
    assert found.keys() == lines.keys()
    assert {"modelvault.lease", "modelvault.lease_links", "modelvault.release"} <= {
        span.name for span in found.values()
    }
    asked = found["asked-by-the-test"]
    assert (asked.trace_id.hex(), asked.parent_span_id.hex()) == (TRACE, PARENT)
    assert attributes(asked)["modelvault.code"] == "token_in_address"
    sent = b"".join(collector.bodies)
    assert b"modelvault.lease" in sent  # it isn't compressed or the like: the search would find it
    for secret in (token, token.rpartition(".")[2], name, "config.json", "reference", "inference"):
        assert secret.encode() not in sent


def test_a_collector_that_is_down_holds_nothing_up(stack, traced) -> None:
    number, broker = traced(f"http://127.0.0.1:{free_port()}")
    token = stack.admin()
    for _ in range(3):
        answer = requests.get(
            f"{stack.urls[number]}/v1/whoami",
            headers={"Authorization": f"Bearer {token}"},
            verify=str(stack.ca), timeout=10,
        )  # fmt: skip
        assert answer.status_code == 200
    broker.signal(signal.SIGTERM)
    broker.wait()
    assert broker.status() == 0
    assert token not in broker.log.read_text()
