"""One file of a model in memory: each of its segments is decrypted at most once, when needed."""

from __future__ import annotations

import os
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from modelvault.artifact.parallel import run_blocks
from modelvault.crypto.floe import Geometry
from modelvault.errors import Conflict, ModelVaultError
from modelvault.loader.memory import Region
from modelvault.loader.source import Fits, Gate, Memories, Memory, Reader, Readers
from modelvault.manifest import FileEntry

# How much is decrypted between two looks at the gate: a revocation or Ctrl-C waits no longer.
STRIDE = 256 << 20
_SMALL = 8 << 20  # a file below this is too short for its reader's threads: several go at once


def private(entry: FileEntry, holder: object) -> Region:
    """Memory of this process alone, for one file."""
    return Region(entry.size, holder)


class Resident:
    """The plaintext of one file, filled segment by segment into one region of memory.

    Thread-safe: one thread fills at a time (the reader uses all cores for it), others that want
    the same file wait and then find it there.
    """

    def __init__(
        self,
        entry: FileEntry,
        open_reader: Readers,
        gate: Gate,
        fits: Fits,
        holder: object = None,
        memories: Memories = private,
    ) -> None:
        """`holder` is kept alive by every view of the file; `memories` gives the memory for it."""
        self.entry = entry
        self._holder = holder
        self._open_reader = open_reader
        self._gate = gate
        self._fits = fits
        self._payload = Geometry(entry.segment_length).payload
        self._reader: Reader | None = None
        self._memories = memories
        self._region: Memory | None = None
        self._present = self._nothing()  # one byte for each segment
        self._lock = threading.RLock()

    @property
    def path(self) -> str:
        """The file's name in the version."""
        return self.entry.path

    @property
    def size(self) -> int:
        """Plaintext bytes."""
        return self.entry.size

    @property
    def payload(self) -> int:
        """Plaintext bytes of a segment: the least that is ever decrypted."""
        return self._payload

    @property
    def missing(self) -> int:
        """Bytes that aren't decrypted yet."""
        with self._lock:
            return sum(end - begin for begin, end in self._gaps(0, self.size))

    def view(self, begin: int, end: int) -> memoryview:
        """Bytes `begin` to `end` of the file, read-only, decrypted if they weren't.

        Raises what the reader raises (naming the file), AccessDenied by the gate, Unavailable
        (`insufficient_memory`), Conflict (`closed`).
        """
        with self._filled(begin, end) as region:
            return region.view(begin, end)

    def shared(self, begin: int, end: int) -> memoryview:
        """As `view`, but writable: for frameworks that know no read-only tensor. Another process
        that has the same memory never sees what is written.
        """
        with self._lock:
            self._gate.check()
            grain = self._mapped().grain
        low, high = begin - begin % grain, min(-(-end // grain) * grain, self.size)
        with self._filled(low, high) as region:
            return region.editable(begin, end)

    def load(self) -> None:
        """Decrypt all that isn't decrypted yet. Errors as `view`."""
        self.need(0, self.size)

    def need(self, begin: int, end: int) -> None:
        """Decrypt what isn't decrypted yet of bytes `begin` to `end`. Errors as `view`."""
        self._fill(begin, end)

    def move(self, memories: Memories) -> Memory:
        """Live in memory that `memories` gives from now on; what is decrypted is copied there.

        Views taken before stay on the memory they were taken of. Doing it twice moves once.
        Raises what `memories` does, AccessDenied and Conflict by the gate.
        """
        with self._lock:
            self._gate.check()
            if self._memories is not memories:
                before, moved = self._region, memories(self.entry, self._holder)
                if before is not None:
                    for begin, end, here in self._runs(0, self.size):
                        if here:
                            with before.view(begin, end) as view:
                                moved.fill(begin, end, partial(_copy, view))
                    before.abandon()
                self._memories, self._region = memories, moved
            return self._mapped()

    def copy(self, begin: int, end: int) -> bytes:
        """Bytes `begin` to `end` as an object of their own, for small things."""
        with self.view(begin, end) as view:
            return bytes(view)

    def fill(
        self, out: memoryview, start: int = 0, count: Callable[[int], None] = lambda _size: None
    ) -> None:
        """Write the file's bytes from `start` on into the whole of `out`, keeping nothing but what
        is in memory already. `count` gets how many bytes were written, after each stride."""
        for begin, end in self._strides(start, start + len(out)):
            with self._lock:
                self._gate.check()
                for first, last, here in self._runs(begin, end):
                    with out[first - start : last - start] as part:
                        if here:
                            with self._mapped().view(first, last) as view:
                                part[:] = view
                        else:
                            self._read(first, part)
            count(end - begin)

    def named(self, error: ModelVaultError) -> ModelVaultError:
        """The same error, its message naming this file."""
        message = error.message if self.path in error.message else f"{self.path}: {error.message}"
        return type(error)(error.code, message, error.hint, **{**error.details, "file": self.path})

    def release(self) -> bool:
        """Wipe and unmap; a later use fills anew. False, and nothing done, while views live."""
        with self._lock:
            if self._region is None:
                return True
            try:
                self._region.close()
            except Conflict:
                return False
            self._region = None
            self._present = self._nothing()
            return True

    def seal(self) -> None:
        """Let go for good: memory goes now or with its last view, and the key is wiped.

        The gate must be shut or dropped before.
        """
        with self._lock:
            if self._region is not None:
                self._region.abandon()
            if self._reader is not None:
                self._reader.wipe()

    @property
    def busy(self) -> bool:
        """Whether somebody reads or moves it at this moment, and others would have to wait."""
        if self._lock.acquire(blocking=False):
            self._lock.release()
            return False
        return True

    @property
    def alive(self) -> bool:
        """Whether decrypted memory of this file is still mapped."""
        return self._region is not None and self._region.alive

    @contextmanager
    def _filled(self, begin: int, end: int) -> Iterator[Memory]:
        """The region, under the lock, with these bytes in it."""
        while True:
            self._fill(begin, end)
            with self._lock:
                self._gate.check()
                # Another thread may have released the region since the fill.
                if next(self._gaps(begin, end), None) is None:
                    yield self._mapped()
                    return

    def _fill(self, begin: int, end: int) -> None:
        with self._lock:
            self._gate.check()
            needed = sum(last - first for first, last in self._gaps(begin, end))
            if needed:
                self._fits(needed)
        for first, last in self._strides(begin, end):
            with self._lock:
                self._gate.check()
                for gap in self._gaps(first, last):
                    self._decrypt(*gap)

    def _decrypt(self, begin: int, end: int) -> None:
        self._mapped().fill(begin, end, partial(self._read, begin))
        first, last = begin // self._payload, self._segments(end)
        self._present[first:last] = b"\1" * (last - first)

    def _read(self, offset: int, buffer: memoryview) -> None:
        if self._reader is None:
            self._reader = self._open_reader(self.entry)
        try:
            self._reader.read_into(offset, buffer)
        except ModelVaultError as error:
            _clear_frames(error)
            raise self.named(error) from None
        except BaseException as error:
            _clear_frames(error)
            raise

    def _gaps(self, begin: int, end: int) -> Iterator[tuple[int, int]]:
        """What must be decrypted for these bytes: ranges of whole segments, in order."""
        if begin == end and self.size:
            return
        position = begin // self._payload
        last = self._segments(end)
        while (position := self._present.find(0, position, last)) >= 0:
            stop = self._present.find(1, position, last)
            stop = last if stop < 0 else stop
            yield position * self._payload, min(stop * self._payload, self.size)
            position = stop

    def _runs(self, begin: int, end: int) -> Iterator[tuple[int, int, bool]]:
        """These bytes in order, in runs that are decrypted or aren't yet."""
        position = begin
        for first, last in self._gaps(begin, end):
            if position < first:
                yield position, first, True
            position = min(last, end)
            yield max(first, begin), position, False
        if position < end:
            yield position, end, True

    def _nothing(self) -> bytearray:
        return bytearray(self._segments(self.size))

    def _segments(self, size: int) -> int:
        # An empty file has a segment too, which must be checked like any other.
        return max(1, -(-size // self._payload))

    def _strides(self, begin: int, end: int) -> Iterator[tuple[int, int]]:
        """At least one range, whose inner borders are segments' borders."""
        stride = max(1, STRIDE // self._payload) * self._payload
        stop = begin - begin % self._payload + stride
        while stop < end:
            yield begin, stop
            begin, stop = stop, stop + stride
        yield begin, end

    def _mapped(self) -> Memory:
        if self._region is None:
            self._region = self._memories(self.entry, self._holder)
        return self._region


def _copy(source: memoryview, buffer: memoryview) -> None:
    buffer[:] = source


def _clear_frames(error: BaseException | None) -> None:
    """Empty the frames that `error` came through: they hold views of the memory, and while an
    error is kept (or is in a cycle that waits for the collector) no close could wipe it.
    """
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__context__


def load_all(residents: Sequence[Resident]) -> None:
    """Decrypt all of them with all cores: large files one by one, small ones side by side."""
    small = [resident for resident in residents if resident.size < _SMALL]
    for resident in residents:
        if resident.size >= _SMALL:
            resident.load()

    def load(start: int, stop: int) -> None:
        for resident in small[start:stop]:
            resident.load()

    run_blocks(load, len(small), 1, os.cpu_count() or 1)
