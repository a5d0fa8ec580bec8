"""Limits on requests, over all brokers together: of one principal, and failed logins of an address.

Too many requests are an outage for the asker (`rate_limited`), never a deny: a deny wipes running
jobs. Each broker counts in steps and tells the shared counter once a step, so that counting costs
little; a limit is kept to within a step for each broker.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable

import msgspec

from modelvault.errors import ModelVaultError, Unavailable

MINUTE_MS = 60_000
_STEPS = 20
_MOST_BUCKETS = 10_000

# (bucket, number of the minute, how many more) -> how many in all
Count = Callable[[str, int, int], int]


class Rates(msgspec.Struct, frozen=True, kw_only=True):
    """Requests a minute."""

    principal: int = 6000
    failures: int = 60


class Throttle:
    """Thread-safe. Where the shared counter can't be had, this broker's own count is what counts:
    a limit is no reason to be down."""

    def __init__(self, count: Count, rates: Rates) -> None:
        self._count = count
        self._rates = rates
        self._lock = threading.Lock()
        self._minute = -1
        self._own: dict[str, tuple[int, int]] = {}  # bucket: (not told yet, of all)

    def check_address(self, address: str | None, now: int) -> None:
        """Raises Unavailable (`rate_limited`) for an address with too many failed logins."""
        if address is not None and self._seen(_bucket("address", address), now) >= (
            self._rates.failures
        ):
            raise _limited(now)

    def failed(self, address: str | None, now: int) -> None:
        """A login from there failed."""
        if address is not None:
            self._add(_bucket("address", address), now, self._rates.failures)

    def admit(self, principal: str, now: int) -> None:
        """Count a request. Raises Unavailable (`rate_limited`) for one too many."""
        if self._add(_bucket("principal", principal), now, self._rates.principal) > (
            self._rates.principal
        ):
            raise _limited(now)

    def _seen(self, bucket: str, now: int) -> int:
        with self._lock:
            self._turn(now)
            return sum(self._own.get(bucket, (0, 0)))

    def _add(self, bucket: str, now: int, limit: int) -> int:
        step = max(1, limit // _STEPS)
        with self._lock:
            self._turn(now)
            untold, known = self._own.get(bucket, (0, 0))
            untold += 1
            self._own[bucket] = (untold, known)
            if untold < step:
                return untold + known
            self._own[bucket] = (0, untold + known)
        try:
            total = self._count(bucket, now // MINUTE_MS, untold)
        except ModelVaultError:
            return untold + known
        with self._lock:
            untold, known = self._own.get(bucket, (0, 0))
            self._own[bucket] = (untold, max(known, total))
        return total + untold

    def _turn(self, now: int) -> None:
        """A new minute starts from nothing; so does a table that somebody fills with names."""
        minute = now // MINUTE_MS
        if minute != self._minute or len(self._own) > _MOST_BUCKETS:
            self._minute = minute
            self._own = {}


def unlimited() -> Throttle:
    """For a vault in the process of its only user."""
    most = 1 << 40
    return Throttle(lambda _bucket, _minute, by: by, Rates(principal=most, failures=most))


def _bucket(kind: str, name: str) -> str:
    """Of a length that doesn't depend on what callers choose."""
    return f"{kind}:{hashlib.sha256(name.encode('utf-8', 'replace')).hexdigest()[:32]}"


def _limited(now: int) -> Unavailable:
    wait_s = (MINUTE_MS - now % MINUTE_MS) // 1000 + 1
    return Unavailable(
        "rate_limited",
        "too many requests",
        f"wait {wait_s} s; whoever runs the vault sets the limits",
        retry_after_s=wait_s,
    )
