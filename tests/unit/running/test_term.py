"""What a run's processes know of its lease when one of them is stopped."""

from __future__ import annotations

import os

import pytest

from modelvault.loader.metrics import Stats
from modelvault.running.term import AT_A_TIME_MS, Patience, Term
from support.hosts import lasting


class Clock:
    def __init__(self, now: int = 1_000_000) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def term(clock: Clock) -> Term:
    return Term(clock)


def lease(now: int, expires_in: int, dead_in: int) -> Stats:
    return Stats(
        lease_seconds_left=max(0, expires_in) / 1000,
        expires_at=now + expires_in,
        dead_at=now + dead_in,
        costs=lasting().costs,
    )


OVER = Stats(lease_seconds_left=0, expires_at=0, dead_at=0, costs=lasting().costs)


@pytest.mark.parametrize(
    ("expires_in", "dead_in", "holds_ms"),
    [
        (60_000, 60_000, 60_000),
        (60_000, 600_000, 60_000),  # who is stopped has nothing of the grace for outages
        (1_000, 600_000, AT_A_TIME_MS),
        (-30_000, 600_000, AT_A_TIME_MS),  # an outage: who is awake says so again and again
        (-30_000, 2_000, 2_000),  # and never more than there is
        (1_000, 1_000, 1_000),
    ],
)
def test_how_long_a_stopped_holders_lease_lasts(
    term: Term, clock: Clock, expires_in: int, dead_in: int, holds_ms: int
) -> None:
    term.tell(lease(clock.now, expires_in, dead_in), 7)
    clock.now += holds_ms - 1
    assert not term.over
    clock.now += 1
    assert term.over
    assert term.grace_s == 7


def test_nothing_is_over_before_something_was_told(term: Term) -> None:
    assert not term.over


def test_nothing_is_said_of_a_lease_that_is_over(term: Term, clock: Clock) -> None:
    """Why it is, the holder says itself; if it doesn't, what it said before counts."""
    term.tell(OVER, 7)
    assert not term.over
    term.tell(lease(clock.now, 60_000, 60_000), 7)
    term.tell(OVER, 0)
    assert (term.over, term.grace_s) == (False, 7)
    term.end(3)
    assert (term.over, term.grace_s) == (True, 3)


def test_a_forked_process_sees_what_is_told_later(term: Term, clock: Clock) -> None:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.read(reading, 1)
        os._exit(17 if term.over and term.grace_s == 9 and not term.taken else 1)
    term.end(9)
    os.write(writing, b"!")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 17
    child = os.fork()
    if child == 0:
        term.take()
        os._exit(0)
    os.waitpid(child, 0)
    assert term.taken
    for end in (reading, writing):
        os.close(end)


def test_patience_is_for_what_lasts_while_one_is_awake() -> None:
    so, steady = [True], Clock(0)
    patience = Patience(lambda: so[0], steady)

    def after(seconds: int) -> bool:
        steady.now += seconds * 1_000_000_000
        return patience.ended(5)

    assert [after(100), after(4), after(1)] == [False, False, True]
    so[0] = False
    assert not after(100)
    so[0] = True
    assert [after(100), after(5)] == [False, True]
