"""Opening and committing versions: what is declared, drafted and put must agree to the byte."""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from modelvault.artifact import leaves
from modelvault.clock import to_text
from modelvault.crypto import dsse, hpke
from modelvault.crypto.floe import Geometry
from modelvault.errors import (
    AccessDenied,
    AuthenticationError,
    Conflict,
    IntegrityError,
    InvalidRequest,
    NotFound,
    Unavailable,
)
from modelvault.identity.binding import key_hash
from modelvault.lease import Recipient
from modelvault.manifest import Hints, Manifest, Provenance, TensorEntry
from modelvault.upload import DeclaredFile, Draft
from support.vaults import (
    SEGMENT,
    Crash,
    Vault,
    allow,
    crash_at_call,
    deny,
    one_time,
    opened,
    push_ask,
)

FILES = {"a.bin": bytes(range(200)), "b/c.bin": b"c" * 70, "empty": b""}
TENSOR = TensorEntry(file="a.bin", name="w", dtype="F32", shape=(1,), bytes=4)


def changed(draft: Draft, at: int = 0, **changes: object) -> Draft:
    files = list(draft.files)
    files[at] = msgspec.structs.replace(files[at], **changes)
    return msgspec.structs.replace(draft, files=tuple(files))


def new_name() -> str:
    return f"objects/{secrets.token_hex(16)}"


def put(vault: Vault, content: bytes) -> str:
    name = new_name()

    def fill(_part: int, buffer: memoryview) -> None:
        buffer[:] = content

    vault.store.put(name, [len(content)], fill)
    return name


def read(vault: Vault, name: str) -> bytes:
    buffer = bytearray(vault.store.size(name))
    vault.store.read_into(name, 0, memoryview(buffer))
    return bytes(buffer)


def rewritten(vault: Vault, draft: Draft, change: Callable[[bytes], bytes]) -> Draft:
    """The draft with a.bin's ciphertext object replaced by a changed copy."""
    return changed(draft, object=put(vault, change(read(vault, draft.files[0].object))))


def missing(vault: Vault, draft: Draft) -> Draft:
    vault.store.delete(draft.files[1].object)
    return draft


def missing_leaves(vault: Vault, draft: Draft) -> Draft:
    vault.store.delete(draft.files[1].leaves)
    return draft


def swapped(_vault: Vault, draft: Draft) -> Draft:
    one, other = draft.files[0], draft.files[1]
    return changed(changed(draft, 0, object=other.object), 1, object=one.object)


def swapped_leaves(_vault: Vault, draft: Draft) -> Draft:
    one, other = draft.files[0], draft.files[1]
    return changed(changed(draft, 0, leaves=other.leaves), 1, leaves=one.leaves)


def other_leaf_list(vault: Vault, draft: Draft) -> Draft:
    """A leaf list of the right length, and the digest that fits it: but not the object."""
    made = read(vault, draft.files[0].leaves)
    forged = bytes(len(made))
    return changed(
        draft,
        leaves=put(vault, forged),
        digest=leaves.digest("blake3", forged),
    )


def other_segments(vault: Vault, draft: Draft) -> Draft:
    """Header and its leaf are right, all segments are another file's."""
    return rewritten(vault, draft, lambda old: old[:74] + os.urandom(len(old) - 74))


def of_a_version(vault: Vault, draft: Draft) -> Draft:
    published = vault.push("m", {"a.bin": FILES["a.bin"]})
    manifest = Manifest.from_bytes(published.signed.manifest.payload)
    return changed(draft, object=manifest.files[0].object)


