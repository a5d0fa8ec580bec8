"""Keys, sealed to a recipient's key. DEKs come in and nothing but ciphertext goes out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from modelvault.crypto import derive, hpke
from modelvault.crypto.derive import KEY_BYTES
from modelvault.crypto.secret import Secret
from modelvault.lease import Recipient


def check_recipient(recipient: Recipient) -> None:
    """Refuse a key that can't be sealed to, before anything is made or charged for it.

    Raises InvalidRequest: `unknown_suite`, `bad_recipient`.
    """
    with Secret(bytearray(1)) as nothing:
        hpke.seal(nothing, recipient.suite, recipient.public_key, b"")


def seal_file_keys(
    files: Sequence[tuple[str, str]],
    deks: Mapping[str, Secret],
    recipient: Recipient,
    info: bytes,
) -> bytes:
    """HPKE over the FileKeys of (artifact, path) one after the other, 32 bytes each.

    `deks` are the DEKs by artifact; the caller wipes them. All that is derived is wiped here.
    """
    plain = bytearray(KEY_BYTES * len(files))
    with Secret(plain) as keys:
        for at, (artifact, path) in enumerate(files):
            with derive.file_key(deks[artifact], artifact, path) as key:
                plain[at * KEY_BYTES : (at + 1) * KEY_BYTES] = key.reveal()
        return hpke.seal(keys, recipient.suite, recipient.public_key, info)


def seal_deks(deks: Sequence[Secret], recipient: Recipient, info: bytes) -> bytes:
    """HPKE over whole DEKs one after the other: only ever for another vault's broker, whose word
    for `recipient` was verified. The caller wipes the DEKs; the copy in here is wiped here."""
    plain = bytearray(KEY_BYTES * len(deks))
    with Secret(plain) as keys:
        for at, dek in enumerate(deks):
            plain[at * KEY_BYTES : (at + 1) * KEY_BYTES] = dek.reveal()
        return hpke.seal(keys, recipient.suite, recipient.public_key, info)
