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
    Threads may read at once; wiping while another thread reads is the caller's mistake. There is
    no wipe on garbage collection: a view from `reveal` may outlive the object, and encrypting
    under a key that has silently become zeros is worse than a key that lives too long.
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
        buffer = self._buffer  # read once: another thread may wipe
        if buffer is None:
            raise InvalidRequest("wiped", "this key has been wiped", "ask for a new lease")
        return memoryview(buffer).toreadonly()

    def wipe(self) -> None:
        """Zero the bytes. Doing it twice is fine."""
        buffer, self._buffer = self._buffer, None
        if buffer is not None:
            buffer[:] = bytes(len(buffer))

    @property
    def wiped(self) -> bool:
        """Whether the bytes are gone."""
        return self._buffer is None

    def __len__(self) -> int:
        buffer = self._buffer
        return 0 if buffer is None else len(buffer)

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
        return ["copy_of", "random", "reveal", "wipe", "wiped"]
