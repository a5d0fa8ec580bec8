"""Files of a model as real files, in a folder of somebody else's that is memory: a mounted tmpfs.

For what takes neither links into memory (`ramdir`) nor a folder of its own (`modelvault run`).
Whoever may read that folder reads them. When the lease ends they are removed: overwritten first
where nobody has them open; under a reader memory is never zeroed, and goes when he lets go of it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import threading
import weakref
from collections.abc import Mapping
from pathlib import Path

import msgspec

from modelvault.crypto import pages
from modelvault.errors import Conflict, InvalidRequest, Unavailable
from modelvault.loader.filesystems import in_memory
from modelvault.loader.ramdir import Fill

_BLOCK = 1 << 20
_MODE = 0o440  # a pod's containers may have different users, of one group
# So long a close waits for who is filling a file, who wipes it: a store that never answers must not
# keep others waiting.
_FILLING_S = 2.0


class _Made(msgspec.Struct, frozen=True):
    """Where a file was made, and which: at its end another may have its name."""

    place: Path
    inode: int


class RamFiles:
    """Read-only files below `root`, which are wiped and removed with this object. Threads may use
    it at once; nothing happens in a forked child."""

    isolated = False

    def __init__(self, root: Path, places: Mapping[str, str] | None = None) -> None:
        """`root` exists. `places` says where below it a file of the model is put, where that isn't
        its path.

        Raises InvalidRequest (`not_in_memory`).
        """
        if not in_memory(root):
            raise not_in_memory(root)
        self.root = root
        self._device = root.stat().st_dev
        self._places = places or {}
        self._made: dict[str, _Made] = {}
        self._folders: list[Path] = []
        self._lock = threading.Lock()  # one file is filled at a time
        self.closed = False
        self._owner = os.getpid()
        # Also when the interpreter ends.
        self._finish = weakref.finalize(self, _remove, self._made, self._folders, self._owner)

    def __contains__(self, path: str) -> bool:
        return path in self._made

    def add(self, path: str, size: int, fill: Fill) -> None:
        """A file of `size` bytes, written by `fill`, at its place.

        Raises what `fill` raises, and there is no file then; Conflict (`file_exists`, `closed`),
        InvalidRequest (`not_in_memory`), Unavailable (`insufficient_memory`).
        """
        with self._lock:
            self._check()
            self._add(path, size, fill)

    def close(self) -> None:
        """Wipe and remove all files, and the folders that were made for them. Idempotent.

        Who has one open keeps it until he closes it; nobody finds it by its name any more. Nor one
        that is being filled: whoever fills it gives up at its next stride, and wipes it.
        """
        self.closed = True
        self._finish()
        if os.getpid() != self._owner:
            return
        if self._lock.acquire(timeout=_FILLING_S):
            self._lock.release()
        _remove(self._made, self._folders, self._owner)  # what was begun at that very moment

    def _check(self) -> None:
        if self.closed:
            raise Conflict("closed", f"the files in {self.root} were removed", "load again")

    def _add(self, path: str, size: int, fill: Fill) -> None:
        place = self.root / self._places.get(path, path)
        self._make(place.parent)
        try:
            descriptor = os.open(place, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            raise Conflict(
                "file_exists", f"{place} is there already", "name an empty folder"
            ) from None
        told = os.fstat(descriptor)
        self._made[path] = _Made(place, told.st_ino)
        try:
            self._check()  # before anything is in it, and after
            if told.st_dev != self._device:  # a link or a mount on the way there
                raise not_in_memory(place.parent)
            if size:
                _reserve(descriptor, path, size)
                with pages.mapped(descriptor, size) as mapping, memoryview(mapping) as view:
                    fill(view)
            os.fchmod(descriptor, _MODE)
            self._check()
        except BaseException:
            if os.fstat(descriptor).st_nlink:  # else a close has done so, and the name is free
                place.unlink(missing_ok=True)
            _overwrite(descriptor)
            self._made.pop(path, None)
            raise
        finally:
            os.close(descriptor)

    def _make(self, folder: Path) -> None:
        missing = []
        while folder != self.root and not folder.is_dir():
            missing.append(folder)
            folder = folder.parent
        for each in reversed(missing):
            each.mkdir(mode=0o750)
            self._folders.append(each)


def wipe(root: Path) -> None:
    """Wipe and remove all that is in a folder: what a process left there that was killed."""
    for each in root.iterdir():
        if each.is_dir() and not each.is_symlink():
            wipe(each)
            each.rmdir()
        else:
            _erase(each)


def not_in_memory(folder: Path) -> InvalidRequest:
    """Nothing in the clear may be put there."""
    return InvalidRequest(
        "not_in_memory",
        f"{folder} is on a disk, and plaintext on a disk is an export",
        "name a folder that is memory: a tmpfs (/dev/shm), or in Kubernetes an emptyDir with "
        "medium: Memory; `modelvault export` asks for plaintext on a disk",
    )


def _remove(made: dict[str, _Made], folders: list[Path], owner: int) -> None:
    if os.getpid() != owner:
        return
    for file in list(made.values()):
        with contextlib.suppress(OSError):
            if file.place.lstat().st_ino == file.inode:
                _erase(file.place)
    for folder in reversed(list(folders)):
        with contextlib.suppress(OSError):  # somebody has put something of his own there
            folder.rmdir()
    made.clear()
    folders.clear()


def _erase(place: Path) -> None:
    """Remove a file, overwritten first unless somebody has it open or mapped."""
    with contextlib.suppress(OSError):
        if stat.S_ISREG(place.lstat().st_mode):
            descriptor = _writable(place)
            try:
                # Given to nobody but the only one who has the file open: mappings count, too.
                fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK)
                _overwrite(descriptor)
            finally:
                os.close(descriptor)
    place.unlink(missing_ok=True)


def _writable(place: Path) -> int:
    # By its descriptor, so that no link that is put there meanwhile is followed.
    readable = os.open(place, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        os.fchmod(readable, 0o600)
        return os.open(f"/proc/self/fd/{readable}", os.O_RDWR | os.O_CLOEXEC)
    finally:
        os.close(readable)


def _overwrite(descriptor: int) -> None:
    size = os.fstat(descriptor).st_size
    for offset in range(0, size, _BLOCK):
        os.pwrite(descriptor, bytes(min(_BLOCK, size - offset)), offset)


def _reserve(descriptor: int, path: str, size: int) -> None:
    try:
        os.posix_fallocate(descriptor, 0, size)  # else a full file system is a SIGBUS below
    except OSError as error:
        raise Unavailable(
            "insufficient_memory",
            f"{path}: {size:,} bytes of memory couldn't be had ({error.strerror})",
            "give the tmpfs (sizeLimit of an emptyDir) or the container more, or name fewer files",
        ) from None
