"""Each part down, reset, cut, slow or silent, at each step: a right answer or a clear error, in
bounded time; no key without an entry, no version half visible; and afterwards all is well."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from modelvault.client.session import Session
from modelvault.errors import Unavailable
from support.servers.stack import Stack
from support.servers.toxiproxy import TOXICS

PATIENCE = 1.0
LONGEST_S = 25.0
PARTS = ("keys", "policy", "ledger", "store")


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
def pushed(vault: Session, folder: Path) -> str:
    vault.create("m", classification="internal")
    vault.push(folder, "m")
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
            lambda: vault.push(folder, name),
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
                acknowledged.append(vault.push(folder, name).version)

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
