"""What the user started: it hands on signals, and passes on how the command ended.

It holds no secrets, stays in the terminal's foreground group with the command, and stops with it at
Ctrl-Z, while the holder goes on renewing. Whatever its children leave behind becomes its own.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence

from modelvault.clock import boot_ms
from modelvault.errors import Unavailable
from modelvault.running import command, forgetting, kernel, place, private, streams, tree, warden
from modelvault.running import signals as handling
from modelvault.running.holder import Holder
from modelvault.running.term import Patience, Term
from modelvault.running.warden import Job

# How long a warden whose holder was killed may overwrite the folder's files.
_WIPING_MS = 60_000
# So long, beside the grace, the other two have to end the command when the lease is over.
_ENDING_S = 15
_LOOK_S = 1.0
_WAIT_S = 0.05


def run(
    words: Sequence[str],
    env: Mapping[str, str],
    name: str,
    hold: Callable[[Holder], int],
    withheld: Sequence[str] = (),
    *,
    shared: bool = False,
) -> int:
    """Run a command with a model's folder; its exit code.

    `{model}` in `words` becomes the folder, which is called `name`. The process forks: `hold` is
    called in the holder, and returns from here there; in the process that the user started this
    returns when all has ended. It must have one thread, and nothing secret in its memory. Variables
    `withheld` aren't passed on; `shared` where `hold` shares the model (`Holder.sharing`).

    Raises InvalidRequest (`command_not_found`, `command_not_executable`), Unavailable
    (`no_ram_folder`, `not_started`, `run_killed`), and in the holder what `hold` raises.
    """
    if sys.platform != "linux":
        raise Unavailable(
            "no_ram_folder",
            "this system has no files that are in memory only",
            "run it on Linux, or use the library: tensors() and read_bytes()",
        )
    streams.open_all()
    command.check(words, env)
    before = handling.inherited()
    where = place.make()
    try:
        folder = where.path / name
        run = where.path if shared else None
        job = Job(
            words=command.words(words, folder),
            environment=command.environment(env, folder, withheld, run),
            group=os.getpgrp(),
            before=before,
        )
        kernel.adopt_orphans()
        forgetting.cover({*command.SECRET, *withheld})
        handling.take_all()
        return _forked(job, name, where, hold, Term())
    finally:
        where.remove()


def _forked(
    job: Job, name: str, where: place.Place, hold: Callable[[Holder], int], term: Term
) -> int:
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        holder = os.fork()
    except OSError as error:
        raise Unavailable(
            "not_started",
            f"no further process can be had: {os.strerror(error.errno or 0)}",
            "raise the limit on processes (ulimit -u, pids.max) or on memory",
        ) from None
    if holder == 0:
        ours.close()
        return _held(job, name, where, its, hold, term)
    its.close()
    with contextlib.suppress(OSError):
        kernel.hide()
    return _Front(holder, ours, term).lead()


def _held(
    job: Job,
    name: str,
    where: place.Place,
    front: socket.socket,
    hold: Callable[[Holder], int],
    term: Term,
) -> int:
    """The holder's life."""
    kernel.die_with_parent(signal.SIGTERM)
    handling.unwind_when_asked(job.before)
    hidden = private.enter(where.path)
    keeper = warden.fork(job, where, front, term)
    holder = Holder(job, name, where, keeper, front, term, hidden=hidden)
    try:
        return hold(holder)
    finally:
        holder.leave()


class _Front:
    def __init__(self, holder: int, channel: socket.socket, term: Term) -> None:
        self._holder = holder
        self._holder_descriptor = os.pidfd_open(holder)
        self._status: int | None = None
        self._channel = channel
        self._term = term
        self._command: int | None = None
        self._warden: int | None = None

    def lead(self) -> int:
        """Until the holder has ended and nothing of the tree lives."""
        streams.let_go()
        outlived = Patience(self._outlived)
        while self._status is None:
            told = signal.sigtimedwait(handling.HANDLED, _LOOK_S)
            self._listen()
            if told is not None:
                self._heed(told)
            if self._status is None and outlived.ended(self._term.grace_s + _ENDING_S):
                raise self._ended_all()
        self._listen()
        self._end_the_rest()
        if os.WIFSIGNALED(self._status):
            raise Unavailable(
                "run_killed",
                "the process that holds the lease was killed, and the command with it",
                "see who kills it: the system's log tells of a lack of memory",
            )
        return os.waitstatus_to_exitcode(self._status)

    def _heed(self, told: signal.struct_siginfo) -> None:
        if told.si_signo == signal.SIGCHLD:
            self._reap()
        elif handling.came_from_a_process(told.si_code):
            self._forward(told.si_signo)
        if told.si_signo == signal.SIGTSTP:
            handling.stop_here()

    def _listen(self) -> None:
        """The warden says once who the command is, and who itself."""
        if self._command is None:
            with contextlib.suppress(BlockingIOError):
                data, descriptors, _, _ = socket.recv_fds(self._channel, 64, 1, socket.MSG_DONTWAIT)
                if descriptors:
                    self._warden, self._command = int(data), descriptors[0]

    def _forward(self, number: int) -> None:
        if self._command is not None:
            handling.forward(self._command, number)
        elif number in handling.UNWINDING:  # nothing is started yet
            handling.forward(self._holder_descriptor, number)

    def _outlived(self) -> bool:
        """Whether something of the command's lives though the lease is over, or the holder can't
        empty the folder."""
        if not self._term.over or self._warden is None:
            return False
        return bool(tree.descendants(self._warden)) or tree.stopped(self._holder)

    def _ended_all(self) -> Unavailable:
        """Who should have seen to that is stopped: all is killed that descends from here."""
        tree.kill(os.getpid(), self._reap)
        return Unavailable(
            "run_killed",
            "the lease is over, and who had to end the command and to empty its folder didn't: "
            "all of them were killed",
            "see who stops the processes of a run (SIGSTOP, a debugger), and run it again",
        )

    def _end_the_rest(self) -> None:
        """A warden whose holder was killed kills the command's processes and wipes the folder; of
        one that was killed itself, the processes are ours by now."""
        until = boot_ms() + _WIPING_MS
        while boot_ms() < until and any(
            one.pid == self._warden for one in tree.descendants(os.getpid())
        ):
            signal.sigtimedwait([signal.SIGCHLD], _WAIT_S)
            self._reap()
        tree.kill(os.getpid(), self._reap)

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    return
                if pid == self._holder:
                    self._status = status
