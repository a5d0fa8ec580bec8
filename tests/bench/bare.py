"""The key service alone."""

from __future__ import annotations

import base64
import secrets

import hvac

from support.servers.hcvault import ROOT
from support.servers.stack import Stack


class Bare:
    """The key service by hvac: one decrypt, as a lease needs it."""

    def __init__(self, made: Stack) -> None:
        self._client = hvac.Client(url=made.hcvault.address, token=ROOT)
        self._transit = self._client.secrets.transit
        self._mount = made.mount
        self._name = f"bench-{secrets.token_hex(4)}"
        self._context = base64.b64encode(b"a context of the benchmark").decode()
        self._transit.create_key(self._name, derived=True, mount_point=self._mount)
        made_key = self._transit.generate_data_key(
            self._name, "plaintext", context=self._context, mount_point=self._mount
        )
        self._wrapped = made_key["data"]["ciphertext"]

    def decrypt(self) -> None:
        self._transit.decrypt_data(
            self._name, self._wrapped, context=self._context, mount_point=self._mount
        )
