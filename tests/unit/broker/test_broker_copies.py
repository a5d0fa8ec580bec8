"""Copies, the brokers' halves: what is handed over, taken in, counted, told and refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from modelvault.copies import ImportDraft
from modelvault.crypto.secret import Secret
from modelvault.errors import AccessDenied, Conflict, IntegrityError, InvalidRequest
from modelvault.manifest import CopiedFrom, Provenance
from modelvault.upload import Draft, ResumeAsk
from support.copying import (
    FILES,
    befriend,
    begin,
    carry,
    documents,
    hand_over,
    manifest_of,
    pair,
    put_objects,
)
from support.vaults import Crash, Vault, allow, crash_at, deny, make, obligation, one_time


@pytest.fixture
def both(tmp_path: Path) -> Iterator[tuple[Vault, Vault]]:
    with pair(tmp_path) as made:
        yield made


class TestWalk:
    def test_the_same_files_come_out_of_the_other_vault(self, both) -> None:
        giver, receiver = both
        published = carry(giver, "m@1", receiver, "n")
        assert (published.model, published.version) == ("n", 1)
        assert receiver.load("n@1") == FILES
        assert giver.load("m@1") == FILES

    def test_what_is_kept_and_what_is_the_receivers_own(self, both) -> None:
        giver, receiver = both
        source = manifest_of(documents(giver, "m@1"))
        receiver.push("n", {"x": b"y"})
        made = manifest_of(carry(giver, "m@1", receiver, "n").signed)
        kept = ("artifact", "digest_alg", "labels", "hints", "tensors")
        assert [getattr(made, name) for name in kept] == [getattr(source, name) for name in kept]
        assert [(f.path, f.size, f.digest, f.artifact) for f in made.files] == [
            (f.path, f.size, f.digest, f.artifact) for f in source.files
        ]
        own = (made.vault, made.tenant, made.model, made.version, made.created_by)
        assert own == (receiver.id, "default", "n", 2, "local:alice")
        assert made.previous == receiver.ledger.version("default", "n", 1).digest
        digest = giver.ledger.version("default", "m", 1).digest
        assert made.provenance.copied_from == CopiedFrom(giver.id, "default", "m", 1, digest)

    def test_ciphertext_is_unchanged_and_keys_are_wrapped_anew(self, both) -> None:
        giver, receiver = both
        source = manifest_of(documents(giver, "m@1"))
        made = manifest_of(carry(giver, "m@1", receiver, "n").signed)
        for one, other in zip(source.files, made.files, strict=True):
            for ours, theirs in ((one.object, other.object), (one.leaves, other.leaves)):
                size = giver.store.size(ours)
                buffers = bytearray(size), bytearray(size)
                giver.store.read_into(ours, 0, memoryview(buffers[0]))
                receiver.store.read_into(theirs, 0, memoryview(buffers[1]))
                assert buffers[0] == buffers[1]
        keys = [vault.ledger.key(source.artifact) for vault in both]
        assert keys[0].wrapped != keys[1].wrapped
        assert f"keys/{source.artifact}/1" in receiver.objects("keys/")

    def test_a_copy_rotates_and_is_copied_on(self, both, tmp_path: Path) -> None:
        giver, receiver = both
        carry(giver, "m@1", receiver, "n")
        receiver.broker.rotate(receiver.caller(), "n")
        assert receiver.load("n@1") == FILES
        (tmp_path / "third").mkdir()
        third = make(tmp_path / "third")
        befriend(receiver, third)
        third.create("o")
        made = manifest_of(carry(receiver, "n@1", third, "o").signed)
        assert third.load("o") == FILES
        assert made.provenance.copied_from is not None
        assert made.provenance.copied_from.vault == receiver.id
        third.close()

    def test_keys_under_an_older_kek_version_too(self, both) -> None:
        """Between invitation and commit the receiver's key is rotated: its own row goes with it."""
        giver, receiver = both
        source = documents(giver, "m@1")
        importing = begin(receiver, "n", source)
        handed = hand_over(giver, "m@1", importing)
        files = put_objects(giver, receiver, manifest_of(source))
        receiver.broker.rotate(receiver.caller(), "n")
        draft = ImportDraft(source=source, sealed=handed.sealed, files=files)
        receiver.broker.commit_import(receiver.caller(), importing.id, draft)
        assert receiver.load("n@1") == FILES

    def test_repeating_a_commit_gives_its_result_again(self, both) -> None:
        giver, receiver = both
        kept = []
        first = carry(giver, "m@1", receiver, "n", change=lambda d: kept.append(d) or d)
        upload = [e.details["upload"] for e in receiver.entries("push") if e.outcome == "done"][-1]
        again = receiver.broker.commit_import(receiver.caller(), str(upload), kept[0])
        assert (again.version, again.receipt) == (first.version, first.receipt)

    def test_a_copy_that_stands_is_told_with_its_version(self, both) -> None:
        giver, receiver = both
        carry(giver, "m@1", receiver, "n")
        with pytest.raises(Conflict) as caught:
            begin(receiver, "n", documents(giver, "m@1"))
        assert (caught.value.code, caught.value.details["version"]) == ("already_copied", 1)
        receiver.create("other")
        with pytest.raises(Conflict) as caught:
            begin(receiver, "other", documents(giver, "m@1"))
        assert caught.value.code == "artifact_here"

    def test_deks_and_the_data_key_are_wiped(self, both, monkeypatch) -> None:
        giver, receiver = both
        made: list[Secret] = []
        first = Secret.__init__

        def init(self: Secret, *args: object) -> None:
            first(self, *args)
            made.append(self)

        monkeypatch.setattr(Secret, "__init__", init)
        carry(giver, "m@1", receiver, "n")
        monkeypatch.undo()
        assert len(made) > 10
        assert [secret for secret in made if len(secret) and not secret.wiped] == []


