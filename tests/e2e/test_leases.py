"""Leases of a real embedded vault, in real time: short ones, so that seconds are enough."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from modelvault import connect, wiring
from modelvault.adapters.policy_regorus import RegorusEngine
from modelvault.client.session import Session
from modelvault.errors import AccessDenied, Unavailable
from support.homes import isolated

PATIENCE_S = 15


@pytest.fixture
def vault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Session]:
    """`m` with leases of one second; the outage grace is one second too."""
    home = isolated(tmp_path, monkeypatch)
    wiring.init()
    (tmp_path / "m.txt").write_text("weights")
    terms(home, max_ttl_s=1, max_total_s=3600, grace_s=1)
    with connect() as session:
        session.publish_policy()
        session.create("m")
        session.push(tmp_path / "m.txt", "m")
        yield session


def terms(home: Path, **limits: int) -> None:
    path = home / "policy" / "data.json"
    data = json.loads(path.read_text())
    data["classifications"]["internal"]["limits"] = limits
    path.write_text(json.dumps(data))


def eventually(is_so: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)


def counted(session: Session, action: str) -> int:
    entries = session.entries(limit=1000).entries
    return sum(entry.action == action and entry.outcome == "allowed" for entry in entries)


class Told:
    """Hears why a lease ended, and when."""

    def __init__(self) -> None:
        self.reason = ""
        self.event = threading.Event()

    def __call__(self, reason: str) -> None:
        self.reason = reason
        self.event.set()


def test_it_lives_past_three_expiries_and_no_longer_than_asked(vault: Session) -> None:
    told = Told()
    start = time.monotonic()
    with vault.load("m", purpose="inference", on_revoked=told) as model:
        while time.monotonic() < start + 3.3:
            assert model.open("m.txt").read() == b"weights"
            time.sleep(0.1)
        assert counted(vault, "renew") >= 4
        (running,) = vault.leases()
        assert running.ended_at is None
    assert vault.leases() == ()
    (ended,) = vault.leases(ended=True)
    assert ended.end_reason == "released"
    assert not told.event.is_set()
    renewals = counted(vault, "renew")
    time.sleep(1.1)
    assert counted(vault, "renew") == renewals


@pytest.mark.parametrize("kind", ["lease", "version", "principal"])
def test_a_revocation_reaches_the_job(vault: Session, kind: str) -> None:
    told = Told()
    model = vault.load("m", purpose="inference", on_revoked=told)
    view = model.read_bytes("m.txt")
    (running,) = vault.leases()
    target = {"lease": running.id, "version": "default/m@1", "principal": running.subject}[kind]
    token = vault.mint_token(sub="other", groups=["admins"])
    with connect(token=token) as other:  # nobody revokes themselves
        assert other.revoke(kind, target, reason="test") == 1
    assert told.event.wait(PATIENCE_S)
    with pytest.raises(AccessDenied):
        model.read_bytes("m.txt")
    assert bytes(view) == b"weights"  # what is looked at isn't pulled away
    del view
    model.close()


def test_an_outage_is_no_revocation_until_the_grace_is_over(
    vault: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Told()
    model = vault.load("m", purpose="inference", on_revoked=told)
    start = time.monotonic()

    def down(*_args: object) -> None:
        raise Unavailable("policy_unavailable", "no answer")

    with monkeypatch.context() as patched:
        patched.setattr(RegorusEngine, "evaluate", down)
        while time.monotonic() < start + 1.4:  # beyond the ttl, within the grace
            assert model.open("m.txt").read() == b"weights"
            time.sleep(0.1)
        with pytest.raises(Unavailable):
            vault.load("m", purpose="inference")
    eventually(lambda: counted(vault, "renew") >= 1)  # it is back in time: nothing was lost
    time.sleep(1.2)
    assert model.open("m.txt").read() == b"weights"
    assert not told.event.is_set()
    monkeypatch.setattr(RegorusEngine, "evaluate", down)  # and now it stays away
    assert told.event.wait(PATIENCE_S)
    assert told.reason == "lease_expired"
    with pytest.raises(AccessDenied) as caught:
        model.open("m.txt")
    assert caught.value.code == "lease_expired"
    model.close()


def test_a_policy_that_changes_its_mind_ends_the_lease(vault: Session, tmp_path: Path) -> None:
    told = Told()
    with vault.load("m", purpose="inference", on_revoked=told):
        path = tmp_path / "home" / "policy" / "data.json"
        data = json.loads(path.read_text())
        data["purposes"]["inference"]["actions"] = ["load"]
        path.write_text(json.dumps(data))
        vault.publish_policy()
        assert told.event.wait(PATIENCE_S)
    assert told.reason


def test_the_total_is_the_total(vault: Session, tmp_path: Path) -> None:
    terms(tmp_path / "home", max_ttl_s=1, max_total_s=2, grace_s=60)
    vault.publish_policy()
    told = Told()
    start = time.monotonic()
    with vault.load("m", purpose="inference", on_revoked=told) as model:
        assert told.event.wait(PATIENCE_S)
        assert time.monotonic() - start < 5  # no grace: the broker can be reached and says no
        with pytest.raises(AccessDenied):
            model.open("m.txt")
