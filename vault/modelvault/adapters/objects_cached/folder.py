"""The cache's folder. Whatever lies in it may be anybody's: nothing here follows a link, waits for
the other end of a pipe, or writes to a file that has another name elsewhere.

All raise OSError, and nothing else.
"""

from __future__ import annotations

import errno
import os
import stat
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from modelvault.adapters.objects_cached.pieces import NAME, Piece

_PRIVATE = 0o700
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_GROUP = 0o060
_FILE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_BLOCK = 512  # the unit of st_blocks, whatever the file system's own is
# Left free for others: a node whose disk is full evicts its jobs.
_RESERVE = 50
_HELD, _DROPPED = b"\1", b"\0"


class Kept(msgspec.Struct, frozen=True):
    """A file of the cache: bytes that it takes on the disk, and when it was last used (ns)."""

    name: str
    size: int
    used: int


class Folder:
    """A folder of files with ciphertext, made if need be. Any number of threads and processes.

    Files are private to the user; where the folder lets its group write or read, so do they. In a
    folder that everybody may write to (/tmp, an emptyDir) each user has a private one.
    """

    def __init__(self, path: Path) -> None:
        path.mkdir(_PRIVATE, parents=True, exist_ok=True)
        self._descriptor = os.open(path, _FOLDER)
        self._finish = weakref.finalize(self, os.close, self._descriptor)
        mode = os.fstat(self._descriptor).st_mode
        if mode & stat.S_IWOTH:
            mode = self._own()
        self._mode = 0o600 | (mode & _GROUP)

    def _own(self) -> int:
        """Go to the user's own folder in this one; its mode."""
        name = f"user-{os.geteuid()}"
        with suppress(FileExistsError):
            os.mkdir(name, _PRIVATE, dir_fd=self._descriptor)
        own = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=self._descriptor)
        self._finish()
        self._descriptor = own
        self._finish = weakref.finalize(self, os.close, own)
        told = os.fstat(own)
        if told.st_uid != os.geteuid() or told.st_mode & stat.S_IWOTH:
            raise PermissionError(errno.EPERM, f"the folder {name} in it is somebody else's")
        return told.st_mode

    @contextmanager
    def reading(self, name: str) -> Iterator[int]:
        """A descriptor to read the file `name` with."""
        descriptor = self._open(name, os.O_RDONLY)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    @contextmanager
    def writing(self, name: str) -> Iterator[int]:
        """A descriptor to read and write the file `name` with; it is made where there is none."""
        try:
            descriptor = self._open(name, os.O_RDWR)
        except FileNotFoundError:
            descriptor = self._make(name)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def touch(self, name: str) -> None:
        """It was used now."""
        os.utime(name, dir_fd=self._descriptor, follow_symlinks=False)

    def remove(self, name: str) -> None:
        """Whoever reads it may go on."""
        os.unlink(name, dir_fd=self._descriptor)

    def files(self, latest: int) -> list[Kept]:
        """The cache's own files, those first that weren't used for longest. Before all of these
        come those used after `latest` (ns since the epoch): some clock was wrong then, and for them
        what is in use now would have to go."""
        found = []
        with os.scandir(self._descriptor) as names:
            for each in names:
                if NAME.fullmatch(each.name):
                    with suppress(OSError):
                        told = each.stat(follow_symlinks=False)
                        found.append(Kept(each.name, told.st_blocks * _BLOCK, told.st_mtime_ns))
        return sorted(found, key=lambda kept: (kept.used <= latest, kept.used, kept.name))

    def free(self) -> int:
        """Bytes that the disk can give, without what is left for others. May be negative."""
        told = os.fstatvfs(self._descriptor)
        return (told.f_bavail - told.f_blocks // _RESERVE) * told.f_frsize

    def _open(self, name: str, flags: int) -> int:
        # Looked at first: opening a device can do things by itself.
        self._check(name, os.stat(name, dir_fd=self._descriptor, follow_symlinks=False))
        descriptor = os.open(name, flags | _FILE, dir_fd=self._descriptor)
        try:
            self._check(name, os.fstat(descriptor))
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _check(self, name: str, told: os.stat_result) -> None:
        if stat.S_ISREG(told.st_mode) and told.st_nlink <= 1:
            return
        with suppress(OSError):  # else nothing of that name could be kept for ever
            self.remove(name)
        raise OSError(errno.EINVAL, "it isn't a plain file with one name")

    def _make(self, name: str) -> int:
        try:
            made = os.open(
                name, os.O_RDWR | os.O_CREAT | os.O_EXCL | _FILE, 0o600, dir_fd=self._descriptor
            )
        except FileExistsError:  # somebody was first
            return self._open(name, os.O_RDWR)
        try:
            os.fchmod(made, self._mode)  # a umask may have taken bits away
        except BaseException:
            os.close(made)
            raise
        return made


def held(descriptor: int, pieces: Sequence[Piece]) -> list[bool]:
    """Which of these consecutive pieces of one file are held."""
    first = pieces[0].number
    found = os.pread(descriptor, len(pieces), first)
    return [found[at : at + 1] == _HELD for at in range(len(pieces))]


def read(descriptor: int, piece: Piece, buffer: memoryview) -> bool:
    """Fill `buffer` with the piece; False where the file ends first."""
    done = 0
    while done < piece.size:
        count = os.preadv(descriptor, [buffer[done:]], piece.offset + done)
        if count == 0:
            return False
        done += count
    return True


def write(descriptor: int, piece: Piece, buffer: memoryview) -> None:
    """The piece, and then that it is held: whoever is killed between leaves one that isn't."""
    done = 0
    while done < piece.size:
        done += os.pwrite(descriptor, buffer[done:], piece.offset + done)
    os.pwrite(descriptor, _HELD, piece.number)


def drop(descriptor: int, piece: Piece) -> None:
    """The piece isn't held."""
    os.pwrite(descriptor, _DROPPED, piece.number)
