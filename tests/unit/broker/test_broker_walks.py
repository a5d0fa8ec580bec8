"""The everyday walks, whole: what goes in comes out, and the log tells of it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from modelvault import binding
from modelvault.adapters.ledger_sql.ledger import SqlLedger
from modelvault.errors import AccessDenied, NotFound
from modelvault.identity.binding import key_hash
from modelvault.lease import Recipient
from modelvault.policy import shipped
from support.vaults import Vault, allow, obligation, opened

FILES = {
    "config.json": b"{}",
    "empty": b"",
    "exact": bytes(32),
    "sub/model.bin": bytes(range(256)) * 3,
}


def test_push_and_load(vault: Vault) -> None:
    published = vault.push("m", FILES, labels={"team": "nlp"})
    assert (published.version, vault.load("m")) == (1, FILES)
    assert vault.load("m@1") == vault.load(f"m@{published.manifest}") == FILES
    assert [one.action for one in vault.entries()][-4:] == ["push", "load", "load", "load"]


# Under the shipped policy, in its real engine.


@pytest.fixture
def governed(folder: Path) -> Iterator[Vault]:
    with opened(folder, bundle=shipped.bundle()) as vault:
        vault.create("m")
        yield vault


def test_the_shipped_policy_decides(governed: Vault) -> None:
    governed.push("m", FILES)
    job = governed.caller("worker", groups=("inference",))
    lease = governed.lease("m", caller=job)
    assert governed.read(lease) == FILES
    governed.broker.renew(job, lease.lease.id, lease.key_hash)
    with pytest.raises(AccessDenied) as caught:
        governed.lease("m", caller=job, purpose="evaluation")
    assert caught.value.details["reasons"] == ["purpose_not_granted"]
    with pytest.raises(NotFound):  # a stranger learns nothing
        governed.lease("m", caller=governed.caller("stranger", groups=()))
    with pytest.raises(AccessDenied):
        governed.push("m", FILES, caller=job)
    auditor = governed.caller("eve", groups=("auditors",))
    assert governed.broker.entries(auditor).entries
    assert governed.broker.gc(governed.caller(), dry_run=True).objects == 0
    with pytest.raises(AccessDenied):
        governed.broker.gc(auditor)


def test_a_restricted_model_wants_a_bound_token(governed: Vault) -> None:
    governed.broker.create(governed.caller(), "r", owner="local:alice", classification="restricted")
    governed.push("r", FILES)
    ask, key = governed.ask("r")
    with pytest.raises(AccessDenied) as caught:
        governed.broker.lease(governed.caller("w", groups=("inference",)), ask)
    assert caught.value.details["reasons"] == ["key_bound_token_required"]
    bound = governed.caller("w", groups=("inference",), bound_to=key_hash(key.suite, key.public))
    lease = governed.broker.lease(bound, ask)
    assert lease.obligations.memory_only
    assert lease.ttl_s == 600


# Two brokers in two processes share nothing but the ledger's file, the store and the keyring.


@pytest.fixture
def other_ledger(vault: Vault) -> Iterator[SqlLedger]:
    ledger = SqlLedger(f"sqlite:///{vault.root / 'ledger.db'}", vault.clock)
    yield ledger
    ledger.close()


def test_two_brokers_race(vault: Vault, other_ledger: SqlLedger) -> None:
    other = vault.another_broker(ledger=other_ledger)
    vault.policy.rule = lambda _d: allow(obligation("max_concurrent_leases", 5))
    uploads = [vault.upload("m", {"n": bytes([n])}) for n in range(6)]
    vault.push("m", FILES)
    published: list[int] = []
    leased: list[object] = []

    def work(number: int) -> None:
        broker = (vault.broker, other)[number % 2]
        upload, draft = uploads[number]
        published.append(broker.commit(vault.caller(), upload.id, draft).version)
        for _ in range(2):
            try:
                leased.append(vault.lease("m@1", broker=broker).lease.id)
            except AccessDenied as refused:
                leased.append(refused.code)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(published) == [2, 3, 4, 5, 6, 7]
    assert leased.count("max_concurrent_leases") == 7
    assert len(leased) == 12


def test_what_one_broker_decides_the_other_keeps(vault: Vault, other_ledger: SqlLedger) -> None:
    other = vault.another_broker(ledger=other_ledger)
    vault.push("m", FILES)
    job = vault.lease("m")
    other.rotate(vault.caller(), "m")
    assert vault.load("m") == FILES
    other.revoke(vault.caller(), kind="lease", target=job.lease.id, reason="x")
    with pytest.raises(AccessDenied):
        vault.broker.renew(vault.caller(), job.lease.id, job.key_hash)
    other.delete(vault.caller(), "m")
    with pytest.raises(NotFound):
        vault.load("m")


# The info that seals are bound to.


def info(**changes: object) -> bytes:
    fields = {
        "kind": "lease",
        "vault": "0a" * 16,
        "lease": "0b" * 16,
        "tenant": "default",
        "model": "m",
        "version": 1,
        "manifest": "sha256:" + "0c" * 32,
        "purpose": "inference",
        "paths": ("a", "b"),
        "recipient": Recipient("x25519", bytes(32)),
        "nonce": bytes(16),
    }
    return binding.info(**(fields | changes))


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "push"},
        {"vault": "0d" * 16},
        {"lease": "0d" * 16},
        {"tenant": "t"},
        {"model": "n"},
        {"version": 2},
        {"manifest": None},
        {"manifest": "sha256:" + "0d" * 32},
        {"purpose": "export"},
        {"paths": ("b", "a")},
        {"paths": ("a",)},
        {"paths": ("a,b",)},
        {"recipient": Recipient("mlkem768-x25519", bytes(32))},
        {"recipient": Recipient("x25519", bytes(31) + b"1")},
        {"nonce": bytes(15) + b"1"},
    ],
)
def test_everything_is_in_the_info(change: dict[str, object]) -> None:
    assert info(**change) != info()


def test_the_info_is_as_docs_format_tells() -> None:
    document = msgspec.json.decode(info())
    assert document == {
        "v": 1,
        "kind": "lease",
        "vault": "0a" * 16,
        "lease": "0b" * 16,
        "tenant": "default",
        "model": "m",
        "version": 1,
        "manifest": "sha256:" + "0c" * 32,
        "purpose": "inference",
        "paths": "sha256:0473ef2dc0d324ab659d3580c1134e9d812035905c4781fdd6d529b0c6860e13",
        "suite": "x25519",
        "nonce": "00" * 16,
        "recipient": "sha256:66687aadf862bd776c8fc18b8e9f8e20089714856ee233b3902a591d0d5f2925",
    }
