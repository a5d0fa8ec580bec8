"""Spans say what the log says, and nothing more."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from opentelemetry import trace

from modelvault.server import tracing
from support.serving import Running, until
from support.stub_broker import StubBroker

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Recorded(trace.NonRecordingSpan):
    """A span that keeps what it is told."""

    def __init__(self, parent: trace.SpanContext) -> None:
        super().__init__(parent)
        self.name = ""
        self.attributes: dict[str, Any] = {}

    def update_name(self, name: str) -> None:
        self.name = name

    def set_attribute(self, key: str, value: Any) -> None:
        self.attributes[key] = value


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> list[Recorded]:
    found: list[Recorded] = []

    class Tracer:
        @contextmanager
        def start_as_current_span(self, _name: str, **options: Any) -> Iterator[Recorded]:
            assert options["record_exception"] is False
            parent = trace.get_current_span(options["context"]).get_span_context()
            found.append(Recorded(parent))
            yield found[-1]

    monkeypatch.setattr(trace, "get_tracer", lambda _name: Tracer())
    return found


def test_a_span_for_each_request(running: Running, spans: list[Recorded]) -> None:
    running.ask("GET", "/v1/model?reference=secret", token="secret",
                headers={"traceparent": PARENT, "baggage": "secret=1"})  # fmt: skip
    running.ask("GET", "/v1/models?access_token=secret")
    until(lambda: len(spans) == 2 and bool(spans[1].attributes))
    one, other = spans
    assert (one.name, other.name) == ("modelvault.show", "modelvault.list")
    assert trace.format_trace_id(one.get_span_context().trace_id) == PARENT[3:35]
    assert one.attributes["modelvault.status"] == 200
    assert other.attributes["modelvault.code"] == "token_in_address"
    assert "modelvault.code" not in one.attributes
    assert "secret" not in str([one.attributes, other.attributes])


def test_a_nonsense_parent_does_no_harm(running: Running, spans: list[Recorded]) -> None:
    headers = {"traceparent": "x" * 500, "tracestate": "=,=,="}
    assert running.ask("GET", "/v1/whoami", headers=headers).status == 200
    assert not spans[0].get_span_context().is_valid


def test_without_the_package(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    assert running.ask("GET", "/v1/whoami").status == 200


def test_the_frameworks_own_spans_are_off(broker: StubBroker) -> None:
    """They would hold each query and each exception's text."""
    from modelvault.server.app import create
    from modelvault.server.metrics import Metrics
    from modelvault.server.service import Service

    service = Service(
        broker=broker, steward=None, states=dict, metrics=Metrics(), revision=lambda: None
    )
    config = create(service, 1)._telemetry
    names = ("tracing", "metrics", "logs", "operation_spans", "auto_configure")
    assert [config[name] for name in names] == [False] * 5  # type: ignore[literal-required]


class TestExport:
    @pytest.fixture(autouse=True)
    def provider(self, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
        found: list[Any] = []
        monkeypatch.setattr(trace, "set_tracer_provider", found.append)
        for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
            monkeypatch.delenv(name, raising=False)
        return found

    def test_nowhere_unless_asked(self, provider: list[Any]) -> None:
        assert not tracing.start()
        assert provider == []

    def test_not_without_the_sdk(
        self, provider: list[Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
        monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
        assert not tracing.start()
        assert provider == []

    def test_to_where_it_is_told(
        self, provider: list[Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made: list[str] = []
        sdk = SimpleNamespace(
            TracerProvider=lambda: SimpleNamespace(add_span_processor=made.append),
            BatchSpanProcessor=lambda exporter: f"batches of {exporter}",
            OTLPSpanExporter=lambda: "otlp",
        )
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://127.0.0.1:4318")
        monkeypatch.setattr(tracing, "import_module", lambda _name: sdk)
        assert tracing.start()
        assert made == ["batches of otlp"]
        assert len(provider) == 1
