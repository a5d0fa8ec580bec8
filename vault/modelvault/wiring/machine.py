"""What the operating system says about this process and its disks. Facts only, no judgement."""

from __future__ import annotations

import contextlib
import os
import resource
import secrets
import stat
from pathlib import Path

import msgspec


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """Swap devices, and this process's limits in bytes (None: unlimited)."""

    swaps: tuple[str, ...]
    core_bytes: int | None
    locked_bytes: int | None


def machine(proc: Path = Path("/proc")) -> Machine:
    """The machine, as far as it tells; where there is no /proc, swap isn't known to be on."""
    swaps: tuple[str, ...] = ()
    with contextlib.suppress(OSError):
        lines = (proc / "swaps").read_text(encoding="utf-8").splitlines()[1:]
        swaps = tuple(line.split()[0] for line in lines if line.strip())
    return Machine(
        swaps=swaps,
        core_bytes=_limit(resource.RLIMIT_CORE),
        locked_bytes=_limit(resource.RLIMIT_MEMLOCK),
    )


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
