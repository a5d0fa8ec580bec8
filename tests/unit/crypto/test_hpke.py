"""HPKE: both suites, fixed vectors, and keys that must be refused."""

from __future__ import annotations

import copy
import json
import pickle

import pytest

from modelvault.crypto import hpke
from modelvault.crypto.secret import Secret
from modelvault.errors import IntegrityError, InvalidRequest
from vectors import make_hpke

SIZES = {hpke.HYBRID: (1216, 1120), hpke.CLASSIC: (32, 32)}
VECTORS = [json.loads(path.read_text()) for path in sorted(make_hpke.FOLDER.glob("*.json"))]


@pytest.fixture(params=hpke.SUITES)
def suite(request: pytest.FixtureRequest) -> str:
    return request.param


def test_round_trip_and_sizes(suite: str) -> None:
    recipient = hpke.generate(suite)
    public, overhead = SIZES[suite]
    assert len(recipient.public) == public
    sealed = hpke.seal(Secret.copy_of(b"k" * 64), suite, recipient.public, b"info")
    assert len(sealed) == overhead + 64 + 16
    assert recipient.open(sealed, b"info") == Secret.copy_of(b"k" * 64)


def test_default_is_the_hybrid() -> None:
    assert hpke.generate().suite == hpke.HYBRID


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["suite"])
def test_fixed_key_and_ciphertext(vector: dict) -> None:
    mlkem = bytes.fromhex(vector["mlkem768_seed"]) if vector["mlkem768_seed"] else None
    key = make_hpke.recipient(vector["suite"], mlkem, bytes.fromhex(vector["x25519_private"]))
    assert key.public.hex() == vector["public"]
    opened = key.open(bytes.fromhex(vector["sealed"]), bytes.fromhex(vector["info"]))
    assert bytes(opened.reveal()).hex() == vector["plaintext"]


def test_there_is_a_vector_for_each_suite() -> None:
    assert {vector["suite"] for vector in VECTORS} == set(hpke.SUITES)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda sealed: b"",
        lambda sealed: sealed[:15],
        lambda sealed: sealed[:-1],
        lambda sealed: sealed + b"\0",
        lambda sealed: bytes([sealed[0] ^ 1]) + sealed[1:],
        lambda sealed: sealed[:-1] + bytes([sealed[-1] ^ 1]),
        lambda sealed: bytes(len(sealed)),
        lambda sealed: bytes(32) + sealed[32:],
        lambda sealed: sealed[:-112] + bytes(32) + sealed[-80:],
    ],
)
def test_spoilt_ciphertexts_arent_for_us(suite: str, spoil) -> None:
    recipient = hpke.generate(suite)
    sealed = hpke.seal(Secret.copy_of(b"k" * 64), suite, recipient.public, b"info")
    with pytest.raises(IntegrityError) as error:
        recipient.open(spoil(sealed), b"info")
    assert error.value.code == "not_for_us"
    assert error.value.__cause__ is None


def test_other_info_or_recipient_isnt_for_us(suite: str) -> None:
    recipient = hpke.generate(suite)
    sealed = hpke.seal(Secret.copy_of(b"k" * 32), suite, recipient.public, b"info")
    for key, info in ((recipient, b"Info"), (recipient, b""), (hpke.generate(suite), b"info")):
        with pytest.raises(IntegrityError) as error:
            key.open(sealed, info)
        assert error.value.code == "not_for_us"


def test_a_suite_doesnt_open_the_other() -> None:
    hybrid, classic = hpke.generate(hpke.HYBRID), hpke.generate(hpke.CLASSIC)
    for sender, receiver in ((hybrid, classic), (classic, hybrid)):
        sealed = hpke.seal(Secret.copy_of(b"k" * 32), sender.suite, sender.public, b"")
        with pytest.raises(IntegrityError):
            receiver.open(sealed, b"")


LOW_ORDER = [
    bytes(32),
    b"\1" + bytes(31),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    b"\xec" + b"\xff" * 30 + b"\x7f",
    b"\xed" + b"\xff" * 30 + b"\x7f",
    b"\xee" + b"\xff" * 30 + b"\x7f",
]


@pytest.mark.parametrize("point", LOW_ORDER, ids=lambda point: point.hex()[:6])
def test_low_order_keys_are_refused(suite: str, point: bytes) -> None:
    public = hpke.generate(suite).public[:-32] + point
    with pytest.raises(InvalidRequest) as error:
        hpke.seal(Secret.copy_of(b"k" * 32), suite, public, b"")
    assert error.value.code == "bad_recipient"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda public: b"",
        lambda public: public[:-1],
        lambda public: public + b"\0",
        lambda public: bytes(len(public)),
        lambda public: public * 2,
    ],
)
def test_malformed_keys_are_refused(suite: str, spoil) -> None:
    with pytest.raises(InvalidRequest) as error:
        hpke.seal(Secret.copy_of(b"k" * 32), suite, spoil(hpke.generate(suite).public), b"")
    assert error.value.code == "bad_recipient"


def test_an_encapsulation_key_beyond_the_modulus_is_refused() -> None:
    public = b"\xff" * 1184 + hpke.generate(hpke.CLASSIC).public
    with pytest.raises(InvalidRequest) as error:
        hpke.seal(Secret.copy_of(b"k" * 32), hpke.HYBRID, public, b"")
    assert error.value.code == "bad_recipient"


def test_unknown_suites_are_refused() -> None:
    for use in (hpke.generate, lambda name: hpke.seal(Secret.random(32), name, b"", b"")):
        with pytest.raises(InvalidRequest) as error:
            use("p256")
        assert error.value.code == "unknown_suite"


def test_a_dropped_key_opens_nothing(suite: str) -> None:
    recipient = hpke.generate(suite)
    sealed = hpke.seal(Secret.copy_of(b"k" * 32), suite, recipient.public, b"")
    recipient.drop()
    with pytest.raises(InvalidRequest) as error:
        recipient.open(sealed, b"")
    assert error.value.code == "wiped"


@pytest.mark.parametrize("take", [pickle.dumps, copy.copy, copy.deepcopy, vars])
def test_a_private_key_cant_be_taken_along(suite: str, take) -> None:
    recipient = hpke.generate(suite)
    with pytest.raises(TypeError):
        take(recipient)
    with pytest.raises(TypeError):
        recipient.__getstate__()
    assert repr(recipient) == f"<RecipientKey {suite}>"
