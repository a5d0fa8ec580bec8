"""A span for each request, where OpenTelemetry is installed; else nothing.

A span says what a line of the log says: the call, its status and the error's code. Whose trace it
belongs to is the caller's word (W3C Trace Context), which decides nothing here.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any, Protocol

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_CARRIED = frozenset({"traceparent", "tracestate"})
_PREFIX = "modelvault."


class Span(Protocol):
    """A request's."""

    def end(self, told: Mapping[str, str | int | None]) -> None:
        """Note how it ended."""
        ...


class _Nothing:
    def end(self, told: Mapping[str, str | int | None]) -> None:
        pass


class _Traced:
    def __init__(self, span: Any) -> None:  # noqa: ANN401  a package that may not be there
        self._span = span

    def end(self, told: Mapping[str, str | int | None]) -> None:
        self._span.update_name(f"{_PREFIX}{told['call']}")
        for name, value in told.items():
            if value is not None:
                self._span.set_attribute(_PREFIX + name, value)


@contextmanager
def span(headers: Iterable[tuple[bytes, bytes]]) -> Iterator[Span]:
    """A request's span, as a child of the one that its headers name."""
    try:
        from opentelemetry import trace
        from opentelemetry.propagate import extract
    except ImportError:
        yield _Nothing()
        return
    named = {name.decode("latin-1"): value.decode("latin-1") for name, value in headers}
    carrier = {name: named[name] for name in _CARRIED & named.keys()}
    tracer = trace.get_tracer("modelvault")
    with tracer.start_as_current_span(
        "modelvault.request",
        context=extract(carrier),
        kind=trace.SpanKind.SERVER,
        record_exception=False,  # an exception's text can hold anything
        set_status_on_exception=False,
    ) as begun:
        yield _Traced(begun)


def start() -> bool:
    """Send spans to where OTEL_EXPORTER_OTLP_ENDPOINT says, if the SDK and its exporter are there;
    whether they will be."""
    if not any(os.environ.get(name) for name in _ENDPOINTS):
        return False
    try:
        sdk = import_module("opentelemetry.sdk.trace")
        batching = import_module("opentelemetry.sdk.trace.export")
        otlp = import_module("opentelemetry.exporter.otlp.proto.http.trace_exporter")
    except ImportError:
        return False
    from opentelemetry import trace

    provider = sdk.TracerProvider()
    provider.add_span_processor(batching.BatchSpanProcessor(otlp.OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    return True