class TestAudit:
    def test_who_gave_what_to_whom(self, both) -> None:
        giver, receiver = both
        carry(giver, "m@1", receiver, "n")
        (gave,) = giver.entries("export")
        assert (gave.actor, gave.outcome, gave.version) == ("local:alice", "allowed", 1)
        assert gave.details["destination"] == receiver.id
        assert gave.purpose == "copy"
        done = [e for e in receiver.entries("push") if e.outcome == "done"][-1]
        assert done.details["from_vault"] == giver.id
        assert done.details["from_manifest"] == giver.ledger.version("default", "m", 1).digest

    def test_no_committed_entry_no_key(self, both) -> None:
        giver, receiver = both
        importing = begin(receiver, "n", documents(giver, "m@1"))
        before = giver.keys.count("unwrap")
        giver.ledger.before = crash_at("admit")
        with pytest.raises(Crash):
            hand_over(giver, "m@1", importing)
        giver.ledger.before = lambda _name: None
        assert giver.keys.count("unwrap") == before
        assert giver.entries("export") == []

    def test_the_policy_is_asked_for_an_export_to_that_vault(self, both) -> None:
        giver, receiver = both
        carry(giver, "m@1", receiver, "n")
        asked = [each for each in giver.policy.asked if each["action"]["name"] == "export"]
        assert [each["context"]["destination"] for each in asked] == [receiver.id]
        assert asked[0]["context"]["purpose"] == "copy"
        assert asked[0]["resource"]["files"] == sorted(FILES)
        pushes = [each for each in receiver.policy.asked if each["action"]["name"] == "push"]
        assert [each["resource"]["labels"] for each in pushes] == [{"team": "search"}] * 2

    def test_it_counts_as_an_export(self, both) -> None:
        giver, receiver = both
        giver.policy.rule = lambda _: allow(obligation("max_bytes_per_day", 1100))
        importing = begin(receiver, "n", documents(giver, "m@1"))
        first = hand_over(giver, "m@1", importing)
        again = hand_over(giver, "m@1", importing)
        assert (first.lease, first.receipt) == (again.lease, again.receipt)
        with pytest.raises(AccessDenied) as caught:
            hand_over(giver, "m@1", begin(receiver, "n", None))
        assert caught.value.code == "max_bytes_per_day"


