"""Where ciphertext lies. Names are `objects/<32 hex>` or `keys/<32 hex>/<version>`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import msgspec


class ObjectInfo(msgspec.Struct, frozen=True):
    """An object in a listing: size in bytes, last change in milliseconds since the epoch."""

    name: str
    size: int
    modified: int


class ObjectReader(Protocol):
    """Reading. Any number of threads at once, also of one object."""

    def size(self, name: str) -> int:
        """Bytes of the object. Raises NotFound (`no_object`)."""
        ...

    def read_into(self, name: str, offset: int, buffer: memoryview) -> None:
        """Fill the whole of `buffer` from `offset` on.

        Raises NotFound (`no_object`), or IntegrityError (`truncated`) when the object ends first.
        """
        ...


class ObjectWriter(Protocol):
    """Writing, once for each name."""

    def put(self, name: str, sizes: Sequence[int], fill: Callable[[int, memoryview], None]) -> None:
        """Write an object of consecutive parts of `sizes` bytes.

        Calls `fill(i, buffer)` exactly once for each part, `buffer` being sizes[i] bytes long,
        from several threads at once and in about ascending order; memory stays bounded by the
        number of threads times the largest part. The object is durable and visible as a whole
        when this returns, and not at all when it raises, or when `fill` does.
        Raises Conflict (`object_exists`): nothing is ever overwritten.
        """
        ...


class ObjectStore(ObjectReader, ObjectWriter, Protocol):
    """Both, and what keeping house needs."""

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Objects whose names begin with `prefix`, by name; unfinished puts aren't among them."""
        ...

    def delete(self, name: str) -> None:
        """Remove an object; that it isn't there is no error."""
        ...

    def sweep(self, before: int) -> int:
        """Remove leftovers of puts that died before `before` (ms); returns how many there were."""
        ...
