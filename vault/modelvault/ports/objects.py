"""Where ciphertext lies. Names are `objects/<32 hex>` or `keys/<32 hex>/<version>`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import msgspec

from modelvault.errors import InvalidRequest
from modelvault.lease import Link

NAME = re.compile(r"objects/[0-9a-f]{32}|keys/[0-9a-f]{32}/[1-9][0-9]{0,15}", re.ASCII)


def check_name(name: str) -> str:
    """An object's name. InvalidRequest (`bad_object_name`) for any other text: a name leads out of
    no folder and no prefix, since its parts are fixed words, hex digits and numbers."""
    if not NAME.fullmatch(name):
        raise InvalidRequest("bad_object_name", f"not an object's name: {name[:80]!r}")
    return name


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

    def stream(
        self, name: str, offset: int, size: int
    ) -> AbstractContextManager[Callable[[memoryview], None]]:
        """Read `size` bytes from `offset` on, one buffer after another and each filled whole.

        For the same bytes this costs a store far away one request instead of many. What it gives
        is one thread's. Errors as `read_into`, at any of the buffers.
        """
        ...


class Kept(Protocol):
    """What a cache that stands between a reader and a store is told of the bytes it gave.

    Any number of threads at once. Neither method raises: a cache that fails is only slow.
    """

    def keep(self, name: str, offset: int, buffer: memoryview) -> None:
        """These bytes, read from there just now, are the right ones. Not kept beyond the call."""
        ...

    def distrust(self, name: str, offset: int) -> bool:
        """What was read from there isn't what it should be. Whether it came from the cache, which
        holds it no longer: then reading it again asks the store."""
        ...


class CachedReader(ObjectReader, Kept, Protocol):
    """A reader that reads what it can from nearer than the store."""


@contextmanager
def piecewise(
    store: ObjectReader, name: str, offset: int
) -> Iterator[Callable[[memoryview], None]]:
    """`ObjectReader.stream` for a store that is near: a read for each buffer."""
    at = offset

    def read(buffer: memoryview) -> None:
        nonlocal at
        store.read_into(name, at, buffer)
        at += len(buffer)

    yield read


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


class PutPart(msgspec.Struct, frozen=True):
    """A part that the store has: its number, from 1, and its size in bytes."""

    number: int
    size: int


class UrlSigner(Protocol):
    """Links by which somebody without an account at the store does one thing to one object.

    Only the broker has it. `ttl_s` is in seconds. A link to put says, signed, how many bytes and
    that nothing is overwritten.
    """

    def download(self, names: Sequence[str], ttl_s: int) -> tuple[Link, ...]:
        """A link to read each of `names`, in ranges too. Whether they exist isn't looked at."""
        ...

    def upload(self, name: str, size: int, ttl_s: int) -> Link:
        """A link to put the whole object in one request of `size` bytes.

        The store answers a second put of that name with a refusal (412), whoever makes it.
        """
        ...

    def begin(self, name: str) -> str:
        """Begin to put an object in parts; what names that transfer at the store is returned."""
        ...

    def upload_parts(
        self, name: str, transfer: str, sizes: Mapping[int, int], ttl_s: int
    ) -> tuple[Link, ...]:
        """A link for each part, by number: `sizes` gives the bytes of each."""
        ...

    def parts(self, name: str, transfer: str) -> tuple[PutPart, ...]:
        """The parts that the store has, by number. NotFound (`no_transfer`) if it isn't there:
        never begun, aborted, or complete."""
        ...

    def complete(self, name: str, transfer: str, sizes: Sequence[int]) -> None:
        """Make an object of the parts 1 to len(`sizes`), which must be there with these sizes.

        Idempotent while the object stands as it was completed. Raises IntegrityError
        (`parts_missing`), NotFound (`no_transfer`), Conflict (`object_exists`): nothing is ever
        overwritten.
        """
        ...

    def abort(self, name: str, transfer: str) -> None:
        """Give a transfer up and free its parts. Idempotent."""
        ...


class Places(Protocol):
    """Where one client reads and puts objects: a store of its own, or links that a broker gives.

    `key_hash` is that of the recipient key of the ask that the lease or upload answered: a
    key-bound token is good for that key only. `objects` are the names that will be read, in about
    the order of it: whoever wants one soon wants the next. `source` says in a word where the
    objects lie, for measurements: `folder`, `object_store`.
    """

    source: str

    def leased(self, lease: str, key_hash: str, objects: Sequence[str]) -> ObjectReader:
        """Reads the objects of a running lease."""
        ...

    def pulled(self, reference: str, objects: Sequence[str]) -> ObjectReader:
        """Reads the objects of a version that may be pulled; `reference` is exact (`name@7`)."""
        ...

    def opened(self, upload: str, key_hash: str | None) -> UploadStore:
        """Puts the objects of an open upload or import, by its id; an import has no recipient."""
        ...


class Track(Protocol):
    """Remembers how far the put of one object got, beyond the life of a process."""

    transfer: str | None

    def has(self, piece: int) -> bool:
        """Whether an earlier run had this piece put, in the transfer that it began."""
        ...

    def begun(self, transfer: str) -> None:
        """The transfer at the store that the pieces go to."""
        ...

    def sent(self, start: int, stop: int) -> None:
        """The store has pieces `start` to `stop`. Called from several threads."""
        ...


class UploadStore(ObjectWriter, Protocol):
    """Puts the objects of one upload."""

    def put_tracked(
        self,
        name: str,
        sizes: Sequence[int],
        fill: Callable[[int, memoryview], None],
        track: Track,
    ) -> None:
        """As `put`, going on where an earlier run stopped: `fill` isn't called for pieces that
        `track` and the store both have. Raises NotFound (`no_transfer`) when the store has lost
        what was put: put it anew under another name.
        """
        ...

    def name(self, seed: str) -> str:
        """The name that `seed` (32 hex) makes for an object of this upload, and the only kind of
        name that `put` takes."""
        ...

    def delete(self, name: str) -> None:
        """Give an object of this upload back, as far as that is possible. Idempotent."""
        ...
