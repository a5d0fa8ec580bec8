"""DEKs under a KEK: AES-256-GCM under a key of the KEK's version and the context.

A wrapped DEK is IV (12 random bytes) || ciphertext (32) || tag (16), 60 bytes. The context is in
the derivation, the KEK's name and version are in the associated data: under another of any of them
nothing opens.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidTag

from modelvault.adapters.keys_local.document import Kek
from modelvault.adapters.keys_local.sealing import Seals, seal, unseal
from modelvault.crypto import derive
from modelvault.crypto.derive import KEY_BYTES
from modelvault.crypto.secret import Secret
from modelvault.errors import Conflict, IntegrityError, InvalidRequest
from modelvault.ports.keys import WrappedKey

CONTEXT_BYTES = 32


def wrap(seals: Seals, key: str, kek: Kek, dek: Secret, context: bytes) -> WrappedKey:
    """The DEK under the newest version. InvalidRequest (`bad_context`) unless it is 32 bytes."""
    if len(context) != CONTEXT_BYTES:
        raise InvalidRequest(
            "bad_context",
            f"a key context is {CONTEXT_BYTES} bytes",
            "take it from derive.key_context",
        )
    newest = kek.versions[-1]
    with (
        seals.open_kek(key, newest.version, newest.sealed) as unsealed,
        derive.expand(unsealed, derive.LOCAL_DEK, context) as wrapping,
    ):
        return WrappedKey(seal(wrapping, dek, _bound(key, newest.version)), newest.version)


def unwrap(seals: Seals, key: str, kek: Kek, wrapped: WrappedKey, context: bytes) -> Secret:
    """The DEK. Conflict (`kek_version_retired`), IntegrityError (`bad_wrapped_key`)."""
    version = wrapped.kek_version
    if 1 <= version < kek.floor:
        raise Conflict(
            "kek_version_retired",
            f"version {version} of the KEK is retired; the lowest in use is {kek.floor}",
            "read the wrapped key again: a rotation has rewrapped it",
        )
    if not kek.floor <= version <= kek.newest:
        raise _bad_wrapped_key()
    entry = kek.versions[version - kek.floor]
    try:
        with (
            seals.open_kek(key, version, entry.sealed) as unsealed,
            derive.expand(unsealed, derive.LOCAL_DEK, context) as wrapping,
        ):
            dek = unseal(wrapping, wrapped.wrapped, _bound(key, version))
    except InvalidTag:
        raise _bad_wrapped_key() from None
    if len(dek) != KEY_BYTES:
        dek.wipe()
        raise _bad_wrapped_key()
    return dek


def _bound(key: str, version: int) -> bytes:
    return f"{key}\0{version}".encode()


def _bad_wrapped_key() -> IntegrityError:
    return IntegrityError(
        "bad_wrapped_key",
        "the wrapped key doesn't belong to this model and artifact, or was altered",
        "restore it from the copy in the object store",
    )
