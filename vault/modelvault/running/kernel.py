"""The calls to Linux that Python has no name for. Each raises OSError."""

from __future__ import annotations

import ctypes
import os
import sys

CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT = 1, 2, 4, 32
MS_REC, MS_SLAVE = 16384, 1 << 19
MNT_DETACH = 2

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38


def adopt_orphans() -> None:
    """Whatever this process's descendants leave behind becomes its own child (not init's)."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(signal: int) -> None:
    """Get `signal` when the thread that forked this process ends. Lost in a further fork."""
    _prctl(_PR_SET_PDEATHSIG, signal)


def gain_nothing() -> None:
    """No program that is started from here on gets more rights than it was started with."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def hide() -> None:
    """No core dump of this process, no debugger of the same user, no look through its /proc."""
    _prctl(_PR_SET_DUMPABLE, 0)


def unshare(flags: int) -> None:
    """Namespaces of this process's own. It may have one thread only."""
    _checked(_libc().unshare(ctypes.c_int(flags)))


def mount(source: str, target: str, kind: str | None, flags: int, data: str | None) -> None:
    """Show a file system at `target`, or change how it is shown, as the command does."""
    texts = (_text(source), _text(target), _text(kind))
    _checked(_libc().mount(*texts, ctypes.c_ulong(flags), _text(data)))


def unmount(target: str, flags: int = 0) -> None:
    """Show it no longer, as the command does."""
    _checked(_libc().umount2(_text(target), ctypes.c_int(flags)))


def _prctl(option: int, value: int) -> None:
    rest = [ctypes.c_ulong(number) for number in (value, 0, 0, 0)]
    _checked(_libc().prctl(ctypes.c_int(option), *rest))


def _libc() -> ctypes.CDLL:
    if sys.platform != "linux":
        raise OSError(38, "not Linux")
    return ctypes.CDLL(None, use_errno=True)


def _text(text: str | None) -> bytes | None:
    return None if text is None else os.fsencode(text)


def _checked(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
