"""Keeps a lease alive while a model is in use, and tells when it is over.

One daemon thread a lease, and one for each call to the broker: an answer that never comes, or
comes a byte at a time, delays neither the end of the lease nor that of a job. `lease_state`
decides; this module asks, waits and calls back.
"""

from __future__ import annotations

import logging
import os
import secrets
import threading
from collections.abc import Callable
from functools import partial

from modelvault.artifact.meter import Costs
from modelvault.client import lease_state
from modelvault.client.lease_state import End, LeaseState, Renew
from modelvault.clock import Clock
from modelvault.errors import AccessDenied, ModelVaultError, NotFound, Unavailable
from modelvault.lease import Renewal
from modelvault.loader.ahead import Ahead
from modelvault.loader.metrics import Stats

_LOG = logging.getLogger("modelvault.lease")
# A thread's wait doesn't count while the machine sleeps, the boot clock does: look at least this
# often.
_LONGEST_WAIT_S = 5.0
_LOOK_S = 0.2  # while an answer is waited for
_STOP_S = 5.0  # how long a close waits for the broker


class Keeper:
    """Renews one lease at two thirds of its ttl and guards what was decrypted under it.

    `renew` asks the broker, `release` tells it that the job is done, `on_end(reason)` is called
    once, in the keeper's thread, when the lease was denied, revoked or ran out; never after
    `stop()`. `clock` is a boot clock in milliseconds. Thread-safe.
    """

    def __init__(
        self,
        state: LeaseState,
        *,
        subject: str,
        renew: Callable[[], Renewal],
        release: Callable[[], None],
        on_end: Callable[[str], None],
        clock: Clock,
        jitter: Callable[[int], int] = secrets.randbelow,
        closing: threading.Event | None = None,
    ) -> None:
        """`jitter(bound)` gives 0 to bound - 1; all waiting is done on `closing`."""
        self._state = state
        self._subject = subject
        self._renew = renew
        self._release = release
        self._on_end = on_end
        self._clock = clock
        self._jitter = jitter
        self._lock = threading.Lock()
        self._asked: Ahead[Renewal] | None = None
        self._closing = closing or threading.Event()
        self._process = os.getpid()
        self._thread = threading.Thread(target=self._run, name="modelvault-lease", daemon=True)

    def start(self) -> None:
        """Begin to renew. Raises Unavailable (`no_thread`); `stop` it then."""
        try:
            self._thread.start()
        except RuntimeError:
            raise Unavailable(
                "no_thread",
                "the system gives this process no further thread, and a lease needs one",
                "raise its limit on processes (ulimit -u, pids.max) or on memory",
            ) from None

    @property
    def reason(self) -> str | None:
        """Why the lease is over, or None while it lives."""
        state = self._state
        return state.ended or (None if lease_state.alive(state, self._clock()) else "lease_expired")

    def stats(self, costs: Costs) -> Stats:
        """How long the lease lasts, beside what the model has cost."""
        state = self._state
        expires_at, dead_at = (0, 0) if state.ended else (state.expires_at, state.dead_at)
        return Stats(
            lease_seconds_left=max(0, expires_at - self._clock()) / 1000,
            expires_at=expires_at,
            dead_at=dead_at,
            costs=costs,
        )

    def check(self) -> None:
        """Raise AccessDenied once the lease is over; this is the loader's Guard.

        It looks at the clock itself, so a thread that is late or dead gives nobody a second more.
        """
        reason = self.reason
        if reason is not None:
            raise AccessDenied(
                reason,
                f"the lease of {self._subject} is over ({reason}): nothing more can be read",
                "load the model again, or ask its owner if that is refused",
            )

    def stop(self) -> None:
        """Stop renewing and give the lease back if the broker can be reached. Idempotent.

        A broker that doesn't answer is waited for some seconds; it may get to know later. In a
        forked child it only ends the child's own access: the lease is its parent's.
        """
        if self._process != os.getpid():  # nor is any lock taken: its holder wasn't forked along
            self._state = lease_state.ended(self._state, "closed")
            return
        with self._lock:
            if self._closing.is_set():
                return
            self._closing.set()
            over = self._state.ended is not None
            self._state = lease_state.ended(self._state, "closed")
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join(_STOP_S)
        answers = self._asked is None or self._asked.done(_STOP_S)
        if not over:
            self._give_back(_STOP_S if answers else 0)

    def _give_back(self, seconds: float) -> None:
        released = Ahead(self._release, "modelvault-release")
        if not released.done(seconds):  # it runs out by itself
            _LOG.info("lease of %s not given back so far: no answer", self._subject)
            return
        try:
            released.result()
        except ModelVaultError as error:
            _LOG.info("lease of %s not given back: %s", self._subject, error.code)

    def _run(self) -> None:
        reason = "keeper_failed"  # stands if anything unforeseen ends this thread: fail closed
        try:
            reason = self._keep()
        finally:
            with self._lock:
                told = not self._closing.is_set()
                self._state = lease_state.ended(self._state, reason)
            if told:
                self._on_end(reason)

    def _keep(self) -> str:
        while True:
            step = lease_state.next_step(self._state, self._clock())
            if isinstance(step, End):
                return step.reason
            if isinstance(step, Renew):
                self._ask()
            else:
                self._closing.wait(min(step.ms / 1000, _LONGEST_WAIT_S))

    def _ask(self) -> None:
        asked_at = self._clock()
        asked = self._asked = Ahead(self._renew, "modelvault-renew")
        while not asked.done(_LOOK_S):
            if self._closing.is_set() or not lease_state.alive(self._state, self._clock()):
                return  # whatever it answers comes too late
        try:
            renewal = asked.result()
        except (AccessDenied, NotFound) as error:
            # NotFound: the broker doesn't know the lease any more, which is an answer.
            self._move(partial(lease_state.ended, reason=error.code))
        except Unavailable as error:
            _LOG.warning("lease of %s not renewed: %s", self._subject, error.message)
            self._move(lambda state: lease_state.failed(state, self._clock(), "unreachable"))
        except ModelVaultError as error:
            _LOG.warning("lease of %s not renewed: %s", self._subject, error.message)
            self._move(lambda state: lease_state.failed(state, self._clock(), "refused"))
        else:
            grace_s = renewal.obligations.grace_s or 0
            jitter = self._jitter(renewal.ttl_s * 100 + 1)
            self._move(
                lambda state: lease_state.renewed(state, asked_at, renewal.ttl_s, grace_s, jitter)
            )

    def _move(self, change: Callable[[LeaseState], LeaseState]) -> None:
        with self._lock:
            self._state = change(self._state)
