"""The keyring's file: read whole, replaced whole, changed by one process at a time.

Readers take no lock: `rename` replaces the file at once, so they see the old one or the new one.
Who changes it holds an exclusive lock on `<name>.lock` from reading to renaming, so that no change
of another process is lost. The kernel drops that lock when its holder dies.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from modelvault.adapters.keys_local.document import MAX_BYTES
from modelvault.errors import Unavailable

_PRIVATE = 0o600


class KeyringFile:
    """One path; any number of threads and processes.

    All methods raise Unavailable: `keyring_unreadable` or `keyring_unwritable`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def open(self) -> int:
        """A descriptor of the file as it is now. The caller closes it."""
        try:
            return os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise self._unreadable(error) from None

    def read(self, descriptor: int) -> bytes:
        """The whole contents, or one byte more than the parser takes."""
        try:
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                return file.read(MAX_BYTES + 1)
        except OSError as error:
            raise self._unreadable(error) from None

    def is_still(self, descriptor: int) -> bool:
        """Whether the path still leads to the file behind `descriptor`.

        As long as a descriptor is open, its inode's number isn't given to another file: two
        numbers that are equal mean one file, however fast it was replaced.
        """
        try:
            return os.path.samestat(self.path.stat(), os.fstat(descriptor))
        except OSError as error:
            raise self._unreadable(error) from None

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Alone among all processes and threads."""
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            descriptor = os.open(self._beside(".lock"), flags, _PRIVATE)
        except OSError as error:
            raise self._unwritable(error) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def replace(self, data: bytes) -> None:
        """Put `data` in the file's place, durably, or leave it as it was. Only while `changing`."""
        draft = self._beside(f".{secrets.token_hex(8)}.draft")
        try:
            self._clear_drafts()
            try:
                _write(draft, data)
                draft.replace(self.path)
            except BaseException:
                with contextlib.suppress(FileNotFoundError):
                    draft.unlink()
                raise
            _sync(self.path.parent)
        except OSError as error:
            raise self._unwritable(error) from None

    def _clear_drafts(self) -> None:
        """Remove what a process that was killed has left: under the lock nobody else writes."""
        for left in self.path.parent.glob(f"{self.path.name}.*.draft"):
            left.unlink(missing_ok=True)

    def _beside(self, ending: str) -> Path:
        return self.path.with_name(self.path.name + ending)

    def _unreadable(self, error: OSError) -> Unavailable:
        return Unavailable(
            "keyring_unreadable",
            f"can't read the keyring {self.path}: {os.strerror(error.errno or 0)}",
            "check the vault's home and its permissions, or restore the file from a backup",
        )

    def _unwritable(self, error: OSError) -> Unavailable:
        return Unavailable(
            "keyring_unwritable",
            f"can't write the keyring {self.path}: {os.strerror(error.errno or 0)}",
            "check the free space and the permissions of the vault's home; nothing was changed",
        )


def _write(path: Path, data: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(path, flags, _PRIVATE)
    try:
        os.fchmod(descriptor, _PRIVATE)  # a umask may have taken bits away
        left = memoryview(data)
        while left:
            left = left[os.write(descriptor, left) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
