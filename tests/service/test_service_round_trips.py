"""How often a broker asks the database for one request: each time costs a way there and back, and
those of a grant are spent while every other writer waits. Counted, not timed."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import event

from modelvault import deployment
from modelvault.access import OBLIGATION_TYPES, Caller
from modelvault.broker.service import LocalBroker
from modelvault.crypto import hpke
from modelvault.identity.binding import key_hash
from modelvault.lease import LeaseAsk, Recipient
from modelvault.wiring import serving

WARM = 3


@pytest.fixture(scope="module")
def parts(stack) -> Iterator[serving.Parts]:
    """A broker in this process over the same real parts."""
    opened = serving.open_parts(deployment.read(stack.configs[0]))
    yield opened
    opened.close()


@pytest.fixture
def sent(parts) -> Iterator[list[str]]:
    """What goes to the server. Of a connection that reads one statement at a time, beginning and
    ending is nothing to the server: it commits by itself."""
    log: list[str] = []
    database = parts.ledger._database

    def statement(*told: Any) -> None:
        words = told[2].split()
        if "clock_timestamp()" not in told[2] or "head" in words:  # else: the time, now and then
            log.append(words[0])

    heard = [
        *((engine, "before_cursor_execute", statement)
          for engine in (database._readers, database._writer, database._counter)),
        *((database._writer, name, lambda _connection, name=name: log.append(name.upper()))
          for name in ("begin", "commit", "rollback")),
    ]  # fmt: skip
    for each in heard:
        event.listen(*each)
    yield log
    for each in heard:
        event.remove(*each)


class Job:
    def __init__(self, broker: LocalBroker, token: str, reference: str) -> None:
        self._broker = broker
        self._caller = Caller(token=token, source_ip="127.0.0.1", client="a test")
        self._reference = reference
        key = hpke.generate()
        self._recipient = Recipient(suite=key.suite, public_key=key.public)
        self._key_hash = key_hash(key.suite, key.public)

    def lease(self) -> str:
        ask = LeaseAsk(
            reference=self._reference,
            purpose="inference",
            nonce=secrets.token_bytes(16),
            recipient=self._recipient,
            fulfils=tuple(sorted(OBLIGATION_TYPES)),
        )
        return self._broker.lease(self._caller, ask).id

    def renew(self, lease: str) -> None:
        self._broker.renew(self._caller, lease, self._key_hash)

    def release(self, lease: str) -> None:
        self._broker.release(self._caller, lease)


CASES: dict[str, tuple[Callable[[Job, str], object], list[str]]] = {
    # one look, then the one transaction: the lock, the rechecks, all changes at once
    "lease": (
        lambda job, _lease: job.lease(),
        ["SELECT", "BEGIN", "SELECT", "SELECT", "WITH", "COMMIT"],
    ),
    "renew": (
        lambda job, lease: job.renew(lease),
        ["SELECT", "BEGIN", "SELECT", "SELECT", "SELECT", "WITH", "COMMIT"],
    ),
    "release": (
        lambda job, lease: job.release(lease),
        ["SELECT", "BEGIN", "SELECT", "SELECT", "WITH", "COMMIT"],
    ),
}


@pytest.mark.parametrize("reference", ["", ":prod", "@1"], ids=["head", "tag", "number"])
@pytest.mark.parametrize("call", CASES)
def test_round_trips(parts, sent, stack, admin, name, model, call, reference) -> None:
    admin.create(name, classification="internal")
    admin.push(model, f"{name}:prod")
    job = Job(parts.broker, stack.token("job", "inference"), name + reference)
    do, expected = CASES[call]
    for _ in range(WARM):
        job.release(job.lease())
    lease = job.lease()
    sent.clear()
    do(job, lease)
    assert sent == expected
