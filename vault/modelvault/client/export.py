"""Out of the vault and onto a disk: plaintext by `export`, ciphertext by `pull`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from modelvault import canonical
from modelvault.artifact import leaves
from modelvault.artifact import trust as trusting
from modelvault.artifact.trust import Verified
from modelvault.client.context import Context
from modelvault.client.copied import PURPOSE, hand_over
from modelvault.client.folder import appearing, continuing, write_file, write_rest
from modelvault.client.keeper import Keeper
from modelvault.client.load import Grant, take
from modelvault.client.progress import Progress, counter
from modelvault.copies import Carried, Importing
from modelvault.crypto.floe import HEADER_BYTES, OVERHEAD, Geometry
from modelvault.errors import IntegrityError
from modelvault.loader.memory import check_fits
from modelvault.loader.resident import Resident
from modelvault.loader.screen import Screen
from modelvault.loader.source import Gate
from modelvault.manifest import FileEntry, Manifest, object_names
from modelvault.ports.objects import ObjectReader
from modelvault.record import SignedVersion
from modelvault.reference import Reference

KEYS = "keys.json"


def export(
    context: Context,
    reference: Reference,
    folder: Path,
    *,
    purpose: str,
    files: Sequence[str] | None,
    ticket: str | None,
    progress: Progress | None = None,
) -> Manifest:
    """Write the granted files in the clear into `folder`, which appears whole or not at all.

    Raises what a load raises, AccessDenied (`memory_only`, `pickle_refused`) where the policy keeps
    this model off disks or allows no pickles, Conflict (`folder_exists`), Unavailable
    (`cant_write`).
    """
    with appearing(folder) as draft:
        granted, keeper = take(
            context,
            reference,
            purpose=purpose,
            action="export",
            files=files,
            ticket=ticket,
            on_end=lambda _reason: None,
        )
        try:
            keeper.start()
            granted.check(granted.obligations)
            _screen(granted, keeper)
            count = counter(progress, sum(entry.size for entry in granted.files))
            for entry in granted.files:
                _write_plain(draft / entry.path, granted, entry, keeper, count)
        finally:
            keeper.stop()
            granted.wipe()
    return granted.manifest


def _screen(granted: Grant, keeper: Keeper) -> None:
    """Look at what the files are before any is written: the manifest's hints are the pusher's word.

    Raises AccessDenied (`pickle_refused`) as a load does.
    """
    screen = Screen(granted.obligations.allow_pickle, granted.manifest.hints.pickles)
    gate = Gate(keeper)
    for entry in granted.files:
        resident = Resident(entry, granted.reader, gate, check_fits)
        try:
            screen.check(resident)
        finally:
            resident.seal()


def _write_plain(
    path: Path, granted: Grant, entry: FileEntry, keeper: Keeper, count: Callable[[int], None]
) -> None:
    reader = granted.reader(entry)

    def read(offset: int, buffer: memoryview) -> None:
        keeper.check()
        reader.read_into(offset, buffer)
        count(len(buffer))

    try:
        write_file(path, reader.size, read)
    finally:
        reader.wipe()


def pull(
    context: Context,
    reference: Reference,
    folder: Path,
    *,
    invited: Importing | None = None,
    purpose: str = PURPOSE,
    ticket: str | None = None,
    progress: Progress | None = None,
) -> Manifest:
    """Copy a version as it lies in the vault: documents, trust file and objects, all checked.

    The folder holds `trust.json`, `model.json`, `manifest.json`, `tag.json` where the reference
    names a tag, and `objects/`. Nothing in it can be read without a lease. With the import that
    another vault has `invited` to, it holds `keys.json` too: the keys, sealed for that import,
    which takes the action `export` to that vault. A pull that was cut off goes on with what is
    there.
    Raises IntegrityError when any byte isn't what the signed manifest says, and as `export`.
    """
    seen = context.pins.seen()
    signed = context.broker.pull(context.credentials.caller(), str(reference))
    verified = trusting.verify(signed, reference, context.trust, seen)
    context.pins.remember(verified.seen)
    exact = Reference(reference.tenant, reference.model, version=verified.manifest.version)
    store = context.places.pulled(str(exact), object_names(verified.manifest.files))
    name = hashlib.sha256(f"{verified.digest} {reference}".encode()).hexdigest()
    with continuing(folder, name) as draft:
        carried = (
            {} if invited is None else _keys(context, exact, verified, invited, purpose, ticket)
        )
        for name, data in (_documents(context, signed) | carried).items():
            _write_bytes(draft / name, data)
        count = counter(progress, verified.manifest.size)
        for entry in verified.manifest.files:
            _copy(store, entry, verified.manifest.digest_alg, draft, count)
    return verified.manifest


def _keys(
    context: Context,
    exact: Reference,
    verified: Verified,
    invited: Importing,
    purpose: str,
    ticket: str | None,
) -> dict[str, bytes]:
    handed = hand_over(context, exact, verified.digest, invited, purpose, ticket)
    return {KEYS: canonical.encode(Carried(importing=invited, handed=handed))}


def _documents(context: Context, signed: SignedVersion) -> dict[str, bytes]:
    documents = {
        "trust.json": canonical.encode(context.trust),
        "model.json": signed.model.to_bytes(),
        "manifest.json": signed.manifest.to_bytes(),
    }
    return documents if signed.tag is None else documents | {"tag.json": signed.tag.to_bytes()}


def _copy(
    store: ObjectReader,
    entry: FileEntry,
    digest_alg: str,
    draft: Path,
    count: Callable[[int], None],
) -> None:
    """Both objects of a file; every byte is checked against the manifest, be it on its way or
    because an earlier pull left it here, and then counted."""
    geometry = Geometry(entry.segment_length)
    leaf_list = bytearray(leaves.list_size(geometry, entry.size))
    store.read_into(entry.leaves, 0, memoryview(leaf_list))
    leaves.check(digest_alg, leaf_list, entry)
    _write_bytes(draft / entry.leaves, bytes(leaf_list))
    size = geometry.ciphertext_size(entry.size)
    pieces = _Pieces(geometry, entry, digest_alg, bytes(leaf_list), count)
    kept, have = _kept(draft / entry.object, pieces)
    if have == size:
        return
    with store.stream(entry.object, have, size - have) as read:
        write_rest(draft / entry.object, size, have, _Checked(read, pieces, kept).read)


class _Pieces:
    """The header and the segments of a ciphertext, each with the leaf that it must have.

    `checked(bytes)` gets the plaintext bytes of each segment that is right.
    """

    def __init__(
        self,
        geometry: Geometry,
        entry: FileEntry,
        alg: str,
        leaf_list: bytes,
        checked: Callable[[int], None],
    ) -> None:
        self._geometry = geometry
        self._entry = entry
        self._alg = alg
        self._leaf_list = leaf_list
        self._checked = checked
        self.count = 1 + geometry.segments(entry.size)

    def length(self, index: int) -> int:
        """Bytes of a piece; the header is the first."""
        if index == 0:
            return HEADER_BYTES
        return self._geometry.segment_at(index - 1, self._entry.size)[1]

    def check(self, index: int, piece: memoryview) -> None:
        """Raises IntegrityError (`altered`)."""
        found = leaves.leaf(self._alg, piece)
        leaves.check_leaf(found, self._leaf_list, index, self._entry.path)
        if index > 0:
            self._checked(len(piece) - OVERHEAD)


def _kept(path: Path, pieces: _Pieces) -> tuple[int, int]:
    """(pieces, bytes) at the beginning of a file that are whole and as they must be."""
    index = have = 0
    with suppress(FileNotFoundError, IntegrityError), path.open("rb") as file:
        while index < pieces.count:
            piece = file.read(pieces.length(index))
            if len(piece) < pieces.length(index):
                break
            pieces.check(index, memoryview(piece))
            index, have = index + 1, have + len(piece)
    return index, have


class _Checked:
    """A ciphertext in order, from one of its pieces to its end, each piece of it checked."""

    def __init__(self, read: Callable[[memoryview], None], pieces: _Pieces, first: int) -> None:
        self._read = read
        self._pieces = pieces
        self._pending = memoryview(b"")
        self._next = first

    def read(self, _offset: int, buffer: memoryview) -> None:
        """Fill `buffer` with the next bytes, all of them checked."""
        done = 0
        while done < len(buffer):
            if not self._pending:
                self._pending = self._piece()
            count = min(len(self._pending), len(buffer) - done)
            buffer[done : done + count] = self._pending[:count]
            self._pending = self._pending[count:]
            done += count

    def _piece(self) -> memoryview:
        piece = memoryview(bytearray(self._pieces.length(self._next)))
        self._read(piece)
        self._pieces.check(self._next, piece)
        self._next += 1
        return piece


def _write_bytes(path: Path, data: bytes) -> None:
    def read(offset: int, buffer: memoryview) -> None:
        buffer[:] = data[offset : offset + len(buffer)]

    write_rest(path, len(data), 0, read)
