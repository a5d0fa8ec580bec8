"""Walks that are killed at each of their I/O calls, and what must hold afterwards.

    python tests/support/crash_walks.py WALK FOLDER

Prints one JSON document: the labels of all points, those at which the walk was killed, and for
each point what was wrong (nothing, one hopes). Each walk runs in a fork of a process that has all
modules imported and no threads, on a fresh copy of one home.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

import modelvault
from modelvault import wiring
from modelvault.client.session import Session
from support import crash_checks as checks
from support.crash_checks import (
    FIRST,
    NEW,
    SECOND,
    SEGMENT,
    a_month_passes,
    afterwards,
    as_before,
    contents,
    publish_policy,
    write,
)
from support.crash_points import CrashPoints, Point, points

AT_ONCE = min(2, os.cpu_count() or 1)


class Walk(NamedTuple):
    """What is done to a home, and what may be seen of it afterwards wherever it was killed."""

    do: Callable[[Path], None]
    check: Callable[[Path], None]


def made_home(root: Path) -> Path:
    """One model with two versions; `prod` means the second. All that loads lazily has loaded."""
    home = root / "template"
    wiring.init(home, segment_length=SEGMENT)
    with modelvault.connect(home=home) as vault:
        vault.create("m")
        vault.push(write(root / "files", FIRST), "m:prod")
        vault.push(write(root / "files", SECOND), "m:prod")
        contents(vault, "m")
        vault.rotate("m")
        vault.gc(dry_run=True)
        vault.export("m", root / "exported")
        vault.publish_policy()
    return home


# What is done. Each is run whole once, then killed at every point.
def on_vault(act: Callable[[Session, Path], object]) -> Callable[[Path], None]:
    def do(home: Path) -> None:
        with modelvault.connect(home=home) as vault:
            act(vault, home)

    return do


def delete_and_gc(home: Path) -> None:
    on_vault(lambda vault, _home: vault.delete("m@1"))(home)
    a_month_passes()
    on_vault(lambda vault, _home: vault.gc())(home)


def init(home: Path) -> None:
    wiring.init(home.with_name("fresh"), segment_length=SEGMENT)


WALKS = {
    "push": Walk(
        on_vault(lambda vault, home: vault.push(home.parent / "new", "m:prod")),
        afterwards(checks.pushed_or_not),
    ),
    "load": Walk(on_vault(lambda vault, _: contents(vault, "m:prod")), afterwards(as_before)),
    "tag": Walk(
        on_vault(lambda vault, _: vault.tag("m@1", "prod")), afterwards(checks.tagged_or_not)
    ),
    "rotate": Walk(on_vault(lambda vault, _: vault.rotate("m")), afterwards(as_before)),
    "revoke": Walk(
        on_vault(lambda vault, _: vault.revoke("version", "default/m@1", reason="test")),
        afterwards(checks.revoked_or_not),
    ),
    "delete_and_gc": Walk(delete_and_gc, afterwards(checks.deleted_or_not)),
    "create": Walk(
        on_vault(lambda vault, _: vault.create("n")), afterwards(as_before, checks.created_or_not)
    ),
    "export": Walk(
        on_vault(lambda vault, home: vault.export("m:prod", home.parent / "out")),
        afterwards(as_before, checks.exported_or_not),
    ),
    "publish_policy": Walk(
        on_vault(publish_policy), afterwards(as_before, checks.published_or_not)
    ),
    "init": Walk(init, checks.check_init),
}


def started(work: Callable[[], None]) -> int:
    """The process id of a child that does `work`."""
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
    return child


def forked(work: Callable[[], None]) -> int:
    """The wait status of a child that does `work`; 256 when it raises."""
    return os.waitpid(started(work), 0)[1]


def run(walk: Walk, home: Path, log: Path, die_at: Point | None) -> int:
    def armed() -> None:
        CrashPoints(log, die_at).arm()
        walk.do(home)

    return forked(armed)


def fresh_copy(template: Path, name: str) -> Path:
    place = template.parent / name
    place.mkdir()
    write(place / "new", NEW)
    shutil.copytree(template, place / "home")
    return place / "home"


def left(place: Path) -> bytes:
    """All that a killed walk has left on the disk, as a digest.

    SQLite's index of its log isn't looked at: whoever opens the database next makes it anew.
    """
    files = sorted(path for path in place.rglob("*") if not path.name.endswith("-shm"))
    digest = hashlib.sha256()
    for path in files:
        data = path.read_bytes() if path.is_file() and path.name != "log" else b""
        digest.update(f"{path.relative_to(place)} {len(data)}\n".encode() + data)
    return digest.digest()


def kill(walk: Walk, template: Path, number: int, point: Point, seen: set[bytes]) -> str:
    """Kill the walk there, on a copy of its own, and look; what was wrong, or nothing.

    What left the disk as another point did, byte by byte, has been looked at (`seen`).
    """
    home = fresh_copy(template, f"run{number}")
    try:
        status = run(walk, home, home.parent / "log", point)
        if status != signal.SIGKILL:
            return f"it wasn't killed there: {status}"
        state = left(home.parent)
        if state in seen:
            return ""
        if forked(lambda: walk.check(home)) != 0:
            return "what must hold afterwards doesn't; see the output"
        seen.add(state)
        return ""
    finally:
        shutil.rmtree(home.parent)


def kill_at_each(walk: Walk, template: Path, chosen: list[Point]) -> dict[str, str]:
    """What was wrong, by point; several processes share the work."""

    def share(first: int) -> None:
        seen: set[bytes] = set()
        wrong = {
            f"{point.label} #{point.nth}": kill(walk, template, number, point, seen)
            for number, point in list(enumerate(chosen))[first::AT_ONCE]
        }
        (template.parent / f"wrong{first}").write_text(json.dumps(wrong))

    children = [started(lambda first=first: share(first)) for first in range(AT_ONCE)]
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * AT_ONCE
    found: dict[str, str] = {}
    for first in range(AT_ONCE):
        found |= json.loads((template.parent / f"wrong{first}").read_text())
    return found


def main(name: str, root: Path) -> dict[str, object]:
    os.environ["XDG_CONFIG_HOME"] = str(root / "config")
    template = made_home(root)
    walk = WALKS[name]
    home = fresh_copy(template, "whole")
    assert run(walk, home, root / "log", None) == 0, "it fails even when nobody kills it"
    assert forked(lambda: walk.check(home)) == 0, "its check fails even when nobody killed it"
    labels = (root / "log").read_text().splitlines()
    told = kill_at_each(walk, template, points(labels))
    return {
        "labels": sorted(set(labels)),
        "killed": sorted({point.rpartition(" #")[0] for point in told}),
        "points": len(told),
        "wrong": {point: wrong for point, wrong in told.items() if wrong},
    }


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], Path(sys.argv[2]))))
