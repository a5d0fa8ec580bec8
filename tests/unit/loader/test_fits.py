from __future__ import annotations

from pathlib import Path

import pytest

from modelvault.errors import Unavailable
from modelvault.loader.memory import check_fits

GIB = 1 << 30
V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
V2 = ("memory.max", "memory.current", "inactive_file")


class Machine:
    """A fake /proc and /sys/fs/cgroup."""

    def __init__(self, root: Path) -> None:
        self.proc = root / "proc"
        self.cgroups = root / "cgroup"
        self.write(self.proc / "meminfo", f"MemTotal: 9 kB\nMemAvailable: {8 * GIB // 1024} kB\n")

    def write(self, path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def member(self, line: str) -> None:
        self.write(self.proc / "self/cgroup", line)

    def group(
        self, path: str, names: tuple[str, str, str], limit: str, used: int, cache: int = 0
    ) -> None:
        folder = self.cgroups / path
        self.write(folder / names[0], limit + "\n")
        self.write(folder / names[1], f"{used}\n")
        self.write(folder / "memory.stat", f"anon 5\n{names[2]} {cache}\nfile 9\n")

    def check(self, size: int) -> None:
        check_fits(size, proc=self.proc, cgroups=self.cgroups)

    def room(self) -> int:
        """The largest size that fits, as the refusal tells it."""
        with pytest.raises(Unavailable) as caught:
            self.check(1 << 60)
        assert caught.value.code == "insufficient_memory"
        assert caught.value.details["needed"] == 1 << 60
        room = caught.value.details["available"]
        assert isinstance(room, int)
        self.check(room)
        with pytest.raises(Unavailable):
            self.check(room + 1)
        return room


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_the_machine_alone(machine: Machine) -> None:
    assert machine.room() == 8 * GIB


def test_the_refusal_says_both_numbers_and_what_to_do(machine: Machine) -> None:
    with pytest.raises(Unavailable) as caught:
        machine.check(14 * GIB + GIB // 4)
    assert caught.value.message == (
        "14.25 GiB of memory are needed and 8.00 GiB can be had (memory available on this machine)"
    )
    assert "more memory" in caught.value.hint


@pytest.mark.parametrize(("size", "text"), [(8 * GIB + 1, "8.00 GiB"), (9 << 40, "9.00 TiB")])
def test_units(machine: Machine, size: int, text: str) -> None:
    with pytest.raises(Unavailable, match=text):
        machine.check(size)


@pytest.mark.parametrize(
    ("free_kib", "text"), [(0, "0 bytes"), (3, "3.00 KiB"), (2048, "2.00 MiB")]
)
def test_small_units(machine: Machine, free_kib: int, text: str) -> None:
    machine.write(machine.proc / "meminfo", f"MemAvailable: {free_kib} kB\n")
    with pytest.raises(Unavailable, match=text):
        machine.check(GIB)


@pytest.mark.parametrize(
    ("member", "prefix", "names"),
    [
        ("0::/a/b\n", "", V2),
        ("4:memory:/x\n0::/a/b\n", "unified/", V2),
        ("5:cpu,cpuacct:/\n4:memory:/a/b\n", "memory/", V1),
        ("4:hugetlb,memory:/a/b\n", "memory/", V1),
    ],
)
class TestGroups:
    def test_own_limit(self, machine: Machine, member: str, prefix: str, names: tuple) -> None:
        machine.member(member)
        machine.group(prefix + "a/b", names, str(2 * GIB), GIB // 2)
        assert machine.room() == 3 * GIB // 2

    def test_the_lowest_on_the_way_up(
        self, machine: Machine, member: str, prefix: str, names: tuple
    ) -> None:
        machine.member(member)
        machine.group(prefix + "a/b", names, str(4 * GIB), 0)
        machine.group(prefix + "a", names, str(GIB), GIB // 4)
        machine.group(prefix, names, str(2 * GIB), 0)
        assert machine.room() == 3 * GIB // 4
        with pytest.raises(Unavailable, match=r"control group .*/a\)"):
            machine.check(GIB)

    def test_page_cache_counts_as_room(
        self, machine: Machine, member: str, prefix: str, names: tuple
    ) -> None:
        machine.member(member)
        machine.group(prefix + "a/b", names, str(GIB), GIB, cache=GIB // 2)
        assert machine.room() == GIB // 2

    def test_a_container_sees_only_its_own_group_at_the_root(
        self, machine: Machine, member: str, prefix: str, names: tuple
    ) -> None:
        machine.member(member)
        machine.group(prefix, names, str(GIB), 0)
        assert machine.room() == GIB

    def test_beyond_its_limit_is_no_room(
        self, machine: Machine, member: str, prefix: str, names: tuple
    ) -> None:
        machine.member(member)
        machine.group(prefix + "a/b", names, str(GIB), 2 * GIB)
        with pytest.raises(Unavailable, match="0 bytes can be had"):
            machine.check(1)

    def test_no_limit(self, machine: Machine, member: str, prefix: str, names: tuple) -> None:
        machine.member(member)
        machine.group(prefix + "a/b", names, "max", GIB)
        machine.group(prefix + "a", names, str(2**63 - 4096), GIB)
        assert machine.room() == 8 * GIB


@pytest.mark.parametrize("member", ["0::/../outside\n", "0::/\n", ""])
def test_strange_group_paths(machine: Machine, member: str) -> None:
    machine.member(member)
    assert machine.room() == 8 * GIB


def test_a_system_that_tells_nothing_refuses_nothing(machine: Machine, tmp_path: Path) -> None:
    check_fits(1 << 60, proc=tmp_path / "none", cgroups=tmp_path / "none")
    machine.write(machine.proc / "meminfo", "MemTotal: 5 kB\n")
    machine.check(1 << 60)


def test_this_machine_has_room_for_a_page_but_not_for_everything() -> None:
    check_fits(4096)
    with pytest.raises(Unavailable):
        check_fits(1 << 60)
