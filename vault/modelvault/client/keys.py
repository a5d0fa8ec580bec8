"""The client's end of sealed file keys."""

from __future__ import annotations

import os
from collections.abc import Sequence

from modelvault.crypto import hpke
from modelvault.crypto.derive import KEY_BYTES
from modelvault.crypto.hpke import RecipientKey
from modelvault.crypto.secret import Secret
from modelvault.errors import IntegrityError
from modelvault.identity.binding import key_hash
from modelvault.lease import Recipient, Suite


class OneTimeKey:
    """A fresh HPKE recipient key and a nonce: one for each ask, dropped once it was answered."""

    def __init__(self, suite: Suite = "mlkem768-x25519") -> None:
        self._key: RecipientKey = hpke.generate(suite)
        self.recipient = Recipient(suite, self._key.public)
        self.nonce = os.urandom(16)
        self.hash = key_hash(suite, self._key.public)

    def open(self, sealed: bytes, info: bytes, paths: Sequence[str]) -> dict[str, Secret]:
        """The FileKeys by path. The caller wipes them.

        Raises IntegrityError: `not_for_us` when anything that `info` says differs from what the
        broker sealed for, `bad_keys` when there isn't one key for each path.
        """
        with self._key.open(sealed, info) as plain:
            if len(plain) != KEY_BYTES * len(paths):
                raise IntegrityError(
                    "bad_keys",
                    f"keys for {len(plain) / KEY_BYTES:g} files where {len(paths)} were granted",
                    "don't trust this broker",
                )
            keys = plain.reveal()
            return {
                path: Secret.copy_of(keys[at * KEY_BYTES : (at + 1) * KEY_BYTES])
                for at, path in enumerate(paths)
            }

    def drop(self) -> None:
        """Forget the private key."""
        self._key.drop()


def wipe(keys: dict[str, Secret]) -> None:
    """Wipe all of them."""
    for key in keys.values():
        key.wipe()
