"""Encrypt one file into two objects: its FLOE ciphertext and its leaf list."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import msgspec

from modelvault.artifact import leaves
from modelvault.artifact.buffers import Buffers
from modelvault.artifact.content import Tagger
from modelvault.crypto import floe
from modelvault.crypto.secret import Secret
from modelvault.errors import InvalidRequest
from modelvault.ports.objects import ObjectWriter

ReadInto = Callable[[int, memoryview], None]


class Encrypted(msgspec.Struct, frozen=True):
    """The digest over the leaf list, and the content tag (32 bytes) of what was encrypted."""

    digest: str
    content: bytes


class Trail(Protocol):
    """What an earlier run of the same encryption left, and what this one leaves.

    `header`, `leaves` and `contents` (keyed hashes of plaintext, both by segment) are of segments
    that need not be encrypted again: `fill` is not called for them. Nothing in here opens anything.
    """

    @property
    def header(self) -> bytes | None:
        """The header of the earlier run."""
        ...

    @property
    def leaves(self) -> Mapping[int, bytes]:
        """The leaves of its segments, by position."""
        ...

    @property
    def contents(self) -> Mapping[int, bytes]:
        """The keyed hashes of the same segments' plaintext."""
        ...

    def begin(self, header: bytes) -> None:
        """The header that all segments are under."""
        ...

    def leaf(self, position: int, leaf: bytes, content: bytes) -> None:
        """A segment's leaf and its plaintext's keyed hash, before the segment is sent."""
        ...


def encrypt_file(
    read_into: ReadInto,
    size: int,
    key: Secret,
    content_key: Secret,
    aad: bytes,
    geometry: floe.Geometry,
    digest_alg: str,
    store: ObjectWriter,
    names: tuple[str, str],
    progress: Callable[[int], None],
    trail: Trail | None = None,
) -> Encrypted:
    """Put the ciphertext under names[0] and the leaf list under names[1].

    `read_into(offset, buffer)` fills a buffer of plaintext and is called once for each byte, from
    the store's threads, as is `progress(plaintext bytes done since the last call)`. Encrypting
    and hashing happen in those threads too, each with one plaintext buffer of a segment's size
    that is wiped before this returns. `size` is in bytes; `key` and
    `content_key` stay the caller's to wipe. With a
    `trail` of an earlier run the store may ask for the missing segments alone: they get fresh IVs
    under the same header, and which ciphertext of a segment counts, its leaf says.

    Raises what the store and `read_into` raise, and InvalidRequest (`too_large`).
    """
    segments = geometry.segments(size)
    if segments > floe.MAX_SEGMENTS:
        raise InvalidRequest("too_large", f"a file of {size} bytes has too many segments")
    header = None if trail is None else trail.header
    encryptor = floe.Encryptor(key, aad, geometry, header)
    tagger = Tagger(digest_alg, content_key, geometry, size)
    job = _Job(read_into, size, encryptor, tagger, digest_alg, progress, trail)
    try:
        store.put(names[0], job.part_sizes(), job.fill)
    finally:
        job.wipe()
    leaf_list = job.leaf_list
    store.put(names[1], [len(leaf_list)], lambda _part, buffer: _copy(leaf_list, buffer))
    return Encrypted(leaves.digest(digest_alg, leaf_list), tagger.tag())


class _Job:
    """One file's encryption; `fill` is called by many threads, once for each segment."""

    def __init__(
        self,
        read_into: ReadInto,
        size: int,
        encryptor: floe.Encryptor,
        tagger: Tagger,
        digest_alg: str,
        progress: Callable[[int], None],
        trail: Trail | None,
    ) -> None:
        self._trail = trail
        self._read_into = read_into
        self._size = size
        self._encryptor = encryptor
        self._tagger = tagger
        self._geometry = encryptor.geometry
        self._leaf = leaves.hasher(digest_alg)
        self._progress = progress
        self._last = self._geometry.segments(size) - 1
        self._plain = Buffers(min(size, self._geometry.payload))
        self.leaf_list = bytearray(leaves.list_size(self._geometry, size))
        self._set_leaf(0, self._leaf(encryptor.header))
        if trail is not None:
            trail.begin(encryptor.header)
            for position, leaf in trail.leaves.items():
                self._set_leaf(position + 1, leaf)
            for position, leaf in trail.contents.items():
                tagger.put(position, leaf)

    def part_sizes(self) -> list[int]:
        """The parts of the ciphertext object: a segment each, the first with the header."""
        sizes = [self._geometry.segment_length] * (self._last + 1)
        sizes[-1] = self._geometry.segment_at(self._last, self._size)[1]
        sizes[0] += floe.HEADER_BYTES
        return sizes

    def fill(self, position: int, buffer: memoryview) -> None:
        """Write the encrypted segment at `position` (and before the first the header)."""
        out = buffer
        if position == 0:
            out[: floe.HEADER_BYTES] = self._encryptor.header
            out = out[floe.HEADER_BYTES :]
        start = position * self._geometry.payload
        length = min(self._geometry.payload, self._size - start)
        with self._plain.one(length) as plain:
            self._read_into(start, plain)
            content = self._tagger.block(position, plain)
            self._encryptor.encrypt_into(position, plain, position == self._last, out)
        leaf = self._leaf(out)
        self._set_leaf(position + 1, leaf)
        if self._trail is not None:
            self._trail.leaf(position, leaf, content)
        self._progress(length)

    def _set_leaf(self, index: int, leaf: bytes) -> None:
        # Threads write different slices of a buffer that never changes its size.
        self.leaf_list[index * leaves.LEAF_BYTES : (index + 1) * leaves.LEAF_BYTES] = leaf

    def wipe(self) -> None:
        self._encryptor.wipe()
        self._plain.wipe()


def _copy(source: bytearray, target: memoryview) -> None:
    target[:] = source
