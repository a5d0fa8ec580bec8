"""A file of `modelvault://`, and who may not read it: what of fsspec itself would write it to a
disk."""

from __future__ import annotations

import inspect
import io
from typing import TYPE_CHECKING

from modelvault.errors import AccessDenied
from modelvault.integrations.addresses import Address
from modelvault.loader.model import Model

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

    from modelvault.integrations.fsspec import ModelVaultFileSystem

_CACHES = "fsspec.implementations.cached"
_BLOCKS = "fsspec.caching"
_BLOCKS_ON_A_DISK = "MMapCache."
_FSSPEC = "fsspec."
_FETCHES = "get_file"


class File(io.BufferedReader):
    """A file of a version: binary, seekable, read-only; errors as `Model.open`.

    Keeps its file system, and with it the lease, until it is closed or forgotten.

    A file system around ours that unpacks or renames (`zip::`, `tar::`, `dir::`) opens it as
    anybody does, and a cache around that one is never seen by ours. So each read looks who reads:
    AccessDenied (`plaintext_to_disk`) for what of fsspec puts files on a disk.
    """

    def __init__(self, model: Model, fs: ModelVaultFileSystem, address: Address, size: int) -> None:
        """`size` in bytes."""
        super().__init__(model.open(address.path).detach())
        self.fs = fs
        self.path = str(address)
        self.size = size

    def read(self, size: int | None = -1, /) -> bytes:
        """As `io.BufferedReader`."""
        look_who_reads()
        return super().read(size)

    def read1(self, size: int = -1, /) -> bytes:
        """As `io.BufferedReader`."""
        look_who_reads()
        return super().read1(size)

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """As `io.BufferedReader`."""
        look_who_reads()
        return super().readinto(buffer)

    def readinto1(self, buffer: WriteableBuffer, /) -> int:
        """As `io.BufferedReader`."""
        look_who_reads()
        return super().readinto1(buffer)

    def readline(self, size: int | None = -1, /) -> bytes:
        """As `io.BufferedReader`."""
        look_who_reads()
        return super().readline(size)

    def peek(self, size: int = 0, /) -> bytes:
        """As `io.BufferedReader`."""
        look_who_reads()
        return super().peek(size)

    def __next__(self) -> bytes:
        look_who_reads()
        return super().__next__()


def on_a_disk() -> AccessDenied:
    """What would write plaintext is told so."""
    return AccessDenied(
        "plaintext_to_disk",
        "this would put plaintext on a disk, which is an export and not a load",
        "open modelvault:// itself, without simplecache::, filecache::, blockcache:: or get(); "
        "fs.path(...) gives a name in memory; `modelvault export` asks for plaintext on a disk",
        reasons=["plaintext_to_disk"],
    )


def look_who_reads() -> None:
    """Raise AccessDenied (`plaintext_to_disk`) where one of those who called is a part of fsspec
    that writes what it reads."""
    frame = inspect.currentframe()
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module == _CACHES:
            raise on_a_disk()
        code = frame.f_code
        if module == _BLOCKS and code.co_qualname.startswith(_BLOCKS_ON_A_DISK):
            raise on_a_disk()
        if code.co_name == _FETCHES and module.startswith(_FSSPEC):
            raise on_a_disk()
        frame = frame.f_back
