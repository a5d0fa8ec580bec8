"""`Signer` and `BundleSigner` over transit: one key for each purpose, which never leaves it."""

from __future__ import annotations

import base64
import binascii
import threading
from collections.abc import Mapping
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from modelvault.adapters.keys_hcvault.connection import Connection, Refused, unavailable
from modelvault.adapters.keys_hcvault.service import data_of
from modelvault.crypto import dsse
from modelvault.crypto.dsse import Signature
from modelvault.errors import InvalidRequest
from modelvault.ports.keys import SigningPurpose

OPA_KEY = "sign-opa"


def key_name(purpose: SigningPurpose) -> str:
    """The name of a purpose's key in the mount."""
    return f"sign-{purpose}"


class HcvaultSigner:
    """Ed25519, each purpose through the identity that may sign for it. Thread-safe."""

    def __init__(self, connections: Mapping[SigningPurpose, Connection]) -> None:
        self._connections = dict(connections)
        self._known: dict[SigningPurpose, tuple[int, bytes]] = {}
        self._lock = threading.Lock()

    def sign(self, purpose: SigningPurpose, message: bytes) -> Signature:
        """The newest key's signature, verified before it is believed."""
        connection = self._connection(purpose)
        version, signature = signed(connection, key_name(purpose), message, {})
        public_key = self._public_key(purpose, version)
        try:
            Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
        except (InvalidSignature, ValueError):
            raise unavailable("it made a signature that doesn't verify") from None
        return Signature(dsse.keyid(public_key), signature)

    def public_key(self, purpose: SigningPurpose) -> bytes:
        """The raw 32-byte public key of the purpose's newest key."""
        return self._read(purpose)[1]

    def _public_key(self, purpose: SigningPurpose, version: int) -> bytes:
        with self._lock:
            known = self._known.get(purpose)
        if known is None or known[0] != version:
            known = self._read(purpose)
            with self._lock:
                self._known[purpose] = known
        if known[0] != version:
            raise unavailable("its signing key was rotated just now")
        return known[1]

    def _read(self, purpose: SigningPurpose) -> tuple[int, bytes]:
        version, text = newest_key(self._connection(purpose), key_name(purpose), "ed25519")
        try:
            key = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            raise unavailable("its public key can't be read") from None
        if len(key) != 32:
            raise unavailable("its public key isn't Ed25519")
        return version, key

    def _connection(self, purpose: SigningPurpose) -> Connection:
        found = self._connections.get(purpose)
        if found is None:
            raise InvalidRequest(
                "no_signing_key",
                f"this process has no identity that may sign as {purpose}",
                "ask a broker that is served with --role steward or both",
            )
        return found


class HcvaultBundleSigner:
    """ECDSA P-256 for OPA's bundles. Thread-safe."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def sign(self, message: bytes) -> bytes:
        """Signature r || s, 64 bytes, verified before it is believed."""
        options = {"marshaling_algorithm": "jws", "hash_algorithm": "sha2-256"}
        _, signature = signed(self._connection, OPA_KEY, message, options)
        halves = (int.from_bytes(signature[:32]), int.from_bytes(signature[32:]))
        key = serialization.load_pem_public_key(self.public_pem().encode())
        try:
            if not isinstance(key, ec.EllipticCurvePublicKey):
                raise unavailable("its key for bundles isn't ECDSA")
            key.verify(encode_dss_signature(*halves), message, ec.ECDSA(hashes.SHA256()))
        except (InvalidSignature, ValueError):
            raise unavailable("it made a signature that doesn't verify") from None
        return signature

    def public_pem(self) -> str:
        """The public key as PEM (SubjectPublicKeyInfo)."""
        return newest_key(self._connection, OPA_KEY, "ecdsa-p256")[1]


def signed(
    connection: Connection, name: str, message: bytes, options: Mapping[str, object]
) -> tuple[int, bytes]:
    """(key version, 64 bytes) of a signature; `options` as transit takes them."""
    answer = asked(
        connection,
        lambda client: client.secrets.transit.sign_data(
            name=name,
            hash_input=base64.b64encode(message).decode("ascii"),
            mount_point=connection.mount,
            **options,
        ),
    )
    text = data_of(answer).get("signature")
    parts = text.split(":") if isinstance(text, str) else []
    try:
        version = int(parts[1].removeprefix("v"))
        signature = base64.b64decode(
            parts[2].replace("-", "+").replace("_", "/") + "=" * (-len(parts[2]) % 4), validate=True
        )
    except (IndexError, ValueError):
        raise unavailable("its signature can't be read") from None
    if len(parts) != 3 or parts[0] != "vault" or len(signature) != 64:
        raise unavailable("its signature can't be read")
    return version, signature


def newest_key(connection: Connection, name: str, kind: str) -> tuple[int, str]:
    """(version, public key as transit writes it) of a signing key's newest version."""
    answer = asked(
        connection,
        lambda client: client.secrets.transit.read_key(name=name, mount_point=connection.mount),
    )
    data = data_of(answer)
    version, keys = data.get("latest_version"), data.get("keys")
    key = keys.get(str(version)) if isinstance(keys, dict) else None
    text = key.get("public_key") if isinstance(key, dict) else None
    if data.get("type") != kind or type(version) is not int or not isinstance(text, str):
        raise unavailable(f"its key {name} isn't what this vault made")
    return version, text


def asked(connection: Connection, ask: Any) -> Any:  # noqa: ANN401  hvac has no types
    """The answer. What the key service refuses about its own signing keys is an outage."""
    try:
        return connection.call(ask)
    except Refused:
        raise unavailable("it lacks a signing key of this vault") from None
