"""When to try a version again that couldn't be loaded. Values in, values out."""

from __future__ import annotations

import msgspec

_LONGEST_MS = 600_000
_MOST_DOUBLINGS = 16


class Attempts(msgspec.Struct, frozen=True):
    """How often `version` has failed in a row, and from when on (ms) it may be tried again."""

    version: int = 0
    failures: int = 0
    again_at: int = 0


def due(attempts: Attempts, version: int, now: int) -> bool:
    """Whether `version` may be tried: another one than has failed always may."""
    return version != attempts.version or now >= attempts.again_at


def failed(attempts: Attempts, version: int, now: int, every_ms: int) -> Attempts:
    """It has failed (again): a version that is broken mustn't be fetched at every look."""
    failures = attempts.failures + 1 if version == attempts.version else 1
    pause = every_ms << min(failures - 1, _MOST_DOUBLINGS)
    return Attempts(version, failures, now + min(pause, max(_LONGEST_MS, every_ms)))
