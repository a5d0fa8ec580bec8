"""What becomes of a lease: decided here, done by the keeper.

A pure state machine. All times are milliseconds of one boot clock (`clock.boot_ms`), so the wall
clock plays no part. "Unreachable is not revoked": an outage leaves the lease alive until its ttl
plus the policy's grace; a denial ends it at once.
"""

from __future__ import annotations

from typing import Literal

import msgspec

MIN_PAUSE_MS = 200
MAX_PAUSE_MS = 30_000
# A broker that answers, but neither extends nor denies (say: the token has expired), is no outage:
# what was granted runs to its ttl, and there is no grace for it.
Failure = Literal["unreachable", "refused"]


class LeaseState(msgspec.Struct, frozen=True, kw_only=True):
    """A lease at one moment.

    `expires_at` is when the granted ttl is over, `dead_at` when the grace is too; `renew_at` is
    when to ask again. `ended` is None while it runs, then the code of why it ended.
    """

    ttl_ms: int
    grace_ms: int
    renew_at: int
    expires_at: int
    dead_at: int
    ended: str | None = None


class Renew(msgspec.Struct, frozen=True):
    """Ask the broker now."""


class Wait(msgspec.Struct, frozen=True):
    """Nothing to do for this many milliseconds."""

    ms: int


class End(msgspec.Struct, frozen=True):
    """Wipe: no access from now on."""

    reason: str


def begin(asked_at: int, ttl_s: int, grace_s: int, jitter_ms: int) -> LeaseState:
    """The state of a grant that was asked for at `asked_at`.

    The first renewal is due at two thirds of the ttl, up to `jitter_ms` earlier, so that a
    thousand jobs that started together don't ask together.
    """
    ttl, grace = ttl_s * 1000, grace_s * 1000
    due = max(asked_at, asked_at + ttl * 2 // 3 - jitter_ms)
    return LeaseState(
        ttl_ms=ttl,
        grace_ms=grace,
        renew_at=due,
        expires_at=asked_at + ttl,
        dead_at=asked_at + ttl + grace,
    )


def renewed(
    state: LeaseState, asked_at: int, ttl_s: int, grace_s: int, jitter_ms: int
) -> LeaseState:
    """The broker granted another stretch, counted from the moment it was asked for.

    An ended lease stays ended: a late answer brings nothing back.
    """
    return state if state.ended else begin(asked_at, ttl_s, grace_s, jitter_ms)


def failed(state: LeaseState, now: int, failure: Failure) -> LeaseState:
    """The renewal brought no answer that counts: try again after a pause."""
    pause = min(max(state.ttl_ms // 6, MIN_PAUSE_MS), MAX_PAUSE_MS)
    # Once the broker has answered without extending, the grace for outages is off the table; an
    # outage after that doesn't bring it back.
    dead_at = state.dead_at if failure == "unreachable" else min(state.dead_at, state.expires_at)
    return msgspec.structs.replace(state, renew_at=now + pause, dead_at=dead_at)


def ended(state: LeaseState, reason: str) -> LeaseState:
    """It is over; the first reason stands."""
    return state if state.ended else msgspec.structs.replace(state, ended=reason)


def next_step(state: LeaseState, now: int) -> Renew | Wait | End:
    """What to do at `now`."""
    if state.ended:
        return End(state.ended)
    if now >= state.dead_at:
        return End("lease_expired")
    if now >= state.renew_at:
        return Renew()
    return Wait(min(state.renew_at, state.dead_at) - now)


def alive(state: LeaseState, now: int) -> bool:
    """Whether what was decrypted may still be read."""
    return state.ended is None and now < state.dead_at
