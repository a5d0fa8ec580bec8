"""Unchanged files: versions that refer to what the same identity pushed before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from modelvault.access import Caller
from modelvault.crypto import derive
from modelvault.errors import (
    AccessDenied,
    Conflict,
    IntegrityError,
    InvalidRequest,
    NotFound,
    Unavailable,
)
from modelvault.manifest import FileEntry, Manifest
from modelvault.upload import CompareAsk, Draft, Published, ResumeAsk, TaggedFile, Upload
from support.vaults import SEGMENT, Vault, deny, one_time, opened

FILES = {"a.bin": bytes(range(200)), "b/c.bin": b"c" * 70, "empty": b""}
WEEK, HOUR = 7 * 24 * 3600, 3600


def manifest(published: Published) -> Manifest:
    return Manifest.from_bytes(published.signed.manifest.payload)


def entries(published: Published) -> dict[str, FileEntry]:
    return {file.path: file for file in manifest(published).files}


def sweep(vault: Vault) -> None:
    vault.clock.advance(WEEK + HOUR + 1)
    vault.broker.gc(vault.caller())


def test_only_what_changed_is_put(vault: Vault) -> None:
    one = vault.push("m", FILES)
    changed = FILES | {"b/c.bin": b"d" * 70}
    two = vault.push_again("m", changed)
    assert len(vault.objects()) == 2 * 3 + 2
    before, after = entries(one), entries(two)
    assert {path for path in FILES if before[path] != after[path]} == {"b/c.bin"}
    assert after["a.bin"].artifact == manifest(one).artifact
    assert after["b/c.bin"].artifact == manifest(two).artifact
    assert manifest(two).size == sum(map(len, changed.values()))
    assert vault.load("m@1") == FILES
    assert vault.load("m@2") == changed


def test_nothing_changed(vault: Vault) -> None:
    one = vault.push("m", FILES)
    two = vault.push_again("m", FILES)
    assert len(vault.objects()) == 6
    assert entries(one) == entries(two)
    assert manifest(one).artifact != manifest(two).artifact
    assert vault.load("m@2") == FILES


def test_files_come_and_go(vault: Vault) -> None:
    """Files of three artifacts in one version, in the order of their paths."""
    vault.push("m", FILES)
    vault.push_again("m", {"a.bin": FILES["a.bin"], "0": b"new"})
    last = {"a.bin": FILES["a.bin"], "0": b"new", "z": b"newer", "empty": b""}
    three = vault.push_again("m", last)
    assert [file.path for file in manifest(three).files] == sorted(last)
    assert len({file.artifact for file in manifest(three).files}) == 3  # `empty` was put again
    assert vault.load("m") == last
    vault.broker.rotate(vault.caller(), "m")
    assert vault.load("m") == last
    assert vault.load("m", files=("0", "a.bin")) == {"0": b"new", "a.bin": FILES["a.bin"]}


def test_an_earlier_version_that_goes_takes_nothing_along(vault: Vault) -> None:
    vault.push("m", FILES)
    changed = FILES | {"empty": b"no more"}
    vault.push_again("m", changed)
    vault.broker.delete(vault.caller(), "m@1")
    assert vault.load("m@2") == changed
    sweep(vault)
    assert [row.version for row in vault.ledger.versions("default", "m")] == [2]
    assert len(vault.objects()) == 2 * 3  # those of the file that changed are gone
    assert vault.load("m@2") == changed
    vault.broker.rotate(vault.caller(), "m")
    assert vault.load("m@2") == changed
    assert entries(vault.push_again("m", changed)) == entries(vault.push_again("m", changed))
    assert vault.load("m@4") == changed


def test_the_last_version_that_goes_takes_all_along(vault: Vault) -> None:
    """Also the key of a version that brought no file of its own."""
    for _ in range(3):
        vault.push_again("m", FILES)
    artifacts = {row.artifact for row in vault.ledger.versions("default", "m")}
    for number in (1, 2, 3):
        vault.broker.delete(vault.caller(), f"m@{number}")
    vault.clock.advance(WEEK + HOUR + 1)
    planned = vault.broker.gc(vault.caller(), dry_run=True)
    done = vault.broker.gc(vault.caller())
    assert planned == done
    assert vault.objects("") == []
    assert vault.ledger.fingerprints(artifacts) == {}
    for artifact in artifacts:
        with pytest.raises(NotFound):
            vault.ledger.key(artifact)


def hidden(vault: Vault) -> None:
    vault.broker.delete(vault.caller(), "m@1")


def revoked(vault: Vault) -> None:
    vault.broker.revoke(vault.caller(), kind="version", target="m@1", reason="leaked")


def test_the_newest_that_stands_is_compared_with(vault: Vault) -> None:
    one = vault.push("m", FILES)
    vault.push("m", FILES)
    vault.broker.delete(vault.caller(), "m@2")
    assert entries(vault.push_again("m", FILES)) == entries(one)


@pytest.mark.parametrize("change", [hidden, revoked])
def test_what_may_no_longer_be_used_is_compared_with_nothing(
    vault: Vault, change: Callable[[Vault], None]
) -> None:
    vault.push("m", FILES)
    change(vault)
    upload, _keys = vault.open("m", FILES)
    assert upload.candidates == ()


def test_other_files_are_no_candidates(vault: Vault) -> None:
    vault.push("m", FILES)
    upload, _keys = vault.open("m", {"a.bin": b"short", "b/c.bin": b"e" * 70, "other": b""})
    assert upload.candidates == ("b/c.bin",)
    vault.create("n")
    assert vault.open("n", FILES)[0].candidates == ()


def test_somebody_elses_version_is_compared_with_nothing(vault: Vault) -> None:
    """Else whoever may only push could ask what others' files hold, and whoever lies about a tag
    could slip a file of theirs into the others' versions."""
    bob = vault.caller("bob")
    vault.push("m", FILES, caller=bob)
    assert vault.open("m", FILES)[0].candidates == ()
    vault.push("m", FILES)
    assert vault.open("m", FILES)[0].candidates == tuple(sorted(FILES))
    theirs, _keys = vault.open("m", FILES, caller=bob)
    assert theirs.candidates == tuple(sorted(FILES))  # of version 1
    assert vault.ledger.upload(theirs.id).base == 1


