"""Read plaintext out of an encrypted file, any byte range, everything checked.

docs/format.md, sections 2 and 3. Each segment is read into a buffer that its thread keeps, hashed,
compared with the leaf that the signed manifest stands for, and decrypted straight to where the
plaintext will live: no copy of it is made on the way.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from modelvault.artifact import leaves
from modelvault.artifact.meter import Laps, Meter
from modelvault.artifact.parallel import run_blocks
from modelvault.crypto import derive, floe, pages
from modelvault.crypto.pages import Pages
from modelvault.crypto.secret import Secret
from modelvault.errors import IntegrityError, InvalidRequest, NotFound
from modelvault.manifest import FileEntry
from modelvault.ports.objects import Kept, ObjectReader

# Neighbours in a block go to one thread: two threads that fault in one huge page both zero it.
_BLOCK_BYTES = 8 << 20
_LEAST_BYTES = 3 << 20  # less takes about as long as a thread takes to begin and end


class _Scratch(threading.local):
    """A thread's own buffers, kept between calls: they stay in its cache.

    `cipher` holds no secret; whoever writes to `plain`, which is guarded, wipes it.
    """

    def __init__(self) -> None:
        self.cipher = memoryview(bytearray())
        self.plain = memoryview(b"")
        self._pages: Pages | None = None

    def grow(self, segment_length: int) -> None:
        if len(self.cipher) < segment_length:
            self.cipher = memoryview(bytearray(segment_length))

    def grow_plain(self, payload: int) -> None:
        if self._pages is None or self._pages.absent or len(self.plain) < payload:
            self._pages = pages.reserve(Pages, payload)
            self.plain = memoryview(self._pages)


_scratch = _Scratch()


class FileReader:
    """One file of a verified manifest. Any number of threads may read at once.

    Nothing is read before the first `read_into`. `size` is in plaintext bytes.
    """

    def __init__(
        self,
        store: ObjectReader,
        entry: FileEntry,
        key: Secret,
        digest_alg: str,
        threads: int,
        meter: Meter | None = None,
        kept: Kept | None = None,
    ) -> None:
        """Take over `key`, the FileKey: `wipe` wipes it. A large range is read by `threads`;
        `meter` is told what checking and decrypting cost. Where `store` is a cache before the real
        one, `kept` is it again: what it had wrong is read once more, what is right it may keep."""
        self.size = entry.size
        self._store = store
        self._entry = entry
        self._key = key
        self._digest_alg = digest_alg
        self._leaf = leaves.hasher(digest_alg)
        self._threads = max(1, threads)
        self._geometry = floe.Geometry(entry.segment_length)
        self._meter = meter or Meter()
        self._kept = kept
        self._lock = threading.Lock()
        self._opened: tuple[floe.Decryptor, bytes] | None = None

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill the whole of `buffer` (bytes, writable) with the plaintext from `offset` on.

        Raises InvalidRequest (`bad_range`, `wiped`); IntegrityError naming the file:
        `wrong_size`, `missing_object`, `truncated`, `bad_leaf_list`, `altered`, `bad_header`,
        `bad_header_tag`, `bad_length`, `bad_tag`; and what the store raises when it doesn't
        answer. After any error the buffer holds nothing of the file.
        """
        if offset < 0 or offset + len(buffer) > self.size:
            raise InvalidRequest(
                "bad_range",
                f"{self._entry.path}: bytes {offset} to {offset + len(buffer)} of {self.size}",
            )
        with self._naming():
            decryptor, leaf_list = self._open()
            first, count = self._span(offset, len(buffer))
            block = self._block(count)

            def segments(start: int, stop: int) -> None:
                positions = range(first + start, first + stop)
                places = [self._geometry.segment_at(each, self.size) for each in positions]
                size = sum(length for _, length in places)
                stream = self._store.stream(self._entry.object, places[0][0], size)
                with stream as read, Laps(self._meter) as laps:
                    for position, (at, length) in zip(positions, places, strict=True):
                        segment = self._read_segment(read, length)
                        laps.start()
                        self._check(segment, leaf_list, position, at)
                        laps.spent("check")
                        if self._kept is not None:
                            self._kept.keep(self._entry.object, at, segment)
                            laps.spent("keep")
                        self._decrypt(decryptor, position, segment, offset, buffer)
                        laps.spent("decrypt")
                        laps.decrypted(length - floe.OVERHEAD)

            try:
                run_blocks(segments, count, block, self._threads)
            except BaseException:
                _zero(buffer)
                raise
            finally:
                decryptor.rest()

    def wipe(self) -> None:
        """Forget the keys; reading is InvalidRequest (`wiped`) from now on. Twice is fine."""
        with self._lock:
            self._key.wipe()
            if self._opened is not None:
                self._opened[0].wipe()
            self._opened = None

    def _span(self, offset: int, length: int) -> tuple[int, int]:
        """(first segment, number of segments) of a range; an empty file's one is checked too."""
        if length == 0:
            return 0, int(self.size == 0)
        first = offset // self._geometry.payload
        return first, (offset + length - 1) // self._geometry.payload - first + 1

    def _block(self, count: int) -> int:
        """How many segments a thread takes at a time: so few that all threads have some."""
        length = self._geometry.segment_length
        share = max(-(-count // self._threads), _LEAST_BYTES // length)
        return max(1, min(share, _BLOCK_BYTES // length))

    def _read_segment(self, read: Callable[[memoryview], None], length: int) -> memoryview:
        """The next encrypted segment, in this thread's buffer."""
        _scratch.grow(self._geometry.segment_length)
        segment = _scratch.cipher[:length]
        read(segment)
        return segment

    def _check(self, segment: memoryview, leaf_list: bytes, position: int, at: int) -> None:
        """Raises IntegrityError (`altered`) unless it is what the signed manifest stands for."""

        def check() -> None:
            leaves.check_leaf(self._leaf(segment), leaf_list, position + 1, self._entry.path)

        self._twice(check, self._entry.object, at, segment)

    def _twice(self, check: Callable[[], None], name: str, at: int, buffer: memoryview) -> None:
        """Check what was read into `buffer`; where a cache had it wrong, the store is asked."""
        try:
            check()
        except IntegrityError:
            if self._kept is None or not self._kept.distrust(name, at):
                raise
            self._store.read_into(name, at, buffer)
            check()

    def _decrypt(
        self,
        decryptor: floe.Decryptor,
        position: int,
        segment: memoryview,
        offset: int,
        buffer: memoryview,
    ) -> None:
        """Decrypt a checked segment, as much of it as falls into the range."""
        final = position == self._geometry.segments(self.size) - 1
        start = position * self._geometry.payload - offset
        end = start + len(segment) - floe.OVERHEAD
        if start >= 0 and end <= len(buffer):
            decryptor.decrypt_into(position, segment, final, buffer[start:end])
            return
        _scratch.grow_plain(self._geometry.payload)
        plain = _scratch.plain[: end - start]
        try:
            decryptor.decrypt_into(position, segment, final, plain)
            low, high = max(start, 0), min(end, len(buffer))
            buffer[low:high] = plain[low - start : high - start]
        finally:
            _zero(plain)

    def _open(self) -> tuple[floe.Decryptor, bytes]:
        """Check sizes, leaf list and header, once."""
        with self._lock:
            if self._opened is None:
                self._key.reveal()  # says that it is wiped before the store is asked
                leaf_list = self._read_leaf_list()
                self._opened = self._read_header(leaf_list), leaf_list
            return self._opened

    def _read_leaf_list(self) -> bytes:
        entry = self._entry
        self._check_size(entry.object, self._geometry.ciphertext_size(entry.size))
        self._check_size(entry.leaves, leaves.list_size(self._geometry, entry.size))
        leaf_list = bytearray(leaves.list_size(self._geometry, entry.size))
        view = memoryview(leaf_list)
        self._store.read_into(entry.leaves, 0, view)
        self._twice(lambda: leaves.check(self._digest_alg, leaf_list, entry), entry.leaves, 0, view)
        if self._kept is not None:
            self._kept.keep(entry.leaves, 0, view)
        return bytes(leaf_list)

    def _read_header(self, leaf_list: bytes) -> floe.Decryptor:
        entry = self._entry
        header = bytearray(floe.HEADER_BYTES)
        view = memoryview(header)
        self._store.read_into(entry.object, 0, view)
        self._twice(
            lambda: leaves.check_leaf(self._leaf(header), leaf_list, 0, entry.path),
            entry.object,
            0,
            view,
        )
        if self._kept is not None:
            self._kept.keep(entry.object, 0, view)
        aad = derive.file_aad(entry.artifact, entry.path)
        return floe.Decryptor(self._key, aad, self._geometry, header)

    def _check_size(self, name: str, wanted: int) -> None:
        found = self._store.size(name)
        if found != wanted:
            raise IntegrityError(
                "wrong_size",
                f"{self._entry.path}: the object is {found} bytes, not {wanted}",
                "the object was cut, extended or exchanged: restore it from a copy, or load "
                "another version",
            )

    @contextmanager
    def _naming(self) -> Iterator[None]:
        """Let no integrity error leave without the file's path."""
        path = self._entry.path
        try:
            yield
        except NotFound:
            raise IntegrityError(
                "missing_object",
                f"{path}: an object of it is gone from the store",
                "restore it from a copy, or load another version",
            ) from None
        except IntegrityError as error:
            if error.message.startswith(path + ": ") and error.hint:
                raise
            message = error.message.removeprefix(path + ": ")
            raise IntegrityError(
                error.code, f"{path}: {message}", error.hint or leaves.ALTERED_HINT
            ) from None


def _zero(buffer: memoryview) -> None:
    """Zero without making a second buffer of that size."""
    zeros = bytes(min(len(buffer), 1 << 20))
    for start in range(0, len(buffer), len(zeros) or 1):
        part = buffer[start : start + len(zeros)]
        part[:] = zeros[: len(part)]
