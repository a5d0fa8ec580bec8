"""Whether the objects in the store are what a draft says they are.

The broker never sees a plaintext here. It checks every size, every header and every leaf list,
and reads a random sample of segments back: enough that a store that lost or mixed up objects, or
a client that lies about them, is found out now and not at the first load. The loader checks each
byte against the same leaf lists.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from modelvault.artifact import leaves
from modelvault.broker.terms import Terms
from modelvault.crypto.floe import HEADER_BYTES, Geometry
from modelvault.errors import IntegrityError, InvalidRequest, NotFound
from modelvault.manifest import DigestAlgorithm, FileEntry
from modelvault.ports.objects import ObjectReader


def check_uploaded(
    store: ObjectReader, files: Sequence[FileEntry], alg: DigestAlgorithm, terms: Terms
) -> None:
    """Each file's two objects, as above.

    Raises InvalidRequest: `not_uploaded`, `wrong_object_size`; IntegrityError: `bad_leaf_list`,
    `bad_header`, `altered`. All name the path.
    """
    if not files:
        return
    per_file = max(1, min(terms.sampled_per_file, terms.sampled_segments // len(files)))
    sampled = _some(len(files), terms.sampled_segments // per_file)
    for at, file in enumerate(files):
        _check_file(store, file, alg, per_file if at in sampled else 0)


def _check_file(store: ObjectReader, file: FileEntry, alg: DigestAlgorithm, samples: int) -> None:
    geometry = Geometry(file.segment_length)
    segments = geometry.segments(file.size)
    with _naming(file.path):
        _check_size(store, file.path, file.object, geometry.ciphertext_size(file.size))
        _check_size(store, file.path, file.leaves, leaves.list_size(geometry, file.size))
        leaf_list = _read(store, file.leaves, 0, leaves.list_size(geometry, file.size))
        leaves.check(alg, leaf_list, file)
        header = _read(store, file.object, 0, HEADER_BYTES)
        if not header.startswith(geometry.params()):
            raise IntegrityError(
                "bad_header", f"{file.path}: its object isn't a ciphertext of this vault"
            )
        leaves.check_leaf(leaves.leaf(alg, header), leaf_list, 0, file.path)
        for position in _some(segments, samples):
            segment = _read(store, file.object, *geometry.segment_at(position, file.size))
            leaves.check_leaf(leaves.leaf(alg, segment), leaf_list, 1 + position, file.path)


def _check_size(store: ObjectReader, path: str, name: str, wanted: int) -> None:
    size = store.size(name)
    if size != wanted:
        raise InvalidRequest(
            "wrong_object_size",
            f"{path}: the object {name} is {size} bytes, not {wanted}",
            "push again",
        )


def _read(store: ObjectReader, name: str, offset: int, size: int) -> bytes:
    buffer = bytearray(size)
    store.read_into(name, offset, memoryview(buffer))
    return bytes(buffer)


@contextmanager
def _naming(path: str) -> Iterator[None]:
    try:
        yield
    except NotFound:
        raise InvalidRequest(
            "not_uploaded", f"{path}: one of its objects isn't in the store", "push again"
        ) from None


def _some(count: int, wanted: int) -> set[int]:
    """`wanted` different numbers below `count`, or all of them, that nobody can foresee."""
    if wanted >= count:
        return set(range(count))
    chosen: set[int] = set()
    while len(chosen) < wanted:
        chosen.add(secrets.randbelow(count))
    return chosen
