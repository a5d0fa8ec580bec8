"""Which processes have a memory file mapped: asked before it is zeroed.

A look into all of /proc takes a while, and a model of many files asks once for each of them. So a
look is good for the files that follow, as long as nobody can have become a reader meanwhile.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from pathlib import Path

import msgspec

from modelvault.clock import Clock, boot_ms
from modelvault.sharing import peers

_PROC = Path("/proc")
_NAME = b"/memfd:modelvault"
_GOOD_FOR_MS = 500

_File = tuple[int, int, int]  # major and minor number of its device, inode


class _Look(msgspec.Struct, frozen=True):
    """What was seen: how often each process has a file mapped; `hidden` are descendants of this
    process that can't be looked into."""

    stirred: int
    at: int
    mapped: dict[_File, Counter[int]]
    hidden: frozenset[int]


_lock = threading.RLock()  # a finaliser may ask while its own thread is looking
_stirred = 0
_last: _Look | None = None


def stir() -> None:
    """Somebody may become a reader from now on: was given memory, or told what is in it."""
    global _stirred
    _stirred += 1


def mapped_by(
    device: int, inode: int, ours: int, *, clock: Clock = boot_ms, proc: Path = _PROC
) -> frozenset[int]:
    """Processes that have the file mapped, this one only if it has so more than `ours` times; and
    its descendants that can't be looked into, since they may have. Nobody else was given it.
    """
    look = _recent(clock, proc)
    found = look.mapped.get((os.major(device), os.minor(device), inode), Counter())
    own = os.getpid()
    readers = {pid for pid, times in found.items() if times > (ours if pid == own else 0)}
    return look.hidden | readers


def _recent(clock: Clock, proc: Path) -> _Look:
    global _last
    with _lock:
        if _last is None or _last.stirred != _stirred or clock() - _last.at >= _GOOD_FOR_MS:
            _last = _look(_stirred, clock(), proc)
        return _last


def _look(stirred: int, now: int, proc: Path) -> _Look:
    mapped: dict[_File, Counter[int]] = {}
    hidden = set()
    for folder in proc.iterdir():
        if not folder.name.isdecimal():
            continue
        pid = int(folder.name)
        try:
            maps = (folder / "maps").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended meanwhile
        except PermissionError:
            if peers.descends(pid, os.getpid(), peers.parent_of):
                hidden.add(pid)
            continue
        for file in _files(maps):
            mapped.setdefault(file, Counter())[pid] += 1
    return _Look(stirred, now, mapped, frozenset(hidden))


def _files(maps: bytes) -> list[_File]:
    if _NAME not in maps:
        return []
    found = []
    for line in maps.splitlines():
        if _NAME in line:
            _, _, _, device, inode, *_ = line.split()
            major, minor = device.split(b":")
            found.append((int(major, 16), int(minor, 16), int(inode)))
    return found


def _in_child() -> None:
    """Another thread of the parent may have held the lock; and what is ours differs."""
    global _lock, _last
    _lock = threading.RLock()
    _last = None


os.register_at_fork(after_in_parent=stir, after_in_child=_in_child)
