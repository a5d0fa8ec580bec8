"""Which other processes have a memory file mapped: asked before it is zeroed."""

from __future__ import annotations

import os
from pathlib import Path

from modelvault.sharing import peers

_PROC = Path("/proc")


def mapped_by(device: int, inode: int, ours: int, *, proc: Path = _PROC) -> frozenset[int]:
    """The user's processes that have the file mapped, this one only if it has so more than `ours`
    times; and its descendants whose maps can't be read, since they may have. Nobody else was given
    it.
    """
    place = f" {os.major(device):02x}:{os.minor(device):02x} {inode} "
    found = set()
    for folder in proc.iterdir():
        if not folder.name.isdecimal():
            continue
        pid = int(folder.name)
        few = ours if pid == os.getpid() else 0
        try:
            if _users(folder) & {os.getuid(), os.geteuid()} and _maps(folder).count(place) > few:
                found.add(pid)
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended meanwhile
        except PermissionError:
            if peers.descends(pid, os.getpid(), peers.parent_of):
                found.add(pid)
    return frozenset(found)


def _users(folder: Path) -> set[int]:
    for line in (folder / "status").read_text().splitlines():
        if line.startswith("Uid:"):
            return {int(number) for number in line.split()[1:]}
    return set()


def _maps(folder: Path) -> str:
    # One space at the end of each line's inode, whatever comes after it.
    return (folder / "maps").read_text(errors="replace").replace("\n", " \n")
