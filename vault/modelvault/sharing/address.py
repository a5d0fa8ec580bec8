"""Where a holder listens, and how others find it."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from modelvault.errors import InvalidRequest

VARIABLE = "MODELVAULT_RUN"  # a socket, or the folder that it lies in
SOCKET = "host"  # its name there

PREFIX = "modelvault-host-"

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
_SHARED_MEMORY = "/dev/shm"  # noqa: S108  a folder of a random name is made in it, of mode 0700
_MAX_ADDRESS = 107  # bytes that a socket's name may have


class Address(msgspec.Struct, frozen=True):
    """`path` is the socket's; `folder` was made for it, and is locked by the descriptor `lock` for
    as long as its holder lives."""

    path: str
    folder: str | None = None
    lock: int | None = None


def make(socket_path: str | Path | None) -> Address:
    """Where to listen: as named, or in a new folder of mode 0700. What killed holders left is
    removed then. InvalidRequest (`bad_socket_path`)."""
    if socket_path is not None:
        path = os.path.abspath(socket_path)  # noqa: PTH100
        with near(path):
            return Address(path)
    for place in (tempfile.gettempdir(), _SHARED_MEMORY):
        with suppress(OSError):
            return _made(place)
    raise refused(tempfile.gettempdir(), "no socket can be made there")


@contextmanager
def near(path: str) -> Iterator[str]:
    """A name of the socket at `path` that a socket's address has room for, while this lasts.

    Raises InvalidRequest (`bad_socket_path`) where there is none.
    """
    if len(os.fsencode(path)) <= _MAX_ADDRESS:
        yield path
        return
    if sys.platform != "linux":
        raise refused(path, f"it is longer than {_MAX_ADDRESS} bytes")
    folder, name = os.path.split(path)
    try:
        descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise refused(path, error.strerror or "its folder can't be opened") from None
    try:
        short = f"/proc/self/fd/{descriptor}/{name}"
        if len(os.fsencode(short)) > _MAX_ADDRESS:
            raise refused(path, "the name of the socket itself is too long")
        yield short
    finally:
        os.close(descriptor)


def _made(place: str) -> Address:
    while True:
        folder = tempfile.mkdtemp(prefix=PREFIX, dir=place)
        lock = os.open(folder, _FOLDER)
        fcntl.flock(lock, fcntl.LOCK_SH)
        if Path(folder).exists():  # else another holder took it for one that was left, in between
            for left in Path(place).glob(PREFIX + "*"):
                with suppress(OSError):
                    _remove_unless_locked(left)
            return Address(f"{folder}/{SOCKET}", folder, lock)
        os.close(lock)


def _remove_unless_locked(left: Path) -> None:
    descriptor = os.open(left, _FOLDER)
    try:
        if os.fstat(descriptor).st_uid == os.geteuid():
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(left, ignore_errors=True)
    finally:
        os.close(descriptor)


def listen(path: str, backlog: int) -> socket.socket:
    """A socket at a path that doesn't exist yet. InvalidRequest (`bad_socket_path`)."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        with near(path) as name:
            listener.bind(name)
        Path(path).chmod(0o600)
        listener.listen(backlog)
    except OSError as error:
        listener.close()
        raise refused(path, error.strerror or "it can't be used") from None
    except InvalidRequest:
        listener.close()
        raise
    return listener


def remove(address: Address, owner: int) -> None:
    """Remove the socket and the folder that was made for it."""
    if os.getpid() == owner:  # a forked child has neither made it nor may it remove it
        with suppress(OSError):
            Path(address.path).unlink()
        if address.folder is not None:
            shutil.rmtree(address.folder, ignore_errors=True)
    if address.lock is not None:
        os.close(address.lock)


def refused(address: str, why: str) -> InvalidRequest:
    """What to say where nobody can listen."""
    return InvalidRequest(
        "bad_socket_path",
        f"{address}: {why}",
        "name a file that doesn't exist yet, with a short path, in a private folder",
    )
