"""What of a file is kept where. Decided here, from the verified manifest alone.

A file of a version is cut into pieces: its leaf list, the header of its ciphertext, and each of its
encrypted segments. The cache has one file for it, named by a hash of what the manifest says of
contents and geometry: equal contents share it, whatever they are called and in whatever vault.

    one byte for each piece: 1 where it is held | leaf list | ciphertext
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import blake3
import msgspec

from modelvault.artifact import leaves
from modelvault.crypto.floe import HEADER_BYTES, Geometry
from modelvault.manifest import FileEntry

NAME = re.compile(r"[0-9a-f]{64}", re.ASCII)
_CONTEXT = "modelvault 2026-11-30 name of a file in a cache of ciphertext, layout 1"
_LEAF_LIST, _HEADER, _SEGMENTS = 0, 1, 2


class Piece(msgspec.Struct, frozen=True):
    """A piece of the cache's file `file`: its number, and its bytes `offset` to `offset + size`."""

    file: str
    number: int
    offset: int
    size: int


class Place:
    """One object of the store: the pieces that it is made of, in a file of the cache."""

    def __init__(self, entry: FileEntry, *, vouches: bool) -> None:
        """`vouches`: of `entry` it is the leaf list, and not the ciphertext."""
        geometry = Geometry(entry.segment_length)
        self.file = _name(entry)
        self._geometry = geometry
        self._plain = entry.size
        self._vouches = vouches
        pieces = _SEGMENTS + geometry.segments(entry.size)
        list_size = leaves.list_size(geometry, entry.size)
        self.leaf_list = Piece(self.file, _LEAF_LIST, pieces, list_size)
        self._ciphertext = pieces + list_size

    @property
    def size(self) -> int:
        """Bytes of the object, by the manifest."""
        if self._vouches:
            return self.leaf_list.size
        return self._geometry.ciphertext_size(self._plain)

    def piece(self, offset: int, size: int) -> Piece | None:
        """The piece that these bytes of the object are, if they are just one."""
        found = self.pieces(offset, size)
        return found[0] if len(found) == 1 else None

    def pieces(self, offset: int, size: int) -> Sequence[Piece]:
        """The pieces that these bytes of the object are; none where they end within one."""
        if self._vouches:
            return (self.leaf_list,) if (offset, size) == (0, self.leaf_list.size) else ()
        found, end = [], offset + size
        while offset < end:
            piece = self._at(offset)
            if piece is None:
                return ()
            found.append(piece)
            offset += piece.size
        return found if offset == end else ()

    def _at(self, offset: int) -> Piece | None:
        if offset == 0:
            return Piece(self.file, _HEADER, self._ciphertext, HEADER_BYTES)
        position, within = divmod(offset - HEADER_BYTES, self._geometry.segment_length)
        if within or not 0 <= position < self._geometry.segments(self._plain):
            return None
        at, size = self._geometry.segment_at(position, self._plain)
        return Piece(self.file, _SEGMENTS + position, self._ciphertext + at, size)


class Files:
    """The files of one load: where each of their objects is kept, and what the cache calls them.

    A version may hold ten thousand, of which one is read: each is looked at when it is wanted.
    """

    def __init__(self, files: Sequence[FileEntry]) -> None:
        self._files = files
        self._objects = {name: entry for entry in files for name in (entry.leaves, entry.object)}
        self._places: dict[str, Place] = {}
        self._names: frozenset[str] | None = None

    def place(self, name: str) -> Place | None:
        """Where an object is kept; None for one that isn't of these files."""
        entry = self._objects.get(name)
        if entry is None:
            return None
        if name not in self._places:
            self._places[name] = Place(entry, vouches=name == entry.leaves)
        return self._places[name]

    def __contains__(self, file: object) -> bool:
        """Whether a file of the cache is one of these."""
        if self._names is None:
            self._names = frozenset(map(_name, self._files))
        return file in self._names


def _name(entry: FileEntry) -> str:
    told = f"{entry.digest} {entry.size} {entry.segment_length}".encode()
    return blake3.blake3(told, derive_key_context=_CONTEXT).hexdigest()
