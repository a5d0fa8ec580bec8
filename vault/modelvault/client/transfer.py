"""A version's ciphertext from one store to another, as it is.

Every byte is checked against the giver's signed manifest before it is sent on. Nothing here has a
key: what passes by can't be read.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate

from modelvault.artifact import leaves
from modelvault.artifact.grouping import group
from modelvault.client.carrying import Carrying, FileTrail
from modelvault.copies import ImportedFile
from modelvault.crypto.floe import HEADER_BYTES, OVERHEAD, Geometry
from modelvault.errors import NotFound
from modelvault.manifest import FileEntry, Manifest
from modelvault.ports.objects import ObjectReader, UploadStore

# A small file's time goes into making two objects durable, so several are under way at once; a
# large one is sent by many threads inside the store, so one at a time keeps memory bounded.
SMALL_BYTES = 1 << 20
SMALL_AT_ONCE = 8

Count = Callable[[int], None]


def transfer(
    source: ObjectReader,
    target: UploadStore,
    manifest: Manifest,
    count: Count,
    journal: Carrying | None = None,
) -> tuple[ImportedFile, ...]:
    """Put the objects of all files; where they are now, in the manifest's order.

    `count` gets plaintext bytes as they are there. With the journal of a run that was cut off only
    what is missing is sent. Raises IntegrityError (`altered`, `bad_leaf_list`) where the source's
    store holds other bytes than the manifest names, and what both stores raise.
    """

    def send(entry: FileEntry) -> ImportedFile:
        return _Sending(source, target, entry, manifest.digest_alg, count, journal).send()

    small = [entry for entry in manifest.files if entry.size <= SMALL_BYTES]
    put = {entry.path: send(entry) for entry in manifest.files if entry.size > SMALL_BYTES}
    with ThreadPoolExecutor(SMALL_AT_ONCE, "modelvault-copy") as pool:
        try:
            put.update({file.path: file for file in pool.map(send, small)})
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return tuple(put[entry.path] for entry in manifest.files)


class _Sending:
    """One file. `_fill` is called by many threads, once for each part that is to be sent."""

    def __init__(
        self,
        source: ObjectReader,
        target: UploadStore,
        entry: FileEntry,
        alg: str,
        count: Count,
        journal: Carrying | None,
    ) -> None:
        self._source = source
        self._target = target
        self._entry = entry
        self._alg = alg
        self._count = count
        self._journal = journal
        geometry = Geometry(entry.segment_length)
        self._segments = [
            geometry.segment_at(position, entry.size)[1]
            for position in range(geometry.segments(entry.size))
        ]
        self._sizes = [HEADER_BYTES + self._segments[0], *self._segments[1:]]
        self._groups = group(self._sizes)
        self._places = list(accumulate(self._sizes, initial=0))
        self._leaf_list = b""

    def send(self) -> ImportedFile:
        journal = self._journal
        if journal is None:
            return self._put(None)
        seeds = journal.finished(self._entry.path)
        if seeds is not None:
            self._count(self._entry.size)
            return self._named(seeds)
        try:
            return self._put(journal.trail(self._entry.path))
        except NotFound as lost:
            if lost.code != "no_transfer":  # what the store has lost is sent under a new name
                raise
        return self._put(journal.fresh(self._entry.path))

    def _put(self, trail: FileTrail | None) -> ImportedFile:
        seeds = _seeds() if trail is None else trail.seeds
        named = self._named(seeds)
        self._leaf_list = self._leaves()
        parts = [each.size for each in self._groups]
        if trail is None:
            self._target.put(named.object, parts, self._fill)
        else:
            self._count(sum(self._plain(part) for part in range(len(parts)) if trail.has(part)))
            self._target.put_tracked(named.object, parts, self._fill, trail)
        self._target.put(named.leaves, [len(self._leaf_list)], self._fill_leaves)
        if trail is not None:
            trail.finished()
        return named

    def _named(self, seeds: tuple[str, str]) -> ImportedFile:
        return ImportedFile(
            self._entry.path, self._target.name(seeds[0]), self._target.name(seeds[1])
        )

    def _leaves(self) -> bytes:
        leaf_list = bytearray(leaves.LEAF_BYTES * (1 + len(self._segments)))
        self._source.read_into(self._entry.leaves, 0, memoryview(leaf_list))
        leaves.check(self._alg, leaf_list, self._entry)
        return bytes(leaf_list)

    def _fill_leaves(self, _part: int, buffer: memoryview) -> None:
        buffer[:] = self._leaf_list

    def _fill(self, part: int, buffer: memoryview) -> None:
        start = self._groups[part].start
        self._source.read_into(self._entry.object, self._places[start], buffer)
        for index, piece in self._pieces(part, buffer):
            found = leaves.leaf(self._alg, piece)
            leaves.check_leaf(found, self._leaf_list, index, self._entry.path)
        self._count(self._plain(part))

    def _pieces(self, part: int, buffer: memoryview) -> Iterator[tuple[int, memoryview]]:
        """(place in the leaf list, bytes) of the header and the segments of a part."""
        each = self._groups[part]
        at = 0
        if each.start == 0:
            yield 0, buffer[:HEADER_BYTES]
            at = HEADER_BYTES
        for position in range(each.start, each.stop):
            length = self._segments[position]
            yield 1 + position, buffer[at : at + length]
            at += length

    def _plain(self, part: int) -> int:
        each = self._groups[part]
        return sum(_payload(self._segments[each.start : each.stop]))


def _payload(segments: Sequence[int]) -> Iterator[int]:
    return (length - OVERHEAD for length in segments)


def _seeds() -> tuple[str, str]:
    return secrets.token_hex(16), secrets.token_hex(16)
