"""Which paths are memory."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from modelvault.loader.filesystems import in_memory

TABLE = (
    "26 31 0:23 / /sys rw,nosuid - sysfs sysfs rw\n"
    "40 31 {device} / /some\\040place rw shared:1 master:2 - {kind} {kind} rw,size=64k\n"
)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("tmpfs", True), ("ramfs", True), ("ext4", False), ("overlay", False), ("fuse.x", False)],
)
def test_by_the_file_system_that_the_path_is_on(tmp_path: Path, kind: str, expected: bool) -> None:
    device = tmp_path.stat().st_dev
    mounts = tmp_path / "mountinfo"
    mounts.write_text(TABLE.format(device=f"{os.major(device)}:{os.minor(device)}", kind=kind))
    assert in_memory(tmp_path, mounts) is expected
    assert in_memory(mounts, mounts) is expected


def test_another_file_systems_line_says_nothing(tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(TABLE.format(device="999:999", kind="tmpfs"))
    assert not in_memory(tmp_path, mounts)


def test_where_the_system_doesnt_tell(tmp_path: Path) -> None:
    assert not in_memory(tmp_path, tmp_path / "none")


@pytest.mark.skipif(not Path("/proc/self/mountinfo").exists(), reason="Linux tells")
def test_this_machine() -> None:
    assert not in_memory(Path("/proc"))
    if Path("/dev/shm").exists():
        assert in_memory(Path("/dev/shm"))
