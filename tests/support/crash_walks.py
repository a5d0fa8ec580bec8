"""Walks that are killed at each of their I/O calls, and what must hold afterwards.

    python tests/support/crash_walks.py WALK FOLDER

Prints one JSON document: the labels of all points, and for each point what was wrong (nothing,
one hopes). Each walk runs in a fork of this process, which has all modules imported and no
threads, on a fresh copy of one home.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).parents[1]))

import modelvault
from modelvault import clock, wiring
from modelvault.client.session import Session
from modelvault.errors import ModelVaultError, NotFound
from support.crash_points import CrashPoints

DAY_MS = 86_400_000
OLD = {"weights.dat": b"old" * 3000, "config.json": b"{}"}
NEW = {"weights.dat": b"new" * 4000, "config.json": b"{1}", "empty.txt": b""}
real_utc_ms = clock.utc_ms


def write(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def contents(vault: Session, reference: str) -> dict[str, bytes]:
    with vault.load(reference, purpose="inference") as model:
        return {path: bytes(model.read_bytes(path)) for path in model.files}


def outcome(vault: Session, reference: str) -> dict[str, bytes] | str:
    """The contents, or the code of the refusal."""
    try:
        return contents(vault, reference)
    except ModelVaultError as error:
        return error.code


def made_home(root: Path) -> Path:
    """One model with two versions; `prod` means the second."""
    home = root / "template"
    wiring.init(home, segment_length=4096)
    with modelvault.connect(home=home) as vault:
        vault.create("m")
        vault.push(write(root / "old", OLD), "m:prod")
        vault.push(write(root / "old", OLD), "m:prod")
        contents(vault, "m")
        vault.rotate("m")
        vault.gc(dry_run=True)
    return home


# The walks. Each is run whole once, then killed at every point.
def push(home: Path) -> None:
    with modelvault.connect(home=home) as vault:
        vault.push(home.parent / "new", "m:prod")


def load(home: Path) -> None:
    with modelvault.connect(home=home) as vault:
        contents(vault, "m:prod")


def tag(home: Path) -> None:
    with modelvault.connect(home=home) as vault:
        vault.tag("m@1", "prod")


def rotate(home: Path) -> None:
    with modelvault.connect(home=home) as vault:
        vault.rotate("m")


def revoke(home: Path) -> None:
    with modelvault.connect(home=home) as vault:
        vault.revoke("version", "default/m@1", reason="test")


def delete_and_gc(home: Path) -> None:
    with modelvault.connect(home=home) as vault:
        vault.delete("m@1")
    with later(), modelvault.connect(home=home) as vault:
        vault.gc()


def init(home: Path) -> None:
    wiring.init(home.with_name("fresh"), segment_length=4096)


def later() -> mock._patch[Callable[[], int]]:
    """A month on, by every clock that the vault reads."""

    def month_on() -> int:
        return real_utc_ms() + 30 * DAY_MS

    return mock.patch("modelvault.clock.utc_ms", month_on)


def check_vault(home: Path) -> None:
    """Whole or not there; every change told; the next push works; gc leaves what is in use."""
    with modelvault.connect(home=home) as vault:
        check_versions(vault)
        check_log(vault)
        vault.rotate("m")
        before = vault.show("m").summary.latest or 0
        pushed = vault.push(write(home.parent / "next", {"a": b"next" * 2000}), "m:next")
        assert pushed.version == before + 1, pushed
        assert contents(vault, "m:next") == {"a": b"next" * 2000}
    with later(), modelvault.connect(home=home) as vault:
        vault.gc()
        check_versions(vault)
        check_log(vault)
        check_store(home, vault)


def check_versions(vault: Session) -> None:
    detail = vault.show("m")
    shown = [version.version for version in detail.versions]
    for version in shown:
        found = outcome(vault, f"m@{version}")
        allowed = (OLD, NEW, {"a": b"next" * 2000}, *(["revoked"] if version == 1 else []))
        assert found in allowed, version
    for tagged in detail.summary.tags:
        assert tagged.version in shown, tagged
    assert {tagged.tag for tagged in detail.summary.tags} >= {"prod"}


def check_log(vault: Session) -> None:
    entries = vault.entries(limit=1000).entries
    assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))
    told = {entry.version for entry in entries if (entry.action, entry.outcome) == ("push", "done")}
    shown = {version.version for version in vault.show("m").versions}
    assert shown <= told, (shown, told)
    assert told <= shown | {1}, (shown, told)  # version 1 is the one that gets deleted


def check_store(home: Path, vault: Session) -> None:
    """After gc: two objects a file, one key copy an artifact, and nothing unfinished."""
    detail = vault.show("m")
    files = sum(version.files for version in detail.versions)
    stored = [path for path in (home / "objects").rglob("*") if path.is_file()]
    copies = [path for path in (home / "keys").rglob("*") if path.is_file()]
    assert len(stored) == 2 * files, sorted(str(path) for path in stored)
    assert len(copies) == len(detail.versions), sorted(str(path) for path in copies)


def check_init(home: Path) -> None:
    """The new home is whole, or not there and can be made."""
    fresh = home.with_name("fresh")
    if not fresh.exists():
        try:
            modelvault.connect(home=fresh).close()
        except NotFound:
            pass
        else:
            raise AssertionError("there is no home, and yet it opens")
        wiring.init(fresh, segment_length=4096)
    with modelvault.connect(home=fresh) as vault:
        vault.create("m")
        assert vault.push(home.parent / "new", "m").version == 1
        assert contents(vault, "m") == NEW


WALKS: dict[str, tuple[Callable[[Path], None], Callable[[Path], None]]] = {
    "push": (push, check_vault),
    "load": (load, check_vault),
    "tag": (tag, check_vault),
    "rotate": (rotate, check_vault),
    "revoke": (revoke, check_vault),
    "delete_and_gc": (delete_and_gc, check_vault),
    "init": (init, check_init),
}


def forked(work: Callable[[], None]) -> int:
    """The wait status of a child that does `work`; 256 when it raises."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException:  # noqa: BLE001 - the child ends here, whatever it was
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    return os.waitpid(child, 0)[1]


