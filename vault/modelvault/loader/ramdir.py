"""A folder for engines that want file names: symbolic links to sealed files in memory.

Each file is a memfd, sealed against writing and resizing; the folder on disk holds nothing but
links to `/proc/<this process>/fd/<n>`. So the bytes stay in memory, engines and their child
processes open them by name, and they are gone when the last one closes them. What a sealed memfd
can't do: be wiped (it is only dropped), be locked against swapping, or be hidden from other
processes of the same user, which may open it through /proc.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path

from modelvault.crypto import pages
from modelvault.errors import Unavailable

_SHARED_MEMORY = "/dev/shm"  # noqa: S108  a folder of a random name is made in it, of mode 0700
Fill = Callable[[memoryview], None]


class RamFolder:
    """A private temporary folder of links. Not thread-safe; not for a forked child."""

    isolated = False

    def __init__(self, root: Path | None = None) -> None:
        """`root` is an empty folder for the links, removed with them; else one is made.

        Raises Unavailable (`no_ram_folder`) where the system has no sealed memory files.
        """
        if not hasattr(os, "memfd_create") or not hasattr(fcntl, "F_ADD_SEALS"):
            raise _unavailable("this system has no memfd_create", "use tensors() or read_bytes()")
        if not _shows_its_files():
            raise _unavailable(
                "no engine could open this process's files by name "
                "(PR_SET_DUMPABLE is 0, or /proc isn't mounted)",
                "leave the process dumpable, or use tensors() or read_bytes()",
            )
        self.root = _links() if root is None else root
        self._files: dict[str, int] = {}
        # Also runs when the interpreter ends: the links would point nowhere by then.
        self._finish = weakref.finalize(self, _remove, self.root, self._files, os.getpid())
        _living.add(self)

    def __contains__(self, path: str) -> bool:
        return path in self._files

    def add(self, path: str, size: int, fill: Fill) -> None:
        """Put a file of `size` bytes, written by `fill`, at the relative `path`.

        Raises what `fill` raises, or Unavailable (`no_ram_folder`); the file isn't there then.
        """
        try:
            descriptor = os.memfd_create("modelvault", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        except OSError as error:
            raise _unavailable(
                f"{path}: no memory file could be made ({error.strerror})",
                "name fewer files in path(...), or raise the limit on open files (ulimit -n)",
            ) from None
        try:
            _write(descriptor, size, fill)
            _link(self.root / path, descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        self._files[path] = descriptor

    def stay_behind(self) -> None:
        """In a forked child: let go of the files, which else lived as long as the child does. The
        links are to the parent's, and still lead there."""
        for descriptor in self._files.values():
            os.close(descriptor)
        self._files.clear()

    def lock(self) -> None:
        """The files are sealed already, each when it was added."""

    def hide(self) -> None:
        """No file can be opened by its name any more; what is open stays open."""
        shutil.rmtree(self.root, ignore_errors=True)

    def close(self) -> None:
        """Remove the folder and let go of the files. Doing it twice is fine.

        A process that still has one of them open keeps that one.
        """
        self._finish()


_living: weakref.WeakSet[RamFolder] = weakref.WeakSet()


def _after_fork() -> None:
    if not pages.inheriting():
        for folder in list(_living):
            folder.stay_behind()


os.register_at_fork(after_in_child=_after_fork)


def _links() -> Path:
    """A folder for the links. Where the root is read-only and has no place for temporary files,
    shared memory often can still be written to; the links would fit into much less than it has."""
    for place in (None, _SHARED_MEMORY):
        with contextlib.suppress(OSError):
            return Path(tempfile.mkdtemp(prefix="modelvault-", dir=place))
    raise _unavailable(
        "there is no folder that links could be put into: all is read-only",
        "mount a small one that can be written to (an emptyDir, a tmpfs) and name it with TMPDIR, "
        "or use tensors() or read_bytes()",
    )


def _shows_its_files() -> bool:
    # The kernel gives a hidden process's descriptors to root. This process itself could still
    # open them, so trying tells nothing.
    try:
        return Path("/proc/self/fd").stat().st_uid == os.geteuid()
    except OSError:
        return False


def _write(descriptor: int, size: int, fill: Fill) -> None:
    if size:
        try:
            os.ftruncate(descriptor, size)
            os.posix_fallocate(descriptor, 0, size)  # else a full machine is a SIGBUS below
        except OSError as error:
            raise Unavailable(
                "insufficient_memory",
                f"{size:,} bytes of memory for a file couldn't be had ({error.strerror})",
                "give the machine or the container more memory, or name fewer files",
            ) from None
        with pages.mapped(descriptor, size) as mapping, memoryview(mapping) as view:
            fill(view)
    seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)


def _link(link: Path, descriptor: int) -> None:
    link.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    link.symlink_to(f"/proc/{os.getpid()}/fd/{descriptor}")


def _remove(root: Path, files: dict[str, int], owner: int) -> None:
    if os.getpid() != owner:  # a forked child has neither made the folder nor may it remove it
        return
    shutil.rmtree(root, ignore_errors=True)
    for descriptor in files.values():
        os.close(descriptor)
    files.clear()


def _unavailable(what: str, hint: str) -> Unavailable:
    return Unavailable("no_ram_folder", what, hint)