@pytest.mark.parametrize("changes", [{"digest_alg": "sha256"}, {"segment_length": 2 * SEGMENT}])
def test_a_vault_that_was_set_up_otherwise_meanwhile(
    vault: Vault, changes: dict[str, object]
) -> None:
    vault.push("m", FILES)
    vault.broker = vault.another_broker(**changes)
    assert vault.open("m", FILES)[0].candidates == ()
    vault.push("m", FILES)
    assert vault.load("m") == FILES


def test_a_vault_that_hashes_with_sha256(folder: Path) -> None:
    with opened(folder, digest_alg="sha256") as vault:
        vault.create("m")
        one = vault.push("m", FILES)
        two = vault.push_again("m", FILES | {"empty": b"?"})
        assert entries(one)["a.bin"] == entries(two)["a.bin"]
        assert vault.load("m") == FILES | {"empty": b"?"}


def test_versions_of_before_are_compared_with_nothing(vault: Vault) -> None:
    """A broker of the version before keeps no fingerprints."""
    upload, draft = vault.upload("m", FILES)
    real = vault.ledger.publish
    forgetful = vault.another_broker(
        ledger=Overriding(vault.ledger, publish=lambda *args: real(*args[:4]))
    )
    forgetful.commit(vault.caller(), upload.id, draft)
    assert vault.open("m", FILES)[0].candidates == ()


class Overriding:
    """A port with some other methods."""

    def __init__(self, port: object, **methods: Callable[..., object]) -> None:
        self._port = port
        self._methods = methods

    def __getattr__(self, name: str) -> object:
        return self._methods.get(name) or getattr(self._port, name)


# comparing


def ask(vault: Vault, upload: Upload, *files: TaggedFile, caller: Caller | None = None) -> set[str]:
    found = vault.broker.compare(caller or vault.caller(), upload.id, CompareAsk(files=files))
    return {entry.path for entry in found.files}


