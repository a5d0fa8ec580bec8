"""Audiences of tokens: the vault's own, and those that bind a token to one recipient key.

A token for `modelvault:<vault>` is a bearer token: who has it, is who it says. A token for
`modelvault:<vault>:<key hash>` is of use only to whoever holds the private key, because the
broker seals what it answers to that key and accepts the token for requests that name it alone.
"""

from __future__ import annotations

import base64
import hashlib

_PREFIX = "modelvault:"


def key_hash(suite: str, public_key: bytes) -> str:
    """Base64url SHA-256 of suite || public key, without padding: 43 characters.

    No suite's name is a prefix of another's name followed by a key, since each suite's keys have
    one length: two different pairs never hash the same bytes.
    """
    digest = hashlib.sha256(suite.encode("utf-8") + public_key).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode("ascii")


def plain_audience(vault: str) -> str:
    """The audience of bearer tokens; `vault` is the vault's id, 32 hex digits."""
    return _PREFIX + vault


def bound_audience(vault: str, key_hash: str) -> str:
    """The audience of tokens for requests that name the key with that `key_hash`."""
    return f"{_PREFIX}{vault}:{key_hash}"
