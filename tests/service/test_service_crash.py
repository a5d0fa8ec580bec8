"""One of two brokers dies in the middle of much work, and the other one goes on."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from modelvault.client.load import take
from modelvault.client.session import Session
from modelvault.errors import Unavailable
from modelvault.reference import Reference
from support.servers.stack import Stack

LEASES = 500
KILL_AT = 150
WORKERS = 8


@pytest.fixture
def small(tmp_path: Path) -> Path:
    folder = tmp_path / "small"
    folder.mkdir()
    (folder / "a.dat").write_bytes(secrets.token_bytes(70_000))
    return folder


def lease(session: Session, name: str) -> str:
    """A lease taken, its keys opened, and not given back: its id."""
    granted, _keeper = take(
        session._context, Reference.parse(name), purpose="inference", action="load", files=None,
        ticket=None, on_end=lambda _reason: None,
    )  # fmt: skip
    granted.wipe()
    return granted.lease.id


def allowed_loads(admin: Session, name: str) -> Iterator[str | None]:
    """The leases that the audit log tells of."""
    after: int | None = 0
    while after is not None:
        page = admin.entries(reference=name, limit=1000, after=after)
        for each in page.entries:
            if (each.action, each.outcome) == ("load", "allowed"):
                yield each.lease
        after = page.next


def test_a_broker_dies_amid_500_leases_and_pushes(
    stack: Stack, session: Callable[..., Session], admin: Session, name: str, small: Path
) -> None:
    admin.create(name, classification="internal")
    admin.push(small, name)
    token = stack.token("job", "inference")
    jobs = [session(token, broker=0), session(token, broker=1)]
    pushers = [session(stack.admin(), broker=0), session(stack.admin(), broker=1)]
    granted: list[str] = []
    failed_over: list[int] = []
    pushed: list[int] = [1]
    killing, over = threading.Event(), threading.Event()

    def one(number: int) -> None:
        try:
            granted.append(lease(jobs[number % 2], name))
        except Unavailable:
            assert number % 2 == 0  # the broker that lives never fails
            failed_over.append(number)
            granted.append(lease(jobs[1], name))
        if len(granted) >= KILL_AT:
            killing.set()

    def push(pusher: Session) -> None:
        while not over.is_set():
            with suppress(Unavailable):
                pushed.append(pusher.push(small, name, upload_all=True).version)

    with ThreadPoolExecutor(WORKERS + len(pushers)) as pool:
        pushing = [pool.submit(push, pusher) for pusher in pushers]
        work = [pool.submit(one, number) for number in range(LEASES)]
        killing.wait(120)
        stack.brokers[0].kill()
        try:
            for each in work:
                each.result(120)
        finally:
            over.set()
            stack.brokers[0] = stack.broker(0)
        for each in pushing:
            each.result(60)
    assert failed_over
    assert len(set(granted)) == LEASES
    told = list(allowed_loads(admin, name))
    assert set(granted) <= set(told)
    assert len(told) == len(set(told))  # one entry a lease, also where its answer was lost
    versions = [each.version for each in admin.show(name).versions]
    assert versions == list(range(len(versions), 0, -1))
    assert set(pushed) <= set(versions)
    with session(token, broker=0).load(f"{name}@{versions[0]}", purpose="inference") as model:
        assert bytes(model.read_bytes("a.dat")) == (small / "a.dat").read_bytes()
