"""What befalls a load half-way: links that end, a broker that goes, a lease that is taken back."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from modelvault.adapters.objects_http import HttpPlaces
from modelvault.client.session import Session
from modelvault.errors import AccessDenied, AuthenticationError, Unavailable
from support.changed_policy import changed_policy
from support.servers.stack import Stack

TTL_S = 3
SIZE = 300_000


@pytest.fixture
def short_leases(stack: Stack, admin: Session) -> Iterator[None]:
    """Leases of three seconds, and links that end with them; a minute's grace."""

    def change(data: dict[str, Any]) -> None:
        data["classifications"]["internal"]["limits"] |= {"max_ttl_s": TTL_S, "grace_s": 60}

    with changed_policy(stack, admin, change):
        yield


@pytest.fixture
def two(tmp_path: Path) -> Path:
    folder = tmp_path / "two"
    folder.mkdir()
    for each in ("a.dat", "b.dat"):
        (folder / each).write_bytes(secrets.token_bytes(SIZE))
    return folder


@pytest.fixture
def stored(admin: Session, name: str, two: Path) -> str:
    admin.create(name, classification="internal")
    admin.push(two, name)
    return name


def with_clock(session: Session, clock: Callable[[], int]) -> Session:
    """The session with another clock at its links."""
    context = session._context
    places = context.places
    stopped = HttpPlaces(places._broker, places._caller, places._transport, clock, places._threads)
    return Session(msgspec.structs.replace(context, places=stopped))


@pytest.mark.parametrize("told", [True, False], ids=["by its own clock", "by the store's refusal"])
def test_a_link_that_has_ended_is_renewed(
    stack: Stack, session, admin: Session, short_leases, stored: str, two: Path, told: bool
) -> None:
    """The second time by a job whose clock stands still: only the store tells it."""
    job = session(stack.token("job", "inference"))
    if not told:
        now = job._context.clock()
        job = with_clock(job, lambda: now)
    with job.load(stored, purpose="inference") as model, model.open("b.dat") as file:
        expected = (two / "b.dat").read_bytes()
        assert file.read(1000) == expected[:1000]
        time.sleep(TTL_S + 1.5)
        assert file.read() == expected[1000:]
        assert bytes(model.read_bytes("a.dat")) == (two / "a.dat").read_bytes()


def test_a_broker_that_goes_half_way(
    stack: Stack, session, admin: Session, name: str, tmp_path: Path
) -> None:
    """What is decrypted stays, links at hand are good; the rest waits until the broker is back."""
    folder = tmp_path / "twelve"
    folder.mkdir()
    files = {f"{number:02}.dat": secrets.token_bytes(SIZE) for number in range(12)}
    for path, data in files.items():
        (folder / path).write_bytes(data)
    admin.create(name, classification="internal")
    admin.push(folder, name)
    job = session(stack.token("job", "inference"), broker=1)
    with job.load(name, purpose="inference") as model:
        assert bytes(model.read_bytes("00.dat")) == files["00.dat"]
        stack.brokers[1].kill()
        try:
            for path in ("00.dat", "01.dat"):
                assert bytes(model.read_bytes(path)) == files[path]
            with pytest.raises(Unavailable) as caught:
                model.read_bytes("11.dat")
            assert caught.value.code == "broker_unavailable"
            assert caught.value.hint
        finally:
            stack.brokers[1] = stack.broker(1)
        for path, data in files.items():
            assert bytes(model.read_bytes(path)) == data


def test_a_lease_that_is_taken_back_half_way(
    stack: Stack, session, admin: Session, short_leases, stored: str
) -> None:
    job = session(stack.token("job", "inference"), broker=1)
    told = threading.Event()
    reasons: list[str] = []

    def on_revoked(reason: str) -> None:
        reasons.append(reason)
        told.set()

    model = job.load(stored, purpose="inference", on_revoked=on_revoked)
    model.read_bytes("a.dat")
    (lease,) = admin.leases(stored)
    admin.revoke("lease", lease.id, reason="left the project")
    assert told.wait(TTL_S + 5)
    assert reasons == ["revoked"]
    for path in ("a.dat", "b.dat"):
        with pytest.raises(AccessDenied) as caught:
            model.read_bytes(path)
        assert caught.value.code == "revoked"
    model.close()


@pytest.mark.parametrize("ahead_s", [-7200, 7200])
def test_a_clock_that_is_off_is_told(
    stack: Stack, session, monkeypatch: pytest.MonkeyPatch, ahead_s: int
) -> None:
    """A token that an issuer beside the job dates by the same wrong clock."""
    now = int(time.time()) + ahead_s
    job = session(stack.token("job", "inference", iat=now, exp=now + 900))
    connection = job._context.broker._connection
    monkeypatch.setattr(connection, "_clock", lambda: now * 1000)
    with pytest.raises(AuthenticationError) as caught:
        job.list()
    way = "ahead of" if ahead_s > 0 else "behind"
    assert f"s {way} the broker's" in caught.value.message
    assert "clock" in caught.value.hint
