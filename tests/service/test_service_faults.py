"""Each part down, reset, cut, slow or silent, at each step: a right answer or a clear error, in
bounded time; no key without an entry, no version half visible; and afterwards all is well."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from modelvault.adapters.objects_http import HttpPlaces
from modelvault.client.context import Context
from modelvault.client.load import take
from modelvault.client.session import Session
from modelvault.errors import Unavailable
from modelvault.reference import Reference
from support.changed_policy import changed_policy
from support.servers.stack import Stack
from support.servers.toxiproxy import TOXICS

PATIENCE = 1.0
LONGEST_S = 25.0
PARTS = ("keys", "policy", "ledger", "store")
# The calls of the walks, in order, and the parts that each can't do without.
STEPS = {
    "open_version": ["keys", "policy", "ledger"],
    "put_links": ["ledger", "store"],
    "put_done": ["ledger", "store"],
    "commit": ["keys", "policy", "ledger", "store"],
    "lease": ["keys", "policy", "ledger"],
    "lease_links": ["ledger", "store"],
    "renew": ["policy", "ledger"],
}


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    made = Stack(brokers=1, patience=PATIENCE, proxied=True, durable=True)
    yield made
    made.close()


@pytest.fixture(scope="module")
def vault(stack: Stack) -> Iterator[Session]:
    with stack.connect(stack.admin()) as session:
        session._context.places._transport._pool.connection_pool_kw["timeout"] = PATIENCE
        yield session


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("model")
    (made / "a.dat").write_bytes(secrets.token_bytes(100_000))
    return made


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that takes several parts at the store."""
    made = tmp_path_factory.mktemp("large")
    (made / "a.dat").write_bytes(secrets.token_bytes(9 << 20))
    return made


@pytest.fixture(scope="module")
def pushed(vault: Session, large: Path) -> str:
    vault.create("m", classification="internal")
    vault.push(large, "m")
    return "m"


def well(vault: Session, folder: Path, name: str) -> None:
    """All works, and what is there is whole."""
    deadline = time.monotonic() + 10
    while True:
        try:
            version = vault.push(folder, name).version
            break
        except Unavailable:  # a pool may hold a connection that is dead by now
            assert time.monotonic() < deadline
    for number in range(1, version + 1):
        with vault.load(f"{name}@{number}", purpose="inference") as model:
            assert bytes(model.read_bytes("a.dat")) == (folder / "a.dat").read_bytes()
    versions = [each.version for each in vault.show(name).versions]
    assert versions == list(range(version, 0, -1))


@pytest.mark.parametrize("how", ["down", *TOXICS])
@pytest.mark.parametrize("part", PARTS)
def test_a_part_fails(stack: Stack, vault: Session, folder: Path, part: str, how: str) -> None:
    name = f"m-{secrets.token_hex(4)}"
    vault.create(name, classification="internal")
    vault.push(folder, name)
    before = {e.id for e in vault.entries(reference=name, limit=1000).entries}
    job = stack.connect(stack.token("job", "inference"))
    held = job.load(name, purpose="inference")
    held.read_bytes("a.dat")
    with stack.toxiproxy.failing(part, how):
        for step in (
            lambda: vault.push(folder, name, upload_all=True),
            lambda: job.load(name, purpose="inference").close(),
            lambda: vault.rotate(name),
        ):
            begun = time.monotonic()
            with suppress(Unavailable):
                step()
            assert time.monotonic() - begun < LONGEST_S
        assert len(held.read_bytes("a.dat")) == 100_000  # unreachable is not revoked
    well(vault, folder, name)
    held.close()
    job.close()
    after = vault.entries(reference=name, limit=1000).entries
    loads = [e for e in after if e.action == "load" and e.id not in before]
    assert all(e.lease for e in loads if e.outcome == "allowed")
    assert not [e for e in after if e.outcome == "denied"]


class Stepping:
    """A broker that a client talks to; `before` hears of each call, by its name."""

    def __init__(self, broker: Any, before: Callable[[str], None]) -> None:
        self._broker = broker
        self._before = before

    def __getattr__(self, step: str) -> Any:
        call = getattr(self._broker, step)

        def told(*given: Any, **named: Any) -> Any:
            self._before(step)
            return call(*given, **named)

        return told


def stepping(context: Context, before: Callable[[str], None]) -> Context:
    broker = Stepping(context.broker, before)
    places = context.places
    near = HttpPlaces(broker, places._caller, places._transport, places._clock, places._threads)
    return msgspec.structs.replace(context, broker=broker, places=near)


