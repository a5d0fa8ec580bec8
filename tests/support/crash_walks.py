"""Walks that are killed at each of their I/O calls, and what must hold afterwards.

    python tests/support/crash_walks.py WALK FOLDER

Prints one JSON document: the labels of all points, those at which the walk was killed, and for
each point what was wrong (nothing, one hopes). Each walk runs in a fork of a process that has all
modules imported and no threads, on a fresh copy of one home, at the same time and with the same
randomness: what several of them leave alike, byte by byte, is looked at once.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import random
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

import modelvault
from modelvault import clock, wiring
from modelvault.client.session import Session
from modelvault.crypto import hpke
from modelvault.crypto.secret import Secret
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
BEGUN = clock.utc_ms()
WAL_HEADER, FRAME_HEADER = 32, 24


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
    os.environ["XDG_CONFIG_HOME"] = str(home.with_name("config"))  # the root key is left there
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


def always_the_same() -> None:
    """Let this process have the time and the randomness of every other one that walks."""
    asked = itertools.count()

    def drawn(size: int) -> bytes:
        return hashlib.shake_256(str(next(asked)).encode()).digest(size)

    def generate(_suite: str) -> hpke.RecipientKey:
        return hpke.derived(Secret.copy_of(drawn(32)), Secret.copy_of(drawn(64)))

    checks.real_utc_ms = lambda: BEGUN
    setattr(hpke, "generate", generate)  # noqa: B010 - it asks OpenSSL
    setattr(os, "urandom", drawn)  # noqa: B010 - as crash points are set
    setattr(random, "_urandom", drawn)  # noqa: B010 - which `secrets` asks


def run(walk: Walk, home: Path, log: Path, die_at: Point | None) -> int:
    def armed() -> None:
        CrashPoints(log, die_at).arm()
        always_the_same()
        walk.do(home)

    return forked(armed)


def fresh_copy(template: Path, name: str) -> Path:
    place = template.parent / name
    place.mkdir()
    write(place / "new", NEW)
    shutil.copytree(template, place / "home")
    return place / "home"


def left(place: Path) -> str:
    """All that a killed walk has left on the disk, wherever its place is, as a digest.

    SQLite's index of its log isn't looked at: whoever opens the database next makes it anew.
    """
    files = sorted(path for path in place.rglob("*") if not path.name.endswith("-shm"))
    digest = hashlib.sha256()
    for path in files:
        data = path.read_bytes() if path.is_file() and path.name != "log" else b""
        data = frames(data) if path.name.endswith("-wal") else data.replace(bytes(place), b".")
        digest.update(f"{path.relative_to(place)} {len(data)}\n".encode() + data)
    return digest.hexdigest()


def frames(log: bytes) -> bytes:
    """The pages of SQLite's log and their numbers, without its salts, which are random, and its
    sums, which depend on them."""
    if not log:
        return log
    size = FRAME_HEADER + int.from_bytes(log[8:12], "big")
    parts = (log[at : at + size] for at in range(WAL_HEADER, len(log), size))
    return b"".join(part[:8] + part[FRAME_HEADER:] for part in parts)


def kill(walk: Walk, template: Path, number: int, point: Point) -> str:
    """Kill the walk there, on a copy of its own, and look; what was wrong, or nothing.

    What left the disk as another point did, byte by byte, has been looked at: it is in `seen`.
    """
    home = fresh_copy(template, f"run{number}")
    try:
        status = run(walk, home, home.parent / "log", point)
        if status != signal.SIGKILL:
            return f"it wasn't killed there: {status}"
        seen = template.parent / "seen" / left(home.parent)
        if seen.exists():
            return ""
        if forked(lambda: walk.check(home)) != 0:
            return "what must hold afterwards doesn't; see the output"
        seen.touch()
        return ""
    finally:
        shutil.rmtree(home.parent)


def kill_at_each(walk: Walk, template: Path, chosen: list[Point]) -> dict[str, str]:
    """What was wrong, by point; several processes share the work."""

    def share(first: int) -> None:
        wrong = {
            f"{point.label} #{point.nth}": kill(walk, template, number, point)
            for number, point in list(enumerate(chosen))[first::AT_ONCE]
        }
        (template.parent / f"wrong{first}").write_text(json.dumps(wrong))

    (template.parent / "seen").mkdir()
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
        "states": len(list((root / "seen").iterdir())),
        "wrong": {point: wrong for point, wrong in told.items() if wrong},
    }


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], Path(sys.argv[2]))))
