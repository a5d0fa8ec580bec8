"""What a job tells its operators about the models that it has loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelvault.errors import InvalidRequest

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry


def metrics_text() -> str:
    """All metrics of the process, in Prometheus' text format: an answer to `GET /metrics` for a job
    that has a web server of its own. docs/operations.md lists them."""
    from modelvault.loader import metrics

    return metrics.text()


def register_metrics(registry: CollectorRegistry | None = None) -> None:
    """Tell the same to the job's own `prometheus_client`, in `registry` or its default one.

    Raises InvalidRequest (`missing_extra`) where that isn't installed, (`already_registered`) where
    it was done before.
    """
    from modelvault.loader import metrics

    try:
        from modelvault.adapters import metrics_prometheus
    except ModuleNotFoundError:
        raise InvalidRequest(
            "missing_extra",
            "prometheus_client isn't installed here",
            "pip install prometheus-client, or use modelvault.metrics_text()",
        ) from None
    try:
        metrics_prometheus.register(metrics.families, registry)
    except ValueError:
        raise InvalidRequest(
            "already_registered", "this registry has these metrics already", "register them once"
        ) from None