def test_compare(vault: Vault) -> None:
    one = vault.push("m", FILES)
    upload, keys = vault.open("m", FILES)
    right = {path: vault.tag(upload, path, plain, keys) for path, plain in FILES.items()}
    wrong = vault.tag(upload, "a.bin", FILES["a.bin"][::-1], keys)
    assert ask(vault, upload, *right.values()) == set(FILES)
    assert ask(vault, upload, wrong, right["empty"]) == {"empty"}
    swapped = msgspec.structs.replace(right["a.bin"], content=right["empty"].content)
    assert ask(vault, upload, swapped) == set()
    told = vault.entries("push")[-2]
    assert (told.outcome, told.details["step"]) == ("allowed", "compare")
    assert (told.details["files"], told.details["unchanged"]) == (2, 1)
    found = vault.broker.compare(vault.caller(), upload.id, CompareAsk(files=tuple(right.values())))
    assert {entry.path: entry for entry in found.files} == entries(one)


def test_what_cant_be_compared(vault: Vault) -> None:
    vault.push("m", FILES)
    upload, keys = vault.open("m", FILES)
    tag = vault.tag(upload, "a.bin", FILES["a.bin"], keys)
    other = msgspec.structs.replace(tag, path="other")
    short = msgspec.structs.replace(tag, content=tag.content[:31])
    for files, code in (
        ((tag, tag), "not_as_declared"),
        ((other,), "not_as_declared"),
        ((short,), "bad_document"),
    ):
        with pytest.raises(InvalidRequest) as caught:
            ask(vault, upload, *files)
        assert caught.value.code == code
    with pytest.raises(NotFound):
        ask(vault, upload, tag, caller=vault.caller("bob"))
    vault.policy.rule = lambda d: deny("no")
    with pytest.raises((AccessDenied, NotFound)):
        ask(vault, upload, tag)
    vault.policy.rule = lambda d: {"decision": True, "context": {"reasons": [], "obligations": []}}
    vault.broker.abandon(vault.caller(), upload.id)
    with pytest.raises(NotFound):
        ask(vault, upload, tag)


def test_another_uploads_tags_are_the_same(vault: Vault) -> None:
    """A tag tells of one path's contents in one model, nothing of the upload: so it can be kept in
    the journal of a push that is cut off."""
    tags = set()
    for _ in range(2):
        upload, keys = vault.open("m", FILES)
        tags.add(vault.tag(upload, "a.bin", FILES["a.bin"], keys).content)
    vault.create("n")
    upload, keys = vault.open("n", FILES)
    assert vault.tag(upload, "a.bin", FILES["a.bin"], keys).content not in tags
    assert len(tags) == 1


def test_resumed(vault: Vault) -> None:
    vault.push("m", FILES)
    upload, _keys = vault.open("m", FILES)
    key, recipient, nonce = one_time()
    resume = ResumeAsk(nonce=nonce, recipient=recipient)
    again = vault.broker.resume(vault.caller(), upload.id, resume)
    assert again.candidates == upload.candidates == tuple(sorted(FILES))
    keys = vault.opened_keys(again, resume, key, sorted(FILES))
    tags = tuple(vault.tag(again, path, FILES[path], keys) for path in sorted(FILES))
    assert ask(vault, again, *tags) == set(FILES)
    vault.broker.commit(vault.caller(), upload.id, Draft(files=(), unchanged=tags))
    assert vault.load("m@2") == FILES


# committing what isn't so


def drafted(vault: Vault, files: dict[str, bytes]) -> tuple[Upload, Draft]:
    """All files told to be unchanged, with the tags that they have."""
    upload, keys = vault.open("m", files)
    tags = (vault.tag(upload, path, files[path], keys) for path in sorted(files))
    return upload, Draft(files=(), unchanged=tuple(tags))


def refused(vault: Vault, upload: Upload, draft: Draft) -> str:
    before = len(vault.ledger.versions("default", "m"))
    with pytest.raises((InvalidRequest, IntegrityError)) as caught:
        vault.broker.commit(vault.caller(), upload.id, draft)
    assert caught.value.hint
    assert len(vault.ledger.versions("default", "m")) == before
    return caught.value.code


