"""The format written by hand: FLOE, leaf lists and signed documents, nothing of modelvault in it.

All randomness is given from outside, so that the same arguments make the same bytes: failure
vectors and the worked example of docs/format.md are made with it, and what it writes must be
readable by modelvault.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable

import blake3
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from oracle.second_reader import expand, leaf, list_digest


def canonical(document: object) -> bytes:
    """RFC 8785 for documents whose keys are ASCII and whose numbers are small and whole."""
    return json.dumps(document, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()


class Floe:
    """One FLOE ciphertext in the making; `flaw`s are made by calling `segment` wrongly."""

    def __init__(
        self, key: bytes, aad: bytes, length: int, iv: bytes, *, bits: int = 20, params: bytes = b""
    ) -> None:
        self.length = length
        self._aad = aad
        self._bits = bits
        self._start = (params or b"\0\0" + length.to_bytes(4) + (32).to_bytes(4)) + iv
        self.header = self._start + expand(key, self._start + b"HEADER_TAG:" + aad, 32)
        self._message_key = expand(key, self._start + b"MESSAGE_KEY:" + aad, 48)

    def segment(
        self, position: int, plain: bytes, nonce: bytes, *, final: bool, field: bytes | None = None
    ) -> bytes:
        era = (position >> self._bits << self._bits).to_bytes(8)
        key = expand(self._message_key, self._start + b"DEK:" + era + self._aad, 32)
        aad = position.to_bytes(8) + bytes([final])
        body = nonce + AESGCM(key).encrypt(nonce, plain, aad)
        if field is None:
            field = (4 + len(body)).to_bytes(4) if final else b"\xff" * 4
        return field + body

    def parts(self, plain: bytes, nonce: Callable[[int], bytes]) -> list[bytes]:
        """Header, then the segments of `plain`."""
        step = self.length - 32
        pieces = [plain[at : at + step] for at in range(0, len(plain), step)] or [b""]
        last = len(pieces) - 1
        return [
            self.header,
            *(
                self.segment(position, piece, nonce(position), final=position == last)
                for position, piece in enumerate(pieces)
            ),
        ]


def leaf_list(alg: str, parts: list[bytes]) -> tuple[bytes, str]:
    """(leaf list, digest over it) of header and segments."""
    leaves = b"".join(leaf(alg, part) for part in parts)
    return leaves, list_digest(alg, leaves)


def keyid(public_key: bytes) -> str:
    return "sha256:" + hashlib.sha256(public_key).hexdigest()


def signed(kind: str, document: object, key: Ed25519PrivateKey) -> dict:
    """A DSSE envelope over the canonical form of `document`."""
    payload = canonical(document)
    message = b"DSSEv1 %d %s %d %s" % (len(kind), kind.encode(), len(payload), payload)
    signature = {
        "keyid": keyid(key.public_key().public_bytes_raw()),
        "sig": base64.b64encode(key.sign(message)).decode(),
    }
    return {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": kind,
        "signatures": [signature],
    }


def content_key(content: bytes, path: str) -> bytes:
    return expand(content, b"modelvault/content-key/v1\0" + path.encode(), 32)


def content_tag(alg: str, key: bytes, plain: bytes, length: int) -> bytes:
    step = length - 32
    blocks = [plain[at : at + step] for at in range(0, len(plain), step)] or [b""]
    hashes = b"".join(keyed(alg, key, block) for block in blocks)
    return keyed(alg, key, len(plain).to_bytes(8) + step.to_bytes(4) + hashes)


def keyed(alg: str, key: bytes, data: bytes) -> bytes:
    if alg == "blake3":
        return blake3.blake3(data, key=key).digest()
    return hmac.new(key, data, "sha256").digest()