class TestRefused:
    @pytest.mark.parametrize(
        ("change", "code"),
        [
            (lambda _: deny("no"), "denied"),
            (lambda _: allow(obligation("files", ["a.bin"])), "files_not_allowed"),
            (lambda _: allow({"id": "x", "type": "unheard_of", "properties": {}}),
             "obligation_unfulfillable"),
        ],
    )  # fmt: skip
    def test_by_the_givers_policy(self, both, change, code) -> None:
        giver, receiver = both
        importing = begin(receiver, "n", documents(giver, "m@1"))
        giver.policy.rule = lambda d: change(d) if d["action"]["name"] == "export" else allow()
        before = giver.keys.count("unwrap")
        with pytest.raises(AccessDenied) as caught:
            hand_over(giver, "m@1", importing)
        assert caught.value.code == code
        assert giver.keys.count("unwrap") == before
        assert giver.entries("export")[-1].outcome == "denied"

    def test_a_revoked_version(self, both) -> None:
        giver, receiver = both
        importing = begin(receiver, "n", documents(giver, "m@1"))
        giver.broker.revoke(giver.caller(), kind="version", target="default/m@1", reason="bad")
        with pytest.raises(AccessDenied) as caught:
            hand_over(giver, "m@1", importing)
        assert caught.value.code == "revoked"

    def test_by_the_receivers_policy_before_anything_is_carried(self, both) -> None:
        giver, receiver = both
        receiver.policy.rule = lambda d: deny("no") if d["action"]["name"] == "push" else allow()
        with pytest.raises(AccessDenied):
            begin(receiver, "n", documents(giver, "m@1"))

    def test_blake3_where_only_sha256_may_be_used(self, both, tmp_path: Path) -> None:
        giver, _ = both
        (tmp_path / "strict").mkdir()
        strict = make(tmp_path / "strict", digest_alg="sha256")
        befriend(giver, strict)
        strict.create("n")
        with pytest.raises(InvalidRequest) as caught:
            begin(strict, "n", documents(giver, "m@1"))
        assert caught.value.code == "wrong_digest_alg"
        strict.push("n", FILES)
        giver.create("from-strict")
        carry(strict, "n@1", giver, "from-strict")
        assert giver.load("from-strict") == FILES
        strict.close()

    @pytest.mark.parametrize(
        ("change", "code"),
        [
            (lambda d: msgspec.structs.replace(d, files=d.files[:-1]), "not_as_declared"),
            (lambda d: msgspec.structs.replace(d, files=d.files[::-1]), "not_as_declared"),
            (lambda d: msgspec.structs.replace(d, files=(d.files[0], *d.files[:2])),
             "not_as_declared"),
        ],
    )  # fmt: skip
    def test_other_files_than_the_manifests(self, both, change, code) -> None:
        giver, receiver = both
        with pytest.raises(InvalidRequest) as caught:
            carry(giver, "m@1", receiver, "n", change=change)
        assert caught.value.code == code

    def test_objects_that_are_altered_or_missing(self, both) -> None:
        giver, receiver = both

        def swap(draft):
            first, *rest = draft.files
            other = msgspec.structs.replace(first, object=rest[0].object, leaves=rest[0].leaves)
            fresh = msgspec.structs.replace(rest[0], object=first.object, leaves=first.leaves)
            return msgspec.structs.replace(draft, files=(other, fresh, *rest[1:]))

        with pytest.raises(InvalidRequest):
            carry(giver, "m@1", receiver, "n", change=swap)

        def alter(draft):
            path = receiver.root / draft.files[0].object
            data = bytearray(path.read_bytes())
            data[20] ^= 1  # in the header: what follows is sampled
            path.chmod(0o600)
            path.write_bytes(data)
            return draft

        with pytest.raises(IntegrityError) as caught:
            carry(giver, "m@1", receiver, "n", change=alter)
        assert caught.value.code == "altered"
        assert receiver.broker.show(receiver.caller(), "n").versions == ()

    def test_a_push_cant_say_what_it_is_a_copy_of(self, both) -> None:
        _, receiver = both
        claimed = CopiedFrom("ab" * 16, "default", "m", 1, "sha256:" + "00" * 32)
        with pytest.raises(InvalidRequest) as caught:
            receiver.push("n", FILES, provenance=Provenance(copied_from=claimed))
        assert caught.value.code == "bad_provenance"

    def test_uploads_and_imports_dont_mix(self, both) -> None:
        giver, receiver = both
        source = documents(giver, "m@1")
        importing = begin(receiver, "n", source)
        for call in (
            lambda: receiver.broker.commit(receiver.caller(), importing.id, Draft(files=())),
            lambda: receiver.broker.resume(receiver.caller(), importing.id, _resume()),
        ):
            with pytest.raises(Conflict) as caught:
                call()
            assert caught.value.code == "is_an_import"
        upload, _ = receiver.upload("n", FILES)
        draft = ImportDraft(source=source, sealed=b"", files=())
        with pytest.raises(Conflict) as caught:
            receiver.broker.commit_import(receiver.caller(), upload.id, draft)
        assert caught.value.code == "not_an_import"

    def test_within_one_vault(self, both) -> None:
        giver, _ = both
        giver.create("n")
        with pytest.raises(InvalidRequest) as caught:
            begin(giver, "n", documents(giver, "m@1"))
        assert caught.value.code == "same_vault"
        with pytest.raises(InvalidRequest) as caught:
            hand_over(giver, "m@1", begin(giver, "n", None))
        assert caught.value.code == "same_vault"


def _resume():
    _, recipient, nonce = one_time()
    return ResumeAsk(nonce=nonce, recipient=recipient)


def test_an_import_that_was_given_up_leaves_nothing(both) -> None:
    giver, receiver = both
    importing = begin(receiver, "n", documents(giver, "m@1"))
    receiver.broker.abandon(receiver.caller(), importing.id)
    receiver.clock.advance(30 * 24 * 3600)
    swept = receiver.broker.gc(receiver.caller())
    assert swept.uploads == 0
    assert receiver.broker.show(receiver.caller(), "n").versions == ()
