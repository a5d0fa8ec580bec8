"""Copies that are cut off anywhere, raced, or made of parts that came at different times."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from msgspec.structs import replace

from modelvault.catalog import VersionRow
from modelvault.copies import ImportDraft
from modelvault.crypto import dsse
from modelvault.errors import Conflict, ModelVaultError
from modelvault.manifest import PAYLOAD_TYPE, FileEntry, Manifest
from support.copying import (
    FILES,
    begin,
    carry,
    documents,
    hand_over,
    manifest_of,
    pair,
    put_objects,
)
from support.vaults import Crash, Vault, crash_at_call, opening_entry

SMALL = {"a": b"small"}


@pytest.fixture
def both(tmp_path: Path) -> Iterator[tuple[Vault, Vault]]:
    with pair(tmp_path) as made:
        yield made


def prepared(giver: Vault, receiver: Vault, reference: str, target: str) -> tuple[str, ImportDraft]:
    """All of a copy but its commit."""
    source = documents(giver, reference)
    importing = begin(receiver, target, source)
    handed = hand_over(giver, reference, importing)
    files = put_objects(giver, receiver, manifest_of(source))
    return importing.id, ImportDraft(source=source, sealed=handed.sealed, files=files)


def test_a_crash_at_every_call_of_a_commit(both: tuple[Vault, Vault]) -> None:
    """Whole or not there; the same commit again finishes it."""
    giver, receiver = both
    spies = (receiver.ledger, receiver.store, receiver.keys)
    giver.push("m", SMALL)
    upload, draft = prepared(giver, receiver, "m@2", "n")
    before = sum(len(spy.calls) for spy in spies)
    receiver.broker.commit_import(receiver.caller(), upload, draft)
    count = sum(len(spy.calls) for spy in spies) - before
    assert count > 15
    for nth in range(1, count + 1):
        giver.push("m", SMALL)
        upload, draft = prepared(giver, receiver, f"m@{nth + 2}", "n")
        caller, hook = receiver.caller(), crash_at_call(nth)
        for spy in spies:
            spy.before = hook
        with pytest.raises(Crash):
            receiver.broker.commit_import(caller, upload, draft)
        for spy in spies:
            spy.before = lambda _name: None
        done = receiver.broker.commit_import(receiver.caller(), upload, draft)
        assert done.version == nth + 1
    assert receiver.load("n") == SMALL
    receiver.clock.advance(30 * 24 * 3600)
    receiver.broker.gc(receiver.caller())
    assert receiver.load("n@2") == SMALL
    assert len(receiver.objects("keys/")) == count + 1


def test_a_crash_at_every_call_of_a_handing_over(both: tuple[Vault, Vault]) -> None:
    """The same invitation gives the keys, or says that it is used up; a fresh one always does. No
    key is unwrapped without its entry."""
    giver, receiver = both
    spies, told = (giver.ledger, giver.keys), set()
    for nth in range(1, 40):
        importing = begin(receiver, "n", None)
        hook = crash_at_call(nth)
        for spy in spies:
            spy.before = hook
        try:
            hand_over(giver, "m@1", importing)
            break
        except Crash:
            pass
        finally:
            for spy in spies:
                spy.before = lambda _name: None
        try:
            hand_over(giver, "m@1", importing)
            told.add("given")
        except Conflict as over:
            told.add(over.code)
        receiver.broker.abandon(receiver.caller(), importing.id)
    assert nth > 4
    assert told == {"given", "invitation_used"}
    given = [e for e in giver.entries("export") if e.outcome == "allowed"]
    assert len({e.lease for e in given}) == len(given) >= giver.keys.count("unwrap") - nth
    assert carry(giver, "m@1", receiver, "n").version == 1


def test_two_imports_of_one_version_at_once(both: tuple[Vault, Vault]) -> None:
    giver, receiver = both
    ready = [prepared(giver, receiver, "m@1", "n") for _ in range(4)]

    def commit(one: tuple[str, ImportDraft]) -> str:
        try:
            receiver.broker.commit_import(receiver.caller(), *one)
        except Conflict as lost:
            return lost.code
        return "done"

    with ThreadPoolExecutor(4) as pool:
        told = sorted(pool.map(commit, ready))
    assert told.count("done") == 1
    assert set(told) <= {"done", "already_copied", "artifact_here"}
    assert receiver.load("n") == FILES


def test_a_rotation_beside_imports(both: tuple[Vault, Vault]) -> None:
    giver, receiver = both
    for _ in range(5):
        giver.push("m", FILES)
    ready = [prepared(giver, receiver, f"m@{n}", "n") for n in range(1, 7)]
    with ThreadPoolExecutor(3) as pool:
        rotating = pool.submit(
            lambda: [receiver.broker.rotate(receiver.caller(), "n") for _ in range(3)]
        )
        committed = [
            pool.submit(receiver.broker.commit_import, receiver.caller(), *one) for one in ready
        ]
        versions = sorted(each.result().version for each in committed)
        rotating.result()
    assert versions == [1, 2, 3, 4, 5, 6]
    receiver.broker.rotate(receiver.caller(), "n")
    for version in versions:
        assert receiver.load(f"n@{version}") == FILES


def with_older_files(giver: Vault) -> None:
    """A version that refers to the files of the one before, beside one of its own."""
    older = manifest_of(documents(giver, "m@1"))
    upload, draft = giver.upload("m", {"new.bin": b"n" * 300})
    (own,) = draft.files
    entry = FileEntry(
        own.path, own.size, older.files[0].segment_length, upload.artifact, own.object,
        own.leaves, own.digest,
    )  # fmt: skip
    row = giver.ledger.version("default", "m", 1)
    made = replace(
        older, version=2, artifact=upload.artifact, previous=row.digest,
        files=tuple(sorted((*older.files, entry), key=lambda file: file.path)),
    )  # fmt: skip
    envelope = dsse.sign(PAYLOAD_TYPE, made.to_bytes(), partial(giver.keyring.sign, "manifest"))
    version = VersionRow(
        tenant="default", model="m", version=2, artifact=made.artifact, digest=envelope.digest,
        manifest=envelope, created_at=giver.clock(), created_by=made.created_by, size=made.size,
        files=len(made.files),
    )  # fmt: skip
    giver.ledger.publish(upload.id, version, row.digest, opening_entry(giver.clock()))


@pytest.mark.parametrize("order", [(1, 2), (2, 1), (2,)])
def test_files_of_older_versions(both: tuple[Vault, Vault], order: tuple[int, ...]) -> None:
    """Each artifact's key comes along; one that is there already must be the same, and is."""
    giver, receiver = both
    with_older_files(giver)
    whole = FILES | {"new.bin": b"n" * 300}
    assert giver.load("m@2") == whole
    for version in order:
        carry(giver, f"m@{version}", receiver, "n")
    receiver.broker.rotate(receiver.caller(), "n")
    wanted = {1: FILES, 2: whole}
    for at, version in enumerate(order, 1):
        assert receiver.load(f"n@{at}") == wanted[version]
    made = Manifest.from_bytes(receiver.ledger.version("default", "n", 1).manifest.payload)
    assert len({file.artifact for file in made.files}) == (2 if order[0] == 2 else 1)


def test_parts_of_it_in_another_model(both: tuple[Vault, Vault]) -> None:
    """A key is bound to its model: what has one in another model isn't taken, nor is it harmed."""
    giver, receiver = both
    with_older_files(giver)
    carry(giver, "m@1", receiver, "n")
    receiver.create("other")
    with pytest.raises(ModelVaultError) as caught:
        carry(giver, "m@2", receiver, "other")
    assert caught.value.code == "artifact_here"
    assert receiver.load("n@1") == FILES
    assert receiver.broker.show(receiver.caller(), "other").versions == ()


def test_the_same_answer_by_any_broker(both: tuple[Vault, Vault]) -> None:
    """No broker keeps anything of an import: another one of the same vault finishes it."""
    giver, receiver = both
    source = documents(giver, "m@1")
    importing = begin(receiver, "n", source)
    handed = hand_over(giver, "m@1", importing)
    other = receiver.another_broker(trusted={giver.id: giver.trust})
    draft = ImportDraft(
        source=source, sealed=handed.sealed, files=put_objects(giver, receiver, manifest_of(source))
    )
    assert other.commit_import(receiver.caller(), importing.id, draft).version == 1
    assert receiver.load("n") == FILES
