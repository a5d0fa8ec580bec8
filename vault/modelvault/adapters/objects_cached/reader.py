"""`CachedReader`: what is held near is read there, the rest from the store."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager

from modelvault.adapters.objects_cached import folder as folders
from modelvault.adapters.objects_cached.pieces import Files, Piece, Place
from modelvault.adapters.objects_cached.shelf import Shelf
from modelvault.artifact.meter import Laps, Meter
from modelvault.ports.objects import ObjectReader

SOURCE = "cache"


class CachedReader:
    """`ports.objects.CachedReader`. Any number of threads may read at once.

    After a read the same thread says by `keep` or `distrust` what became of it. Where the leaf list
    of a file is held, nobody asks the store for sizes: the list says what the bytes must be.
    """

    def __init__(self, store: ObjectReader, shelf: Shelf, files: Files, meter: Meter) -> None:
        """`files` are those that may be kept."""
        self.store = store
        self.shelf = shelf
        self._files = files
        self._meter = meter
        self._distrusted: set[Piece] = set()
        self._own = threading.local()

    def size(self, name: str) -> int:
        """See `ObjectReader`."""
        place = self._files.place(name)
        if place is not None:
            with self.shelf.reading(place.file) as descriptor:
                if self.held(descriptor, [place.leaf_list]):
                    return place.size
        return self.store.size(name)

    def read_into(self, name: str, offset: int, buffer: memoryview) -> None:
        """See `ObjectReader`."""
        piece = self._piece(name, offset, len(buffer))
        if piece is not None and self._read(piece, buffer):
            return
        self._own.hit = None
        self.store.read_into(name, offset, buffer)

    @contextmanager
    def stream(self, name: str, offset: int, size: int) -> Iterator[Callable[[memoryview], None]]:
        """See `ObjectReader`."""
        place = self._files.place(name)
        if place is None:
            with self.store.stream(name, offset, size) as read:
                yield read
            return
        with ExitStack() as stack:
            descriptor = stack.enter_context(self.shelf.reading(place.file))
            held = self.held(descriptor, place.pieces(offset, size))
            laps = stack.enter_context(Laps(self._meter))
            stream = _Stream(self, name, place, offset, offset + size, descriptor, held, laps)
            try:
                yield stream.read
            finally:
                stream.close()
                if stream.near:
                    self._meter.read(SOURCE, stream.near)

    def keep(self, name: str, offset: int, buffer: memoryview) -> None:
        """See `Kept`."""
        piece = self._piece(name, offset, len(buffer))
        if piece is not None and self._hit() != piece:
            self.shelf.keep(piece, buffer)

    def distrust(self, name: str, offset: int) -> bool:
        """See `Kept`."""
        piece = self._hit()
        place = self._files.place(name)
        if piece is None or place is None or place.piece(offset, piece.size) != piece:
            return False
        self._own.hit = None
        self._distrusted.add(piece)
        self.shelf.drop(piece)
        return True

    def held(self, descriptor: int | None, pieces: Sequence[Piece]) -> set[int]:
        """The numbers of those that are held, of consecutive pieces of one file."""
        if descriptor is None or not pieces:
            return set()
        try:
            found = folders.held(descriptor, pieces)
        except OSError as error:
            self.shelf.failed(pieces[0].file, error)
            return set()
        return {
            piece.number
            for piece, there in zip(pieces, found, strict=True)
            if there and piece not in self._distrusted
        }

    def read_near(self, descriptor: int, piece: Piece, buffer: memoryview) -> bool:
        """Fill `buffer` with a piece that is held; False where that can't be."""
        self._own.hit = None
        try:
            found = folders.read(descriptor, piece, buffer)
        except OSError as error:
            self.shelf.failed(piece.file, error)
            return False
        if found:
            self._own.hit = piece
        else:
            self.shelf.drop(piece)  # the file was cut: else it would pass for held for ever
        return found

    def missed(self) -> None:
        """What this thread has read now came from the store."""
        self._own.hit = None

    def _read(self, piece: Piece, buffer: memoryview) -> bool:
        with self._meter.timing("read"), self.shelf.reading(piece.file) as descriptor:
            if descriptor is None or not self.held(descriptor, [piece]):
                return False
            found = self.read_near(descriptor, piece, buffer)
        if found:
            self._meter.read(SOURCE, piece.size)
        return found

    def _hit(self) -> Piece | None:
        """The piece that this thread has read from the cache, if that was the last it read."""
        found: Piece | None = getattr(self._own, "hit", None)
        return found

    def _piece(self, name: str, offset: int, size: int) -> Piece | None:
        place = self._files.place(name)
        return None if place is None else place.piece(offset, size)


class _Stream:
    """Consecutive bytes of one object, of which some pieces are held: each run of others comes
    from the store by one request. One thread's."""

    def __init__(
        self,
        reader: CachedReader,
        name: str,
        place: Place,
        begin: int,
        end: int,
        descriptor: int | None,
        held: set[int],
        laps: Laps,
    ) -> None:
        self.near = 0
        self._reader = reader
        self._name = name
        self._place = place
        self._at = begin
        self._end = end
        self._descriptor = descriptor
        self._held = held
        self._laps = laps
        self._run: AbstractContextManager[Callable[[memoryview], None]] | None = None
        self._read: Callable[[memoryview], None] | None = None
        self._run_end = begin

    def read(self, buffer: memoryview) -> None:
        """Fill `buffer` with the next bytes."""
        piece = self._place.piece(self._at, len(buffer))
        if piece is None or piece.number not in self._held or not self._near(piece, buffer):
            self._far(buffer)
        self._at += len(buffer)

    def close(self) -> None:
        """End the request that is open."""
        run, self._run, self._read = self._run, None, None
        if run is not None:
            run.__exit__(None, None, None)

    def _near(self, piece: Piece, buffer: memoryview) -> bool:
        self.close()
        self._laps.start()
        found = self._descriptor is not None and self._reader.read_near(
            self._descriptor, piece, buffer
        )
        self._laps.spent("read")
        if found:
            self.near += piece.size
        else:
            self._held.discard(piece.number)
        return found

    def _far(self, buffer: memoryview) -> None:
        self._reader.missed()
        end = self._at + len(buffer)
        if self._read is None or end > self._run_end:
            self.close()
            self._run_end = max(end, self._stop())
            size = self._run_end - self._at
            self._run = self._reader.store.stream(self._name, self._at, size)
            self._read = self._run.__enter__()
        self._read(buffer)

    def _stop(self) -> int:
        """Where the run of what isn't held ends, that begins here."""
        at = self._at
        for piece in self._place.pieces(at, self._end - at):
            if piece.number in self._held:
                break
            at += piece.size
        return at if at > self._at else self._end
