"""What a broker or a store may answer, and what of it is believed."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import NamedTuple

import msgspec
import pytest

from modelvault import canonical
from modelvault.artifact.trust import Seen, successor, verify
from modelvault.crypto.dsse import Envelope, Signature
from modelvault.errors import IntegrityError
from modelvault.manifest import PAYLOAD_TYPE
from modelvault.record import (
    MAX_RECORD,
    MODEL_TYPE,
    TAG_TYPE,
    TRUST_TYPE,
    ModelRecord,
    SignedVersion,
    TrustFile,
)
from modelvault.reference import Reference
from support.documents import (
    VAULT,
    Keys,
    entry,
    manifest,
    model_record,
    signed_version,
    tag_record,
)

KEYS = Keys()
TRUST = KEYS.trust()
SEVEN = manifest(version=7)
EIGHT = manifest(version=8, labels={"newer": "yes"})
RECORD = model_record(serial=3)
TAG = tag_record(SEVEN, serial=5)
GOOD = signed_version(KEYS, SEVEN, RECORD, TAG)
UNTAGGED = signed_version(KEYS, SEVEN, RECORD)
DIGEST = GOOD.manifest.digest
replace = msgspec.structs.replace


def ask(text: str) -> Reference:
    return Reference.parse(text)


@pytest.mark.parametrize(
    ("text", "signed"),
    [
        ("m:prod", GOOD),
        ("m@7", UNTAGGED),
        (f"m@{DIGEST}", UNTAGGED),
        ("m", UNTAGGED),
        ("default/m:prod", GOOD),
    ],
)
def test_believed(text: str, signed: SignedVersion) -> None:
    verified = verify(signed, ask(text), TRUST, Seen())
    assert verified.manifest == SEVEN
    assert verified.model == RECORD
    assert verified.tag == (TAG if ":" in text.removeprefix("m@sha256:") else None)
    assert verified.digest == DIGEST
    assert verified.seen.versions == {"default/m@7": DIGEST}
    assert verified.seen.models == {"default/m": 3}
    assert verified.seen.tags == ({"default/m:prod": 5} if verified.tag else {})


def test_what_was_seen_is_kept_and_grows() -> None:
    before = Seen({"default/m:dev": 9}, {"other/x": 2}, {"default/m@6": "sha256:00"})
    seen = verify(GOOD, ask("m:prod"), TRUST, before).seen
    assert seen.tags == {"default/m:dev": 9, "default/m:prod": 5}
    assert seen.models == {"other/x": 2, "default/m": 3}
    assert seen.versions == {"default/m@6": "sha256:00", "default/m@7": DIGEST}
    assert before.tags == {"default/m:dev": 9}
    assert verify(GOOD, ask("m:prod"), TRUST, seen).seen == seen


def test_a_tag_that_moved_forward_or_back_with_a_higher_serial_is_followed() -> None:
    seen = verify(GOOD, ask("m:prod"), TRUST, Seen()).seen
    moved = signed_version(KEYS, EIGHT, RECORD, tag_record(EIGHT, serial=6))
    seen = verify(moved, ask("m:prod"), TRUST, seen).seen
    back = signed_version(KEYS, SEVEN, RECORD, tag_record(SEVEN, serial=7))
    assert verify(back, ask("m:prod"), TRUST, seen).manifest.version == 7


def raw(kind: str, purpose: str, payload: bytes, keys: Keys = KEYS) -> Envelope:
    return keys.sign(purpose, kind, payload)  # type: ignore[arg-type]


def with_payload(change: Callable[[bytes], bytes]) -> SignedVersion:
    """The good version with a manifest whose payload is properly signed but changed."""
    payload = change(canonical.encode(SEVEN))
    return replace(UNTAGGED, manifest=raw(PAYLOAD_TYPE, "manifest", payload))


def unsigned(envelope: Envelope) -> Envelope:
    return replace(envelope, signatures=())


def forged(envelope: Envelope) -> Envelope:
    (signature,) = envelope.signatures
    return replace(envelope, signatures=(Signature(signature.keyid, bytes(64)),))


class Case(NamedTuple):
    name: str
    code: str
    signed: SignedVersion
    text: str = "m@7"


OTHER_KEYS = Keys(seed=2)
OTHER_VAULT = "ee" * 16
EIGHT_SIGNED = signed_version(KEYS, EIGHT, RECORD)
DEEP = b'{"x":' + b"[" * 40 + b"]" * 40 + b"}"

CASES = [
    # signatures
    Case("unsigned_manifest", "unknown_key", replace(UNTAGGED, manifest=unsigned(GOOD.manifest))),
    Case("unsigned_model", "unknown_key", replace(UNTAGGED, model=unsigned(GOOD.model))),
    Case("unsigned_tag", "unknown_key", replace(GOOD, tag=unsigned(GOOD.tag)), "m:prod"),
    Case("forged_manifest", "bad_signature", replace(UNTAGGED, manifest=forged(GOOD.manifest))),
    Case("forged_model", "bad_signature", replace(UNTAGGED, model=forged(GOOD.model))),
    Case("forged_tag", "bad_signature", replace(GOOD, tag=forged(GOOD.tag)), "m:prod"),
    Case(
        "changed_payload",
        "bad_signature",
        replace(UNTAGGED, manifest=replace(GOOD.manifest, payload=canonical.encode(EIGHT))),
    ),
    Case("foreign_keys", "unknown_key", signed_version(OTHER_KEYS, SEVEN, RECORD)),
    Case(
        "manifest_by_foreign_key", "unknown_key",
        replace(UNTAGGED, manifest=OTHER_KEYS.signed(SEVEN)),
    ),
    Case(
        "manifest_by_the_record_key", "unknown_key",
        replace(UNTAGGED, manifest=raw(PAYLOAD_TYPE, "record", canonical.encode(SEVEN))),
    ),
    Case(
        "model_by_the_manifest_key", "unknown_key",
        replace(UNTAGGED, model=raw(MODEL_TYPE, "manifest", canonical.encode(RECORD))),
    ),
    Case(
        "tag_by_the_log_key", "unknown_key",
        replace(GOOD, tag=raw(TAG_TYPE, "log", canonical.encode(TAG))), "m:prod",
    ),
    Case("model_record_as_manifest", "wrong_type", replace(UNTAGGED, manifest=GOOD.model)),
    Case("manifest_as_model_record", "wrong_type", replace(UNTAGGED, model=GOOD.manifest)),
    Case("model_record_as_tag", "wrong_type", replace(GOOD, tag=GOOD.model), "m:prod"),
    # another vault, model, tag or version
    Case(
        "manifest_of_another_vault", "wrong_vault",
        signed_version(KEYS, replace(SEVEN, vault=OTHER_VAULT), RECORD),
    ),
    Case(
        "model_of_another_vault", "wrong_vault",
        signed_version(KEYS, SEVEN, replace(RECORD, vault=OTHER_VAULT)),
    ),
    Case(
        "tag_of_another_vault", "wrong_vault",
        signed_version(KEYS, SEVEN, RECORD, replace(TAG, vault=OTHER_VAULT)), "m:prod",
    ),
    Case(
        "manifest_of_another_model", "wrong_model",
        signed_version(KEYS, replace(SEVEN, model="n"), RECORD),
    ),
    Case(
        "manifest_of_another_tenant", "wrong_model",
        signed_version(KEYS, replace(SEVEN, tenant="acme"), RECORD),
    ),
    Case(
        "model_record_of_another_model", "wrong_model",
        signed_version(KEYS, SEVEN, replace(RECORD, model="n")),
    ),
    Case("everything_of_another_model", "wrong_model", UNTAGGED, "n@7"),
    Case("everything_of_another_tenant", "wrong_model", UNTAGGED, "acme/m@7"),
    Case(
        "tag_of_another_model", "wrong_model",
        signed_version(KEYS, SEVEN, RECORD, replace(TAG, model="n")), "m:prod",
    ),
    Case("tag_record_of_another_tag", "wrong_tag", GOOD, "m:dev"),
    Case("no_tag_record", "missing_tag_record", UNTAGGED, "m:prod"),
    Case("tag_record_for_no_tag", "unexpected_tag_record", GOOD, "m@7"),
    Case(
        "tag_means_another_version", "wrong_version",
        replace(GOOD, manifest=EIGHT_SIGNED.manifest), "m:prod",
    ),
    Case(
        "tag_with_another_digest", "wrong_version",
        signed_version(KEYS, SEVEN, RECORD, replace(TAG, manifest="sha256:" + "00" * 32)),
        "m:prod",
    ),
    Case(
        "tag_with_another_number", "wrong_version",
        signed_version(KEYS, SEVEN, RECORD, replace(TAG, version=8)), "m:prod",
    ),
    Case("seven_answered_with_eight", "wrong_version", EIGHT_SIGNED, "m@7"),
    Case("another_digest", "wrong_digest", EIGHT_SIGNED, f"m@{DIGEST}"),
    # contents
    Case("deep", "too_deep", with_payload(lambda _data: DEEP)),
    Case("duplicate_key", "bad_json", with_payload(lambda data: data[:-1] + b',"version":7}')),
    Case("float", "bad_json", with_payload(lambda data: data.replace(b':7', b':7.0'))),
    Case("cut", "bad_json", with_payload(lambda data: data[:-1])),
    Case("not_utf8", "bad_json", with_payload(lambda data: data.replace(b"alice", b"al\xffce"))),
    Case("unknown_field", "bad_document", with_payload(lambda data: data[:-1] + b',"z":1}')),
    Case(
        "unknown_schema", "bad_document",
        with_payload(lambda data: data.replace(b'"schema":1', b'"schema":2')),
    ),
    Case(
        "path_outside", "bad_document",
        with_payload(lambda data: data.replace(b"model.bin", b"../x.bin")),
    ),
    Case(
        "object_twice", "bad_document",
        signed_version(KEYS, replace(SEVEN, files=(entry("a"), entry("b"))), RECORD),
    ),
    Case(
        "model_record_over_limit", "too_large",
        replace(
            UNTAGGED,
            model=raw(MODEL_TYPE, "record", canonical.encode(RECORD) + b" " * MAX_RECORD),
        ),
    ),
    Case(
        "model_record_is_a_tag_record", "bad_document",
        replace(UNTAGGED, model=raw(MODEL_TYPE, "record", canonical.encode(TAG))),
    ),
    Case(
        "tag_record_deep", "too_deep",
        replace(GOOD, tag=raw(TAG_TYPE, "record", DEEP)), "m:prod",
    ),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_refused(case: Case) -> None:
    with pytest.raises(IntegrityError) as error:
        verify(case.signed, ask(case.text), TRUST, Seen())
    assert error.value.code == case.code
    assert error.value.message.isprintable()


def test_a_manifest_over_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelvault.manifest.MAX_BYTES", len(canonical.encode(SEVEN)))
    assert verify(UNTAGGED, ask("m@7"), TRUST, Seen()).manifest == SEVEN
    with pytest.raises(IntegrityError) as error:
        verify(with_payload(lambda data: data + b" "), ask("m@7"), TRUST, Seen())
    assert error.value.code == "too_large"


def test_every_refusal_of_a_document_that_doesnt_fit_says_what_to_do() -> None:
    codes = {"wrong_vault", "wrong_model", "wrong_tag", "wrong_version", "wrong_digest"}
    for case in CASES:
        if case.code in codes | {"missing_tag_record", "unexpected_tag_record", "unknown_key"}:
            with pytest.raises(IntegrityError) as error:
                verify(case.signed, ask(case.text), TRUST, Seen())
            assert error.value.hint, case.name


@pytest.mark.parametrize(
    ("seen", "what"),
    [
        (Seen(tags={"default/m:prod": 6}), "the tag record of default/m:prod"),
        (Seen(models={"default/m": 4}), "the model record of default/m"),
        (Seen(versions={"default/m@7": "sha256:" + "00" * 32}), "default/m@7"),
    ],
)
def test_rollback(seen: Seen, what: str) -> None:
    with pytest.raises(IntegrityError) as error:
        verify(GOOD, ask("m:prod"), TRUST, seen)
    assert error.value.code == "rollback"
    assert what in error.value.message
    assert error.value.hint


@pytest.mark.parametrize(
    "seen",
    [
        Seen(tags={"default/m:prod": 5, "default/m:dev": 99, "n/m:prod": 99}),
        Seen(models={"default/m": 3, "acme/m": 99}),
        Seen(versions={"default/m@7": DIGEST, "default/m@8": "sha256:00"}),
    ],
)
def test_the_same_again_and_others_serials_are_fine(seen: Seen) -> None:
    assert verify(GOOD, ask("m:prod"), TRUST, seen).digest == DIGEST


def test_a_trust_file_of_another_vault_believes_nothing() -> None:
    with pytest.raises(IntegrityError) as error:
        verify(GOOD, ask("m:prod"), KEYS.trust(OTHER_VAULT), Seen())
    assert error.value.code == "wrong_vault"


def test_documents_in_their_json_form_are_the_same() -> None:
    text = json.dumps(msgspec.to_builtins(GOOD))
    again = canonical.convert(json.loads(text), SignedVersion, what="answer")
    assert verify(again, ask("m:prod"), TRUST, Seen()).manifest.vault == VAULT


class TestSuccessors:
    """Who may put another trust file in the place of the one that is pinned."""

    HELD = KEYS.trust()
    NEXT = replace(KEYS.trust(), serial=2)

    def sign(self, made: TrustFile, purpose: str = "record", kind: str = TRUST_TYPE) -> Envelope:
        return KEYS.sign(purpose, kind, made.to_bytes())  # type: ignore[arg-type]

    def test_taken(self) -> None:
        assert successor(self.sign(self.NEXT), self.HELD) == self.NEXT
        much_later = replace(self.NEXT, serial=9, keys=self.HELD.keys[:1])
        assert successor(self.sign(much_later), self.HELD) == much_later

    @pytest.mark.parametrize(
        ("made", "purpose", "kind", "code"),
        [
            (replace(NEXT, serial=1), "record", TRUST_TYPE, "rollback"),
            (replace(NEXT, vault="ff" * 16), "record", TRUST_TYPE, "wrong_vault"),
            (NEXT, "manifest", TRUST_TYPE, "unknown_key"),
            (NEXT, "record", MODEL_TYPE, "wrong_type"),
            (
                replace(NEXT, keys=tuple(replace(key, purpose="log") for key in NEXT.keys)),
                "record", TRUST_TYPE, "key_reused",
            ),
        ],
    )  # fmt: skip
    def test_refused(self, made: TrustFile, purpose: str, kind: str, code: str) -> None:
        with pytest.raises(IntegrityError) as caught:
            successor(self.sign(made, purpose, kind), self.HELD)
        assert caught.value.code == code

    def test_by_another_vaults_key_or_under_this_ones_name(self) -> None:
        theirs = Keys(seed=2).sign("record", TRUST_TYPE, self.NEXT.to_bytes())
        with pytest.raises(IntegrityError) as caught:
            successor(theirs, self.HELD)
        assert caught.value.code == "unknown_key"
        ours = self.sign(self.NEXT).signatures[0].keyid
        named = replace(theirs, signatures=(replace(theirs.signatures[0], keyid=ours),))
        with pytest.raises(IntegrityError) as caught:
            successor(named, self.HELD)
        assert caught.value.code == "bad_signature"

    def test_by_a_key_that_is_retired(self) -> None:
        """It may have been lost since: it makes no new keys believed."""
        when = "2026-01-01T00:00:00.000Z"
        held = replace(
            self.HELD,
            keys=tuple(
                replace(key, retired=when) if key.purpose == "record" else key
                for key in self.HELD.keys
            ),
        )
        with pytest.raises(IntegrityError) as caught:
            successor(self.sign(self.NEXT), held)
        assert caught.value.code == "unknown_key"


@pytest.mark.parametrize(
    ("record", "told"),
    [
        (replace(RECORD, vault=OTHER_VAULT), True),
        (RECORD, False),  # of this vault, by its own word: then the trust file may be old
    ],
    ids=["another_vault", "this_vault"],
)
def test_the_trust_file_of_another_vault(record: ModelRecord, told: bool) -> None:
    """Both vaults are named where the answer says that it is of another one."""
    signed = signed_version(OTHER_KEYS, SEVEN, record)
    with pytest.raises(IntegrityError) as caught:
        verify(signed, ask("m@7"), TRUST, Seen())
    assert caught.value.code == "unknown_key"
    assert (OTHER_VAULT in caught.value.message and VAULT in caught.value.message) == told
    assert ("MODELVAULT_TRUST" in caught.value.hint) == told


def test_a_record_that_is_none_tells_nothing() -> None:
    broken = replace(unsigned(UNTAGGED.model), payload=b'{"vault":"' + b"ee" * 16 + b'"}')
    with pytest.raises(IntegrityError) as caught:
        verify(replace(UNTAGGED, model=broken), ask("m@7"), TRUST, Seen())
    assert caught.value.code == "unknown_key"
    assert OTHER_VAULT not in caught.value.message
