"""Where a holder listens, and how others find it."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from contextlib import suppress
from pathlib import Path

from modelvault.errors import InvalidRequest

VARIABLE = "MODELVAULT_RUN"  # a socket, or the folder that it lies in
SOCKET = "host"  # its name there

_SHARED_MEMORY = "/dev/shm"  # noqa: S108  a folder of a random name is made in it, of mode 0700
_MAX_ADDRESS = 107  # bytes that a socket's name may have


def make(socket_path: str | Path | None) -> tuple[str, str | None]:
    """Where to listen, and the folder that was made for it. InvalidRequest (`bad_socket_path`)."""
    if socket_path is not None:
        path = os.path.abspath(socket_path)  # noqa: PTH100
        if len(os.fsencode(path)) > _MAX_ADDRESS:
            raise refused(path, f"it is longer than {_MAX_ADDRESS} bytes")
        return path, None
    for place in (None, _SHARED_MEMORY):
        with suppress(OSError):
            folder = tempfile.mkdtemp(prefix="modelvault-host-", dir=place)
            path = f"{folder}/{SOCKET}"
            if len(os.fsencode(path)) <= _MAX_ADDRESS:
                return path, folder
            Path(folder).rmdir()
    raise refused(tempfile.gettempdir(), "no socket can be made there")


def listen(path: str, backlog: int) -> socket.socket:
    """A socket at a path that doesn't exist yet. InvalidRequest (`bad_socket_path`)."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        listener.bind(path)
        Path(path).chmod(0o600)
        listener.listen(backlog)
    except OSError as error:
        listener.close()
        raise refused(path, error.strerror or "it can't be used") from None
    return listener


def remove(address: str, folder: str | None, owner: int) -> None:
    """Remove the socket and the folder that was made for it."""
    if os.getpid() == owner:  # a forked child has neither made it nor may it remove it
        with suppress(OSError):
            Path(address).unlink()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def refused(address: str, why: str) -> InvalidRequest:
    """What to say where nobody can listen."""
    return InvalidRequest(
        "bad_socket_path",
        f"{address}: {why}",
        "name a file that doesn't exist yet, with a short path, in a private folder",
    )
