"""A file system in memory that only one process tree sees: a tmpfs in a mount namespace.

No other process finds its files by any name. Who may debug a process of the tree can still go
through `/proc/<pid>/root`: the kernel lets in whoever could also read that process's memory (where
Yama keeps debuggers out, it lets in more).
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import re
from collections.abc import Iterator
from pathlib import Path

from modelvault.errors import Unavailable
from modelvault.loader.ramdir import Fill
from modelvault.running import kernel

_FLAGS = kernel.MS_NOSUID | kernel.MS_NODEV
_NAME = "modelvault"  # what `mount` shows as the device
_ESCAPED = re.compile(r"\\([0-7]{3})")  # as /proc writes spaces
_PAGE = mmap.PAGESIZE
_SLACK = 1 << 20  # for what isn't files' contents
# Kernels differ in what they take: memory that is never swapped (6.4, and not in a namespace of an
# ordinary user), huge pages.
_WISHES = (",noswap,huge=within_size", ",noswap", ",huge=within_size", "")


def enter(place: Path) -> bool:
    """Give this process, and all that it starts, mounts of their own, and say whether it has them.

    It must be single-threaded. Where the machine doesn't allow it, or no mount on `place`, nothing
    has changed: a child tries first, since who has entered a namespace can't leave it.
    """
    child = os.fork()
    if child == 0:
        code = 1
        try:
            with contextlib.suppress(OSError):
                _enter()
                _mount(place, _SLACK)
                code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    if status == 0:
        _enter()
    return status == 0


def _enter() -> None:
    try:
        kernel.unshare(kernel.CLONE_NEWNS)
    except PermissionError:
        _enter_as_user()
    # What is mounted on the machine later is seen here too, and nothing of ours there.
    kernel.mount("none", "/", None, kernel.MS_REC | kernel.MS_SLAVE, None)


def _enter_as_user() -> None:
    user, group = os.geteuid(), os.getegid()
    kernel.unshare(kernel.CLONE_NEWUSER | kernel.CLONE_NEWNS)
    process = Path("/proc/self")
    (process / "setgroups").write_text("deny")
    (process / "uid_map").write_text(f"{user} {user} 1")
    (process / "gid_map").write_text(f"{group} {group} 1")


class PrivateFolder:
    """Files of a model in a tmpfs of their own, read-only once `lock` was called. A `Folder` of
    the loader. Not thread-safe.
    """

    isolated = True

    def __init__(self, place: Path, name: str, size: int) -> None:
        """Mount on `place`, which exists, for files of `size` bytes in all, each rounded up.

        `root` is a folder `name` in it. `enter` must have said yes: else others would see it.
        Raises OSError.
        """
        self._place = place
        _mount(place, size + _SLACK)
        self._hidden = False
        self.root = place / name
        self.root.mkdir(mode=0o700)

    def __contains__(self, path: str) -> bool:
        return (self.root / path).exists()

    def add(self, path: str, size: int, fill: Fill) -> None:
        """A file of `size` bytes, written by `fill`. Raises what it raises; there is none then."""
        file = self.root / path
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            with file.open("x+b") as opened:
                if size:
                    _reserve(opened.fileno(), path, size)
                    with mmap.mmap(opened.fileno(), size) as mapping, memoryview(mapping) as view:
                        fill(view)
                os.fchmod(opened.fileno(), 0o400)
        except BaseException:
            _zero(file)
            file.unlink(missing_ok=True)
            raise

    def lock(self) -> None:
        """From now on nobody writes: who tries gets EROFS."""
        _remount(self._place, kernel.MS_RDONLY)

    def hide(self) -> None:
        """No file can be opened by its name any more; what is open stays open."""
        if not self._hidden:
            hide(self._place)
            self._hidden = True

    def close(self) -> None:
        """Overwrite all files with zeros and unmount. Doing it twice is fine.

        For when whoever read them has ended; who still maps a file sees zeros. Raises OSError.
        """
        wipe(self._place)


def hide(place: Path) -> None:
    """Cover the files of what is mounted on `place`. Nothing happens where nothing of ours is.

    Raises OSError.
    """
    if _is_ours(place):
        flags = _FLAGS | kernel.MS_RDONLY
        kernel.mount(_NAME, str(place), "tmpfs", flags, "size=4k,mode=0500")


def wipe(place: Path) -> None:
    """Overwrite the files of what is mounted on `place` with zeros, and unmount it.

    Nothing happens where nothing of ours is mounted. Raises OSError.
    """
    while _is_ours(place):
        _remount(place, 0)
        for folder, _, names in os.walk(place):
            for name in names:
                _zero(Path(folder, name))
        kernel.unmount(str(place), kernel.MNT_DETACH)


def rounded(sizes: Iterator[int]) -> int:
    """The memory that files of these sizes take: whole pages."""
    return sum(-(-size // _PAGE) * _PAGE for size in sizes)


def _mount(place: Path, size: int) -> None:
    for wish in _WISHES:
        options = f"mode=0700,size={size}{wish}"
        try:
            kernel.mount(_NAME, str(place), "tmpfs", _FLAGS, options)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EPERM) or not wish:
                raise
        else:
            return


def _is_ours(place: Path) -> bool:
    """Whether the uppermost mount on `place` is one that `_mount` made."""
    uppermost: list[str] = []
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        before, _, after = line.partition(" - ")
        if _ESCAPED.sub(lambda found: chr(int(found[1], 8)), before.split()[4]) == str(place):
            uppermost = after.split()
    return uppermost[:2] == ["tmpfs", _NAME]


def _remount(place: Path, flags: int) -> None:
    flags |= kernel.MS_REMOUNT | _FLAGS
    kernel.mount(_NAME, str(place), None, flags, None)


def _reserve(descriptor: int, path: str, size: int) -> None:
    try:
        os.posix_fallocate(descriptor, 0, size)  # else a full machine is a SIGBUS below
    except OSError as error:
        raise Unavailable(
            "insufficient_memory",
            f"{path}: {size:,} bytes of memory couldn't be had ({error.strerror})",
            "give the machine or the container more memory, or name fewer files (--file)",
        ) from None


def _zero(file: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        if file.is_symlink() or not file.is_file():
            return
        file.chmod(0o600)
        with file.open("r+b") as opened:
            size = os.fstat(opened.fileno()).st_size
            if size:
                with mmap.mmap(opened.fileno(), size) as mapping:
                    for offset in range(0, size, 1 << 20):
                        length = min(1 << 20, size - offset)
                        mapping[offset : offset + length] = bytes(length)
