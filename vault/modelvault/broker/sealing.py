"""Keys, sealed to a recipient's key. DEKs come in and nothing but ciphertext goes out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain

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
    derived = (derive.file_key(deks[artifact], artifact, path) for artifact, path in files)
    return _seal(derived, len(files), recipient, info)


def seal_push_keys(
    artifact: str,
    paths: Sequence[str],
    dek: Secret,
    content: Secret,
    recipient: Recipient,
    info: bytes,
) -> bytes:
    """HPKE over the FileKeys of the paths, one after the other, and their content keys behind.

    `dek` and the model's content key are the caller's to wipe; all that is derived is wiped here.
    """
    derived = chain(
        (derive.file_key(dek, artifact, path) for path in paths),
        (derive.content_key(content, path) for path in paths),
    )
    return _seal(derived, 2 * len(paths), recipient, info)


def _seal(derived: Iterable[Secret], count: int, recipient: Recipient, info: bytes) -> bytes:
    def fill(out: memoryview) -> None:
        for at, key in enumerate(derived):
            with key:
                out[at * KEY_BYTES : (at + 1) * KEY_BYTES] = key.reveal()

    with Secret.filled(KEY_BYTES * count, fill) as keys:
        return hpke.seal(keys, recipient.suite, recipient.public_key, info)


def seal_deks(deks: Sequence[Secret], recipient: Recipient, info: bytes) -> bytes:
    """HPKE over whole DEKs one after the other: only ever for another vault's broker, whose word
    for `recipient` was verified. The caller wipes the DEKs; the copy in here is wiped here."""

    def fill(out: memoryview) -> None:
        for at, dek in enumerate(deks):
            out[at * KEY_BYTES : (at + 1) * KEY_BYTES] = dek.reveal()

    with Secret.filled(KEY_BYTES * len(deks), fill) as keys:
        return hpke.seal(keys, recipient.suite, recipient.public_key, info)
