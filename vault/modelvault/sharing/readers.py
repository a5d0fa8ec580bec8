"""Which other processes have a memory file mapped: asked before it is zeroed."""

from __future__ import annotations

import os
from pathlib import Path

_PROC = Path("/proc")


def mapped_by(device: int, inode: int, *, proc: Path = _PROC) -> frozenset[int]:
    """The other processes of this user that have the file mapped, or may have: those too whose
    maps can't be read. Nobody else can have been given it.
    """
    place = f" {os.major(device):02x}:{os.minor(device):02x} {inode} "
    found = set()
    for folder in proc.iterdir():
        if not folder.name.isdecimal() or int(folder.name) == os.getpid():
            continue
        try:
            if _users(folder) & {os.getuid(), os.geteuid()} and place in _maps(folder):
                found.add(int(folder.name))
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended meanwhile
        except PermissionError:
            found.add(int(folder.name))
    return frozenset(found)


def _users(folder: Path) -> set[int]:
    for line in (folder / "status").read_text().splitlines():
        if line.startswith("Uid:"):
            return {int(number) for number in line.split()[1:]}
    return set()


def _maps(folder: Path) -> str:
    # One space at the end of each line's inode, whatever comes after it.
    return (folder / "maps").read_text(errors="replace").replace("\n", " \n")
