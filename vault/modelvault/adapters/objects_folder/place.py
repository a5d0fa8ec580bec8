"""Names, folders and files under the store's root: private, and never reached through a link."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from modelvault.errors import IntegrityError, NotFound, Unavailable
from modelvault.ports.objects import check_name

PRIVATE_FILE = 0o600
PRIVATE_FOLDER = 0o700
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# O_NONBLOCK: a FIFO in an object's place must not make us wait for its other end.
_FILE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def split(name: str) -> tuple[tuple[str, ...], str]:
    """(folders, file) of an object's name. InvalidRequest (`bad_object_name`) for any other text.

    No name leads out of the root: its parts are fixed words, hex digits and numbers.
    """
    *folders, file = check_name(name).split("/")
    return tuple(folders), file


@contextmanager
def folder(root: Path, parts: tuple[str, ...]) -> Iterator[int]:
    """A descriptor of root/parts. Raises OSError; for a link among the parts too."""
    descriptor = os.open(root, _FOLDER)
    try:
        for part in parts:
            below = os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = below
        yield descriptor
    finally:
        os.close(descriptor)


def make_folders(root: Path, parts: tuple[str, ...]) -> None:
    """Make what is missing of root/parts, durably; not the root itself. Raises OSError."""
    for depth, part in enumerate(parts):
        with folder(root, parts[:depth]) as above, contextlib.suppress(FileExistsError):
            os.mkdir(part, PRIVATE_FOLDER, dir_fd=above)
            os.chmod(part, PRIVATE_FOLDER, dir_fd=above)  # a umask may have taken bits away
            os.fsync(above)


def open_file(root: Path, name: str) -> int:
    """A descriptor to read an object with. The caller closes it.

    Raises NotFound (`no_object`), IntegrityError (`bad_object`), Unavailable (`store_missing`,
    `store_unreadable`).
    """
    parts, file = split(name)
    with reading(root, name), folder(root, parts) as here:
        if not stat.S_ISREG(os.stat(file, dir_fd=here, follow_symlinks=False).st_mode):
            raise IntegrityError(
                "bad_object",
                f"{root / name} isn't a plain file",
                "somebody has put something else in an object's place: restore it from a copy",
            )
        descriptor = os.open(file, os.O_RDONLY | _FILE, dir_fd=here)
    _read_far_ahead(descriptor)
    return descriptor


def _read_far_ahead(descriptor: int) -> None:
    """Weights are read from front to back, by several threads at once: with twice the readahead
    the disk stays busy while they decrypt. Only a hint, and nothing is read yet."""
    if hasattr(os, "posix_fadvise"):
        with contextlib.suppress(OSError):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)


@contextmanager
def reading(root: Path, name: str) -> Iterator[None]:
    """Turn what the operating system says while reading into our errors."""
    try:
        yield
    except FileNotFoundError:
        if not root.is_dir():
            raise missing(root) from None
        raise NotFound(
            "no_object",
            f"there is no object {name} in {root}",
            "it was deleted, or the store isn't whole: restore it from a copy",
        ) from None
    except OSError as error:
        raise Unavailable(
            "store_unreadable",
            f"can't read {root / name}: {os.strerror(error.errno or 0)}",
            "check the disk, and that this user owns the store's folder",
        ) from None


@contextmanager
def writing(root: Path, needed: int = 0) -> Iterator[None]:
    """Turn what the operating system says while writing `needed` bytes into our errors."""
    try:
        yield
    except OSError as error:
        if not root.is_dir():
            raise missing(root) from None
        if error.errno in _FULL:
            raise Unavailable(
                "store_full",
                f"there is no room for an object of {needed} bytes in {root}",
                "free some space there (`modelvault gc` removes what was deleted), or raise the "
                "quota, and push again",
                needed=needed,
            ) from None
        raise Unavailable(
            "store_unwritable",
            f"can't write to the store {root}: {os.strerror(error.errno or 0)}",
            "check that the disk isn't mounted read-only and that this user owns the folder",
        ) from None


def missing(root: Path) -> Unavailable:
    """The store's folder isn't there."""
    return Unavailable(
        "store_missing",
        f"the store's folder {root} doesn't exist",
        "mount or restore it, or make a vault with `modelvault init`",
    )
