"""One lease for each reference, and what becomes of it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import pytest

from modelvault.client.session import Session
from modelvault.errors import Conflict, NotFound
from modelvault.integrations import leases as leases_module
from modelvault.integrations.leases import Leases


class FakeModel:
    closed = False

    def close(self) -> None:
        self.closed = True


class FakeSession:
    """Counts; `ended[reference]("revoked")` is the broker taking a lease back. A load of "slow"
    waits for `answer`."""

    def __init__(self) -> None:
        self.begun, self.answer = threading.Event(), threading.Event()
        self.loaded: list[tuple[str, str, str | None]] = []
        self.ended: dict[str, Callable[[str], None]] = {}
        self.closed = 0

    def load(self, reference: str, *, purpose: str, ticket: str | None, on_revoked: Any) -> object:
        if reference == "nobody":
            raise NotFound("no_model", "no")
        self.loaded.append((reference, purpose, ticket))
        self.ended[reference] = on_revoked
        if reference == "slow":
            self.begun.set()
            assert self.answer.wait(20)
        return FakeModel()

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def session() -> FakeSession:
    return FakeSession()


@pytest.fixture
def leases(session: FakeSession) -> Leases:
    return Leases(lambda: cast("Session", session), "inference", "T-1")


def test_once_for_each_reference(leases: Leases, session: FakeSession) -> None:
    assert leases.model("a") is leases.model("a")
    assert leases.model("b") is not leases.model("a")
    assert session.loaded == [("a", "inference", "T-1"), ("b", "inference", "T-1")]


def test_nothing_is_asked_for_before_the_first_use() -> None:
    def connect() -> Session:
        raise AssertionError

    Leases(connect, "inference", None).close()


def test_once_it_is_over_the_next_use_asks_anew(leases: Leases, session: FakeSession) -> None:
    first = leases.model("a")
    session.ended["a"]("revoked")
    assert leases.model("a") is not first
    assert len(session.loaded) == 2


@contextmanager
def loading(leases: Leases, session: FakeSession) -> Iterator[list[object]]:
    """Another thread loads, and the broker takes its time; what came of it afterwards."""
    came: list[object] = []

    def load() -> None:
        try:
            came.append(leases.model("slow"))
        except Conflict as refused:
            came.append(refused.code)

    thread = threading.Thread(target=load)
    thread.start()
    assert session.begun.wait(20)
    yield came
    session.answer.set()
    thread.join(20)
    assert len(came) == 1


def test_an_end_waits_for_no_load(leases: Leases, session: FakeSession) -> None:
    told: list[str] = []
    leases.model("a", lambda: told.append("a"))
    with loading(leases, session):
        session.ended["a"]("revoked")
        assert told == ["a"]
    assert leases.model("slow") is leases.model("slow")
    assert [reference for reference, *_ in session.loaded] == ["a", "slow"]


def test_a_lease_that_ends_while_it_is_loaded(leases: Leases, session: FakeSession) -> None:
    with loading(leases, session) as came:
        session.ended["slow"]("revoked")
    told: list[str] = []
    assert leases.model("slow", lambda: told.append("slow")) is not came[0]
    assert told == []
    session.ended["slow"]("revoked")
    assert told == ["slow"]


def test_a_close_waits_for_no_load(
    leases: Leases, session: FakeSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who loads gives back what he gets."""
    monkeypatch.setattr(leases_module, "_LOADING_S", 0.1)
    first = leases.model("a")
    with loading(leases, session) as came:
        leases.close()
        assert session.closed == 1
        assert not leases.open
    assert came == ["closed"]
    assert not cast("FakeModel", first).closed  # the session sees to that one


def test_a_failure_is_not_kept(leases: Leases, session: FakeSession) -> None:
    for _again in range(2):
        with pytest.raises(NotFound):
            leases.model("nobody")
    leases.model("a")
    assert session.loaded == [("a", "inference", "T-1")]


def test_closed(leases: Leases, session: FakeSession) -> None:
    leases.model("a")
    leases.close()
    leases.close()
    assert session.closed == 1
    with pytest.raises(Conflict) as refused:
        leases.model("a")
    assert refused.value.code == "closed"


def test_views_that_live_keep_it_open(leases: Leases, session: FakeSession) -> None:
    kept = leases.model("a")

    def refuse() -> None:
        raise Conflict("views_alive", "in use")

    session.close = refuse  # type: ignore[method-assign]
    with pytest.raises(Conflict):
        leases.close()
    assert leases.model("a") is kept


def test_a_forked_childs_close_is_nothing(
    leases: Leases, session: FakeSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    leases.model("a")
    assert leases.ours
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert not leases.ours
    leases.close()
    assert session.closed == 0
