"""Starts the command and is the parent of all that it leaves behind; ends them all.

It is forked before anything secret is there, has one thread, and knows only what the holder tells
it over their socket: to start, and when to end. When that socket ends without a word, the holder
was killed: then it does with the folder what the holder would have done. Likewise when the time is
over that the holder told of and no word comes: then the holder was stopped.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import selectors
import signal
import socket
import subprocess
from typing import Literal

import msgspec

from modelvault.running import kernel, private, streams, tree
from modelvault.running import signals as handling
from modelvault.running.place import Place
from modelvault.running.signals import Inherited
from modelvault.running.term import Patience, Term

# What the command leaves behind when it ends has this long to follow.
LEFT_GRACE_S = 5
FAILED = 125

# So late one of the two may be, who look after each other, before the other one acts for it.
LATE_S = 5
_LOOK_S = 1.0

_START, _END = b"start", b"end"
_MOST = 64
# Not 0: that keeps a dump of memory from a file, but not from a program that it is piped to. At a
# limit of one byte the kernel does neither: it gives it to those programs themselves.
_NO_CORE = 1


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What the warden has to know from the start: the command, its process group (the front's), how
    signals stood when the program was started, and the run's folder. The repr shows no environment.
    """

    words: tuple[str, ...]
    environment: dict[str, str]
    group: int
    before: Inherited

    def __repr__(self) -> str:
        return f"<Job {self.words[0]!r}>"


class Warden:
    """The holder's hold of it. Not thread-safe."""

    def __init__(self, pid: int, channel: socket.socket) -> None:
        self._channel = channel
        self._pid = pid
        self._status: int | None = None
        self.descriptor = os.pidfd_open(pid)  # readable once it has ended

    def start(self) -> int:
        """Start the command: 0, or the system's error for why it couldn't be."""
        with contextlib.suppress(OSError):
            self._channel.send(_START)
        return int(_received(self._channel) or b"1")

    def end(self, grace_s: int) -> None:
        """Have all that runs ended, and what still runs after the grace killed. Waits for that."""
        with contextlib.suppress(OSError):
            self._channel.send(b"%s %d" % (_END, grace_s))
        self._ended_within(grace_s + LATE_S)

    def wait(self) -> int:
        """Until it has ended: its status, as waitpid has it."""
        if self._status is None:
            _, self._status = os.waitpid(self._pid, 0)
            os.close(self.descriptor)
            self._channel.close()
        return self._status

    def stop(self) -> None:
        """Have all that runs killed, and wait for that. Nothing is left to do once it has ended."""
        if self._status is None:
            self._channel.close()
            self._ended_within(LATE_S)
            self.wait()

    def _ended_within(self, seconds: int) -> None:
        """A warden that doesn't see to the end was stopped: it is killed, after the others."""
        poll = select.poll()
        poll.register(self.descriptor, select.POLLIN)
        if not poll.poll(seconds * 1000):
            tree.kill(self._pid, lambda: None)
            signal.pidfd_send_signal(self.descriptor, signal.SIGKILL)


def fork(job: Job, place: Place, front: socket.socket, term: Term) -> Warden:
    """Fork a warden. This process must have one thread, and no secrets yet.

    `front` is where it tells who the command is; `term` is what this process will tell it by.
    """
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    me = os.pidfd_open(os.getpid())
    pid = os.fork()
    if pid == 0:
        code = FAILED
        try:
            ours.close()
            code = _Life(job, its, me, front, term).lead(place)
        finally:
            os._exit(code)
    its.close()
    os.close(me)
    return Warden(pid, ours)


