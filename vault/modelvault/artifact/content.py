"""The content tag: what a file's plaintext is, under a key. Equal tags, equal files.

docs/format.md, section 3. A file is hashed in the blocks that it is encrypted in, so that threads
can take them in any order, while they encrypt them or before. Without the key a tag tells nothing
of the file; the vault gives a path's key to those alone who push that path.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable

import blake3

from modelvault.artifact.leaves import Buffer
from modelvault.crypto.floe import Geometry
from modelvault.crypto.secret import Secret
from modelvault.errors import InvalidRequest

TAG_BYTES = 32


class Tagger:
    """One file's tag. `key` is `derive.content_key`, and stays the caller's to wipe.

    Threads may hand in different blocks at once; each one has to be there before `tag`.
    """

    def __init__(self, alg: str, key: Secret, geometry: Geometry, size: int) -> None:
        """Raises InvalidRequest (`unknown_digest_alg`)."""
        found = _KEYED.get(alg)
        if found is None:
            raise InvalidRequest("unknown_digest_alg", f"unknown digest algorithm {alg[:20]!r}")
        self._hash = found
        self._key = key
        self._head = size.to_bytes(8, "big") + geometry.payload.to_bytes(4, "big")
        self._leaves = bytearray(TAG_BYTES * geometry.segments(size))

    def block(self, position: int, plain: Buffer) -> bytes:
        """Take the plaintext of one segment; its keyed hash (32 bytes)."""
        leaf = self._hash(self._key.reveal(), plain)
        self.put(position, leaf)
        return leaf

    def put(self, position: int, leaf: bytes) -> None:
        """Take a block's keyed hash from an earlier run."""
        self._leaves[position * TAG_BYTES : (position + 1) * TAG_BYTES] = leaf

    def tag(self) -> bytes:
        """32 bytes over size, block size and all blocks' hashes, in order."""
        return self._hash(self._key.reveal(), self._head + self._leaves)


def _blake3(key: memoryview, data: Buffer) -> bytes:
    return blake3.blake3(data, key=key).digest()


def _hmac_sha256(key: memoryview, data: Buffer) -> bytes:
    return hmac.digest(key, data, "sha256")


_KEYED: dict[str, Callable[[memoryview, Buffer], bytes]] = {
    "blake3": _blake3,
    "sha256": _hmac_sha256,
}