# Each lie: what it does to an honest draft, and the code that it gets.
LIES: dict[str, tuple[Callable[[Vault, Draft], Draft], str]] = {
    "size larger": (lambda _v, d: changed(d, size=201), "not_as_declared"),
    "size smaller": (lambda _v, d: changed(d, size=199), "not_as_declared"),
    "path renamed": (lambda _v, d: changed(d, path="a.bim"), "not_as_declared"),
    "file missing": (lambda _v, d: Draft(files=d.files[1:]), "not_as_declared"),
    "no files": (lambda _v, d: Draft(files=()), "not_as_declared"),
    "file too many": (
        lambda _v, d: Draft(files=(*d.files, msgspec.structs.replace(d.files[0], path="z"))),
        "not_as_declared",
    ),
    "file twice": (lambda _v, d: Draft(files=(*d.files, d.files[0])), "not_as_declared"),
    "another order": (lambda _v, d: Draft(files=d.files[::-1]), "not_as_declared"),
    "digest": (lambda _v, d: changed(d, digest="blake3:" + "00" * 32), "bad_leaf_list"),
    "another algorithm": (
        lambda _v, d: changed(d, digest="sha256:" + "00" * 32),
        "wrong_digest_alg",
    ),
    "malformed digest": (lambda _v, d: changed(d, digest="blake3:00"), "bad_document"),
    "object that isn't there": (lambda _v, d: changed(d, object=new_name()), "not_uploaded"),
    "object deleted": (missing, "not_uploaded"),
    "leaf list deleted": (missing_leaves, "not_uploaded"),
    "object short": (lambda v, d: rewritten(v, d, lambda old: old[:-1]), "wrong_object_size"),
    "object long": (lambda v, d: rewritten(v, d, lambda old: old + b"x"), "wrong_object_size"),
    "object empty": (lambda v, d: changed(d, object=put(v, b"")), "wrong_object_size"),
    "plaintext instead": (
        lambda v, d: rewritten(v, d, lambda old: bytes(len(old))),
        "bad_header",
    ),
    "header of another segment length": (
        lambda v, d: rewritten(v, d, lambda old: Geometry(65).params() + old[10:]),
        "bad_header",
    ),
    "header altered": (
        lambda v, d: rewritten(v, d, lambda old: old[:20] + bytes([old[20] ^ 1]) + old[21:]),
        "altered",
    ),
    "segments altered": (other_segments, "altered"),
    "objects swapped": (swapped, "wrong_object_size"),
    "leaf lists swapped": (swapped_leaves, "wrong_object_size"),
    "leaf list forged with its digest": (other_leaf_list, "altered"),
    "leaf list as object": (lambda _v, d: changed(d, object=d.files[0].leaves), "objects_shared"),
    "one object for two files": (
        lambda _v, d: changed(d, object=d.files[1].object),
        "objects_shared",
    ),
    "object of a version": (of_a_version, "objects_in_use"),
    "a name that leaves the store": (
        lambda _v, d: changed(d, object="objects/../keyring.json"),
        "bad_document",
    ),
    "the name of a key": (lambda _v, d: changed(d, object=f"keys/{'0' * 32}/1"), "bad_document"),
    "too many labels": (
        lambda _v, d: msgspec.structs.replace(d, labels={str(n): "x" for n in range(65)}),
        "too_many_labels",
    ),
    "label without a name": (
        lambda _v, d: msgspec.structs.replace(d, labels={"": "x"}),
        "too_many_labels",
    ),
    "label too long": (
        lambda _v, d: msgspec.structs.replace(d, labels={"x": "y" * 257}),
        "bad_document",
    ),
    "label that isn't text": (
        lambda _v, d: msgspec.structs.replace(d, labels={"x": 7}),
        "bad_document",
    ),
    "label that is an object": (
        lambda _v, d: msgspec.structs.replace(d, labels={"x": object()}),
        "bad_document",
    ),
    "too many formats": (
        lambda _v, d: msgspec.structs.replace(d, hints=Hints(formats=("x",) * 65)),
        "bad_hints",
    ),
    "a pickle that isn't there": (
        lambda _v, d: msgspec.structs.replace(d, hints=Hints(pickles=("other",))),
        "bad_hints",
    ),
    "a pickle twice": (
        lambda _v, d: msgspec.structs.replace(d, hints=Hints(pickles=("a.bin", "a.bin"))),
        "bad_hints",
    ),
    "provenance": (
        lambda _v, d: msgspec.structs.replace(d, provenance=Provenance(base_digest="md5:1")),
        "bad_document",
    ),
    "a tensor of another file": (
        lambda _v, d: msgspec.structs.replace(
            d, tensors=(msgspec.structs.replace(TENSOR, file="x"),)
        ),
        "bad_tensors",
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_draft_that_lies(vault: Vault, lie: str) -> None:
    tell, code = LIES[lie]
    upload, honest = vault.upload("m", FILES)
    lying = tell(vault, honest)
    before = len(vault.ledger.versions("default", "m"))

    with pytest.raises((InvalidRequest, IntegrityError)) as caught:
        vault.broker.commit(vault.caller(), upload.id, lying)

    assert caught.value.code == code
    assert len(vault.ledger.versions("default", "m")) == before
    assert vault.push("m", FILES).version == before + 1


def test_an_error_about_objects_names_the_path(vault: Vault) -> None:
    upload, draft = vault.upload("m", FILES)
    with pytest.raises(InvalidRequest, match=r"b/c\.bin"):
        vault.broker.commit(vault.caller(), upload.id, missing(vault, draft))


def test_a_refused_draft_can_be_mended(vault: Vault) -> None:
    upload, draft = vault.upload("m", FILES)
    with pytest.raises(InvalidRequest):
        vault.broker.commit(vault.caller(), upload.id, changed(draft, size=1))
    assert vault.broker.commit(vault.caller(), upload.id, draft).version == 1
    assert vault.load("m") == FILES


def test_the_broker_composes_the_manifest(vault: Vault) -> None:
    first = vault.push("m", FILES)
    second = vault.push(
        "m",
        FILES,
        labels={"team": "nlp"},
        hints=Hints(formats=("pickle",), pickles=("a.bin",)),
        provenance=Provenance(base="bert"),
        tensors=(TENSOR,),
    )
    manifest = Manifest.from_bytes(
        dsse.verify(
            second.signed.manifest,
            "application/vnd.modelvault.manifest.v1+json",
            vault.trust.keys_for("manifest"),
            "manifest",
        )
    )
    assert (manifest.vault, manifest.tenant, manifest.model) == (vault.id, "default", "m")
    assert (manifest.version, manifest.previous) == (2, first.manifest)
    assert manifest.created_by == "local:alice"
    assert {file.path: file.size for file in manifest.files} == {
        path: len(plain) for path, plain in FILES.items()
    }
    assert manifest.labels == {"team": "nlp"}
    assert manifest.tensors == (TENSOR,)
    assert second.receipt.entry == vault.entries("push")[-1].id
    assert second.receipt.leaf_hash == vault.entries("push")[-1].leaf_hash().hex()


def test_an_initial_key_has_its_copy(vault: Vault) -> None:
    vault.push("m", FILES)
    artifact = vault.ledger.version("default", "m", 1).artifact
    assert vault.objects("keys/") == [f"keys/{artifact}/1"]


def test_a_repeated_commit_gives_the_same(vault: Vault) -> None:
    upload, draft = vault.upload("m", FILES)
    one = vault.broker.commit(vault.caller(), upload.id, draft)
    assert vault.broker.commit(vault.caller(), upload.id, draft) == one
    assert vault.broker.commit(vault.caller(), upload.id, Draft(files=())) == one
    assert len(vault.ledger.versions("default", "m")) == 1


@pytest.mark.parametrize("sub", ["bob", "alice2"])
def test_somebody_elses_upload(vault: Vault, sub: str) -> None:
    upload, draft = vault.upload("m", FILES)
    with pytest.raises(NotFound) as caught:
        vault.broker.commit(vault.caller(sub), upload.id, draft)
    with pytest.raises(NotFound) as absent:
        vault.broker.commit(vault.caller(sub), "0" * 32, draft)
    assert (caught.value.code, caught.value.message) == (absent.value.code, absent.value.message)


def test_a_commit_asks_the_policy_again(vault: Vault) -> None:
    upload, draft = vault.upload("m", FILES)
    vault.policy.rule = lambda d: deny("no") if d["action"]["name"] == "push" else allow()
    with pytest.raises(AccessDenied):
        vault.broker.commit(vault.caller(), upload.id, draft)
    assert vault.ledger.versions("default", "m") == []


def test_an_expired_upload(vault: Vault) -> None:
    upload, draft = vault.upload("m", FILES)
    vault.clock.advance(24 * 3600)
    with pytest.raises(Conflict) as caught:
        vault.broker.commit(vault.caller(), upload.id, draft)
    assert caught.value.code == "upload_closed"


def test_an_upload_that_gc_took_at_the_last_moment(vault: Vault) -> None:
    upload, draft = vault.upload("m", FILES)

    def abort(name: str) -> None:
        if name == "publish":
            vault.ledger.before = lambda _name: None
            vault.ledger.abort(upload.id)

    vault.ledger.before = abort
    with pytest.raises(Conflict) as caught:
        vault.broker.commit(vault.caller(), upload.id, draft)
    assert caught.value.code == "upload_closed"


def test_two_commits_of_one_upload_at_once(vault: Vault) -> None:
    upload, draft = vault.upload("m", FILES)
    first: list[object] = []

    def other(name: str) -> None:
        if name == "publish":
            vault.ledger.before = lambda _name: None
            first.append(vault.broker.commit(vault.caller(), upload.id, draft))

    vault.ledger.before = other
    assert vault.broker.commit(vault.caller(), upload.id, draft) == first[0]
    assert len(vault.ledger.versions("default", "m")) == 1


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"reference": "m@1"}, "bad_reference"),
        ({"reference": "m@sha256:" + "0" * 64}, "bad_reference"),
        ({"reference": "../m"}, "bad_reference"),
        ({"files": ()}, "no_files"),
        ({"files": (DeclaredFile("../x", 1),)}, "bad_path"),
        ({"files": (DeclaredFile("b", 1), DeclaredFile("a", 1))}, "bad_path"),
        ({"files": (DeclaredFile("a", 1), DeclaredFile("a", 1))}, "bad_path"),
        ({"files": (DeclaredFile("a", -1),)}, "bad_document"),
        ({"files": (DeclaredFile("a", 2**53 - 1),)}, "too_large"),
        ({"files": tuple(DeclaredFile(f"{n:03}", 1) for n in range(9))}, "too_many_files"),
        ({"nonce": b"short"}, "bad_document"),
        ({"recipient": Recipient("x25519", bytes(32))}, "bad_recipient"),
        ({"recipient": Recipient("x25519", b"short")}, "bad_recipient"),
        ({"recipient": Recipient("rot13", bytes(32))}, "bad_document"),
    ],
)
def test_a_push_that_is_refused_at_once(vault: Vault, change: dict[str, object], code: str) -> None:
    _, recipient, nonce = one_time()
    ask = msgspec.structs.replace(push_ask("m", FILES, recipient, nonce), **change)
    broker = vault.with_terms(max_files=8)
    with pytest.raises(InvalidRequest) as caught:
        broker.open_version(vault.caller(), ask)
    assert caught.value.code == code
    assert vault.keys.count("data_key") == 0
    assert [one.action for one in vault.entries()] == ["write_policy", "create"]


