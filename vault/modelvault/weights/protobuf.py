"""Protocol buffers as far as a walk over them needs: fields with their places, nothing built.

Stricter than their readers: groups are refused, and so is whatever doesn't end where the part that
it stands in ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from modelvault.errors import IntegrityError
from modelvault.weights.cursor import Cursor, Read

MAX_BYTES = 2**31 - 1  # what one can hold
MAX_FIELDS = 5_000_000
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


class Fields:
    """A way over a message of `size` bytes; `take` and `skip` are the cursor's."""

    def __init__(self, read: Read, size: int, lie: Callable[[str], IntegrityError]) -> None:
        self._cursor = Cursor(read, size, lie, MAX_BYTES)
        self._lie = lie
        self._count = 0
        self.take = self._cursor.take
        self.skip = self._cursor.skip

    @property
    def position(self) -> int:
        """Bytes from the beginning."""
        return self._cursor.position

    def each(self, end: int) -> Iterator[tuple[int, int, int]]:
        """(number, wire type, value) of the fields up to `end`.

        Of BYTES the value is their length, and who gets it goes on behind them; of the fixed ones
        it is 0.
        """
        while self.position < end:
            self._count += 1
            if self._count > MAX_FIELDS:
                raise self._lie(f"more than {MAX_FIELDS:,} fields")
            tag = self._varint()
            number, wire = tag >> 3, tag & 7
            if not number or tag >> 32:
                raise self._lie(f"there is no field {number}")
            yield number, wire, self._value(wire, end)
        if self.position != end:
            raise self._lie("a part that is longer than what it stands in")

    def _value(self, wire: int, end: int) -> int:
        if wire == VARINT:
            return self._varint()
        if wire == BYTES:
            length = self._varint()
            if length > end - self.position:
                raise self._lie("a part that is longer than what it stands in")
            return length
        if wire in (FIXED64, FIXED32):
            self.skip(8 if wire == FIXED64 else 4)
            return 0
        raise self._lie(f"there is no wire type {wire}")

    def _varint(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if value >> 64:
                    break
                return value
        raise self._lie("a number of more than 64 bits")


def varint(value: int) -> bytes:
    """A number as it stands in a message."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def field(number: int, value: bytes | int) -> bytes:
    """A field with its number before it: BYTES, which a message is too, or VARINT."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | BYTES) + varint(len(value)) + value
