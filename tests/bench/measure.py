"""Interleaved timing, and one JSON line for each figure."""

from __future__ import annotations

import json
import mmap
import statistics
import time
from collections.abc import Callable
from pathlib import Path

Case = Callable[[], object]
_kept: Path | None = None


def nothing() -> None:
    """No preparation."""


def interleaved(
    cases: dict[str, Case],
    rounds: int,
    *,
    prepare: Callable[[], object] = nothing,
    tidy: Callable[[], object] = nothing,
) -> dict[str, float]:
    """Median seconds of each case; see `samples`."""
    seconds = samples(cases, rounds, prepare=prepare, tidy=tidy)
    return {name: statistics.median(taken) for name, taken in seconds.items()}


def samples(
    cases: dict[str, Case],
    rounds: int,
    *,
    prepare: Callable[[], object] = nothing,
    tidy: Callable[[], object] = nothing,
) -> dict[str, list[float]]:
    """Seconds of each case; one warm-up, then all of them in turn, `rounds` times.

    `prepare` runs before and `tidy` after each, untimed.
    """
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(rounds + 1):
        for name, case in cases.items():
            prepare()
            start = time.perf_counter()
            case()
            seconds[name].append(time.perf_counter() - start)
            tidy()
    return {name: taken[1:] for name, taken in seconds.items()}


def centile(seconds: list[float], at: float) -> float:
    """The value that a share of `at` doesn't exceed."""
    return sorted(seconds)[min(len(seconds) - 1, int(len(seconds) * at))]


def back_memory(size: int) -> None:
    """Touch and free `size` bytes, so that each case finds as much memory that is really there.

    A virtual machine gives free memory back to its host; the first touch then costs ten times as
    much, and whichever case came first would pay for all.
    """
    with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        if hasattr(mmap, "MADV_HUGEPAGE"):
            memory.madvise(mmap.MADV_HUGEPAGE)
        zeros = bytes(1 << 20)
        for _ in range(size >> 20):
            memory.write(zeros)


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
    _line(bench, case, ours, other, other_name, unit, ours / other, goal)


def rate(bench: str, case: str, *, ours: float, other: float, other_name: str, goal: float) -> None:
    """As `report`, of how often something happens in a second: ratio = other / ours."""
    _line(bench, case, ours, other, other_name, "1/s", other / ours, goal)


def _line(
    bench: str,
    case: str,
    ours: float,
    other: float,
    other_name: str,
    unit: str,
    ratio: float,
    goal: float,
) -> None:
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
    emit(line)


def emit(line: dict[str, object]) -> None:
    """Print one line of JSON, and keep it where `keep` said."""
    text = json.dumps(line)
    print(text, flush=True)
    if _kept is not None:
        with _kept.open("a") as file:
            file.write(text + "\n")


def keep(file: Path) -> None:
    """From now on, all lines go to this new file too."""
    global _kept
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("")
    _kept = file
