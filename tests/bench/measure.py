"""Interleaved timing, and one JSON line for each figure."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable

Case = Callable[[], object]


def interleaved(
    cases: dict[str, Case], rounds: int, tidy: Callable[[], object] = lambda: None
) -> dict[str, float]:
    """Median seconds of each case; one warm-up, then all of them in turn, `rounds` times.

    `tidy` runs after each, untimed.
    """
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(rounds + 1):
        for name, case in cases.items():
            start = time.perf_counter()
            case()
            seconds[name].append(time.perf_counter() - start)
            tidy()
    return {name: statistics.median(taken[1:]) for name, taken in seconds.items()}


def report(
    bench: str,
    case: str,
    *,
    ours: float,
    other: float,
    other_name: str,
    unit: str,
    goal: float,
) -> None:
    """Print one line; ratio = ours / other, lower is better, and `goal` is the ratio's limit."""
    ratio = ours / other
    line = {
        "bench": bench,
        "case": case,
        "ours": round(ours, 6),
        "other": round(other, 6),
        "other_name": other_name,
        "unit": unit,
        "ratio": round(ratio, 3),
        "goal": goal,
        "holds": ratio <= goal,
    }
    print(json.dumps(line), flush=True)