CLAIMS: dict[str, tuple[dict[str, bytes], str]] = {
    "other contents": (FILES | {"a.bin": bytes(200)}, "not_unchanged"),
    "another size": (FILES | {"a.bin": FILES["a.bin"][:-1]}, "not_unchanged"),
    "another path": ({"A.bin": FILES["a.bin"]}, "not_unchanged"),
    "another path of the same contents": (FILES | {"empty2": b""}, "not_unchanged"),
    "an older version's": (FILES | {"b/c.bin": b"old" * 10}, "not_unchanged"),
}


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_claim_that_isnt_so(vault: Vault, claim: str) -> None:
    vault.push("m", FILES | {"b/c.bin": b"old" * 10})
    vault.push("m", FILES)
    files, code = CLAIMS[claim]
    assert refused(vault, *drafted(vault, files)) == code


def test_a_file_that_is_put_and_unchanged(vault: Vault) -> None:
    vault.push("m", FILES)
    upload, put = vault.upload("m", FILES)
    _, claimed = drafted(vault, FILES)
    both = Draft(files=put.files, unchanged=claimed.unchanged[:1])
    assert refused(vault, upload, both) == "not_as_declared"
    twice = Draft(files=(), unchanged=(*claimed.unchanged, claimed.unchanged[0]))
    assert refused(vault, upload, twice) == "not_as_declared"
    disordered = Draft(files=(), unchanged=claimed.unchanged[::-1])
    assert refused(vault, upload, disordered) == "not_as_declared"
    missing = Draft(files=put.files[1:], unchanged=())
    assert refused(vault, upload, missing) == "not_as_declared"


def test_without_an_earlier_version(vault: Vault) -> None:
    assert refused(vault, *drafted(vault, FILES)) == "not_unchanged"


@pytest.mark.parametrize("change", [hidden, revoked])
def test_the_earlier_version_goes_between_comparing_and_commit(
    vault: Vault, change: Callable[[Vault], None]
) -> None:
    vault.push("m", FILES)
    upload, draft = drafted(vault, FILES)
    assert ask(vault, upload, *draft.unchanged) == set(FILES)
    change(vault)
    assert ask(vault, upload, *draft.unchanged) == set()
    assert refused(vault, upload, draft) == "not_unchanged"


def test_the_earlier_version_goes_between_check_and_publication(vault: Vault) -> None:
    """However unlikely: a version that names what is gone is never published."""
    vault.push("m", FILES)
    upload, draft = drafted(vault, FILES)

    def drop(name: str) -> None:
        if name == "publish":
            vault.ledger.before = lambda _name: None
            vault.broker.delete(vault.caller(), "m@1")
            vault.with_terms(delete_grace_s=-1).gc(vault.caller())

    vault.ledger.before = drop
    with pytest.raises(Conflict) as caught:
        vault.broker.commit(vault.caller(), upload.id, draft)
    assert caught.value.code == "earlier_gone"
    assert vault.ledger.versions("default", "m") == []


def test_another_version_between(vault: Vault) -> None:
    """The head may move meanwhile: the files are of the version that was compared with."""
    one = vault.push("m", FILES)
    upload, draft = drafted(vault, FILES)
    vault.push("m", {"a.bin": b"another"})
    done = vault.broker.commit(vault.caller(), upload.id, draft)
    assert (done.version, entries(done)) == (3, entries(one))
    assert vault.broker.commit(vault.caller(), upload.id, draft) == done


@pytest.mark.parametrize("part", ["object", "leaves"])
@pytest.mark.parametrize("how", ["gone", "altered", "shorter"])
def test_a_damaged_store(vault: Vault, part: str, how: str) -> None:
    """What is lost isn't referred to, and the pusher is told how to mend it."""
    one = vault.push("m", FILES)
    path = vault.root / getattr(entries(one)["a.bin"], part)
    content = path.read_bytes()
    path.unlink()
    if how != "gone":
        path.write_bytes(
            content[:-1] if how == "shorter" else bytes([content[0] ^ 1]) + content[1:]
        )
    upload, draft = drafted(vault, FILES)
    with pytest.raises(IntegrityError) as caught:
        vault.broker.commit(vault.caller(), upload.id, draft)
    assert caught.value.code == "earlier_damaged"
    assert "a.bin" in caught.value.message
    assert "--upload-all" in caught.value.hint
    vault.push("m", FILES)
    assert vault.load("m") == FILES


