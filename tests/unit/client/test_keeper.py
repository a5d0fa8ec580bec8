from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from modelvault.access import Caller, Obligations
from modelvault.adapters.broker_http import Address, Connection, RemoteBroker
from modelvault.client import keeper as module
from modelvault.client.keeper import Keeper
from modelvault.client.lease_state import begin
from modelvault.clock import boot_ms
from modelvault.errors import (
    AccessDenied,
    AuthenticationError,
    ModelVaultError,
    NotFound,
    Unavailable,
)
from modelvault.lease import Renewal
from modelvault.loader.ahead import Ahead
from support.servers.fake_http import FakeServer, Reply

GRANTED = Renewal(
    ttl_s=3, expires_at="2026-01-01T00:00:00.000Z", obligations=Obligations(grace_s=2)
)


class Time:
    """A boot clock that a test moves by hand; a keeper that waits on it moves it to the goal."""

    def __init__(self) -> None:
        self.now = 1_000_000

    def __call__(self) -> int:
        return self.now


class Waits(threading.Event):
    """The keeper's event: each wait takes no time and moves the clock on."""

    def __init__(self, time: Time) -> None:
        super().__init__()
        self._time = time

    def wait(self, timeout: float | None = None) -> bool:
        self._time.now += max(1, round((timeout or 0) * 1000))
        return self.is_set()


class Broker:
    """Answers renewals from a list; the last answer is given again and again."""

    def __init__(self, *answers: Renewal | ModelVaultError | BaseException) -> None:
        self.answers = list(answers)
        self.asked: list[int] = []
        self.released = 0

    def renew(self) -> Renewal:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def release(self) -> None:
        self.released += 1


def keeper(broker: Broker, time: Time, ends: list[str], *, ttl_s: int = 3, grace_s: int = 2):
    def renew() -> Renewal:
        broker.asked.append(time.now)
        return broker.renew()

    return Keeper(
        begin(time.now, ttl_s, grace_s, 0),
        subject="default/m@1",
        renew=renew,
        release=broker.release,
        on_end=ends.append,
        clock=time,
        jitter=lambda _bound: 0,
        closing=Waits(time),
    )


def run_to_the_end(made: Keeper) -> None:
    made.start()
    made._thread.join(10)
    assert not made._thread.is_alive()


def test_renews_at_two_thirds_until_it_is_denied() -> None:
    time, ends = Time(), []
    broker = Broker(GRANTED, GRANTED, GRANTED, AccessDenied("revoked", "no"))
    made = keeper(broker, time, ends)
    start = time.now
    run_to_the_end(made)
    assert [asked - start for asked in broker.asked] == [2_000, 4_000, 6_000, 8_000]
    assert ends == ["revoked"]
    with pytest.raises(AccessDenied, match="revoked") as caught:
        made.check()
    assert caught.value.code == "revoked"


@pytest.mark.parametrize(
    ("answer", "lived_ms", "reason"),
    [
        (Unavailable("ledger_unavailable", "down"), 5_000, "lease_expired"),
        (AuthenticationError("token_expired", "old"), 3_000, "lease_expired"),
        (AccessDenied("purpose_denied", "no"), 2_000, "purpose_denied"),
        (NotFound("no_lease", "gone"), 2_000, "no_lease"),
    ],
)
def test_how_long_it_lives_without_a_renewal(
    answer: ModelVaultError, lived_ms: int, reason: str
) -> None:
    time, ends = Time(), []
    start = time.now
    made = keeper(Broker(answer), time, ends)
    run_to_the_end(made)
    assert ends == [reason]
    assert time.now - start == pytest.approx(lived_ms, abs=30)


def test_an_outage_that_ends_in_the_grace_costs_nothing() -> None:
    time, ends = Time(), []
    down = Unavailable("policy_unavailable", "down")
    broker = Broker(down, down, down, GRANTED, AccessDenied("revoked", "no"))
    start = time.now
    run_to_the_end(keeper(broker, time, ends))
    assert ends == ["revoked"]
    assert len(broker.asked) == 5
    assert time.now - start > 3_000


class Silent:
    """A broker that answers nothing before it is let go."""

    def __init__(self) -> None:
        self.asked, self.go = threading.Event(), threading.Event()

    def __call__(self) -> Renewal:
        self.asked.set()
        assert self.go.wait(20)
        return GRANTED


def test_the_lease_ends_in_the_middle_of_a_renewal() -> None:
    """Whatever the broker does: it is told of, and a late answer brings nothing back."""
    time, ends, broker = Time(), [], Broker(GRANTED)
    silent = broker.renew = Silent()  # type: ignore[method-assign]
    made = keeper(broker, time, ends)
    made.start()
    assert silent.asked.wait(10)
    assert made._thread.is_alive()
    time.now += 5_000
    made._thread.join(10)
    assert ends == ["lease_expired"]
    silent.go.set()
    assert made._asked.done(10)
    with pytest.raises(AccessDenied):
        made.check()


