"""Until when a run may go on, as its holder says: a page of memory that warden and front look at.

To look takes nobody to be awake, so a holder that was stopped gives the command no time. And
nothing piles up for a front that Ctrl-Z has stopped.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable

from modelvault.clock import Clock, boot_ms, steady_ns
from modelvault.loader.metrics import Stats

# The grace for an outage is for who is awake: once the lease must have been renewed, a holder gets
# no more of it than this at a time.
AT_A_TIME_MS = 5000
_UNTIL, _GRACE, _TAKEN = range(3)


class Term:
    """One run's. Made before its processes fork; all of them see the same. The holder tells; only
    `take` is somebody else's."""

    def __init__(self, clock: Clock = boot_ms) -> None:
        """`clock` is a boot clock in milliseconds."""
        self._clock = clock
        # Shared with forked children; a program that is executed has nothing of it.
        self._numbers = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("Q")

    def tell(self, lease: Stats, grace_s: int) -> None:
        """The lease as it is now; `grace_s` is what the command has between SIGTERM and SIGKILL.
        To be told every second or so: nothing is said of a lease that is over."""
        if lease.dead_at:
            awake = self._clock() + AT_A_TIME_MS
            self._say(min(lease.dead_at, max(lease.expires_at, awake)), grace_s)

    def end(self, grace_s: int) -> None:
        """The lease is over."""
        self._say(self._clock(), grace_s)

    @property
    def over(self) -> bool:
        """Whether all time is over that was told of."""
        return 0 < self._numbers[_UNTIL] <= self._clock()

    @property
    def grace_s(self) -> int:
        """What the command has between SIGTERM and SIGKILL."""
        return self._numbers[_GRACE]

    def take(self) -> None:
        """Somebody else sees to the end of the run."""
        self._numbers[_TAKEN] = 1

    @property
    def taken(self) -> bool:
        """Whether somebody else than the holder has seen to the end."""
        return bool(self._numbers[_TAKEN])

    def _say(self, until: int, grace_s: int) -> None:
        self._numbers[_GRACE] = grace_s
        self._numbers[_UNTIL] = until  # one store: nobody sees half of it


class Patience:
    """Whether something has been so for long enough, as far as this process was awake to see.

    A machine that slept wakes all at once: who had to act gets its time from then on.
    """

    def __init__(self, is_so: Callable[[], bool], steady: Clock = steady_ns) -> None:
        """`steady` is in nanoseconds, and stands still while the machine sleeps."""
        self._is_so = is_so
        self._steady = steady
        self._since: int | None = None

    def ended(self, seconds: int) -> bool:
        """Whether it has been so for these seconds. To be asked again and again."""
        if not self._is_so():
            self._since = None
            return False
        now = self._steady()
        self._since = now if self._since is None else self._since
        return now - self._since >= seconds * 1_000_000_000
