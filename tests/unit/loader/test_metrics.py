"""What a job tells of its models."""

from __future__ import annotations

import gc
from collections.abc import Callable

import pytest
from prometheus_client.parser import text_string_to_metric_families

from modelvault.artifact.meter import Meter
from modelvault.loader import metrics
from modelvault.loader.metrics import Stats
from support.loading import Version

LEFT = "modelvault_loader_lease_seconds_left"


@pytest.fixture(autouse=True)
def process(monkeypatch: pytest.MonkeyPatch) -> Meter:
    """Counters from zero."""
    made = Meter()
    monkeypatch.setattr(metrics, "PROCESS", made)
    gc.collect()
    return made


def samples() -> dict[tuple[str, ...], float]:
    """As Prometheus' own parser reads the text."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(metrics.text())
        for sample in family.samples
    }


def leased(seconds: float) -> Callable[[], Stats]:
    return lambda: Stats(lease_seconds_left=seconds, expires_at=0, dead_at=0, costs=Meter().costs())


def test_nothing_was_loaded() -> None:
    assert samples() == {
        ("modelvault_loader_models",): 0,
        ("modelvault_loader_decrypted_bytes_total",): 0,
    }


def test_costs_of_all_models_of_the_process(process: Meter) -> None:
    one = Meter(process)
    one.read("folder", 10)
    one.add({"read": 1_500_000_000}, 7)
    del one  # closed models count on: a counter never goes back
    Meter(process).read("object_store", 5)
    found = samples()
    assert found["modelvault_loader_read_bytes_total", "folder"] == 10
    assert found["modelvault_loader_read_bytes_total", "object_store"] == 5
    assert found["modelvault_loader_decrypted_bytes_total",] == 7
    assert found["modelvault_loader_seconds_total", "read"] == 1.5


def test_leases_of_the_models_that_are_open() -> None:
    version = Version({"a": b"a"})
    soon, late = version.model(stats=leased(5)), version.model(stats=leased(500))
    for each in (late, soon):
        metrics.watch(each)
    assert samples()["modelvault_loader_models",] == 2
    assert samples()[LEFT, "m@7"] == 5  # one line for both: the one that is in danger
    soon.close()
    assert samples()[LEFT, "m@7"] == 500
    assert samples()["modelvault_loader_models",] == 1
    del late, each
    gc.collect()
    assert (LEFT, "m@7") not in samples()


def test_types_are_told() -> None:
    told = {family.name: family.type for family in text_string_to_metric_families(metrics.text())}
    assert told["modelvault_loader_decrypted_bytes"] == "counter"
    assert told["modelvault_loader_models"] == "gauge"
    for family in metrics.families():
        assert (family.kind == "counter") == family.name.endswith("_total")
