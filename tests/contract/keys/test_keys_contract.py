"""Contract of KeyService, KeyAdmin and Signer."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import get_args

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from modelvault.crypto import derive, dsse
from modelvault.crypto.secret import Secret
from modelvault.errors import (
    Conflict,
    IntegrityError,
    InvalidRequest,
    ModelVaultError,
    NotFound,
    Unavailable,
)
from modelvault.ports.keys import SigningPurpose, WrappedKey

VAULT = "ab" * 16
KEK = derive.kek_name(VAULT, "default", "minilm")
OTHER = derive.kek_name(VAULT, "default", "other")
CONTEXT = derive.key_context(VAULT, "default", "minilm", "01" * 16)
OTHER_CONTEXT = derive.key_context(VAULT, "default", "minilm", "02" * 16)
PURPOSES: tuple[SigningPurpose, ...] = get_args(SigningPurpose)


def refused(family: type[ModelVaultError], code: str, call: Callable[[], object]) -> None:
    with pytest.raises(family) as caught:
        call()
    assert caught.value.code == code


class TestDataKeys:
    @pytest.fixture(autouse=True)
    def _kek(self, keys) -> None:
        keys.admin.create(KEK)
        keys.admin.create(OTHER)

    def test_a_data_key_unwraps_to_itself_again_and_again(self, keys) -> None:
        dek, wrapped = keys.service.data_key(KEK, CONTEXT)
        assert len(dek) == 32
        assert wrapped.kek_version == 1
        for _ in range(2):
            assert keys.service.unwrap(KEK, wrapped, CONTEXT) == dek

    def test_each_data_key_is_another(self, keys) -> None:
        made = [keys.service.data_key(KEK, CONTEXT) for _ in range(8)]
        assert len({bytes(dek.reveal()) for dek, _ in made}) == 8
        assert len({wrapped.wrapped for _, wrapped in made}) == 8

    def test_the_wrapped_form_doesnt_hold_the_key(self, keys) -> None:
        dek, wrapped = keys.service.data_key(KEK, CONTEXT)
        assert bytes(dek.reveal()) not in wrapped.wrapped

    def test_callers_may_wipe_what_they_got(self, keys) -> None:
        dek, wrapped = keys.service.data_key(KEK, CONTEXT)
        copy = bytes(dek.reveal())
        dek.wipe()
        first = keys.service.unwrap(KEK, wrapped, CONTEXT)
        first.wipe()
        assert bytes(keys.service.unwrap(KEK, wrapped, CONTEXT).reveal()) == copy

    @pytest.mark.parametrize(
        ("key", "context"), [(OTHER, CONTEXT), (KEK, OTHER_CONTEXT), (KEK, bytes(32))]
    )
    def test_another_kek_or_context_opens_nothing(self, keys, key: str, context: bytes) -> None:
        _, wrapped = keys.service.data_key(KEK, CONTEXT)
        refused(
            IntegrityError, "bad_wrapped_key", lambda: keys.service.unwrap(key, wrapped, context)
        )

    def test_a_dek_of_another_vault(self, keys) -> None:
        """Wrapped here it is one of ours: it unwraps, rotates and is bound to its context."""
        brought = Secret.random(32)
        keys.admin.rotate(KEK)
        wrapped = keys.service.wrap(KEK, brought, CONTEXT)
        assert wrapped.kek_version == 2
        assert len(wrapped.wrapped) == len(keys.service.data_key(KEK, CONTEXT)[1].wrapped)
        assert bytes(brought.reveal()) not in wrapped.wrapped
        assert keys.service.unwrap(KEK, wrapped, CONTEXT) == brought
        assert keys.service.wrap(KEK, brought, CONTEXT).wrapped != wrapped.wrapped
        keys.admin.rotate(KEK)
        (rewrapped,) = keys.admin.rewrap(KEK, [(wrapped, CONTEXT)])
        assert keys.service.unwrap(KEK, rewrapped, CONTEXT) == brought
        for key, context in ((OTHER, CONTEXT), (KEK, OTHER_CONTEXT)):
            refused(
                IntegrityError,
                "bad_wrapped_key",
                lambda key=key, context=context: keys.service.unwrap(key, wrapped, context),
            )

    def test_what_cant_be_wrapped(self, keys) -> None:
        brought = Secret.random(32)
        missing = derive.kek_name(VAULT, "default", "nobody-made-me")
        with pytest.raises((NotFound, Unavailable)):  # transit denies the making of a key
            keys.service.wrap(missing, brought, CONTEXT)
        refused(NotFound, "no_kek", lambda: keys.admin.versions(missing))
        for size in (0, 16, 33):
            refused(
                InvalidRequest,
                "bad_dek",
                lambda size=size: keys.service.wrap(KEK, Secret.random(size), CONTEXT),
            )

    @pytest.mark.parametrize("change", ["flip first", "flip last", "cut", "extend", "empty"])
    def test_altered_bytes(self, keys, change: str) -> None:
        _, wrapped = keys.service.data_key(KEK, CONTEXT)
        data = wrapped.wrapped
        altered = {
            "flip first": bytes([data[0] ^ 1]) + data[1:],
            "flip last": data[:-1] + bytes([data[-1] ^ 1]),
            "cut": data[:-1],
            "extend": data + b"\0",
            "empty": b"",
        }[change]
        bad = WrappedKey(altered, 1)
        refused(IntegrityError, "bad_wrapped_key", lambda: keys.service.unwrap(KEK, bad, CONTEXT))
        refused(IntegrityError, "bad_wrapped_key", lambda: keys.admin.rewrap(KEK, [(bad, CONTEXT)]))

    @pytest.mark.parametrize("version", [2, 10**9, 0, -1])
    def test_a_version_that_it_isnt_under(self, keys, version: int) -> None:
        _, wrapped = keys.service.data_key(KEK, CONTEXT)
        keys.admin.rotate(KEK)
        bad = WrappedKey(wrapped.wrapped, version)
        refused(IntegrityError, "bad_wrapped_key", lambda: keys.service.unwrap(KEK, bad, CONTEXT))

    def test_many_threads(self, keys) -> None:
        dek, wrapped = keys.service.data_key(KEK, CONTEXT)
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda _: keys.service.unwrap(KEK, wrapped, CONTEXT), range(64)))
        assert all(key == dek for key in found)


class TestWithoutKek:
    def test_nothing_makes_one_on_the_way(self, keys) -> None:
        wrapped = WrappedKey(bytes(60), 1)
        for call in (
            lambda: keys.service.data_key(KEK, CONTEXT),
            lambda: keys.service.unwrap(KEK, wrapped, CONTEXT),
            lambda: keys.admin.rotate(KEK),
            lambda: keys.admin.versions(KEK),
            lambda: keys.admin.rewrap(KEK, [(wrapped, CONTEXT)]),
            lambda: keys.admin.retire(KEK, 1),
        ):
            refused(NotFound, "no_kek", call)
        keys.admin.create(KEK)
        assert keys.admin.versions(KEK) == (1, 1)

    def test_creating_twice(self, keys) -> None:
        keys.admin.create(KEK)
        _, wrapped = keys.service.data_key(KEK, CONTEXT)
        refused(Conflict, "kek_exists", lambda: keys.admin.create(KEK))
        keys.service.unwrap(KEK, wrapped, CONTEXT)

    def test_many_create_it_once(self, keys) -> None:
        def create(_: int) -> str:
            try:
                keys.admin.create(KEK)
            except Conflict as error:
                return error.code
            return "made"

        with ThreadPoolExecutor(8) as pool:
            told = list(pool.map(create, range(8)))
        assert set(told) <= {"kek_exists", "made"}
        assert "made" in told
        # One key, whoever made it: what was wrapped under it opens, and it has one version.
        _, wrapped = keys.service.data_key(KEK, CONTEXT)
        assert create(8) == "kek_exists"
        assert keys.admin.versions(KEK) == (1, 1)
        keys.service.unwrap(KEK, wrapped, CONTEXT)


class TestRotation:
    @pytest.fixture(autouse=True)
    def _kek(self, keys) -> None:
        keys.admin.create(KEK)
        keys.admin.create(OTHER)

    def test_new_keys_use_the_new_version_and_old_ones_still_open(self, keys) -> None:
        old_dek, old = keys.service.data_key(KEK, CONTEXT)
        assert keys.admin.rotate(KEK) == 2
        assert keys.admin.versions(KEK) == (1, 2)
        _, new = keys.service.data_key(KEK, CONTEXT)
        assert new.kek_version == 2
        assert keys.service.unwrap(KEK, old, CONTEXT) == old_dek
        assert keys.admin.versions(OTHER) == (1, 1)

    def test_rewrapping_keeps_the_keys_and_their_order(self, keys) -> None:
        contexts = [CONTEXT, OTHER_CONTEXT, CONTEXT]
        made = [keys.service.data_key(KEK, context) for context in contexts]
        keys.admin.rotate(KEK)
        batch = [(wrapped, context) for (_, wrapped), context in zip(made, contexts, strict=True)]
        rewrapped = keys.admin.rewrap(KEK, batch)
        assert [wrapped.kek_version for wrapped in rewrapped] == [2, 2, 2]
        for (dek, _), wrapped, context in zip(made, rewrapped, contexts, strict=True):
            assert keys.service.unwrap(KEK, wrapped, context) == dek

    def test_rewrapping_what_is_newest_already(self, keys) -> None:
        dek, wrapped = keys.service.data_key(KEK, CONTEXT)
        (again,) = keys.admin.rewrap(KEK, [(wrapped, CONTEXT)])
        assert again.kek_version == 1
        assert keys.service.unwrap(KEK, again, CONTEXT) == dek

    def test_rewrapping_nothing_and_two_hundred(self, keys) -> None:
        assert keys.admin.rewrap(KEK, []) == []
        _, wrapped = keys.service.data_key(KEK, CONTEXT)
        assert len(keys.admin.rewrap(KEK, [(wrapped, CONTEXT)] * 200)) == 200

    def test_rewrapping_is_all_or_nothing(self, keys) -> None:
        _, wrapped = keys.service.data_key(KEK, CONTEXT)
        batch = [(wrapped, CONTEXT), (wrapped, OTHER_CONTEXT)]
        refused(IntegrityError, "bad_wrapped_key", lambda: keys.admin.rewrap(KEK, batch))

    def test_a_retired_version_opens_nothing(self, keys) -> None:
        dek, old = keys.service.data_key(KEK, CONTEXT)
        keys.admin.rotate(KEK)
        (new,) = keys.admin.rewrap(KEK, [(old, CONTEXT)])
        keys.admin.retire(KEK, 2)
        assert keys.admin.versions(KEK) == (2, 2)
        refused(Conflict, "kek_version_retired", lambda: keys.service.unwrap(KEK, old, CONTEXT))
        refused(Conflict, "kek_version_retired", lambda: keys.admin.rewrap(KEK, [(old, CONTEXT)]))
        assert keys.service.unwrap(KEK, new, CONTEXT) == dek
        assert keys.admin.rotate(KEK) == 3

    def test_retiring_again_or_lower_changes_nothing(self, keys) -> None:
        for _ in range(3):
            keys.admin.rotate(KEK)
        for below in (3, 3, 2, 1):
            keys.admin.retire(KEK, below)
            assert keys.admin.versions(KEK) == (3, 4)

    def test_retiring_takes_no_other_kek_along(self, keys) -> None:
        dek, wrapped = keys.service.data_key(OTHER, CONTEXT)
        keys.admin.rotate(KEK)
        keys.admin.retire(KEK, 2)
        assert keys.service.unwrap(OTHER, wrapped, CONTEXT) == dek

    def test_rotating_from_many_threads_loses_none(self, keys) -> None:
        with ThreadPoolExecutor(8) as pool:
            told = list(pool.map(lambda _: keys.admin.rotate(KEK), range(12)))
        assert sorted(told) == list(range(2, 14))
        assert keys.admin.versions(KEK) == (1, 13)


class TestSigning:
    @pytest.mark.parametrize("purpose", PURPOSES)
    def test_signatures_verify_and_name_their_key(self, keys, purpose: SigningPurpose) -> None:
        public = keys.signer.public_key(purpose)
        signature = keys.signer.sign(purpose, b"message")
        assert signature.keyid == dsse.keyid(public)
        Ed25519PublicKey.from_public_bytes(public).verify(signature.sig, b"message")

    def test_one_key_one_purpose(self, keys) -> None:
        assert len({keys.signer.public_key(purpose) for purpose in PURPOSES}) == len(PURPOSES)

    @pytest.mark.parametrize("size", [0, 1, 1 << 20])
    def test_messages_of_any_size(self, keys, size: int) -> None:
        message = bytes(size)
        signature = keys.signer.sign("manifest", message)
        public = keys.signer.public_key("manifest")
        Ed25519PublicKey.from_public_bytes(public).verify(signature.sig, message)

    def test_many_threads(self, keys) -> None:
        with ThreadPoolExecutor(8) as pool:
            signed = set(pool.map(lambda _: keys.signer.sign("log", b"m").sig, range(32)))
        assert len(signed) == 1  # Ed25519 is deterministic


class TestExchangingSigningKeys:
    def test_the_new_key_signs_and_the_old_one_still_can(self, keys) -> None:
        old = keys.signing.public_key("record")
        others = {purpose: keys.signer.public_key(purpose) for purpose in PURPOSES}
        new = keys.signing.rotate_signing("record")
        assert new != old
        assert keys.signing.public_key("record") == new
        assert keys.signer.public_key("record") == new
        assert keys.signer.sign("record", b"m").keyid == dsse.keyid(new)
        for key in (old, new):
            signature = keys.signing.sign_with("record", key, b"m")
            assert signature.keyid == dsse.keyid(key)
            Ed25519PublicKey.from_public_bytes(key).verify(signature.sig, b"m")
        for purpose in set(PURPOSES) - {"record"}:
            assert keys.signer.public_key(purpose) == others[purpose]

    def test_keys_that_it_never_had(self, keys) -> None:
        strange = (bytes(32), keys.signing.public_key("manifest"))
        for key in strange:
            refused(
                NotFound,
                "no_signing_key",
                lambda key=key: keys.signing.sign_with("record", key, b"m"),
            )
