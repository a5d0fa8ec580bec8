"""The only place that reads a clock.

Times inside the program are whole milliseconds since 1970-01-01T00:00:00Z; documents hold RFC 3339
text with milliseconds. Constructors take a `Clock`, functions that decide take `now`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from datetime import UTC, datetime

from modelvault.errors import InvalidRequest

Clock = Callable[[], int]

_TEXT = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{3}Z", re.ASCII)


def utc_ms() -> int:
    """Now, by the machine's wall clock, in milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def boot_ms() -> int:
    """Milliseconds on a clock that never jumps and goes on while the machine sleeps.

    CLOCK_BOOTTIME where it exists (Linux), else the monotonic clock.
    """
    boottime = getattr(time, "CLOCK_BOOTTIME", None)
    if boottime is None:
        return time.monotonic_ns() // 1_000_000
    return time.clock_gettime_ns(boottime) // 1_000_000


def steady_ns() -> int:
    """Nanoseconds on a steady clock: to measure how long something took, and for nothing else."""
    return time.perf_counter_ns()


def to_text(ms: int) -> str:
    """RFC 3339 UTC with milliseconds, as all documents hold times."""
    moment = datetime.fromtimestamp(ms // 1000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{ms % 1000:03d}Z"


def from_text(text: str) -> int:
    """Milliseconds of a time as `to_text` writes it; any other spelling is an InvalidRequest."""
    if not _TEXT.fullmatch(text):
        raise InvalidRequest(
            "bad_time", f"not an RFC 3339 UTC time with milliseconds: {text[:40]!r}"
        )
    try:
        moment = datetime.fromisoformat(text[:-5] + "+00:00")
    except ValueError:
        raise InvalidRequest("bad_time", f"no such date or time: {text!r}") from None
    return int(moment.timestamp()) * 1000 + int(text[-4:-1])
