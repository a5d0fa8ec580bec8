"""Signed documents: DSSE v1 envelopes over Ed25519 (github.com/secure-systems-lab/dsse).

`keyid` is `sha256:` and the SHA-256 of the raw 32-byte public key, in lowercase hex.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Annotated

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from msgspec import Meta

from modelvault import canonical
from modelvault.errors import IntegrityError

MAX_SIGNATURES = 8  # each costs a verification over the whole payload
_HINT = "it was altered or exchanged: restore it from a copy, or ask who runs the vault"

KeyId = Annotated[str, Meta(pattern=r"^sha256:[0-9a-f]{64}\Z")]


class Signature(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One Ed25519 signature (64 bytes) over the PAE of the payload, and the key it names."""

    keyid: KeyId
    sig: Annotated[bytes, Meta(min_length=64, max_length=64)]


class Envelope(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"payload_type": "payloadType"}
):
    """A payload, its media type, and the signatures over both."""

    payload_type: str
    payload: bytes
    signatures: Annotated[tuple[Signature, ...], Meta(min_length=1, max_length=MAX_SIGNATURES)]

    @property
    def digest(self) -> str:
        """`sha256:` and the hash of the payload: what other documents call this one by."""
        return "sha256:" + hashlib.sha256(self.payload).hexdigest()

    def to_bytes(self) -> bytes:
        """The envelope as canonical JSON."""
        return canonical.encode(self)

    @classmethod
    def from_bytes(cls, data: bytes | memoryview, *, limit: int, what: str) -> Envelope:
        """Parse strictly; IntegrityError when it isn't an envelope or is over `limit` bytes."""
        envelope = canonical.decode(data, cls, limit=limit, what=what)
        written = canonical.encode(envelope)
        if written != data and written != canonical.dumps(canonical.loads(data, limit)):
            # Base64 has spare bits at its end: two texts would be one signature.
            raise IntegrityError(
                "bad_document", f"{what}: base64 that isn't in its only form", _HINT
            )
        return envelope


def keyid(public_key: bytes) -> str:
    """The name of a raw Ed25519 public key."""
    return "sha256:" + hashlib.sha256(public_key).hexdigest()


def pae(payload_type: str, payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding: what is really signed."""
    kind = payload_type.encode("utf-8")
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def sign(payload_type: str, payload: bytes, signature: Callable[[bytes], Signature]) -> Envelope:
    """An envelope with one signature, which `signature` makes over the PAE."""
    return Envelope(payload_type, payload, (signature(pae(payload_type, payload)),))


def verify(
    envelope: Envelope, payload_type: str, public_keys: dict[str, bytes], what: str
) -> bytes:
    """The payload, once a key of `public_keys` ({keyid: 32 raw bytes}) has signed it as that type.

    Raises IntegrityError: `wrong_type`, `unknown_key` (no signature names a trusted key) or
    `bad_signature`. `what` names the document in the message.
    """
    if envelope.payload_type != payload_type:
        raise IntegrityError("wrong_type", f"{what} is signed as another kind of document", _HINT)
    trusted = [entry for entry in envelope.signatures if entry.keyid in public_keys]
    if not trusted:
        raise IntegrityError(
            "unknown_key",
            f"{what} isn't signed by a key that the trust file names for this purpose",
            "it may be of another vault, or the trust file is old: compare the vault ids, then "
            "fetch the trust file again from where you first got it",
        )
    message = pae(payload_type, envelope.payload)
    for entry in trusted:
        try:
            Ed25519PublicKey.from_public_bytes(public_keys[entry.keyid]).verify(entry.sig, message)
        except (InvalidSignature, ValueError):
            continue
        return envelope.payload
    raise IntegrityError(
        "bad_signature", f"the signature of {what} doesn't fit its contents", _HINT
    )