def test_a_store_that_cant_be_reached_is_an_outage(vault: Vault) -> None:
    vault.push("m", FILES)
    upload, draft = drafted(vault, FILES)

    def down(name: str) -> None:
        if name == "size":
            raise Unavailable("store_unavailable", "down")

    vault.store.before = down
    with pytest.raises(Unavailable):
        vault.broker.commit(vault.caller(), upload.id, draft)
    vault.store.before = lambda _name: None
    vault.broker.commit(vault.caller(), upload.id, draft)
    assert vault.load("m@2") == FILES


# the content key


def test_it_is_made_once_and_lies_in_the_ledger_like_a_dek(vault: Vault) -> None:
    artifact = derive.content_artifact(vault.id, "default", "m")
    with pytest.raises(NotFound):
        vault.ledger.key(artifact)
    vault.open("m", FILES)
    made = vault.ledger.key(artifact)
    vault.push("m", FILES)
    assert vault.ledger.key(artifact) == made
    vault.broker.rotate(vault.caller(), "m")
    assert vault.ledger.key(artifact).kek_version == 2
    assert vault.open("m", FILES)[0].candidates == tuple(sorted(FILES))
    vault.push_again("m", FILES)
    assert len(vault.objects()) == 6
    steps = [one.details.get("step") for one in vault.entries("push")]
    assert steps.count("content_key") == 1


def test_two_first_pushes_at_once(vault: Vault) -> None:
    """The one that comes second takes the key of the first."""

    def other(name: str) -> None:
        if name == "keep_key":
            vault.ledger.before = lambda _name: None
            vault.push("m", FILES)

    vault.ledger.before = other
    vault.push_again("m", FILES)
    assert [one.version for one in vault.ledger.versions("default", "m")] == [2, 1]
    before = vault.objects()
    vault.push_again("m", FILES)
    assert vault.objects() == before


def test_a_rotation_while_it_is_made(vault: Vault) -> None:
    def rotate(name: str) -> None:
        if name == "keep_key":
            vault.ledger.before = lambda _name: None
            vault.broker.rotate(vault.caller(), "m")

    vault.ledger.before = rotate
    vault.push("m", FILES)
    artifact = derive.content_artifact(vault.id, "default", "m")
    assert vault.ledger.key(artifact).kek_version == 2
    vault.push_again("m", FILES)
    assert len(vault.objects()) == 6


def test_it_is_wiped(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    vault.push("m", FILES)
    seen = []
    real = vault.keyring.unwrap
    monkeypatch.setattr(
        vault.keyring, "unwrap", lambda *args: (seen.append(real(*args)), seen[-1])[1]
    )
    vault.push_again("m", FILES | {"empty": b"?"})
    assert refused(vault, *drafted(vault, FILES)) == "not_unchanged"
    assert len(seen) == 6  # open, compare, commit twice; open and commit
    assert all(key.wiped for key in seen)


def test_nothing_is_kept_that_a_pusher_could_test_guesses_with(vault: Vault) -> None:
    """A pusher holds the path's content key; what the ledger keeps is of no use with it."""
    one = vault.push("m", FILES)
    upload, keys = vault.open("m", FILES)
    tag = vault.tag(upload, "a.bin", FILES["a.bin"], keys).content
    kept = vault.ledger.fingerprints([manifest(one).artifact])
    assert set(kept) == {(manifest(one).artifact, path) for path in FILES}
    assert tag not in kept.values()
    assert len(set(kept.values())) == 3
    for name in ("ledger.db", "ledger.db-wal"):
        path = vault.root / name
        assert not path.exists() or tag not in path.read_bytes()
