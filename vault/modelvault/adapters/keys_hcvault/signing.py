"""`SigningAdmin` over transit: for an administrator's token, which no broker has."""

from __future__ import annotations

import base64
import binascii
from typing import Any

from modelvault.adapters.keys_hcvault.connection import Connection, unavailable
from modelvault.adapters.keys_hcvault.service import data_of
from modelvault.adapters.keys_hcvault.signer import asked, key_name, newest_key, signed
from modelvault.crypto import dsse
from modelvault.crypto.dsse import Signature
from modelvault.errors import NotFound
from modelvault.ports.keys import SigningPurpose


class HcvaultSigningAdmin:
    """A version of a purpose's key is a key of its own, as others see it. Thread-safe."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def public_key(self, purpose: SigningPurpose) -> bytes:
        """See `SigningAdmin`."""
        return _raw(newest_key(self._connection, key_name(purpose), "ed25519")[1])

    def rotate_signing(self, purpose: SigningPurpose) -> bytes:
        """See `SigningAdmin`."""
        asked(
            self._connection,
            lambda client: client.secrets.transit.rotate_key(
                name=key_name(purpose), mount_point=self._connection.mount
            ),
        )
        return self.public_key(purpose)

    def sign_with(self, purpose: SigningPurpose, public_key: bytes, message: bytes) -> Signature:
        """See `SigningAdmin`."""
        name = key_name(purpose)
        for version, raw in self._keys(name).items():
            if raw == public_key:
                options = {"key_version": version}
                _, signature = signed(self._connection, name, message, options)
                return Signature(dsse.keyid(public_key), signature)
        raise NotFound("no_signing_key", f"no {purpose} key is that one", "see the trust file")

    def _keys(self, name: str) -> dict[int, bytes]:
        answer: Any = asked(
            self._connection,
            lambda client: client.secrets.transit.read_key(
                name=name, mount_point=self._connection.mount
            ),
        )
        keys = data_of(answer).get("keys")
        if not isinstance(keys, dict):
            raise unavailable("its answer can't be read")
        return {int(version): _raw(key.get("public_key")) for version, key in keys.items()}


def _raw(text: object) -> bytes:
    try:
        key = base64.b64decode(text, validate=True)  # type: ignore[arg-type]
    except (binascii.Error, TypeError, ValueError):
        raise unavailable("its public key can't be read") from None
    if len(key) != 32:
        raise unavailable("its public key isn't Ed25519")
    return key
