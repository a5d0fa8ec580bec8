"""throttle: requests counted by many brokers together."""

from __future__ import annotations

import pytest

from modelvault.broker.throttle import MINUTE_MS, Rates, Throttle, unlimited
from modelvault.errors import Unavailable


class Shared:
    """The counter that brokers share."""

    def __init__(self) -> None:
        self.totals: dict[tuple[str, int], int] = {}
        self.calls = 0
        self.down = False

    def __call__(self, bucket: str, minute: int, by: int) -> int:
        self.calls += 1
        if self.down:
            raise Unavailable("ledger_unavailable", "down")
        self.totals[bucket, minute] = self.totals.get((bucket, minute), 0) + by
        return self.totals[bucket, minute]


def admitted(throttle: Throttle, name: str, times: int, now: int = 0) -> int:
    done = 0
    for _ in range(times):
        try:
            throttle.admit(name, now)
        except Unavailable:
            continue
        done += 1
    return done


def test_a_refusal_says_how_long_to_wait() -> None:
    throttle = Throttle(Shared(), Rates(principal=1, failures=1))
    throttle.admit("a", 20_000)
    with pytest.raises(Unavailable) as caught:
        throttle.admit("a", 20_000)
    assert (caught.value.code, caught.value.details["retry_after_s"]) == ("rate_limited", 41)


def test_a_principal_gets_what_it_may_and_no_more() -> None:
    shared = Shared()
    throttle = Throttle(shared, Rates(principal=100, failures=1))
    assert admitted(throttle, "a", 150) == 100
    assert admitted(throttle, "b", 10) == 10
    assert admitted(throttle, "a", 10, MINUTE_MS) == 10
    assert shared.calls < 50


def test_brokers_count_together() -> None:
    shared = Shared()
    brokers = [Throttle(shared, Rates(principal=200, failures=1)) for _ in range(4)]
    done = sum(admitted(brokers[turn % 4], "a", 1) for turn in range(400))
    assert 200 <= done <= 200 + 4 * 10  # a step of each broker


def test_an_address_that_fails_too_often_is_no_longer_listened_to() -> None:
    throttle = Throttle(Shared(), Rates(principal=1, failures=5))
    for _ in range(5):
        throttle.check_address("192.0.2.1", 0)
        throttle.failed("192.0.2.1", 0)
    with pytest.raises(Unavailable):
        throttle.check_address("192.0.2.1", 0)
    throttle.check_address("192.0.2.2", 0)
    throttle.check_address("192.0.2.1", MINUTE_MS)
    throttle.failed(None, 0)
    throttle.check_address(None, 0)


def test_without_the_shared_counter_its_own_counts() -> None:
    shared = Shared()
    shared.down = True
    throttle = Throttle(shared, Rates(principal=100, failures=1))
    assert admitted(throttle, "a", 150) == 100


def test_many_names_fill_no_memory() -> None:
    throttle = Throttle(Shared(), Rates(principal=1000, failures=1))
    for number in range(25_000):
        throttle.admit(f"p{number}", 0)
    assert len(throttle._own) <= 10_001


def test_an_embedded_vault_counts_nothing() -> None:
    assert admitted(unlimited(), "a", 1000) == 1000
