"""A plaintext file on a disk that is pushed: notices when somebody changes it."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Self
from zipfile import BadZipFile, ZipFile

import msgspec

from modelvault.errors import Conflict, InvalidRequest
from modelvault.weights.sniff import SNIFF_BYTES, sniff, sniff_zip


class Identity(msgspec.Struct, frozen=True):
    """Which file it was, and in what state, when it was looked at: if any of it differs later,
    somebody has touched the file."""

    device: int
    inode: int
    size: int
    modified_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Identity:
        """From a stat of the open file or of its path."""
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


class Found(msgspec.Struct, frozen=True):
    """A file to push: `path` as the manifest will name it, `source` with all links resolved."""

    path: str
    source: Path
    identity: Identity
    changed_ns: int = 0

    @property
    def size(self) -> int:
        """Bytes."""
        return self.identity.size

    @property
    def place(self) -> str:
        """Where it lies."""
        return str(self.source)

    @property
    def state(self) -> tuple[int, ...]:
        """What must be the same for a file to be the same: the change time too, which nobody can
        set back. Otherwise a version could be put together from two states of one file."""
        identity = self.identity
        return (
            identity.device, identity.inode, identity.size, identity.modified_ns, self.changed_ns,
        )  # fmt: skip

    def open(self) -> Source:
        """See Content."""
        return Source(self)


class Source:
    """One file, open for reading by any number of threads.

    It is opened without following links and without waiting (a FIFO put in its place would hang
    the push) and must be the very file, in the very state, that the scan saw; `check()` says
    whether it still is. Every difference is Conflict `file_changed`.
    """

    def __init__(self, found: Found) -> None:
        self._found = found
        self._head = b""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            self._descriptor = os.open(found.source, flags)
        except FileNotFoundError:
            raise self._changed("it is gone") from None
        except OSError as error:
            raise InvalidRequest(
                "unreadable",
                f"can't read {found.source}: {os.strerror(error.errno or 0)}",
                "give yourself permission to read it, or leave it out",
            ) from None
        try:
            self.check()
        except Conflict:
            self.close()
            raise

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill the whole of `buffer` from `offset` on."""
        done = 0
        while done < len(buffer):
            try:
                count = os.preadv(self._descriptor, [buffer[done:]], offset + done)
            except OSError as error:
                raise InvalidRequest(
                    "unreadable",
                    f"reading {self._found.source} failed: {os.strerror(error.errno or 0)}",
                    "check the disk that it lies on",
                ) from None
            if count == 0:
                raise self._changed("it has become shorter")
            done += count
        if offset == 0:
            self._head = bytes(buffer[:SNIFF_BYTES])

    def format(self) -> str:
        """What the file is (`weights.sniff`), by the first bytes that have passed by.

        They are read now where none have; an archive's list of names is looked at too.
        """
        wanted = min(self._found.size, SNIFF_BYTES)
        if len(self._head) < wanted:
            self._head = self.read(0, wanted)
        kind = sniff(self._found.path, self._head)
        return sniff_zip(self._archived()) if kind == "zip" else kind

    def read(self, offset: int, size: int) -> bytes:
        """`size` bytes from `offset` on."""
        data = bytearray(size)
        self.read_into(offset, memoryview(data))
        return bytes(data)

    def _archived(self) -> list[str]:
        try:
            with os.fdopen(os.dup(self._descriptor), "rb") as file, ZipFile(file) as archive:
                return archive.namelist()
        except (BadZipFile, OSError, ValueError, NotImplementedError):
            return []

    def check(self) -> None:
        """Raise Conflict (`file_changed`) unless the file is still as the scan saw it."""
        if Identity.of(os.fstat(self._descriptor)) != self._found.identity:
            raise self._changed("another size, time or file than when the push began")

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _changed(self, how: str) -> Conflict:
        return Conflict(
            "file_changed",
            f"{self._found.source} changed while it was being pushed: {how}",
            "nothing was published: push again once nobody writes to the file",
        )
