"""gc: only what nobody can need any more, and whatever stops it, the next run goes on."""

from __future__ import annotations

from typing import Any

import pytest

from modelvault.errors import AccessDenied, Conflict
from modelvault.lease import Swept
from modelvault.ports.objects import ObjectInfo
from support.sharing import push_sharing
from support.vaults import Crash, Spy, Vault, allow, crash_at_call, deny

FILES = {"a.bin": b"a" * 100, "b.bin": b"b"}
WEEK, DAY, HOUR = 7 * 24 * 3600, 24 * 3600, 3600


def gc(vault: Vault, *, dry_run: bool = False) -> Swept:
    return vault.broker.gc(vault.caller(), dry_run=dry_run)


def counts(swept: Swept) -> tuple[int, int, int]:
    return swept.uploads, swept.versions, swept.objects


def test_a_fresh_vault(vault: Vault) -> None:
    vault.push("m", FILES)
    assert counts(gc(vault)) == (0, 0, 0)
    vault.clock.advance(10 * WEEK)
    assert counts(gc(vault)) == (0, 0, 0)
    assert vault.load("m") == FILES


def test_a_hidden_version(vault: Vault) -> None:
    vault.push("m", FILES)
    second = vault.push("m", FILES)
    vault.broker.delete(vault.caller(), "m@1")
    vault.clock.advance(WEEK - 1)
    assert counts(gc(vault)) == (0, 0, 0)
    vault.clock.advance(2)
    planned = gc(vault, dry_run=True)
    assert counts(planned) == (0, 1, 5)  # two files, two objects each, and a key's copy
    assert len(vault.ledger.versions("default", "m")) == 2
    sizes = sum(info.size for info in [*vault.store.list("objects/"), *vault.store.list("keys/")])
    done = gc(vault)
    assert done == planned
    left = sum(info.size for info in [*vault.store.list("objects/"), *vault.store.list("keys/")])
    assert sizes - left == done.bytes
    assert [row.version for row in vault.ledger.versions("default", "m")] == [second.version]
    assert vault.load("m") == FILES
    assert counts(gc(vault)) == (0, 0, 0)
    assert vault.entries("gc")[-1].details["step"] == "sweep"


def test_a_hidden_model(vault: Vault) -> None:
    vault.push("m", FILES)
    vault.broker.tag(vault.caller(), "m", "prod")
    vault.broker.delete(vault.caller(), "m")
    vault.clock.advance(WEEK + 1)
    assert counts(gc(vault)) == (0, 1, 5)
    assert vault.objects() == vault.objects("keys/") == []


def test_what_a_lease_reads_stays(vault: Vault) -> None:
    vault.push("m", FILES)
    job = vault.lease("m")
    vault.broker.delete(vault.caller(), "m@1")
    vault.broker = vault.with_terms(delete_grace_s=DAY)
    for _ in range(110):
        vault.clock.advance(800)
        vault.broker.renew(vault.caller(), job.lease.id, job.key_hash)
    assert vault.clock() - vault.ledger.version("default", "m", 1).hidden_at > DAY * 1000
    assert counts(gc(vault)) == (0, 0, 0)
    assert vault.read(job) == FILES
    vault.broker.release(vault.caller(), job.lease.id)
    vault.clock.advance(HOUR + 1)
    assert counts(gc(vault)) == (0, 1, 5)


