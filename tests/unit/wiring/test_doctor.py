from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from modelvault import clock, settings, wiring
from modelvault.errors import Unavailable
from modelvault.wiring import checkup, embedded
from modelvault.wiring import machine as facts
from modelvault.wiring.checkup import Finding, examine
from modelvault.wiring.home import Home
from modelvault.wiring.machine import Machine, machine
from support.homes import isolated

CALM = Machine(
    swaps=(), core_bytes=0, core_pipe="", locked_bytes=None, huge_pages="madvise",
    memory_files=True, private_mounts=True,
)  # fmt: skip
OF_MACHINE = {
    "swap", "core dumps", "locked memory", "files in memory", "private folders", "huge pages",
}  # fmt: skip


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    made = isolated(tmp_path, monkeypatch)
    wiring.init()
    return made


def look(
    home: Path, now: Callable[[], int] = clock.utc_ms, on: Machine = CALM
) -> dict[str, Finding]:
    place = Home(home)
    found = examine(
        place,
        lambda: embedded.open_parts(place, settings.read(os.environ), None),
        now,
        on,
    )
    assert len({finding.check for finding in found}) == len(found)
    assert all(finding.mend or finding.status == "ok" for finding in found)
    return {finding.check: finding for finding in found}


CHECKS = {
    "home", "permissions", "store", "disk", "clock", "keys", "ledger", "policy", *OF_MACHINE,
}  # fmt: skip


def test_all_is_well(home: Path) -> None:
    before = sorted(path.name for path in home.iterdir())
    found = look(home)
    assert {name: f.status for name, f in found.items()} == dict.fromkeys(CHECKS, "ok")
    assert [p for p in sorted(path.name for path in home.iterdir()) if p not in before] == []


def test_the_front_looks_at_this_machine(home: Path) -> None:
    for _again in range(2):
        assert {finding.check for finding in wiring.doctor()} == CHECKS


def test_no_home_is_told_with_the_machine(tmp_path: Path) -> None:
    found = look(tmp_path / "none")
    assert found["home"].status == "failed"
    assert "modelvault init" in found["home"].mend
    assert set(found) == {"home", *OF_MACHINE}


@pytest.mark.parametrize("name", ["", "keyring.json", "ledger.db", "vault.json", "objects"])
def test_what_others_could_read(home: Path, name: str) -> None:
    (home / name).chmod(0o755)
    found = look(home)["permissions"]
    assert found.status == "failed"
    assert str(home / name) in found.text
    assert "chmod" in found.mend


def test_somebody_elses_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts.os, "geteuid", lambda: os.getuid() + 1)
    assert facts.open_to_others([home, home / "gone"]) == [home]


def test_a_clock_that_is_an_hour_off(home: Path) -> None:
    found = look(home, lambda: clock.utc_ms() + 3_600_000)
    for check in ("clock", "ledger"):
        assert found[check].status == "failed"
        assert "3600 s" in found[check].text or "3599 s" in found[check].text
        assert "NTP" in found[check].mend


def test_a_root_key_that_is_gone(home: Path) -> None:
    Path(Home(home).read().root.path or "").unlink()
    found = look(home)
    assert found["keys"].status == "failed"
    assert "root_key_unavailable" in found["keys"].text
    assert "policy" not in found


def test_a_policy_that_was_edited(home: Path) -> None:
    data = home / "policy" / "data.json"
    data.write_text(
        data.read_text().replace('"max_concurrent_leases": 16', '"max_concurrent_leases": 3')
    )
    found = look(home)["policy"]
    assert (found.status, found.mend) == ("warning", "modelvault policy publish")


def test_published_policies_that_are_gone_or_broken(home: Path) -> None:
    (bundle,) = (home / "policy" / "published").glob("*/bundle.json")
    bundle.write_bytes(bundle.read_bytes()[:-10])
    found = look(home)["policy"]
    assert (found.status, "policy_unavailable" in found.text) == ("failed", True)


def test_a_ledger_that_does_not_answer(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from modelvault.adapters.ledger_sql import SqlLedger

    def down(_self: object) -> int:
        raise Unavailable("ledger_unavailable", "down", "wait")

    monkeypatch.setattr(SqlLedger, "now", down)
    assert look(home)["ledger"].status == "failed"


def test_a_home_that_cannot_be_written(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(_folder: Path) -> int:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(checkup.facts, "written_at", read_only)
    found = look(home)
    assert (found["store"].status, "Read-only" in found["store"].text) == ("warning", True)
    assert "clock" not in found


def test_little_room(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkup.facts, "free_bytes", lambda _path: 1 << 20)
    assert look(home)["disk"].status == "warning"


@pytest.mark.parametrize(
    ("check", "changed", "status", "says"),
    [
        ("swap", {"swaps": ("/dev/sda2",), "locked_bytes": 65536}, "warning", "/dev/sda2"),
        ("swap", {"swaps": ("/dev/sda2",)}, "ok", "weights and keys are locked"),
        ("core dumps", {"core_bytes": None}, "warning", "no weights or keys of ours"),
        ("core dumps", {"core_pipe": "/usr/bin/apport"}, "warning", "/usr/bin/apport, whatever"),
        ("locked memory", {"locked_bytes": 8 << 20}, "ok", "8192 KiB: keys are locked"),
        ("locked memory", {"locked_bytes": 0}, "ok", "not even keys"),
        ("locked memory", {"swaps": ("/s",), "locked_bytes": 0}, "warning", "not even keys"),
        ("files in memory", {"memory_files": False}, "warning", "path() is refused"),
        ("private folders", {"private_mounts": False}, "warning", "isolated_memory"),
        ("huge pages", {"huge_pages": "never"}, "warning", "off"),
        ("huge pages", {"huge_pages": ""}, "ok", "doesn't tell"),
    ],
)
def test_what_the_machine_does_with_memory(
    check: str, changed: dict[str, object], status: str, says: str
) -> None:
    found = {one.check: one for one in checkup.of_machine(msgspec.structs.replace(CALM, **changed))}
    assert set(found) == OF_MACHINE
    assert found[check].status == status
    assert says in found[check].text
    assert all(one.mend or one.status == "ok" for one in found.values())


def test_facts_of_a_machine(tmp_path: Path) -> None:
    (tmp_path / "swaps").write_text("Filename Type Size Used Priority\n/dev/x partition 1 0 -2\n\n")
    pattern = tmp_path / "sys/kernel/core_pattern"
    pattern.parent.mkdir(parents=True)
    pattern.write_text("|/usr/share/apport/apport -p%p -s%s\n")
    huge = tmp_path / "kernel/mm/transparent_hugepage/enabled"
    huge.parent.mkdir(parents=True)
    huge.write_text("always madvise [never]\n")
    told = machine(tmp_path, tmp_path)
    assert told.swaps == ("/dev/x",)
    assert told.core_pipe == "/usr/share/apport/apport"
    assert told.huge_pages == "never"
    elsewhere = machine(tmp_path / "none", tmp_path / "none")
    assert (elsewhere.swaps, elsewhere.core_pipe, elsewhere.huge_pages) == ((), "", "")
    assert facts.free_bytes(tmp_path) > 0
    assert abs(facts.written_at(tmp_path) - clock.utc_ms()) < 60_000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kernel", "swaps", "sys"]


def test_what_cant_be_tried_isnt_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError

    monkeypatch.setattr(facts.os, "memfd_create", refused)
    monkeypatch.setattr(facts.subprocess, "run", refused)
    told = machine()
    assert not told.memory_files
    assert not told.private_mounts
