"""Key bytes in guarded memory that can be wiped and that gives nothing away."""

from __future__ import annotations

import ctypes
import hmac
import os
import threading
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import NoReturn, Self

from modelvault.crypto import pages
from modelvault.crypto.pages import Pages
from modelvault.errors import InvalidRequest, Unavailable

_SLOT = 64  # bytes: all keys but those that are sealed together
_TOGETHER = 1 << 16

_free: deque[tuple[Pages, int]] = deque()  # slots, oldest first
_lock = threading.Lock()


class _Slot(ctypes.c_ubyte * _SLOT):  # type: ignore[misc]
    """A place in pages that keys share; views of it keep it. It goes back zeroed, with the last."""

    pages: Pages
    offset: int

    def __del__(self) -> None:
        if not self.pages.absent:
            ctypes.memset(ctypes.addressof(self), 0, _SLOT)
            _free.append((self.pages, self.offset))


def _room(size: int) -> tuple[_Slot | Pages, Pages]:
    """Guarded memory for `size` bytes, and the pages that it is in."""
    if size > _SLOT:
        own = pages.reserve(Pages, size)
        return own, own
    with _lock:
        if not _free:
            shared = pages.reserve(Pages, _TOGETHER)
            _free.extend((shared, offset) for offset in range(0, _TOGETHER, _SLOT))
        held, offset = _free.popleft()
    slot = _Slot.from_buffer(held, offset)
    slot.pages, slot.offset = held, offset
    return slot, held


def reserve() -> None:
    """Have room for keys locked, before weights take all that may be."""
    _room(1)


def _after_fork() -> None:
    """In the child the slots are gone, and whoever held the lock isn't here."""
    global _lock
    _lock = threading.Lock()
    if any(held.absent for held, _ in list(_free)[:1]):
        _free.clear()


os.register_at_fork(after_in_child=_after_fork)


class Secret:
    """Some key bytes, wiped by `wipe()` or at the end of a `with`.

    repr, str and format show the length only; copying, pickling and hashing raise TypeError.
    Equality is constant-time. Reading after the wipe raises InvalidRequest (`wiped`).
    Python or a library may still hold copies that it made itself: see the threat model.
    Threads may read at once; wiping while another thread reads is the caller's mistake. The bytes
    are wiped when the object and all views from `reveal` are gone, never under a view: encrypting
    under a key that has silently become zeros is worse than a key that lives too long.

    They stay out of core dumps and, as far as the limit allows, out of swap (`crypto.pages`). In a
    forked child there are none: Unavailable (`forked`).
    """

    __slots__ = ("_buffer", "_pages", "_size")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, buffer: bytearray) -> None:
        """Move what is in `buffer` to guarded memory; the caller's buffer is zeros afterwards."""
        self._size = len(buffer)
        self._buffer: _Slot | Pages | None
        self._buffer, self._pages = _room(self._size)
        self._writable()[:] = buffer
        buffer[:] = bytes(self._size)

    @classmethod
    def filled(cls, size: int, fill: Callable[[memoryview], object]) -> Self:
        """`size` bytes that `fill` writes where they are to live."""
        secret = cls(bytearray(size))
        try:
            with secret._writable() as out:
                fill(out)
        except BaseException:
            secret.wipe()
            raise
        return secret

    @classmethod
    def random(cls, size: int) -> Self:
        """`size` bytes from the operating system's generator."""
        return cls(bytearray(os.urandom(size)))

    @classmethod
    def copy_of(cls, data: bytes | bytearray | memoryview) -> Self:
        """A copy of `data`, for what libraries return as immutable bytes."""
        return cls(bytearray(data))

    def reveal(self) -> memoryview:
        """The bytes, read-only and not copied. Every use of key bytes goes through this name."""
        return self._writable().toreadonly()

    def wipe(self) -> None:
        """Zero the bytes. Doing it twice is fine."""
        buffer, self._buffer = self._buffer, None
        if buffer is not None and not self._pages.absent:
            memoryview(buffer).cast("B")[: self._size] = bytes(self._size)

    @property
    def wiped(self) -> bool:
        """Whether the bytes are gone."""
        return self._buffer is None

    @property
    def absent(self) -> bool:
        """Whether this is a forked child, and the bytes stayed with its parent."""
        return self._pages.absent

    def __len__(self) -> int:
        return 0 if self._buffer is None else self._size

    def _writable(self) -> memoryview:
        buffer = self._buffer  # read once: another thread may wipe
        if buffer is None:
            raise InvalidRequest("wiped", "this key has been wiped", "ask for a new lease")
        if self._pages.absent:
            raise Unavailable(
                "forked",
                "this key stayed in the process that this one was forked from",
                "connect again in this process, or fork within `with modelvault.inherited():`",
            )
        return memoryview(buffer).cast("B")[: self._size]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self.reveal(), other.reveal())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.wipe()

    def __repr__(self) -> str:
        return "<Secret, wiped>" if self.wiped else f"<Secret, {len(self)} bytes>"

    def __format__(self, _spec: str) -> str:
        return repr(self)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret can't be pickled or copied")

    def __reduce_ex__(self, _protocol: object) -> NoReturn:
        raise TypeError("a Secret can't be pickled or copied")

    def __getstate__(self) -> NoReturn:
        # object's own would hand out the buffer.
        raise TypeError("a Secret can't be pickled or copied")

    def __copy__(self) -> NoReturn:
        raise TypeError("a Secret can't be pickled or copied")

    def __deepcopy__(self, _memo: object) -> NoReturn:
        raise TypeError("a Secret can't be pickled or copied")

    def __dir__(self) -> list[str]:
        return ["absent", "copy_of", "filled", "random", "reveal", "wipe", "wiped"]