def test_more_leases_than_can_be_looked_through(
    vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    vault.push("m", FILES)
    vault.broker.delete(vault.caller(), "m@1")
    vault.push("m", FILES)
    vault.clock.advance(WEEK + 1)
    vault.lease("m")
    vault.lease("m")
    monkeypatch.setattr("modelvault.broker.housekeeping._MANY", 2)
    assert counts(gc(vault)) == (0, 0, 0)


def test_a_dead_upload(vault: Vault) -> None:
    upload, draft = vault.upload("m", FILES)
    vault.clock.advance(DAY - 1)
    assert counts(gc(vault)) == (0, 0, 0)
    vault.clock.advance(HOUR + 2)
    planned = gc(vault, dry_run=True)
    assert planned == gc(vault)
    assert counts(planned) == (1, 0, 4)
    assert vault.objects() == []
    with pytest.raises(Exception, match="no such upload"):
        vault.broker.commit(vault.caller(), upload.id, draft)


def test_what_an_open_upload_put_stays(vault: Vault) -> None:
    """Also when uploads used to live longer than they do now."""
    vault.broker = vault.with_terms(upload_ttl_s=10 * DAY)
    upload, draft = vault.upload("m", FILES)
    vault.broker = vault.with_terms(upload_ttl_s=HOUR)
    vault.clock.advance(9 * DAY)
    assert counts(gc(vault)) == (0, 0, 0)
    vault.broker.commit(vault.caller(), upload.id, draft)
    assert vault.load("m") == FILES


def test_too_many_open_uploads_to_be_sure(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    put(vault, "objects/" + "0" * 32)
    monkeypatch.setattr("modelvault.broker.housekeeping._MANY", 1)
    vault.clock.advance(2 * DAY)
    vault.open("m", FILES)
    assert counts(gc(vault)) == (0, 0, 0)


def put(vault: Vault, name: str) -> None:
    def fill(_part: int, buffer: memoryview) -> None:
        buffer[:] = bytes(len(buffer))

    vault.store.put(name, [10], fill)


def test_orphans(vault: Vault) -> None:
    vault.push("m", FILES)
    put(vault, "objects/" + "0" * 32)
    put(vault, "keys/" + "0" * 32 + "/1")
    assert counts(gc(vault)) == (0, 0, 0)  # they may be of an upload that just began
    vault.clock.advance(DAY + 2 * HOUR)  # objects are as old as the file system says
    assert gc(vault, dry_run=True).objects == 2
    assert gc(vault) == Swept(uploads=0, versions=0, objects=2, bytes=20)
    assert vault.load("m") == FILES


def test_copies_of_older_keys(vault: Vault) -> None:
    vault.push("m", FILES)
    vault.broker.rotate(vault.caller(), "m")
    assert len(vault.objects("keys/")) == 3  # the model's content key too
    assert counts(gc(vault)) == (0, 0, 1)
    assert all(name.endswith("/2") for name in vault.objects("keys/"))
    vault.broker.rotate(vault.caller(), "m")
    assert vault.load("m") == FILES


def test_many_orphans_in_batches(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelvault.broker.housekeeping._BATCH", 3)
    vault.push("m", FILES)
    for number in range(8):
        put(vault, f"objects/{number:032x}")
    vault.clock.advance(DAY + 2 * HOUR)  # objects are as old as the file system says
    assert counts(gc(vault)) == (0, 0, 8)
    assert vault.load("m") == FILES


def test_names_that_arent_ours_are_left(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    real = vault.store.list
    strange = ObjectInfo("keys/readme", 1, 0)

    def listed(prefix: str) -> Any:
        yield from real(prefix)
        if prefix == "keys/":
            yield strange

    monkeypatch.setattr(vault.store, "list", listed, raising=False)
    vault.clock.advance(WEEK)
    assert counts(gc(vault)) == (0, 0, 0)


def test_published_at_the_last_moment(vault: Vault) -> None:
    vault.upload("m", FILES)
    vault.clock.advance(DAY + 2 * HOUR)  # objects are as old as the file system says

    def published(name: str) -> None:
        if name == "abort":
            raise Conflict("upload_closed", "published")

    vault.ledger.before = published
    assert gc(vault).uploads == 0


def test_denied(vault: Vault) -> None:
    vault.push("m", FILES)
    vault.broker.delete(vault.caller(), "m")
    vault.clock.advance(WEEK + 1)
    vault.policy.rule = lambda d: deny("no") if d["action"]["name"] == "gc" else allow()
    for dry_run in (True, False):
        with pytest.raises(AccessDenied):
            gc(vault, dry_run=dry_run)
    assert vault.objects()


def test_shared_objects_stay(vault: Vault) -> None:
    """A version that refers to an older one's files keeps them, also in what a dry run counts."""
    vault.push("m", FILES)
    push_sharing(vault, "m", 1, {"c.bin": b"c"})
    vault.broker.delete(vault.caller(), "m@1")
    vault.clock.advance(WEEK + 1)
    planned = gc(vault, dry_run=True)
    assert counts(planned)[:2] == (0, 1)
    assert len(vault.objects()) == 6
    done = gc(vault)
    assert len(vault.objects()) == 6
    assert vault.load("m@2") == FILES | {"c.bin": b"c"}
    assert done.objects == 0
    assert planned.objects == 0


def stock(vault: Vault) -> int:
    """One version that stays; those before it go, with a dead upload, an orphan, an older key."""
    for row in vault.ledger.versions("default", "m"):
        if row.hidden_at is None:
            vault.broker.delete(vault.caller(), f"m@{row.version}")
    version = vault.push("m", FILES).version
    vault.broker.rotate(vault.caller(), "m")
    vault.upload("m", FILES)
    put(vault, f"objects/{version:032x}")
    vault.clock.advance(WEEK + 1)
    return version


def test_interrupted_at_every_call(vault: Vault) -> None:
    spies = (vault.ledger, vault.store, vault.keys)
    vault.push("m", FILES)
    stock(vault)
    before = sum(len(spy.calls) for spy in spies)
    gc(vault)
    total = sum(len(spy.calls) for spy in spies) - before
    assert total > 15
    for nth in range(1, total + 1):  # dying after a call is dying before the next
        interrupted(vault, spies, nth)


def interrupted(vault: Vault, spies: tuple[Spy, ...], nth: int) -> None:
    version = stock(vault)
    hook = crash_at_call(nth)
    for spy in spies:
        spy.before = hook
    with pytest.raises(Crash):
        gc(vault)
    for spy in spies:
        spy.before = lambda _name: None
    assert vault.load("m") == FILES
    gc(vault)
    assert vault.load("m") == FILES
    assert len(vault.objects()) == 4
    assert len(vault.objects("keys/")) == 2
    assert [row.version for row in vault.ledger.versions("default", "m")] == [version]