def test_sizes_that_are_too_much_only_together(vault: Vault) -> None:
    files = tuple(DeclaredFile(f"{n:03}", 2**45) for n in range(257))
    _, recipient, nonce = one_time()
    ask = msgspec.structs.replace(push_ask("m", FILES, recipient, nonce), files=files)
    with pytest.raises(InvalidRequest) as caught:
        vault.broker.open_version(vault.caller(), ask)
    assert caught.value.code == "too_large"


def test_a_tag_is_checked_before_the_upload(vault: Vault) -> None:
    vault.policy.rule = lambda d: deny("no_tags") if d["action"]["name"] == "tag" else allow()
    with pytest.raises(AccessDenied) as caught:
        vault.open("m:prod", FILES)
    assert caught.value.details["action"] == "tag"
    assert vault.keys.count("data_key") == 0
    vault.open("m", FILES)


def test_an_upload_that_is_given_up(vault: Vault) -> None:
    """Its slot is free at once, its key is gone, and no commit of it can win."""
    vault.broker = vault.with_terms(max_open_uploads=1)
    upload, draft = vault.upload("m", FILES)
    vault.broker.abandon(vault.caller(), upload.id)
    told = vault.entries()[-1]
    assert (told.action, told.outcome, told.actor) == ("abandon", "done", "local:alice")
    assert (told.model, told.details) == ("m", {"upload": upload.id})
    for call in (
        lambda: vault.broker.abandon(vault.caller(), upload.id),
        lambda: vault.broker.commit(vault.caller(), upload.id, draft),
    ):
        with pytest.raises(NotFound) as caught:
            call()
        assert caught.value.code == "no_upload"
    with pytest.raises(NotFound):
        vault.ledger.key(upload.artifact)
    assert vault.push("m", FILES).version == 1


