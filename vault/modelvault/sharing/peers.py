"""Who may attach to a model that a process holds: its own user's processes that descend from it.

The kernel says who is at the other end of a socket. With a kernel from 6.5 on it also gives a
handle to that very process, so that a number that was taken over by another one isn't believed.
"""

from __future__ import annotations

import ctypes
import os
import select
import socket
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

from modelvault.errors import AccessDenied

_SO_PEERPIDFD = 77  # Python has no name for it yet
_PR_GET_DUMPABLE = 3
_MAX_DEPTH = 1024


class Peer(msgspec.Struct, frozen=True):
    """A process and the user that it runs as."""

    pid: int
    uid: int


def check(peer: Peer, holder: Peer, parent_of: Callable[[int], int]) -> None:
    """Raises AccessDenied: `foreign_user`, `foreign_process`. `parent_of` gives 0 where there is
    no parent, or none that can be seen.
    """
    if peer.uid != holder.uid:
        raise AccessDenied(
            "foreign_user",
            f"process {peer.pid} runs as user {peer.uid}, and the model's holder as {holder.uid}",
            "start it as the same user",
        )
    if not descends(peer.pid, holder.pid, parent_of):
        raise AccessDenied(
            "foreign_process",
            f"process {peer.pid} wasn't started by process {holder.pid}, which holds the model",
            "start it under the holder; a process that was detached from it (a daemon) has to load "
            "the model by itself",
        )


def descends(pid: int, ancestor: int, parent_of: Callable[[int], int]) -> bool:
    """Whether a process is another one, or was started by it or by one of its descendants."""
    for _ in range(_MAX_DEPTH):
        if pid == ancestor:
            return True
        if pid <= 1:
            return False
        pid = parent_of(pid)
    return False


def identify(connection: socket.socket, holder: Peer) -> Peer:
    """Who is there, checked. Raises AccessDenied as `check` does."""
    pid, uid, _ = struct.unpack(
        "iII", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("iII"))
    )
    peer = Peer(pid, uid)
    handle = _handle(connection)
    try:
        check(peer, holder, parent_of)
        if handle is not None and _ended(handle):
            raise AccessDenied(
                "foreign_process",
                f"process {pid}, which connected, has ended",
                "attach from a process that lives on",
            )
    finally:
        if handle is not None:
            os.close(handle)
    return peer


def parent_of(pid: int) -> int:
    """The parent of a process now, 0 where there is none that can be seen."""
    try:
        # The command's name stands in brackets and may hold any character.
        told = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2]
        return int(told.split()[1])
    except (OSError, ValueError, IndexError):
        return 0


def hidden() -> bool:
    """Whether no other process of this user can look into this one, or open what it has open."""
    if sys.platform != "linux":
        return False
    return bool(ctypes.CDLL(None).prctl(_PR_GET_DUMPABLE, 0, 0, 0, 0) == 0)


def _handle(connection: socket.socket) -> int | None:
    with suppress(OSError):
        raw = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD, struct.calcsize("i"))
        return int(struct.unpack("i", raw)[0])
    return None


def _ended(handle: int) -> bool:
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    return bool(poll.poll(0))
