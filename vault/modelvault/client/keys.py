"""The client's end of sealed file keys."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import msgspec

from modelvault.crypto import hpke
from modelvault.crypto.derive import KEY_BYTES
from modelvault.crypto.hpke import RecipientKey
from modelvault.crypto.secret import Secret
from modelvault.errors import IntegrityError
from modelvault.identity.binding import key_hash
from modelvault.lease import Recipient, Suite


class PushKeys(msgspec.Struct, frozen=True):
    """The keys of one push, by path: what its files are encrypted with, and what their content tags
    are made with."""

    files: Mapping[str, Secret]
    contents: Mapping[str, Secret]

    def wipe(self) -> None:
        """Wipe all of them."""
        wipe(self.files)
        wipe(self.contents)


class OneTimeKey:
    """A fresh HPKE recipient key and a nonce: one for each ask, dropped once it was answered."""

    def __init__(self, suite: Suite = "mlkem768-x25519") -> None:
        self._key: RecipientKey = hpke.generate(suite)
        self.recipient = Recipient(suite, self._key.public)
        self.nonce = os.urandom(16)
        self.hash = key_hash(suite, self._key.public)

    def open(self, sealed: bytes, info: bytes, paths: Sequence[str]) -> dict[str, Secret]:
        """The FileKeys of a lease by path. The caller wipes them.

        Raises IntegrityError: `not_for_us` when anything that `info` says differs from what the
        broker sealed for, `bad_keys` when there isn't one key for each path.
        """
        return dict(zip(paths, self._keys(sealed, info, len(paths)), strict=True))

    def open_push(self, sealed: bytes, info: bytes, paths: Sequence[str]) -> PushKeys:
        """The keys of an upload; errors as `open`. The caller wipes them."""
        keys = self._keys(sealed, info, 2 * len(paths))
        return PushKeys(
            files=dict(zip(paths, keys[: len(paths)], strict=True)),
            contents=dict(zip(paths, keys[len(paths) :], strict=True)),
        )

    def _keys(self, sealed: bytes, info: bytes, count: int) -> list[Secret]:
        with self._key.open(sealed, info) as plain:
            if len(plain) != KEY_BYTES * count:
                raise IntegrityError(
                    "bad_keys",
                    f"{len(plain) / KEY_BYTES:g} keys where {count} were asked for",
                    "don't trust this broker",
                )
            keys = plain.reveal()
            return [
                Secret.copy_of(keys[at : at + KEY_BYTES]) for at in range(0, len(keys), KEY_BYTES)
            ]

    def drop(self) -> None:
        """Forget the private key."""
        self._key.drop()


def wipe(keys: Mapping[str, Secret]) -> None:
    """Wipe all of them."""
    for key in keys.values():
        key.wipe()