def test_what_is_published_is_not_given_up(vault: Vault) -> None:
    upload, draft = vault.upload("m", FILES)
    vault.broker.commit(vault.caller(), upload.id, draft)
    with pytest.raises(Conflict) as caught:
        vault.broker.abandon(vault.caller(), upload.id)
    assert caught.value.code == "upload_closed"
    assert vault.load("m") == FILES


@pytest.mark.parametrize("sub", ["bob", "alice2"])
def test_somebody_elses_upload_is_not_given_up(vault: Vault, sub: str) -> None:
    upload, draft = vault.upload("m", FILES)
    with pytest.raises(NotFound) as caught:
        vault.broker.abandon(vault.caller(sub), upload.id)
    with pytest.raises(NotFound) as absent:
        vault.broker.abandon(vault.caller(sub), "0" * 32)
    assert (caught.value.code, caught.value.message) == (absent.value.code, absent.value.message)
    assert vault.broker.commit(vault.caller(), upload.id, draft).version == 1


def test_an_upload_that_is_given_up_while_it_is_committed(vault: Vault) -> None:
    upload, draft = vault.upload("m", FILES)

    def abandon(name: str) -> None:
        if name == "publish":
            vault.ledger.before = lambda _name: None
            vault.broker.abandon(vault.caller(), upload.id)

    vault.ledger.before = abandon
    with pytest.raises(NotFound) as caught:
        vault.broker.commit(vault.caller(), upload.id, draft)
    assert caught.value.code == "no_upload"
    assert vault.ledger.versions("default", "m") == []


