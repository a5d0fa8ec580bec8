"""A job's metrics in the registry of its own `prometheus_client`."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import REGISTRY, Collector

from modelvault.loader.metrics import Family


class FamilyCollector(Collector):
    """Asks for the families at each scrape. Thread-safe as they are."""

    def __init__(self, families: Callable[[], tuple[Family, ...]]) -> None:
        self._families = families

    def describe(self) -> Iterable[Metric]:
        """Their names, by which a registry sees that they are there already."""
        return [_metric(msgspec.structs.replace(each, samples=())) for each in self._families()]

    def collect(self) -> Iterable[Metric]:
        """As they stand now."""
        return [_metric(family) for family in self._families()]


def register(
    families: Callable[[], tuple[Family, ...]], registry: CollectorRegistry | None = None
) -> None:
    """Into `registry`, or the process's own. Raises ValueError where they are there already."""
    (REGISTRY if registry is None else registry).register(FamilyCollector(families))


def _metric(family: Family) -> Metric:
    labels = list(family.samples[0][0]) if family.samples else []
    made: CounterMetricFamily | GaugeMetricFamily
    if family.kind == "counter":
        made = CounterMetricFamily(family.name.removesuffix("_total"), family.told, labels=labels)
    else:
        made = GaugeMetricFamily(family.name, family.told, labels=labels)
    for held, value in family.samples:
        made.add_metric(list(held.values()), value)
    return made
