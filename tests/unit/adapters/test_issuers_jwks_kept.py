"""When an issuer is asked for its keys, by a clock that only the test moves."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from modelvault.adapters.issuers_jwks import kept as module
from modelvault.adapters.issuers_jwks.document import Keys
from modelvault.adapters.issuers_jwks.fetching import NotFetched
from modelvault.adapters.issuers_jwks.kept import MAX_WAITING, MISSES, KeptKeys
from modelvault.errors import AuthenticationError, ModelVaultError, Unavailable
from modelvault.identity.presets import KeySource
from modelvault.ports.identity import VerifyingKey

REFRESH, STALE, UNKNOWN = 300_000, 3_600_000, 10_000
PATIENCE_S = 20
ONE, TWO = VerifyingKey("EdDSA", b"one"), VerifyingKey("EdDSA", b"two")


class World:
    """An issuer with `keys`, or away; fetches wait while `gate` is closed."""

    def __init__(self) -> None:
        self.now = 1_000
        self.keys: Keys | None = {"one": ONE}
        self.fetches = 0
        self.gate = threading.Event()
        self.gate.set()
        self.kept: KeptKeys

    def fetch(self) -> Keys:
        self.fetches += 1
        assert self.gate.wait(PATIENCE_S)
        if self.keys is None:
            raise NotFetched("status 503")
        return self.keys

    def pass_by(self, ms: int) -> None:
        self.now += ms
        with self.kept._changed:
            self.kept._changed.notify_all()

    def settle(self, fetches: int) -> None:
        eventually(lambda: self.kept._rounds >= fetches and not self.kept._under_way)
        assert self.fetches == fetches


def eventually(true: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < until
        time.sleep(0.002)


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    times = KeySource(refresh_s=REFRESH / 1000, stale_s=STALE / 1000, unknown_s=UNKNOWN / 1000)
    made.kept = KeptKeys("ci", made.fetch, times, lambda: made.now)
    yield made
    made.gate.set()
    made.kept.close()
    made.kept._thread.join(PATIENCE_S)
    assert not made.kept._thread.is_alive()


def refused(world: World, kid: str | None, family: type[ModelVaultError]) -> ModelVaultError:
    with pytest.raises(family) as caught:
        world.kept.key(kid)
    assert type(caught.value) is family
    assert caught.value.hint
    return caught.value


@contextmanager
def asking(world: World, *kids: str) -> Iterator[list[object]]:
    """Each kid asked for in a thread of its own; the answers, once the block is left."""
    answers: list[object] = []

    def ask(kid: str) -> None:
        try:
            answers.append(world.kept.key(kid))
        except ModelVaultError as error:
            answers.append(error.code)

    threads = [threading.Thread(target=ask, args=(kid,)) for kid in kids]
    for thread in threads:
        thread.start()
    yield answers
    for thread in threads:
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


def test_the_first_request_waits_for_the_first_fetch(world: World) -> None:
    assert world.kept.key("one") == ONE
    assert world.kept.key(None) == ONE
    assert world.fetches == 1


def test_keys_are_fetched_again_without_anybody_asking(world: World) -> None:
    world.settle(1)
    world.keys = {"two": TWO}
    world.pass_by(REFRESH - 1)
    world.settle(1)
    world.pass_by(1)
    world.settle(2)
    assert world.kept.key("two") == TWO
    assert refused(world, "one", AuthenticationError).code == "unknown_signing_key"


def test_no_request_waits_while_keys_are_known(world: World) -> None:
    world.settle(1)
    world.gate.clear()
    world.pass_by(REFRESH)
    eventually(lambda: world.fetches == 2)
    assert [world.kept.key("one") for _ in range(100)] == [ONE] * 100  # nobody opens the gate


def test_known_keys_outlast_an_outage_for_a_bounded_time(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "modelvault.issuers")
    world.settle(1)
    world.keys = None
    for number in range(1, 6):
        world.pass_by(REFRESH)
        world.settle(1 + number)
        assert world.kept.key("one") == ONE
    world.pass_by(STALE - 5 * REFRESH - 1)
    world.settle(7)
    assert world.kept.key("one") == ONE
    world.pass_by(1)
    assert refused(world, "one", Unavailable).code == "issuer_unavailable"
    fetches = world.fetches
    world.keys = {"one": ONE}
    world.pass_by(REFRESH)
    world.settle(fetches + 1)
    assert world.kept.key("one") == ONE
    told = [record.getMessage() for record in caplog.records]
    assert told == ["issuer ci: keys not fetched: status 503", "issuer ci: keys fetched again"]


def test_an_outage_from_the_start(world: World) -> None:
    made = World()
    made.keys = None
    made.kept = KeptKeys("ci", made.fetch, KeySource(), lambda: made.now)
    refused(made, "one", Unavailable)
    for _ in range(50):  # answers come at once, and nobody asks the issuer
        refused(made, "one", Unavailable)
    assert made.fetches == 1
    made.keys = {"one": ONE}
    made.pass_by(2_001)  # the thread tries by itself, and soon
    made.settle(2)
    assert made.kept.key("one") == ONE
    made.kept.close()
    made.kept.close()


def test_retries_come_ever_less_often(world: World) -> None:
    world.settle(1)
    world.keys = None
    pauses = []
    world.pass_by(REFRESH)
    for number in range(2, 12):
        world.settle(number)
        pauses.append(world.kept._due_at - world.now)
        world.pass_by(pauses[-1])
    assert all(1_000 << n >= pause >= 500 << n for n, pause in enumerate(pauses[:8], 1))
    assert max(pauses) <= REFRESH
    assert pauses[-1] >= REFRESH // 2


def test_a_new_key_is_found_by_asking_for_it(world: World) -> None:
    world.settle(1)
    world.keys = {"one": ONE, "two": TWO}
    world.pass_by(UNKNOWN)
    assert world.kept.key("two") == TWO
    assert world.fetches == 2


def test_a_flood_of_unknown_ids_makes_one_fetch_in_each_interval(world: World) -> None:
    world.settle(1)
    for number in range(500):
        refused(world, f"made-up-{number}", AuthenticationError)
    assert world.fetches == 1
    for interval in range(1, 4):
        world.pass_by(UNKNOWN)
        for number in range(500):
            refused(world, f"made-up-{interval}-{number}", AuthenticationError)
        assert world.fetches == 1 + interval
    assert len(world.kept._misses) == MISSES
    assert world.kept.key("one") == ONE


def test_an_id_that_was_missing_makes_no_second_fetch_for_a_while(world: World) -> None:
    world.settle(1)
    refused(world, "gone", AuthenticationError)
    for _ in range(5):
        world.pass_by(UNKNOWN)
        refused(world, "gone", AuthenticationError)
    assert world.fetches == 1
    world.pass_by(module.MISS_MS)
    refused(world, "gone", AuthenticationError)
    assert world.fetches == 2


def test_an_id_that_was_missing_counts_as_soon_as_it_is_there(world: World) -> None:
    world.settle(1)
    refused(world, "two", AuthenticationError)
    world.keys = {"two": TWO}
    world.pass_by(UNKNOWN)
    refused(world, "another", AuthenticationError)
    assert world.kept.key("two") == TWO


def test_ids_of_absurd_length_and_none_at_all(world: World) -> None:
    world.settle(1)
    world.pass_by(UNKNOWN)
    refused(world, "k" * 16_000, AuthenticationError)
    assert world.fetches == 1
    world.keys = {"one": ONE, "two": TWO}
    world.pass_by(REFRESH)
    world.settle(2)
    world.pass_by(UNKNOWN)
    refused(world, None, AuthenticationError)
    assert not world.kept._misses


def test_one_fetch_at_a_time_and_few_who_wait(world: World) -> None:
    world.settle(1)
    world.gate.clear()
    world.keys = {"one": ONE, "two": TWO}
    world.pass_by(UNKNOWN)
    with asking(world, *["two"] * 20) as answers:
        eventually(lambda: len(answers) == 20 - MAX_WAITING)
        assert set(answers) == {"issuer_unavailable"}
        assert world.kept.key("one") == ONE
        world.gate.set()
    assert answers.count(TWO) == MAX_WAITING
    assert world.fetches == 2


def test_a_fetch_that_takes_too_long(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAIT_S", 0.01)
    world.settle(1)
    world.gate.clear()
    world.pass_by(UNKNOWN)
    assert "can't be found out" in refused(world, "two", Unavailable).message
    assert world.kept.key("one") == ONE


def test_an_unknown_id_during_an_outage_may_be_a_new_key(world: World) -> None:
    world.settle(1)
    world.keys = None
    world.pass_by(UNKNOWN)
    refused(world, "two", Unavailable)
    refused(world, "two", Unavailable)
    assert world.fetches == 2


def test_an_issuer_that_takes_all_its_keys_back_is_believed(world: World) -> None:
    world.settle(1)
    world.keys = {}
    world.pass_by(REFRESH)
    world.settle(2)
    refused(world, "one", AuthenticationError)


def test_closed(world: World) -> None:
    world.settle(1)
    world.kept.close()
    world.pass_by(UNKNOWN)
    assert world.kept.key("one") == ONE
    refused(world, "two", AuthenticationError)
    world.pass_by(STALE)
    refused(world, "one", Unavailable)
    assert world.fetches == 1
