"""An object while it is written: a file under another name, which takes its own at the end."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from modelvault.adapters.objects_folder.place import PRIVATE_FILE

PREFIX = ".partial-"
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OLD = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NO_FALLOCATE = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)


@contextmanager
def drafted(folder: int, file: str) -> Iterator[Draft]:
    """A draft of the object `file` in the folder behind the descriptor `folder`.

    A lock on the draft says that its writer lives: `remove_left` leaves it alone. Leaving the
    block by an exception takes the draft away, and the object too if it had its name already.
    Raises OSError, as all here.
    """
    name = PREFIX + secrets.token_hex(8)
    descriptor = os.open(name, _NEW, PRIVATE_FILE, dir_fd=folder)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        os.fchmod(descriptor, PRIVATE_FILE)  # a umask may have taken bits away
        yield Draft(folder, file, name, descriptor)
    except BaseException:
        _withdraw(folder, (name, file), descriptor)
        raise
    finally:
        os.close(descriptor)


class Draft:
    """A draft that is being written."""

    def __init__(self, folder: int, file: str, draft: str, descriptor: int) -> None:
        self._folder = folder
        self._file = file
        self._draft = draft
        self._descriptor = descriptor

    def reserve(self, size: int) -> None:
        """Take the space now, so that a full disk is noticed before the work is done."""
        if size == 0 or not hasattr(os, "posix_fallocate"):
            return
        try:
            os.posix_fallocate(self._descriptor, 0, size)
        except OSError as error:
            if error.errno not in _NO_FALLOCATE:
                raise

    def write(self, offset: int, part: memoryview) -> None:
        """Write the whole of `part`; any number of threads at once, each its own range."""
        done = 0
        while done < len(part):
            done += os.pwrite(self._descriptor, part[done:], offset + done)
        if hasattr(os, "posix_fadvise"):
            # Makes Linux begin to write to the disk now, while the next part is encrypted: the
            # fsync at the end finds half as much to do. Pages on their way to the disk stay cached.
            os.posix_fadvise(self._descriptor, offset, len(part), os.POSIX_FADV_DONTNEED)

    def publish(self) -> None:
        """Make it durable and give it its name. FileExistsError when the name is taken.

        `link` never replaces: of many who try at once the file system lets one through.
        """
        os.fsync(self._descriptor)
        os.link(self._draft, self._file, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        os.unlink(self._draft, dir_fd=self._folder)
        os.fsync(self._folder)


def _withdraw(folder: int, names: tuple[str, ...], descriptor: int) -> None:
    """Remove the names that lead to our file: the object's may lead to somebody else's.

    What can't be removed now is left for `remove_left`; the error that brought us here counts.
    """
    for name in names:
        with contextlib.suppress(OSError):
            found = os.stat(name, dir_fd=folder, follow_symlinks=False)
            if os.path.samestat(found, os.fstat(descriptor)):
                os.unlink(name, dir_fd=folder)


def remove_left(folder: int, before: int) -> int:
    """Remove drafts last written before `before` (ms) whose writer is gone; how many there were."""
    return sum(
        _remove(folder, name, before) for name in os.listdir(folder) if name.startswith(PREFIX)
    )


def _remove(folder: int, name: str, before: int) -> bool:
    try:
        descriptor = os.open(name, _OLD, dir_fd=folder)
    except FileNotFoundError:
        return False  # its writer was faster
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_mtime_ns >= before * 1_000_000:
            return False
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(name, dir_fd=folder)
    except (BlockingIOError, FileNotFoundError):
        return False
    finally:
        os.close(descriptor)
    return True
