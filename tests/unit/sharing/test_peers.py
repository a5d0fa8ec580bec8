from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from modelvault.errors import AccessDenied
from modelvault.sharing import peers
from modelvault.sharing.peers import Peer

ME = Peer(pid=100, uid=7)
# 100 is the holder; 101 its child, 102 its grandchild; init started 200, nobody 300.
PARENTS = {102: 101, 101: 100, 100: 50, 50: 1, 200: 1, 201: 200, 300: 0, 400: 401, 401: 400}


@pytest.mark.parametrize("pid", [100, 101, 102])
def test_the_holder_and_what_it_started(pid: int) -> None:
    peers.check(Peer(pid, 7), ME, PARENTS.__getitem__)


@pytest.mark.parametrize(
    ("peer", "code"),
    [
        (Peer(101, 8), "foreign_user"),
        (Peer(101, 0), "foreign_user"),  # not even root
        (Peer(50, 7), "foreign_process"),  # the holder's own parent
        (Peer(1, 7), "foreign_process"),
        (Peer(0, 7), "foreign_process"),  # in a namespace that can't be seen from here
        (Peer(200, 7), "foreign_process"),
        (Peer(201, 7), "foreign_process"),
        (Peer(300, 7), "foreign_process"),
        (Peer(400, 7), "foreign_process"),  # numbers that were reused while they were looked at
    ],
)
def test_nobody_else(peer: Peer, code: str) -> None:
    with pytest.raises(AccessDenied) as caught:
        peers.check(peer, ME, PARENTS.__getitem__)
    assert caught.value.code == code
    assert caught.value.hint


def test_who_is_at_the_other_end() -> None:
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, its:
        me = Peer(os.getpid(), os.geteuid())
        assert peers.identify(ours, me) == me
        with pytest.raises(AccessDenied):
            peers.identify(ours, Peer(os.getpid(), os.geteuid() + 1))


def test_a_process_that_has_ended_is_nobody() -> None:
    name = f"\0modelvault-test-{os.getpid()}"
    read, write = os.pipe()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(name)
        listener.listen(1)  # before there is somebody who connects
        child = os.fork()
        if child == 0:
            try:
                line = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                line.connect(name)
                os.read(read, 1)
            finally:
                os._exit(0)
        connection, _ = listener.accept()
    with connection:
        me = Peer(os.getpid(), os.geteuid())
        assert peers.identify(connection, me).pid == child
        os.write(write, b"!")
        os.waitpid(child, 0)
        with pytest.raises(AccessDenied):
            peers.identify(connection, me)
    os.close(read)
    os.close(write)


def test_parents() -> None:
    assert peers.parent_of(os.getpid()) == os.getppid()
    assert peers.parent_of(2**22 + 1) == 0


def test_a_name_in_brackets_fools_nobody(tmp_path: Path) -> None:
    """A process may call itself what it likes: `) R 100 (`."""
    child = os.fork()
    if child == 0:
        try:
            os.setsid()  # nobody else's end is to make it go on
            Path("/proc/self/comm").write_text(") R 77 (x")
            os.kill(os.getpid(), 19)
        finally:
            os._exit(0)
    try:
        os.waitpid(child, os.WUNTRACED)
        assert peers.parent_of(child) == os.getpid()
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