def test_too_many_open_uploads(vault: Vault) -> None:
    broker = vault.with_terms(max_open_uploads=2)
    vault.broker = broker
    vault.open("m", FILES)
    vault.open("m", FILES)
    with pytest.raises(AccessDenied) as caught:
        vault.open("m", FILES)
    assert caught.value.code == "too_many_uploads"
    assert vault.entries()[-1].outcome == "denied"
    vault.open("m", FILES, caller=vault.caller("bob"))
    vault.clock.advance(3600 + 1)
    vault.open("m", FILES)


def test_an_upload_counts_while_it_lives(vault: Vault) -> None:
    """And goes on, though it stopped counting."""
    vault.broker = vault.with_terms(max_open_uploads=1)
    upload, draft = vault.upload("m", FILES)
    vault.clock.advance(2 * 3600)
    vault.open("m", FILES)
    with pytest.raises(AccessDenied) as caught:
        vault.open("m", FILES)
    assert caught.value.details["resets_at"] == to_text(vault.clock() + 3_600_000)
    assert vault.broker.commit(vault.caller(), upload.id, draft).version == 1


def test_a_bound_token_is_good_for_its_own_key(vault: Vault) -> None:
    key, recipient, nonce = one_time()
    hashed = key_hash(recipient.suite, recipient.public_key)
    mine = vault.caller(bound_to=hashed)
    ask = push_ask("m", {"empty": b""}, recipient, nonce)
    upload = vault.broker.open_version(mine, ask)
    _, another, _ = one_time()
    with pytest.raises(AuthenticationError) as caught:
        vault.broker.open_version(mine, push_ask("m", FILES, another, nonce))
    assert caught.value.code == "bound_to_other_key"
    with pytest.raises(InvalidRequest):  # it is let in, and then the empty draft is refused
        vault.broker.commit(mine, upload.id, Draft(files=()))
    del key


