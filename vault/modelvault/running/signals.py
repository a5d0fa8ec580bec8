"""Who gets which signal, and how a process takes none.

A terminal sends its signals (Ctrl-C, Ctrl-Z, a hangup) to the whole foreground group: the command
is in it and has got its own. What another process sends, it sends to the one that it knows of, the
front, and means the command.
"""

from __future__ import annotations

import contextlib
import os
import signal
from signal import Signals
from types import FrameType
from typing import NamedTuple, NoReturn

# Errors of the process itself, and what stops and starts it where it reads or writes a terminal.
_OWN = {
    Signals.SIGSEGV, Signals.SIGBUS, Signals.SIGFPE, Signals.SIGILL, Signals.SIGTRAP,
    Signals.SIGSYS, Signals.SIGABRT, Signals.SIGPIPE, Signals.SIGTTIN, Signals.SIGTTOU,
    Signals.SIGKILL, Signals.SIGSTOP,
}  # fmt: skip
HANDLED = frozenset(signal.valid_signals() - _OWN)
_ENDING = (Signals.SIGTERM, Signals.SIGHUP, Signals.SIGQUIT)
UNWINDING = frozenset({*_ENDING, Signals.SIGINT})  # what a process that only prepares ends by
_POLITE = (
    *_ENDING, Signals.SIGINT, Signals.SIGTSTP, Signals.SIGTTIN, Signals.SIGTTOU, Signals.SIGUSR1,
    Signals.SIGUSR2, Signals.SIGALRM, Signals.SIGPIPE,
)  # fmt: skip


class Inherited(NamedTuple):
    """What this program was started with: signals that are ignored (nohup) and blocked."""

    ignored: frozenset[int]
    blocked: frozenset[int]


def inherited() -> Inherited:
    """To be asked before anything is changed."""
    # Python itself ignores SIGPIPE and SIGXFSZ: whether they were ignored before, nobody knows.
    own = {Signals.SIGPIPE, Signals.SIGXFSZ}
    ignored = {one for one in HANDLED if signal.getsignal(one) is signal.SIG_IGN}
    return Inherited(frozenset(ignored - own), frozenset(signal.pthread_sigmask(0, ())))


def restore(before: Inherited) -> None:
    """For the command: all as the program was started."""
    for one in {*_POLITE, Signals.SIGCHLD, Signals.SIGXFSZ}:
        signal.signal(one, signal.SIG_IGN if one in before.ignored else signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, before.blocked)


def take_all() -> None:
    """Let signals wait for `sigwaitinfo`. They don't interrupt anything from here on."""
    # A parent that doesn't wait for its children may have passed this on.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)


def unwind_when_asked(before: Inherited) -> None:
    """An end that is asked for unwinds what was begun: it raises SystemExit in the main thread."""
    for one in _ENDING:
        if one not in before.ignored:
            signal.signal(one, _unwind)
    signal.pthread_sigmask(signal.SIG_SETMASK, before.blocked)


def ignore_all() -> None:
    """Nobody but SIGKILL ends this process."""
    for one in _POLITE:
        signal.signal(one, signal.SIG_IGN)


def came_from_a_process(code: int) -> bool:
    """Whether a signal with this `si_code` was sent by a process, and not by kernel or terminal."""
    return code <= 0


def stop_here() -> None:
    """Stop as Ctrl-Z would, until continued; nothing happens where no shell could do that."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTSTP})
    os.kill(os.getpid(), signal.SIGTSTP)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTSTP})


def forward(descriptor: int, number: int) -> None:
    """Send it to the process of this pidfd, if that still lives."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        signal.pidfd_send_signal(descriptor, number)


def exit_code(status: int) -> int:
    """Of a status of waitpid, as shells count: 128 + the signal."""
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _unwind(number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)