def killed_at(
    walk: Callable[[Path], None], home: Path, log: Path, at: int | None
) -> tuple[int, list[str]]:
    """(wait status, labels reached) of the walk, killed at point `at`."""

    def run() -> None:
        CrashPoints(log, at).arm()
        walk(home)

    status = forked(run)
    return status, log.read_text().splitlines()


def fresh_copy(template: Path, number: int) -> Path:
    place = template.parent / f"run{number}"
    place.mkdir()
    write(place / "new", NEW)
    shutil.copytree(template, place / "home")
    return place / "home"


def main(name: str, root: Path) -> dict[str, object]:
    os.environ["XDG_CONFIG_HOME"] = str(root / "config")
    template = made_home(root)
    walk, check = WALKS[name]
    home = fresh_copy(template, 0)
    status, labels = killed_at(walk, home, root / "log0", None)
    assert status == 0, "the walk fails even when nobody kills it"
    wrong: dict[str, str] = {}
    reached: set[str] = set()
    for at in range(1, len(labels) + 1):
        home = fresh_copy(template, at)
        status, before = killed_at(walk, home, root / f"log{at}", at)
        point = f"{at}: {before[-1]}"
        reached.add(before[-1])
        if status != signal.SIGKILL:
            wrong[point] = f"it wasn't killed there: {status}"
        elif forked(lambda home=home: check(home)) != 0:
            wrong[point] = "what must hold afterwards doesn't; see the output"
        shutil.rmtree(home.parent)
    return {"labels": sorted(set(labels)), "points": len(labels), "reached": sorted(reached),
            "wrong": wrong}  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], Path(sys.argv[2]))))
