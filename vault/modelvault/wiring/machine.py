"""What the operating system says about this process and its disks. Facts only, no judgement."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import secrets
import stat
import subprocess
import tempfile
from pathlib import Path
from sys import executable

import msgspec

from modelvault.crypto import pages
from modelvault.crypto.pages import Pages


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """What there is of swap, dumps, locking and files in memory. Limits are this process's, in
    bytes (None: unlimited).

    `core_pipe` is the program that gets crashes whatever the limit says, or empty; `huge_pages`
    the kernel's word for who gets them (`madvise`, ...), or empty where it doesn't tell.
    `memory_files` are memfds that can be sealed, `private_mounts` folders that only one process
    tree sees.
    """

    swaps: tuple[str, ...]
    core_bytes: int | None
    core_pipe: str
    locked_bytes: int | None
    huge_pages: str
    memory_files: bool
    private_mounts: bool


def machine(proc: Path = Path("/proc"), sys: Path = Path("/sys")) -> Machine:
    """The machine, as far as it tells; where there is no /proc, swap isn't known to be on."""
    lines = _read(proc / "swaps").splitlines()[1:]
    pattern = _read(proc / "sys/kernel/core_pattern").strip()
    huge = re.search(r"\[(\w+)\]", _read(sys / "kernel/mm/transparent_hugepage/enabled"))
    return Machine(
        swaps=tuple(line.split()[0] for line in lines if line.strip()),
        core_bytes=_limit(resource.RLIMIT_CORE),
        core_pipe=pattern[1:].split(" ")[0] if pattern.startswith("|") else "",
        locked_bytes=None if _may_lock_all() else _limit(resource.RLIMIT_MEMLOCK),
        huge_pages=huge[1] if huge else "",
        memory_files=_memory_files(),
        private_mounts=_private_mounts(),
    )


def _read(path: Path) -> str:
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return path.read_text(encoding="utf-8")
    return ""


def _may_lock_all() -> bool:
    """Whether the limit counts for this process at all: more than it says can be locked."""
    limit = _limit(resource.RLIMIT_MEMLOCK)
    return limit is not None and pages.reserve(Pages, limit + (1 << 20)).locked


def _memory_files() -> bool:
    try:
        descriptor = os.memfd_create("modelvault", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except (AttributeError, OSError):
        return False
    os.close(descriptor)
    return True


def _private_mounts() -> bool:
    """Tried, in a process of its own: what a kernel allows is in no one place."""
    code = (
        "import pathlib, sys; from modelvault.running import private; "
        "sys.exit(not private.enter(pathlib.Path(sys.argv[1])))"
    )
    try:
        line = [executable, "-c", code, tempfile.gettempdir()]
        done = subprocess.run(  # noqa: S603 - our own interpreter
            line, capture_output=True, check=False, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def _limit(which: int) -> int | None:
    soft, _hard = resource.getrlimit(which)
    return None if soft == resource.RLIM_INFINITY else soft


def open_to_others(paths: list[Path]) -> list[Path]:
    """Those of `paths` that anybody but their owner may use, or that aren't this user's."""
    found = []
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            status = path.lstat()
            if stat.S_IMODE(status.st_mode) & 0o077 or status.st_uid != os.geteuid():
                found.append(path)
    return found


def free_bytes(path: Path) -> int:
    """Bytes that this user may still write to the disk of `path`. Raises OSError."""
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize


def written_at(folder: Path) -> int:
    """When the file system says that a file was written just now, in ms. Raises OSError."""
    probe = folder / f".probe-{secrets.token_hex(8)}"
    descriptor = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, b"\0")
        return os.fstat(descriptor).st_mtime_ns // 1_000_000
    finally:
        os.close(descriptor)
        probe.unlink()
