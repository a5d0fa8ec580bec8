"""What a push takes, wherever it lies: on a disk or in memory. Both are one walk."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Protocol


class Reading(Protocol):
    """One content while it is read, by any number of threads at once."""

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill the whole of `buffer` from `offset` on.

        Raises Conflict (`file_changed`), InvalidRequest (`unreadable`).
        """
        ...

    def read(self, offset: int, size: int) -> bytes:
        """`size` bytes from `offset` on, for small things. Errors as `read_into`."""
        ...

    def format(self) -> str:
        """What it is (`weights.sniff`), by its own bytes."""
        ...

    def check(self) -> None:
        """Raises Conflict (`file_changed`) unless it still is as it was when the push began."""
        ...


class Content(Protocol):
    """One file of a version that is about to be: `path` as the manifest will name it, `size` in
    bytes, and `place`, where it comes from, for people to read."""

    @property
    def path(self) -> str: ...  # noqa: D102

    @property
    def size(self) -> int: ...  # noqa: D102

    @property
    def place(self) -> str: ...  # noqa: D102

    @property
    def state(self) -> tuple[int, ...]:
        """What must be the same for another process to go on with it; empty where none can."""
        ...

    def open(self) -> AbstractContextManager[Reading]:
        """Begin to read. Raises Conflict (`file_changed`), InvalidRequest (`unreadable`)."""
        ...


def total(contents: Iterable[Content]) -> int:
    """Bytes of all of them."""
    return sum(content.size for content in contents)
