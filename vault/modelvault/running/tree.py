"""The processes that descend from one, and their end.

A process that leaves its parent (a daemon) still counts: whoever ends the tree has asked the kernel
for orphans (`kernel.adopt_orphans`), so they are its children by then.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from modelvault.clock import Clock, boot_ms

_LOOK_MS = 20
# A process that the kernel holds (a disk that doesn't answer) dies when it lets go, not before.
_UNKILLABLE_MS = 15_000


class Process(NamedTuple):
    """One process, told from others of its number by when it started, in ticks of the kernel."""

    pid: int
    parent: int
    started: int
    ended: bool
    stopped: bool = False


def descendants(root: int) -> list[Process]:
    """The living processes below `root`, parents first. Those that ended and weren't waited for
    don't count."""
    children: dict[int, list[Process]] = {}
    for one in _processes():
        children.setdefault(one.parent, []).append(one)
    found, at = list(children.get(root, ())), 0
    while at < len(found):
        found += children.get(found[at].pid, ())
        at += 1
    return [one for one in found if not one.ended]


def stopped(pid: int) -> bool:
    """Whether a process is, by a signal or a debugger."""
    found = _read(pid)
    return found is not None and found.stopped


def send(root: int, *signals: signal.Signals) -> int:
    """Send the signals to all descendants; how many there were that could be reached."""
    return sum(_send(one, signals) for one in descendants(root))


def end(root: int, grace_s: int, reap: Callable[[], None], clock: Clock = boot_ms) -> None:
    """Ask all descendants of `root` (this process) to end, and kill those that still live after
    `grace_s` seconds, and what they have started meanwhile. `reap` waits for ended children.
    """
    # A stopped process hears of it only when it goes on.
    send(root, signal.SIGTERM, signal.SIGCONT)
    _until_gone(lambda: len(descendants(root)), grace_s * 1000, reap, clock)
    kill(root, reap, clock)


def kill(root: int, reap: Callable[[], None], clock: Clock = boot_ms) -> None:
    """Kill all descendants of `root` (this process), again and again until none is left."""
    _until_gone(lambda: send(root, signal.SIGKILL), _UNKILLABLE_MS, reap, clock)


def _until_gone(
    living: Callable[[], int], most_ms: int, reap: Callable[[], None], clock: Clock
) -> None:
    until = clock() + most_ms
    reap()
    while living() and clock() < until:
        # Wakes up at once when a child ends; the signal is blocked or has a handler.
        with contextlib.suppress(InterruptedError):
            signal.sigtimedwait([signal.SIGCHLD], _LOOK_MS / 1000)
        reap()


def _send(one: Process, signals: tuple[signal.Signals, ...]) -> bool:
    with contextlib.suppress(ProcessLookupError, PermissionError, FileNotFoundError):
        descriptor = os.pidfd_open(one.pid)
        try:
            now = _read(one.pid)
            if now is None or now.started != one.started:  # another process has the number by now
                return False
            for number in signals:
                signal.pidfd_send_signal(descriptor, number)
            return True
        finally:
            os.close(descriptor)
    return False


def _processes() -> Iterator[Process]:
    for name in os.listdir("/proc"):  # noqa: PTH208  names, no paths: there are many
        if name.isdecimal():
            found = _read(int(name))
            if found is not None:
                yield found


def _read(pid: int) -> Process | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    # The name stands in brackets and can hold anything, brackets too.
    fields = text[text.rindex(b")") + 2 :].split()
    state = fields[0]
    return Process(
        pid, int(fields[1]), int(fields[19]), ended=state in b"ZX", stopped=state in b"Tt"
    )
