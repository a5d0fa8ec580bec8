"""What the end of a lease does to a job, by what the policy asked last."""

from __future__ import annotations

import gc
import signal
import threading
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest

from modelvault.access import Obligations
from modelvault.client import ending
from modelvault.client.ending import Ending
from modelvault.client.session import Session
from modelvault.errors import AccessDenied
from modelvault.lease import Renewal
from modelvault.loader import ending as process_ending
from support.attacked import folder
from support.honest import WHEN, HonestBroker, Store, context
from support.loading import Version

FILES = {"a.dat": b"weights" * 100}


class Told:
    """Remembers, in order, what an Ending does."""

    def __init__(self) -> None:
        self.steps: list[object] = []

    def terminate(self, grace_s: int) -> Callable[[], None]:
        self.steps.append(("terminate", grace_s))
        return lambda: self.steps.append("finish")

    def wipe(self) -> None:
        self.steps.append("wipe")

    def on_revoked(self, reason: str) -> None:
        self.steps.append(("told", reason))


def ended(obligations: Obligations, later: Obligations | None = None) -> list[object]:
    told = Told()
    over = Ending(told.on_revoked, told.terminate)
    with Version(FILES).model(obligations=obligations) as model:
        over.watch(model, told.wipe)
        if later is not None:
            over.heed(later)
            assert model.obligations == later
        over("revoked")
        with pytest.raises(AccessDenied):
            model.read_bytes("a.dat")
    return told.steps


@pytest.mark.parametrize(
    ("obligations", "later", "grace_s"),
    [
        (Obligations(), None, None),
        (Obligations(terminate_on_revoke=0), None, 0),
        (Obligations(terminate_on_revoke=30), None, 30),
        (Obligations(), Obligations(terminate_on_revoke=7), 7),
        (Obligations(terminate_on_revoke=30), Obligations(), None),
    ],
)
def test_in_this_order(
    obligations: Obligations, later: Obligations | None, grace_s: int | None
) -> None:
    first, last = ([], []) if grace_s is None else ([("terminate", grace_s)], ["finish"])
    assert ended(obligations, later) == ["wipe", *first, ("told", "revoked"), *last]


def test_the_process_ends_whatever_the_job_does() -> None:
    told = Told()

    def fail(_reason: str) -> None:
        raise ZeroDivisionError

    over = Ending(fail, told.terminate)
    with Version(FILES).model(obligations=Obligations(terminate_on_revoke=1)) as model:
        over.watch(model, told.wipe)
        with pytest.raises(ZeroDivisionError):
            over("revoked")
    assert told.steps[-1] == "finish"


def test_a_store_that_never_answers_delays_nobodys_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that reads holds what would be wiped: that comes later, the end doesn't."""
    monkeypatch.setattr(ending, "_WIPING_S", 0.1)
    told, version = Told(), Version(FILES)
    begun, answer = threading.Event(), threading.Event()

    def stall() -> None:
        begun.set()
        assert answer.wait(60)

    version.readers["a.dat"].before = stall
    model = version.model(obligations=Obligations(terminate_on_revoke=0))
    over = Ending(told.on_revoked, told.terminate)
    over.watch(model, told.wipe)

    def read() -> None:
        with pytest.raises(AccessDenied):
            model.read_bytes("a.dat")

    reading = threading.Thread(target=read)
    reading.start()
    assert begun.wait(20)
    over("revoked")
    assert reading.is_alive()
    assert told.steps == ["wipe", ("terminate", 0), ("told", "revoked"), "finish"]
    with pytest.raises(AccessDenied):
        model.check()
    answer.set()
    reading.join(20)


def test_a_model_isnt_kept_for_its_end() -> None:
    over = Ending(None, ending.others)
    model = Version(FILES).model(obligations=Obligations(terminate_on_revoke=1))
    over.watch(model, lambda: None)
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None
    over.heed(Obligations())
    over("revoked")


def test_who_holds_for_others_isnt_ended() -> None:
    ending.others(0)()


def test_without_a_thread_to_keep_the_time_it_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(process_ending.os, "kill", lambda *what: sent.append(what))

    def none(_timer: threading.Timer) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Timer, "start", none)
    process_ending.this_process(60)()
    assert [number for _, number in sent] == [signal.SIGKILL, signal.SIGTERM]


def test_a_renewal_that_wants_isolated_memory_comes_too_late(tmp_path: Path) -> None:
    """Where a folder that others can look into is in use, the lease is over; else it goes on."""
    broker, told = HonestBroker(), threading.Event()
    now = [1_000_000]
    session = Session(context(broker, store=Store(), clock=lambda: now[0]))
    session.push(folder(tmp_path / "in", FILES), "m")
    broker.ttl_s = 1
    wanted = Obligations(isolated_memory=True)
    broker.renew = lambda *_: Renewal(ttl_s=60, expires_at=WHEN, obligations=wanted)  # type: ignore
    reasons: list[str] = []

    def on_revoked(reason: str) -> None:
        reasons.append(reason)
        told.set()

    with session.load("m", purpose="inference", on_revoked=on_revoked) as model:
        root = model.path()
        now[0] += 900
        assert told.wait(20)
        assert not root.exists()
    assert reasons == ["isolated_memory"]
    with session.load("m", purpose="inference", on_revoked=on_revoked) as model:
        now[0] += 900
        for _ in range(400):
            if model.obligations == wanted:
                break
            told.wait(0.05) if not told.is_set() else told.clear()
        assert bytes(model.read_bytes("a.dat")) == FILES["a.dat"]
        with pytest.raises(AccessDenied):
            model.path()
    assert reasons == ["isolated_memory"]
