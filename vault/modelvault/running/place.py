"""The folder of one run: where the model's folder is mounted, or where links to it lie.

It holds no contents of files, only names: the rest is memory. Whoever of a run's processes lives
keeps a lock on it. Only where all of them were killed at one moment does it stay, and the next run
removes it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from pathlib import Path

from modelvault.errors import Unavailable

PREFIX = "modelvault-run-"
_SHARED_MEMORY = "/dev/shm"  # noqa: S108  a folder of a random name is made in it, of mode 0700
# Folders that are empty on most machines: where nothing can be written, one of them is covered, for
# the run's processes alone.
_SPARE = ("/mnt", "/media", "/srv", "/opt")


class Place:
    """`path` is the folder; `ours` says whether it was made for this run, and is to be removed."""

    def __init__(self, path: Path, descriptor: int | None) -> None:
        self.path = path
        self.ours = descriptor is not None
        self._descriptor = descriptor

    def remove(self) -> None:
        """Remove it and what is in it. Doing it twice is fine; what is mounted on it stays."""
        if self.ours:
            shutil.rmtree(self.path, ignore_errors=True)


def make() -> Place:
    """A new folder of mode 0700, or else an empty one that can be mounted on.

    Raises Unavailable (`no_ram_folder`).
    """
    for parent in (None, _SHARED_MEMORY):
        with contextlib.suppress(OSError):
            return _made(parent)
    for spare in map(Path, _SPARE):
        with contextlib.suppress(OSError):
            if not any(spare.iterdir()):
                return Place(spare.resolve(), None)
    raise nowhere()


def nowhere() -> Unavailable:
    """There is no folder to use."""
    return Unavailable(
        "no_ram_folder",
        "there is no folder that the model could be shown in: all is read-only",
        "mount a small one that can be written to (an emptyDir, a tmpfs) and name it with TMPDIR",
    )


def _made(parent: str | None) -> Place:
    while True:
        # Without links on the way: by that name the system lists what is mounted there, and a link
        # could lead elsewhere by the time that it is wiped.
        path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent)).resolve()
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        if path.exists():  # else another run took it for one that was left, in between
            _sweep(path.parent)
            return Place(path, descriptor)
        os.close(descriptor)


def _sweep(parent: Path) -> None:
    """Remove what runs left of which no process lives."""
    for left in parent.glob(PREFIX + "*"):
        with contextlib.suppress(OSError):
            _remove_unless_locked(left)


def _remove_unless_locked(left: Path) -> None:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(left, flags)
    try:
        if os.fstat(descriptor).st_uid == os.geteuid():
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(left, ignore_errors=True)
    finally:
        os.close(descriptor)
