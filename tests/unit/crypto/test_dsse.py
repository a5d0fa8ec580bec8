"""DSSE envelopes: what is signed, what is refused, and how strictly they are parsed."""

from __future__ import annotations

import base64
import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from modelvault.crypto import dsse
from modelvault.crypto.dsse import Envelope, Signature
from modelvault.errors import IntegrityError
from oracle import second_writer

KIND = "application/vnd.example+json"
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(32))
PUBLIC = KEY.public_key().public_bytes_raw()
KEYS = {dsse.keyid(PUBLIC): PUBLIC}


def signer(key: Ed25519PrivateKey):
    def sign(message: bytes) -> Signature:
        return Signature(dsse.keyid(key.public_key().public_bytes_raw()), key.sign(message))

    return sign


def envelope(payload: bytes = b'{"a":1}', key: Ed25519PrivateKey = KEY) -> Envelope:
    return dsse.sign(KIND, payload, signer(key))


def test_pae_of_the_specification() -> None:
    encoded = dsse.pae("http://example.com/HelloWorld", b"hello world")
    assert encoded == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    assert dsse.pae("é", b"") == "DSSEv1 2 é 0 ".encode()


def test_round_trip_and_the_second_writers_envelope() -> None:
    ours = envelope()
    assert dsse.verify(ours, KIND, KEYS, "it") == b'{"a":1}'
    text = ours.to_bytes()
    assert Envelope.from_bytes(text, limit=1000, what="it") == ours
    assert json.loads(text) == second_writer.signed(KIND, {"a": 1}, KEY)


@pytest.mark.parametrize(
    ("made", "code"),
    [
        (Envelope("text/plain", b"", envelope(b"").signatures), "wrong_type"),
        (envelope(key=OTHER), "unknown_key"),
        (Envelope(KIND, b"", ()), "unknown_key"),
        (Envelope(KIND, b'{"a":2}', envelope().signatures), "bad_signature"),
        (Envelope(KIND, b"", (Signature(dsse.keyid(PUBLIC), b""),)), "bad_signature"),
        (
            Envelope(KIND, b'{"a":1}', (Signature(dsse.keyid(PUBLIC), OTHER.sign(b"x")),)),
            "bad_signature",
        ),
    ],
)
def test_refused(made: Envelope, code: str) -> None:
    with pytest.raises(IntegrityError) as error:
        dsse.verify(made, KIND, KEYS, "the letter")
    assert error.value.code == code
    assert "the letter" in error.value.message


def test_a_type_that_was_signed_as_another_is_a_bad_signature() -> None:
    signatures = dsse.sign("other/type", b"{}", signer(KEY)).signatures
    with pytest.raises(IntegrityError) as error:
        dsse.verify(Envelope(KIND, b"{}", signatures), KIND, KEYS, "it")
    assert error.value.code == "bad_signature"


def test_one_good_signature_of_several_is_enough() -> None:
    bad = Signature(dsse.keyid(PUBLIC), bytes(64))
    foreign = envelope(key=OTHER).signatures[0]
    made = Envelope(KIND, b'{"a":1}', (foreign, bad, *envelope().signatures))
    assert dsse.verify(made, KIND, KEYS, "it") == b'{"a":1}'


def parsed(**changes: object) -> Envelope:
    document = json.loads(envelope().to_bytes()) | changes
    return Envelope.from_bytes(json.dumps(document).encode(), limit=5000, what="it")


def signature(**changes: object) -> dict:
    return json.loads(envelope().to_bytes())["signatures"][0] | changes


@pytest.mark.parametrize(
    "changes",
    [
        {"signatures": []},
        {"signatures": [signature()] * 9},
        {"signatures": [signature(keyid="sha256:00")]},
        {"signatures": [signature(keyid="sha256:" + "0" * 64 + "\n")]},
        {"signatures": [signature(sig="")]},
        {"signatures": [signature(sig=base64.b64encode(bytes(63)).decode())]},
        {"signatures": [signature(sig="A" * 85 + "B==")]},
        {"signatures": [signature(extra=1)]},
        {"payload": "eyJhIjoxfR=="},
        {"payload": "eyJhIjoxfQ"},
        {"payload": "eyJh IjoxfQ=="},
        {"payload": "eyJh\nIjoxfQ=="},
        {"payload": "-_8="},
        {"payload": 1},
        {"payload": None},
        {"payloadType": 7},
        {"extra": 1},
    ],
)
def test_strict_parsing(changes: dict) -> None:
    with pytest.raises(IntegrityError) as error:
        parsed(**changes)
    assert error.value.code == "bad_document"


def test_white_space_around_is_fine_and_the_limit_counts() -> None:
    assert parsed() == envelope()
    with pytest.raises(IntegrityError) as error:
        Envelope.from_bytes(envelope().to_bytes(), limit=10, what="it")
    assert error.value.code == "too_large"


def test_the_digest_is_of_the_payload_alone() -> None:
    assert envelope().digest == envelope(key=OTHER).digest
    assert envelope().digest == second_writer.keyid(b'{"a":1}')
