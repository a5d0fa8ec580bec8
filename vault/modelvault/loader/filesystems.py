"""What kind of file system a path is on."""

from __future__ import annotations

import os
from pathlib import Path

_MEMORY = frozenset({"tmpfs", "ramfs"})


def in_memory(path: Path, mounts: Path = Path("/proc/self/mountinfo")) -> bool:
    """Whether what is written to this existing file or folder stays in memory.

    A tmpfs can be swapped out like any memory. False where the system doesn't tell.
    """
    device = os.stat(path).st_dev  # noqa: PTH116
    number = f"{os.major(device)}:{os.minor(device)}"
    try:
        lines = mounts.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return False
    # "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw": see proc(5).
    split = (line.partition(" - ") for line in lines)
    return any(
        before.split()[2] == number and after.split()[0] in _MEMORY for before, _, after in split
    )
