"""What a job may tell its operators about its models, in any monitoring's terms.

Nothing here needs a library: `text` is what Prometheus scrapes, `families` are for whoever speaks
to another one.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import msgspec

from modelvault.artifact.meter import Costs, Meter

if TYPE_CHECKING:
    from modelvault.loader.model import Model

# Counters of a process only grow: they hold what its closed models cost, too.
PROCESS = Meter()
_models: weakref.WeakSet[Model] = weakref.WeakSet()


class Stats(msgspec.Struct, frozen=True, kw_only=True):
    """One model's: seconds until its lease must have been renewed (0 when it is over; a grace for
    outages isn't counted), and what it has cost so far.

    `expires_at` is that moment, and `dead_at` the one when access ends unless a renewal comes,
    grace included: milliseconds of the boot clock, 0 once the lease is over.
    """

    lease_seconds_left: float
    expires_at: int
    dead_at: int
    costs: Costs


class Family(msgspec.Struct, frozen=True, kw_only=True):
    """One metric: its samples are labels and a value. A counter's name ends in `_total`."""

    name: str
    kind: Literal["counter", "gauge"]
    told: str
    samples: tuple[tuple[dict[str, str], float], ...]


def watch(model: Model) -> None:
    """Tell of this model until it is closed or forgotten."""
    _models.add(model)


def families() -> tuple[Family, ...]:
    """All of this process."""
    left: dict[str, float] = {}
    open_models = [model for model in list(_models) if not model.closed]
    for model in open_models:
        seconds = model.stats().lease_seconds_left
        left[model.name] = min(seconds, left.get(model.name, seconds))
    costs = PROCESS.costs()
    return (
        Family(
            name="modelvault_loader_models",
            kind="gauge",
            told="Models that are open.",
            samples=(({}, len(open_models)),),
        ),
        Family(
            name="modelvault_loader_lease_seconds_left",
            kind="gauge",
            told="Seconds until a model's lease must have been renewed; the least of its leases.",
            samples=tuple(({"model": name}, seconds) for name, seconds in sorted(left.items())),
        ),
        Family(
            name="modelvault_loader_read_bytes_total",
            kind="counter",
            told="Bytes of ciphertext read, by where they came from.",
            samples=_by("source", costs.read_bytes),
        ),
        Family(
            name="modelvault_loader_decrypted_bytes_total",
            kind="counter",
            told="Bytes of plaintext decrypted into memory.",
            samples=(({}, costs.decrypted_bytes),),
        ),
        Family(
            name="modelvault_loader_seconds_total",
            kind="counter",
            told="Seconds spent, by phase, summed over threads.",
            samples=_by("phase", costs.seconds),
        ),
    )


def text() -> str:
    """The same in Prometheus' text exposition format, version 0.0.4."""
    return "".join(line + "\n" for family in families() for line in _lines(family))


def _by(label: str, found: dict[str, int] | dict[str, float]) -> tuple[
    tuple[dict[str, str], float], ...
]:  # fmt: skip
    return tuple(({label: name}, value) for name, value in sorted(found.items()))


def _lines(family: Family) -> Iterator[str]:
    yield f"# HELP {family.name} {family.told}"
    yield f"# TYPE {family.name} {family.kind}"
    for labels, value in family.samples:
        # Labels are names of models, sources and phases: no quote, no backslash, no line's end.
        told = ",".join(f'{name}="{held}"' for name, held in labels.items())
        yield f"{family.name}{{{told}}} {value!r}" if told else f"{family.name} {value!r}"