class _Life:
    """The warden's own side."""

    def __init__(
        self, job: Job, holder: socket.socket, holder_process: int, front: socket.socket, term: Term
    ) -> None:
        self._job = job
        self._holder = holder
        self._holder_process = holder_process
        self._front = front
        self._term = term
        self._grace_s = LEFT_GRACE_S
        self._command: subprocess.Popen[bytes] | None = None
        self._status: int | None = None
        self._woken, self._wake = socket.socketpair()  # a byte for each child that ends

    def lead(self, place: Place) -> int:
        """Do as told until nothing is left to do; the exit code of the command."""
        os.setpgid(0, 0)  # away from the terminal's signals
        handling.ignore_all()
        kernel.adopt_orphans()
        with contextlib.suppress(OSError):
            kernel.hide()
        for end in (self._woken, self._wake):
            end.setblocking(False)
        signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        how = self._obey()
        if how == "gone":
            tree.kill(os.getpid(), self._reap)
            self._clear(place)
        elif how == "late":
            self._stand_in(place)
        else:
            tree.end(os.getpid(), self._grace_s, self._reap)
        # Whom the command stopped goes on: nobody is left that could stop it again.
        with contextlib.suppress(OSError):
            signal.pidfd_send_signal(self._holder_process, signal.SIGCONT)
        return 0 if self._status is None else handling.exit_code(self._status)

    def _stand_in(self, place: Place) -> None:
        """Do what the holder would have done by now."""
        self._term.take()
        with contextlib.suppress(OSError):
            private.hide(place.path)
        place.remove()  # links; what is mounted stays
        tree.end(os.getpid(), self._term.grace_s, self._reap)
        self._clear(place)

    def _clear(self, place: Place) -> None:
        with contextlib.suppress(OSError):
            private.wipe(place.path)
        place.remove()

    def _obey(self) -> Literal["ended", "told", "gone", "late"]:
        """Until the command has ended, shall be ended, or the holder is gone, or doesn't tell what
        it has to."""
        late = Patience(lambda: self._term.over)
        with selectors.DefaultSelector() as ready:
            ready.register(self._holder, selectors.EVENT_READ)
            ready.register(self._woken, selectors.EVENT_READ)
            while self._status is None:
                sources = {key.fileobj for key, _ in ready.select(_LOOK_S)}
                if self._holder in sources:
                    message = _received(self._holder)
                    if not message:
                        return "gone"
                    if message != _START:
                        self._grace_s = int(message.removeprefix(_END))
                        return "told"
                    self._start()
                if self._woken in sources:
                    with contextlib.suppress(BlockingIOError):
                        self._woken.recv(4096)
                self._reap()
                if late.ended(LATE_S):
                    return "late"
        return "ended"

    def _start(self) -> None:
        error = 0
        try:
            # This process has one thread: what runs between fork and exec may be Python.
            self._command = subprocess.Popen(  # noqa: S603  the words are the user's own
                self._job.words,
                env=self._job.environment,
                preexec_fn=self._become_command,  # noqa: PLW1509
            )
        except OSError as refused:
            error = refused.errno or 1
        except subprocess.SubprocessError:  # it couldn't be prepared: the front is gone
            error = 1
        if self._command is not None:
            descriptor = os.pidfd_open(self._command.pid)
            with contextlib.suppress(OSError):
                socket.send_fds(self._front, [str(os.getpid()).encode()], [descriptor])
            os.close(descriptor)
        streams.let_go()
        with contextlib.suppress(OSError):
            self._holder.send(str(error).encode())

    def _become_command(self) -> None:
        warden = os.getppid()
        os.setpgid(0, self._job.group)
        kernel.die_with_parent(signal.SIGKILL)
        if os.getppid() != warden:
            os._exit(FAILED)
        kernel.gain_nothing()
        try:
            resource.setrlimit(resource.RLIMIT_CORE, (_NO_CORE, _NO_CORE))
        except ValueError:  # it is 0 for good, and this user may not raise it
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        handling.restore(self._job.before)

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    return
                if self._command is not None and pid == self._command.pid:
                    self._command.returncode = os.waitstatus_to_exitcode(status)
                    self._status = status


def _received(channel: socket.socket) -> bytes:
    try:
        return channel.recv(_MOST)
    except OSError:
        return b""