def test_a_rotation_between_key_and_row(vault: Vault) -> None:
    def rotate(name: str) -> None:
        if name == "begin":
            vault.ledger.before = lambda _name: None
            vault.broker.rotate(vault.caller(), "m")

    vault.ledger.before = rotate
    vault.push("m", FILES)
    assert vault.keys.count("data_key") == 3  # the model's content key, and a DEK twice
    assert vault.load("m") == FILES


def test_rotations_that_never_end(vault: Vault) -> None:
    def refuse(name: str) -> None:
        if name == "begin":
            raise Conflict("kek_moved", "again")

    vault.ledger.before = refuse
    with pytest.raises(Conflict):
        vault.open("m", FILES)
    assert vault.keys.count("data_key") == 1 + 4


def test_other_conflicts_at_the_beginning_are_told(vault: Vault) -> None:
    def refuse(name: str) -> None:
        if name == "begin":
            raise Conflict("busy", "busy")

    vault.ledger.before = refuse
    with pytest.raises(Conflict, match="busy"):
        vault.open("m", FILES)
    assert vault.keys.count("data_key") == 1 + 1


@pytest.mark.parametrize("fails", ["begin", "after begin", "seal"])
def test_the_dek_is_wiped_whatever_happens(
    vault: Vault, fails: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    real = vault.keyring.data_key

    def data_key(key: str, context: bytes) -> object:
        dek, wrapped = real(key, context)
        made.append(dek)
        return dek, wrapped

    monkeypatch.setattr(vault.keyring, "data_key", data_key)

    def die(name: str) -> None:
        if name == "begin":
            raise Crash(name)

    if fails == "begin":
        vault.ledger.before = die
    elif fails == "after begin":
        vault.ledger.after = die
    else:
        seals = []

        def seal(*args: object) -> bytes:
            seals.append(args)
            if len(seals) == 2:  # the first is the check of the recipient
                raise Crash("seal")
            return b""

        monkeypatch.setattr(hpke, "seal", seal)
    with pytest.raises(Crash):
        vault.open("m", FILES)
    assert [dek.wiped for dek in made] == [True, True]  # the model's content key, and the DEK


def test_the_dek_is_wiped_after_a_push(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    real = vault.keyring.data_key
    monkeypatch.setattr(vault.keyring, "data_key", lambda *a: (made.append(real(*a)), made[-1])[1])
    vault.push("m", FILES)
    assert [dek.wiped for dek, _ in made] == [True, True]


def test_eight_pushes_of_one_name(vault: Vault) -> None:
    ready = threading.Barrier(8)
    got: list[int] = []

    def push(number: int) -> None:
        upload, draft = vault.upload("m", {"n": bytes([number])})
        ready.wait()
        got.append(vault.broker.commit(vault.caller(), upload.id, draft).version)

    threads = [threading.Thread(target=push, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == list(range(1, 9))
    previous = None
    for row in reversed(vault.ledger.versions("default", "m")):
        manifest = Manifest.from_bytes(row.manifest.payload)
        assert manifest.previous == previous
        previous = row.digest


def test_a_head_that_always_moves(vault: Vault) -> None:
    upload, draft = vault.upload("m", FILES)

    def refuse(name: str) -> None:
        if name == "publish":
            raise Conflict("head_moved", "again")

    vault.ledger.before = refuse
    with pytest.raises(Conflict) as caught:
        vault.broker.commit(vault.caller(), upload.id, draft)
    assert caught.value.code == "head_moved"
    assert vault.ledger.count("publish") == 64


def test_a_manifest_that_is_too_large(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    upload, draft = vault.upload("m", FILES)
    monkeypatch.setattr("modelvault.manifest.MAX_BYTES", 200)
    with pytest.raises(InvalidRequest) as caught:
        vault.broker.commit(vault.caller(), upload.id, draft)
    assert caught.value.code == "too_large"


def test_sampling_is_bounded_and_random(vault: Vault) -> None:
    files = {f"{n:02}": os.urandom(32 * 10) for n in range(20)}
    broker = vault.with_terms(sampled_segments=8)
    samples = []
    for _ in range(2):
        upload, draft = vault.upload("m", files)
        reads = []
        vault.store.before = lambda name, reads=reads: reads.append(name)
        broker.commit(vault.caller(), upload.id, draft)
        vault.store.before = lambda _name: None
        samples.append(reads.count("read_into"))
    assert samples == [20 * 2 + 8] * 2  # leaf list and header of each file, and the sample


def test_a_store_that_is_away_publishes_nothing(vault: Vault) -> None:
    upload, draft = vault.upload("m", FILES)

    def away(_name: str) -> None:
        raise Unavailable("store_unavailable", "gone")

    vault.store.before = away
    with pytest.raises(Unavailable):
        vault.broker.commit(vault.caller(), upload.id, draft)
    vault.store.before = lambda _name: None
    assert vault.broker.commit(vault.caller(), upload.id, draft).version == 1


def points(run: Callable[[], None], *spies: object) -> int:
    """How many port calls a walk makes."""
    before = sum(len(spy.calls) for spy in spies)
    run()
    return sum(len(spy.calls) for spy in spies) - before


def test_a_crash_at_every_call_of_a_commit(vault: Vault) -> None:
    """Whole or not there; the same commit again finishes it; the next push works."""
    spies = (vault.ledger, vault.store, vault.keys)
    upload, draft = vault.upload("m", FILES)
    count = points(lambda: vault.broker.commit(vault.caller(), upload.id, draft), *spies)
    assert count > 20
    version = 1
    for nth in range(1, count + 1):
        for when in ("before", "after") if nth == count else ("before",):
            upload, draft = vault.upload("m", FILES)
            hook = crash_at_call(nth)
            for spy in spies:
                setattr(spy, when, hook)
            caller = vault.caller()
            with pytest.raises(Crash):
                vault.broker.commit(caller, upload.id, draft)
            for spy in spies:
                setattr(spy, when, lambda _name: None)
            version += 1
            assert vault.broker.commit(vault.caller(), upload.id, draft).version == version
    assert vault.load("m") == FILES
    assert len(vault.ledger.versions("default", "m")) == version


def test_sha256_vaults(folder: Path) -> None:
    with opened(folder, digest_alg="sha256") as vault:
        vault.create("m")
        published = vault.push("m", FILES)
        manifest = Manifest.from_bytes(published.signed.manifest.payload)
        assert all(file.digest.startswith("sha256:") for file in manifest.files)
        assert vault.load("m") == FILES


def test_the_geometry_is_the_vaults(vault: Vault) -> None:
    upload, _ = vault.open("m", FILES)
    assert (upload.segment_length, upload.digest_alg) == (SEGMENT, "blake3")
