"""A bare FLOE ciphertext, read by itself: no manifest, no leaf list.

For files whose length nothing else vouches for: the final segment is authenticated before the
length is believed, so a ciphertext cut at a segment's end is refused at once. The vault's own
files are read by `artifact.reader`, where a signed manifest fixes the size.
"""

from __future__ import annotations

from collections.abc import Callable

from modelvault.crypto.floe import HEADER_BYTES, OVERHEAD, Decryptor, Geometry
from modelvault.crypto.secret import Secret
from modelvault.errors import InvalidRequest

ReadInto = Callable[[int, memoryview], None]


class Reader:
    """Any byte range of a ciphertext of known outer size. Threads may read at once.

    `size` is in plaintext bytes. `read_into(offset, buffer)` of the source fills the buffer.
    """

    def __init__(
        self, source: ReadInto, source_size: int, key: Secret, aad: bytes, geometry: Geometry
    ) -> None:
        """Check the header, then the final segment.

        Raises IntegrityError: `bad_header`, `bad_header_tag`, `bad_length`, `bad_tag`.
        """
        header = bytearray(min(source_size, HEADER_BYTES))
        source(0, memoryview(header))
        self._source = source
        self._geometry = geometry
        self._decryptor = Decryptor(key, aad, geometry, header)
        self.size = geometry.plaintext_size(source_size)
        # Counted from the outer size: some encryptors write an empty final segment behind a full
        # one, and then there is one more than the plaintext's size would need.
        body = source_size - HEADER_BYTES
        self._last = -(-body // geometry.segment_length) - 1
        self._last_length = body - self._last * geometry.segment_length
        self._authenticate_final()

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` with plaintext from `offset` on.

        Raises InvalidRequest (`bad_range`), IntegrityError (`bad_length`, `bad_tag`) and what
        the source raises; the buffer then holds zeros.
        """
        if offset < 0 or offset + len(buffer) > self.size:
            raise InvalidRequest("bad_range", f"{offset} + {len(buffer)} of {self.size} bytes")
        scratch = bytearray(self._geometry.payload)
        done = 0
        try:
            while done < len(buffer):
                position, skip = divmod(offset + done, self._geometry.payload)
                plain = self._segment(position, scratch)[skip:][: len(buffer) - done]
                buffer[done : done + len(plain)] = plain
                done += len(plain)
        except BaseException:
            buffer[:] = bytes(len(buffer))
            raise
        finally:
            scratch[:] = bytes(len(scratch))

    def wipe(self) -> None:
        """Forget the keys."""
        self._decryptor.wipe()

    def _authenticate_final(self) -> None:
        scratch = bytearray(self._geometry.payload)
        self._segment(self._last, scratch)
        scratch[:] = bytes(len(scratch))

    def _segment(self, position: int, scratch: bytearray) -> memoryview:
        """The plaintext of one segment, in `scratch`."""
        final = position == self._last
        length = self._last_length if final else self._geometry.segment_length
        segment = bytearray(length)
        self._source(HEADER_BYTES + position * self._geometry.segment_length, memoryview(segment))
        plain = memoryview(scratch)[: length - OVERHEAD]
        self._decryptor.decrypt_into(position, segment, final, plain)
        return plain