def test_a_close_waits_for_no_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither for a renewal nor for the lease to be given back, which comes when it comes."""
    monkeypatch.setattr(module, "_STOP_S", 0.2)
    time, ends, broker = Time(), [], Broker(GRANTED)
    silent = broker.renew = Silent()  # type: ignore[method-assign]
    back, let = threading.Event(), threading.Event()

    def release() -> None:
        assert let.wait(20)
        back.set()

    broker.release = release  # type: ignore[method-assign]
    made = keeper(broker, time, ends)
    made.start()
    assert silent.asked.wait(10)
    made.stop()
    assert not made._thread.is_alive()
    assert not back.is_set()
    let.set()
    assert back.wait(10)
    silent.go.set()
    assert ends == []


def test_without_a_further_thread_it_is_asked_here(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", none)
    asked = Ahead(lambda: 7)
    assert asked.done(0)
    assert asked.result() == 7
    failed = Ahead(lambda: 1 // 0)
    assert failed.done(0)
    with pytest.raises(ZeroDivisionError):
        failed.result()


def test_an_answer_that_comes_a_byte_at_a_time_ends_no_lease_late() -> None:
    """A real connection, and the machine's own clock."""
    headers = {"Content-Type": "application/json", "Modelvault-Api": "1"}
    ends: list[str] = []
    with FakeServer(lambda _asked: Reply(200, b" " * 4000, headers, drip=0.05)) as server:
        broker = RemoteBroker(Connection(Address(url=server.url)))
        caller = Caller(token="a.b.c")
        made = Keeper(
            begin(boot_ms(), 1, 0, 300),
            subject="default/m@1",
            renew=lambda: broker.renew(caller, "0" * 32, "h"),
            release=lambda: None,
            on_end=ends.append,
            clock=boot_ms,
        )
        made.start()
        made._thread.join(15)  # the answer would take 200 s, its client waits for 30 s
        assert ends == ["lease_expired"]
        assert len(server.asked) == 1
        broker.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_unforeseen_error_ends_the_lease() -> None:
    time, ends = Time(), []
    made = keeper(Broker(ValueError("a bug")), time, ends)
    run_to_the_end(made)
    assert ends == ["keeper_failed"]
    with pytest.raises(AccessDenied):
        made.check()


def test_the_guard_looks_at_the_clock_itself() -> None:
    time = Time()
    made = keeper(Broker(GRANTED), time, [])  # never started: as a thread that hangs
    made.check()
    time.now += 4_999
    made.check()
    time.now += 1
    with pytest.raises(AccessDenied) as caught:
        made.check()
    assert caught.value.code == "lease_expired"


def real(broker: Broker, ends: list[str], clock: Callable[[], int]) -> Keeper:
    return Keeper(
        begin(clock(), 60, 0, 0),
        subject="default/m@1",
        renew=broker.renew,
        release=broker.release,
        on_end=ends.append,
        clock=clock,
    )


def test_stop_ends_the_thread_releases_once_and_tells_nobody() -> None:
    broker, ends = Broker(GRANTED), []
    made = real(broker, ends, Time())
    made.start()
    made.stop()
    made.stop()
    assert not made._thread.is_alive()
    assert (broker.released, ends) == (1, [])
    with pytest.raises(AccessDenied) as caught:
        made.check()
    assert caught.value.code == "closed"


def test_a_release_that_fails_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "modelvault.lease")
    broker = Broker(GRANTED)

    def down() -> None:
        raise Unavailable("ledger_unavailable", "down")

    broker.release = down  # type: ignore[method-assign]
    made = real(broker, [], Time())
    made.start()
    made.stop()
    assert "ledger_unavailable" in caplog.text


def test_a_lease_that_is_over_is_not_released() -> None:
    time, ends = Time(), []
    broker = Broker(AccessDenied("revoked", "no"))
    made = keeper(broker, time, ends)
    run_to_the_end(made)
    made.stop()
    assert broker.released == 0


def test_stop_may_be_called_by_the_callback_itself() -> None:
    time = Time()
    told = threading.Event()
    broker = Broker(AccessDenied("revoked", "no"))
    made = keeper(broker, time, [])

    def on_end(_reason: str) -> None:
        made.stop()
        told.set()

    made._on_end = on_end
    run_to_the_end(made)
    assert told.is_set()


def test_a_stopped_keeper_can_wait_for_a_thread_that_never_started() -> None:
    broker = Broker(GRANTED)
    real(broker, [], Time()).stop()
    assert broker.released == 1
