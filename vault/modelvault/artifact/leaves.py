"""The leaf list of a file: what its ciphertext must hash to, segment by segment.

docs/format.md, section 3. The list is 32 bytes for the FLOE header and 32 for each encrypted
segment, in order; the signed manifest holds the digest over the list. GCM alone would let anybody
who once had the file key forge new contents; the signed digest doesn't.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import blake3

from modelvault.crypto import derive
from modelvault.crypto.floe import Geometry
from modelvault.errors import IntegrityError, InvalidRequest
from modelvault.manifest import FileEntry

LEAF_BYTES = 32

Buffer = bytes | bytearray | memoryview

ALTERED_HINT = (
    "the store holds other bytes than were pushed: restore the object from a copy, or load "
    "another version"
)


def hasher(alg: str) -> Callable[[Buffer], bytes]:
    """The leaf function of an algorithm; it lets other threads run while it hashes.

    Raises InvalidRequest (`unknown_digest_alg`).
    """
    found = _LEAF.get(alg)
    if found is None:
        raise InvalidRequest("unknown_digest_alg", f"unknown digest algorithm {alg[:20]!r}")
    return found


def leaf(alg: str, data: Buffer) -> bytes:
    """32 bytes: the hash of the header or of one encrypted segment."""
    return hasher(alg)(data)


def digest(alg: str, leaf_list: Buffer) -> str:
    """`<alg>:<hex>` over a whole leaf list, apart from any hash of a segment."""
    if alg == "blake3":
        context = derive.LEAF_LIST_BLAKE3
        return "blake3:" + blake3.blake3(leaf_list, derive_key_context=context).hexdigest()
    hasher(alg)  # refuses unknown names
    start = hashlib.sha256(derive.LEAF_LIST_SHA256 + b"\0")
    start.update(leaf_list)
    return "sha256:" + start.hexdigest()


def list_size(geometry: Geometry, size: int) -> int:
    """Bytes of the leaf list of a file of `size` plaintext bytes."""
    return LEAF_BYTES * (1 + geometry.segments(size))


def check(alg: str, leaf_list: Buffer, entry: FileEntry) -> None:
    """Raises IntegrityError (`bad_leaf_list`) unless it is the list that `entry` names."""
    wanted = list_size(Geometry(entry.segment_length), entry.size)
    if len(leaf_list) != wanted:
        raise IntegrityError(
            "bad_leaf_list",
            f"{entry.path}: its leaf list is {len(leaf_list)} bytes, not {wanted}",
            ALTERED_HINT,
        )
    if digest(alg, leaf_list) != entry.digest:
        raise IntegrityError(
            "bad_leaf_list",
            f"{entry.path}: its leaf list isn't the one that the manifest names",
            ALTERED_HINT,
        )


def check_leaf(found: bytes, leaf_list: bytes, index: int, path: str) -> None:
    """Raises IntegrityError (`altered`) unless `found` is leaf `index`: 0 header, 1 segment 0."""
    if found != leaf_list[index * LEAF_BYTES : (index + 1) * LEAF_BYTES]:
        part = "header" if index == 0 else f"segment {index - 1}"
        raise IntegrityError("altered", f"{path}: {part} was altered", ALTERED_HINT)


def _blake3(data: Buffer) -> bytes:
    return blake3.blake3(data).digest()


def _sha256(data: Buffer) -> bytes:
    return hashlib.sha256(data).digest()


_LEAF: dict[str, Callable[[Buffer], bytes]] = {"blake3": _blake3, "sha256": _sha256}