@pytest.mark.parametrize(
    ("step", "part"), [(step, part) for step, parts in STEPS.items() for part in parts]
)
def test_a_part_goes_down_at_a_step(
    stack: Stack, vault: Session, large: Path, pushed: str, step: str, part: str
) -> None:
    """From just before one call of a push, a load or a renewal until the walk has ended."""
    versions = {each.version for each in vault.show(pushed).versions}
    visited: list[str] = []
    with ExitStack() as failing:

        def before(name: str) -> None:
            if name == step and step not in visited:
                failing.enter_context(stack.toxiproxy.failing(part, "down"))
            visited.append(name)

        walked = Session(stepping(vault._context, before))
        begun = time.monotonic()
        loads = step in {"lease", "lease_links", "renew"}
        with pytest.raises(Unavailable):
            load_and_renew(walked, pushed) if loads else walked.push(large, pushed, upload_all=True)
        assert time.monotonic() - begun < LONGEST_S
        assert step in visited
    back(vault)
    after = {each.version for each in vault.show(pushed).versions}
    assert after - versions <= {max(versions) + 1}  # a push that told of a failure may stand: whole
    with vault.load(f"{pushed}@{max(after)}", purpose="inference") as model:
        assert bytes(model.read_bytes("a.dat")) == (large / "a.dat").read_bytes()


def load_and_renew(vault: Session, name: str) -> None:
    """A load, its renewal and its end, with nothing that happens by itself."""
    reference = Reference.parse(name)
    granted, keeper = take(
        vault._context, reference, purpose="inference", action="load", files=None, ticket=None,
        on_end=lambda _reason: None,
    )  # fmt: skip
    try:
        (entry,) = granted.files
        reader = granted.reader(entry)
        reader.read_into(0, memoryview(bytearray(entry.size)))
        reader.wipe()
        keeper._renew()
    finally:
        keeper.stop()
        granted.wipe()


@pytest.fixture
def short_leases(stack: Stack, vault: Session) -> Iterator[None]:
    """Leases of two seconds, and a minute's grace."""
    internal = {"limits": {"max_ttl_s": 2, "max_total_s": 3600, "grace_s": 60}}

    def change(data: dict[str, Any]) -> None:
        data["classifications"]["internal"] = internal

    with changed_policy(stack, vault, change):
        yield


def test_all_down_for_longer_than_a_lease(
    stack: Stack, vault: Session, pushed: str, large: Path, short_leases: None
) -> None:
    """A job inside its grace goes on answering, and its lease goes on afterwards."""
    ended: list[str] = []
    job = stack.connect(stack.token("job", "inference"))
    model = job.load(pushed, purpose="inference", on_revoked=ended.append)
    try:
        expected = (large / "a.dat").read_bytes()
        assert bytes(model.read_bytes("a.dat")) == expected
        with ExitStack() as failing:
            for part in PARTS:
                failing.enter_context(stack.toxiproxy.failing(part, "down"))
            stack.brokers[0].kill()
            until = time.monotonic() + 5  # two leases and a half
            while time.monotonic() < until:
                assert bytes(model.read_bytes("a.dat")) == expected
                time.sleep(0.5)
        stack.brokers[0] = stack.broker(0)
        back(vault)
        renewed = len(renewals(vault, pushed))
        until = time.monotonic() + 30
        while len(renewals(vault, pushed)) == renewed:
            assert time.monotonic() < until
            time.sleep(0.2)
        assert bytes(model.read_bytes("a.dat")) == expected
        assert not ended
    finally:
        model.close()
        job.close()


def back(vault: Session) -> None:
    until = time.monotonic() + 20
    while True:
        with suppress(Unavailable):
            vault.list()
            return
        assert time.monotonic() < until
        time.sleep(0.2)


def renewals(vault: Session, name: str) -> list[str]:
    page = vault.entries(reference=name, limit=1000).entries
    return [each.id for each in page if (each.action, each.outcome) == ("renew", "allowed")]


def test_a_broker_killed_in_the_middle_loses_nothing_that_was_acknowledged(
    stack: Stack, vault: Session, folder: Path
) -> None:
    name = f"m-{secrets.token_hex(4)}"
    vault.create(name, classification="internal")
    acknowledged: list[int] = []
    stop = threading.Event()

    def push() -> None:
        while not stop.is_set():
            with suppress(Unavailable):
                acknowledged.append(vault.push(folder, name, upload_all=True).version)

    threads = [threading.Thread(target=push) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(2):
        time.sleep(1.0)
        stack.brokers[0].kill()
        stack.brokers[0] = stack.broker(0)
    time.sleep(1.0)
    stop.set()
    for thread in threads:
        thread.join()
    assert len(acknowledged) > 3
    well(vault, folder, name)
    assert set(acknowledged) <= {each.version for each in vault.show(name).versions}


def test_postgresql_that_crashes_and_comes_back(stack: Stack, vault: Session, folder: Path) -> None:
    name = f"m-{secrets.token_hex(4)}"
    vault.create(name, classification="internal")
    vault.push(folder, name)
    stack.postgresql.crash()
    with pytest.raises(Unavailable):
        vault.list()
    stack.postgresql.restart()
    well(vault, folder, name)
