"""A job's metrics, in text and in the registry of its own prometheus_client."""

from __future__ import annotations

import sys

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

import modelvault
from modelvault.artifact.meter import Meter
from modelvault.errors import InvalidRequest
from modelvault.loader import metrics


def values(text: str) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_both_tell_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    process = Meter()
    monkeypatch.setattr(metrics, "PROCESS", process)
    process.read("folder", 10)
    process.add({"decrypt": 250_000_000}, 0)
    registry = CollectorRegistry()
    modelvault.register_metrics(registry)
    found = values(generate_latest(registry).decode())
    assert found == values(modelvault.metrics_text())
    assert found["modelvault_loader_read_bytes_total", "folder"] == 10
    process.read("folder", 5)  # asked at each scrape
    found = values(generate_latest(registry).decode())
    assert found["modelvault_loader_read_bytes_total", "folder"] == 15


def test_once() -> None:
    registry = CollectorRegistry()
    modelvault.register_metrics(registry)
    with pytest.raises(InvalidRequest) as refused:
        modelvault.register_metrics(registry)
    assert refused.value.code == "already_registered"


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "modelvault.adapters.metrics_prometheus", None)
    monkeypatch.delattr("modelvault.adapters.metrics_prometheus", raising=False)
    with pytest.raises(InvalidRequest) as refused:
        modelvault.register_metrics()
    assert refused.value.code == "missing_extra"
    assert "metrics_text" in refused.value.hint
    assert values(modelvault.metrics_text())
