"""`KeyService` over transit: data keys with a context, made there or brought by a copy."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from typing import Any, TypeVar

from modelvault.adapters.keys_hcvault.connection import Connection, Refused, unavailable
from modelvault.crypto.derive import KEY_BYTES
from modelvault.crypto.secret import Secret
from modelvault.errors import (
    Conflict,
    IntegrityError,
    InvalidRequest,
    ModelVaultError,
    NotFound,
)
from modelvault.ports.keys import WrappedKey

T = TypeVar("T")

# hvac puts names into URLs as they are: only names that derive.kek_name makes get there.
_KEY = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}", re.ASCII)
_WRAPPED = re.compile(r"vault:v([1-9][0-9]{0,9}):([A-Za-z0-9+/]{80})", re.ASCII)
_WRAPPED_BYTES = 60  # 12 of nonce, 32 of key, 16 of tag
_TOO_OLD = "version is disallowed by policy (too old)"
_NO_KEY = ("encryption key not found", "no existing key named", "key not found")
_BAD = (
    "message authentication failed",
    "invalid ciphertext",
    "could not decode",
    "no prefix",
    "unable to decrypt",
    "version is disallowed by policy (too new)",
    "version is too new",
)


class HcvaultKeys:
    """The broker's identity: it may have data keys made, wrapped and unwrapped. Thread-safe."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def data_key(self, key: str, context: bytes) -> tuple[Secret, WrappedKey]:
        """A fresh 32-byte DEK, and the same wrapped by the KEK's newest version."""
        name = checked(key)
        answer = asked(
            key,
            lambda: self._connection.call(
                lambda client: client.secrets.transit.generate_data_key(
                    name=name,
                    key_type="plaintext",
                    context=encoded(context),
                    mount_point=self._connection.mount,
                )
            ),
        )
        data = data_of(answer)
        return secret_of(data.get("plaintext")), wrapped_of(data.get("ciphertext"))

    def wrap(self, key: str, dek: Secret, context: bytes) -> WrappedKey:
        """A DEK that another vault made, under the KEK's newest version. On its way to hvac it is
        text, which can't be wiped, as in `unwrap`."""
        if len(dek) != KEY_BYTES:
            raise InvalidRequest("bad_dek", f"a DEK is {KEY_BYTES} bytes", "ask who sent it")
        name = checked(key)
        answer = asked(
            key,
            lambda: self._connection.call(
                lambda client: client.secrets.transit.encrypt_data(
                    name=name,
                    plaintext=base64.b64encode(dek.reveal()).decode("ascii"),
                    context=encoded(context),
                    mount_point=self._connection.mount,
                )
            ),
        )
        return wrapped_of(data_of(answer).get("ciphertext"))

    def unwrap(self, key: str, wrapped: WrappedKey, context: bytes) -> Secret:
        """The DEK. hvac hands it over as text, which can't be wiped: it lives for a moment in
        here and nowhere else (docs/threat-model.md says so)."""
        name, ciphertext = checked(key), text_of(wrapped)
        answer = asked(
            key,
            lambda: self._connection.call(
                lambda client: client.secrets.transit.decrypt_data(
                    name=name,
                    ciphertext=ciphertext,
                    context=encoded(context),
                    mount_point=self._connection.mount,
                )
            ),
        )
        return secret_of(data_of(answer).get("plaintext"))


def checked(key: str) -> str:
    """The name of a KEK, as it may stand in a URL."""
    if not _KEY.fullmatch(key):
        raise no_kek(key)
    return key


def encoded(context: bytes) -> str:
    """Base64, as transit takes bytes."""
    return base64.b64encode(context).decode("ascii")


def asked(key: str, ask: Callable[[], T]) -> T:
    """What was asked for, or the port's error: NotFound (`no_kek`), Conflict
    (`kek_version_retired`), IntegrityError (`bad_wrapped_key`), Unavailable."""
    try:
        return ask()
    except Refused as refused:
        raise error_of(refused.says, key) from None


def error_of(says: str, key: str) -> ModelVaultError:
    """Vault answers 400 to all of these; only its words tell them apart. Words that aren't known
    are no verdict on the key: Unavailable."""
    if _TOO_OLD in says:
        return Conflict(
            "kek_version_retired",
            "the key is wrapped by a version of the KEK that may no longer decrypt",
            "read its row again: a rotation has rewrapped it",
        )
    if any(words in says for words in _NO_KEY) or not says:
        return no_kek(key)
    if any(words in says for words in _BAD):
        return bad_wrapped()
    return unavailable("it refuses a request that it should take")


def no_kek(key: str) -> NotFound:
    """There is no such KEK."""
    return NotFound(
        "no_kek",
        f"the key service has no KEK {key[:64]!r}",
        "KEKs are made by `modelvault create`; check that this is the right mount and namespace",
    )


def bad_wrapped() -> IntegrityError:
    """Another context, another KEK, or other bytes."""
    return IntegrityError(
        "bad_wrapped_key",
        "a wrapped key doesn't open: it was altered, or belongs to another model or artifact",
        "restore the ledger's row from a copy; the key service itself is well",
    )


def data_of(answer: object) -> dict[str, Any]:
    """The `data` of an answer. Raises Unavailable when there is none."""
    data = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(data, dict):
        raise unavailable("its answer can't be read")
    return data


def secret_of(plaintext: object) -> Secret:
    """A DEK out of an answer, in a buffer that can be wiped."""
    try:
        key = bytearray(base64.b64decode(plaintext, validate=True))  # type: ignore[arg-type]
    except (binascii.Error, TypeError, ValueError):
        raise unavailable("its answer can't be read") from None
    if len(key) != KEY_BYTES:
        raise unavailable("its answer holds a key of another length")
    return Secret(key)


def wrapped_of(ciphertext: object) -> WrappedKey:
    """A wrapped key out of an answer: transit's `vault:v<version>:<base64>`, taken apart."""
    matched = _WRAPPED.fullmatch(ciphertext) if isinstance(ciphertext, str) else None
    if matched is None:
        raise unavailable("its answer can't be read")
    return WrappedKey(base64.b64decode(matched[2]), int(matched[1]))


def text_of(wrapped: WrappedKey) -> str:
    """The ciphertext as transit takes it. Raises IntegrityError (`bad_wrapped_key`)."""
    if len(wrapped.wrapped) != _WRAPPED_BYTES or wrapped.kek_version < 1:
        raise bad_wrapped()
    return f"vault:v{wrapped.kek_version}:{encoded(wrapped.wrapped)}"
