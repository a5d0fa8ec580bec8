"""Sets a HashiCorp Vault or OpenBao up from nothing: mount, signing keys, policies, logins.

Run once by somebody who may do all of this, and again whenever it should be as it was: what is
there already is left as it is, policies are written anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import hvac
import msgspec

from modelvault.adapters.keys_hcvault.connection import Connection, Refused, unavailable
from modelvault.adapters.keys_hcvault.login import Granted
from modelvault.adapters.keys_hcvault.server import Server
from modelvault.adapters.keys_hcvault.service import data_of
from modelvault.adapters.keys_hcvault.signer import (
    OPA_KEY,
    HcvaultBundleSigner,
    HcvaultSigner,
    key_name,
)
from modelvault.adapters.keys_hcvault.signing import HcvaultSigningAdmin
from modelvault.clock import Clock, boot_ms
from modelvault.errors import InvalidRequest
from modelvault.ports.keys import SigningPurpose
from modelvault_policies import files

ROLES = ("broker", "steward", "destroyer", "auditor")
PURPOSES: tuple[SigningPurpose, ...] = ("manifest", "record", "log", "bundle")
TOKEN_TTL = "20m"  # noqa: S105  a duration
TOKEN_MAX_TTL = "24h"  # noqa: S105


class Credential(msgspec.Struct, frozen=True, kw_only=True):
    """An AppRole's two halves. The repr shows neither, and it can't be pickled."""

    role_id: str
    secret_id: str

    def __repr__(self) -> str:
        return "<Credential>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a credential can't be pickled")


class GivenToken(msgspec.Struct, frozen=True, kw_only=True):
    """An administrator's token, as a login."""

    token: str

    def log_in(self, client: hvac.Client) -> Granted:  # noqa: ARG002  as the other logins
        """It is used as it is, and not renewed."""
        return Granted(token=self.token, lease_s=0, renewable=False)

    def __repr__(self) -> str:
        return "<GivenToken>"


class Setup:
    """One server, with an administrator's token. All raise Unavailable as Connection does."""

    def __init__(self, server: Server, token: str, clock: Clock = boot_ms) -> None:
        self._server = server
        self._connection = Connection(server, GivenToken(token=token), clock)  # type: ignore[arg-type]

    def mount(self, purposes: Sequence[SigningPurpose] = PURPOSES) -> None:
        """Transit, with a key for each purpose and one for OPA; no KEK is ever made on the way."""
        mount = self._server.mount
        listed = self._call(lambda client: client.sys.list_mounted_secrets_engines())
        found = data_of(listed).get(f"{mount}/")
        if found is None:
            self._call(lambda client: client.sys.enable_secrets_engine("transit", path=mount))
        elif not isinstance(found, dict) or found.get("type") != "transit":
            raise InvalidRequest(
                "bad_key_service", f"{mount} is mounted as another engine", "name another mount"
            )
        self._post(f"{mount}/config/keys", {"disable_upsert": True})
        for purpose in purposes:
            self._key(key_name(purpose), "ed25519")
        self._key(OPA_KEY, "ecdsa-p256")

    def policies(self) -> None:
        """One for each role, under the name `<mount>-<role>`."""
        for role in ROLES:
            text = files.hcvault_policy(role, self._server.mount)
            self._call(
                lambda client, role=role, text=text: client.sys.create_or_update_policy(
                    name=self.policy_name(role), policy=text
                )
            )

    def policy_name(self, role: str) -> str:
        """What a role's policy is called."""
        return f"{self._server.mount}-{role}"

    def approle(self, role: str, mount: str = "approle", role_id: str | None = None) -> Credential:
        """An AppRole with the role's policy alone, under `role_id` where one is given, and a fresh
        secret id of it."""
        methods = self._call(lambda client: client.sys.list_auth_methods())
        if f"{mount}/" not in data_of(methods):
            self._call(lambda client: client.sys.enable_auth_method("approle", path=mount))
        path = f"auth/{mount}/role/{self.policy_name(role)}"
        settings = {
            "token_policies": [self.policy_name(role)],
            "token_no_default_policy": True,
            "token_ttl": TOKEN_TTL,
            "token_max_ttl": TOKEN_MAX_TTL,
        }
        self._post(path, settings)
        if role_id is not None:
            self._post(f"{path}/role-id", {"role_id": role_id})
        told = data_of(self._call(lambda client: client.read(f"{path}/role-id")))
        secret_id = data_of(self._post(f"{path}/secret-id", {}))
        texts = (told.get("role_id"), secret_id.get("secret_id"))
        if not all(isinstance(text, str) and text for text in texts):
            raise unavailable("its answer can't be read")
        return Credential(role_id=str(texts[0]), secret_id=str(texts[1]))

    def signer(self, purposes: Sequence[SigningPurpose] = PURPOSES) -> HcvaultSigner:
        """What signs with the administrator's own rights: for the first documents of a vault."""
        return HcvaultSigner(dict.fromkeys(purposes, self._connection))

    def signing_admin(self) -> HcvaultSigningAdmin:
        """Exchanges signing keys with the administrator's own rights."""
        return HcvaultSigningAdmin(self._connection)

    def bundle_signer(self) -> HcvaultBundleSigner:
        """As `signer`, for OPA's bundles."""
        return HcvaultBundleSigner(self._connection)

    def close(self) -> None:
        """Let go of the connection and forget the token."""
        self._connection.close()

    def _key(self, name: str, kind: str) -> None:
        self._call(
            lambda client: client.secrets.transit.create_key(
                name=name, key_type=kind, mount_point=self._server.mount
            )
        )

    def _post(self, path: str, body: dict[str, Any]) -> Any:  # noqa: ANN401  hvac has no types
        return self._call(lambda client: client.adapter.post(f"/v1/{path}", json=body))

    def _call(self, ask: Any) -> Any:  # noqa: ANN401
        try:
            return self._connection.call(ask)
        except Refused:
            raise InvalidRequest(
                "bad_key_service",
                "the key service refuses a step of its setup",
                "check that the token is an administrator's, and the mount's name is free",
            ) from None
