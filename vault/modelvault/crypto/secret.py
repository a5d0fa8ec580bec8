"""Key bytes in a buffer that can be wiped and that gives nothing away."""

from __future__ import annotations

import hmac
import os
from types import TracebackType
from typing import NoReturn, Self

from modelvault.errors import InvalidRequest


class Secret:
    """Some key bytes, wiped by `wipe()` or at the end of a `with`.

    repr, str and format show the length only; copying, pickling and hashing raise TypeError.
    Equality is constant-time. Reading after the wipe raises InvalidRequest (`wiped`).
    Python or a library may still hold copies that it made itself: see the threat model.
    Threads may read at once; wiping while another thread reads is the caller's mistake.
    """

    __slots__ = ("_buffer",)
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, buffer: bytearray) -> None:
        """Take over `buffer` itself: nothing is copied, and the wipe zeroes the caller's buffer."""
        self._buffer: bytearray | None = buffer

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
        if self._buffer is None:
            raise InvalidRequest("wiped", "this key has been wiped", "ask for a new lease")
        return memoryview(self._buffer).toreadonly()

    def wipe(self) -> None:
        """Zero the bytes. Doing it twice is fine."""
        if self._buffer is not None:
            self._buffer[:] = bytes(len(self._buffer))
            self._buffer = None

    @property
    def wiped(self) -> bool:
        """Whether the bytes are gone."""
        return self._buffer is None

    def __len__(self) -> int:
        return 0 if self._buffer is None else len(self._buffer)

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
        return f"<Secret, {len(self)} bytes>" if self._buffer is not None else "<Secret, wiped>"

    def __format__(self, _spec: str) -> str:
        return repr(self)

    def __reduce_ex__(self, _protocol: object) -> NoReturn:
        raise TypeError("a Secret can't be pickled or copied")

    def __copy__(self) -> NoReturn:
        raise TypeError("a Secret can't be pickled or copied")

    def __deepcopy__(self, _memo: object) -> NoReturn:
        raise TypeError("a Secret can't be pickled or copied")

    def __dir__(self) -> list[str]:
        return ["copy_of", "random", "reveal", "wipe", "wiped"]
