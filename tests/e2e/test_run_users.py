"""`modelvault run` by root and by another user, each with a home of its own, in a mount namespace
where all else that they can write to is empty: after a kill -9 it is again."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import runs
from support.engines import ROOT
from support.plaintext import Plaintext

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")

NOBODY = 65534
USERS = {"root": 0, "nobody": NOBODY}
# Its words: how many folders are to be empty, these, then a closed folder and one in it that others
# are to find there all the same, and so on.
ROOM = """
set -e
for place in $(seq $1); do shift; mount -t tmpfs -o mode=1777 none "$1"; done
shift
keep() { while [ $# -gt 0 ]; do
    mkdir -p "$HIDDEN/$#"; mount --bind "$2" "$HIDDEN/$#"; shift 2
done; }
show() { while [ $# -gt 0 ]; do
    grep -q " $1 tmpfs " /proc/self/mounts || mount -t tmpfs -o mode=755 none "$1"
    mkdir -p "$2"; mount --bind "$HIDDEN/$#" "$2"; shift 2
done; }
keep "$@"
show "$@"
echo ready
exec sleep 600
"""
WEIGHTS = os.urandom(3 << 20)


class Room:
    """A mount namespace, and a user in it. `root` is where its folders are seen from outside."""

    def __init__(self, base: Path, uid: int) -> None:
        self.home, self.tmp = base / "home", base / "tmp"
        for folder in (self.home, self.tmp):
            folder.mkdir()
            os.chown(folder, uid, uid)
        base.chmod(0o755)
        others = ("/dev/shm", "/var/tmp", "/mnt")
        self.empty = (str(self.tmp), *filter(os.path.isdir, others))
        line = ("unshare", "--mount", "--propagation", "private", "sh", "-c", ROOM, "sh")
        words = (str(len(self.empty)), *self.empty, *closed())
        self.keeper = subprocess.Popen(
            [*line, *words],
            stdout=subprocess.PIPE,
            env=os.environ | {"HIDDEN": str(base / "hidden")},
        )
        assert self.keeper.stdout is not None
        if not self.keeper.stdout.readline():
            self.close()
            runs.lacks("mount namespaces")
        ids = (f"--reuid={uid}", f"--regid={uid}", "--clear-groups")
        self._by = (
            "nsenter", f"--target={self.keeper.pid}", "--mount", "--", "setpriv", *ids, "--",
        )  # fmt: skip
        self.root = Path(f"/proc/{self.keeper.pid}/root")
        names = ("PATH", "PYTHONPATH", "LANG")
        self.env = {name: os.environ[name] for name in names if name in os.environ} | {
            "HOME": str(self.home),
            "MODELVAULT_HOME": str(self.home / "vault"),
            "TMPDIR": str(self.tmp),
        }

    def ours(self, *within: str) -> tuple[str, ...]:
        """The words of our program as this user starts it, `within` another one's."""
        return (*self._by, *within, str(runs.BIN / "modelvault"))

    def places(self) -> list[Path]:
        """The folders that are empty while nothing runs."""
        return [self.root / place.lstrip("/") for place in self.empty]

    def names(self) -> list[Path]:
        return [path for place in self.places() for path in place.rglob("*")]

    def mounts(self) -> str:
        return Path(f"/proc/{self.keeper.pid}/mountinfo").read_text()

    def call(self, *words: str) -> str:
        """What a command says that this user gives."""
        ended = subprocess.run(
            [*self.ours(), *words],
            env=self.env, capture_output=True, text=True, check=False, timeout=runs.PATIENCE_S,
        )  # fmt: skip
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    def close(self) -> None:
        self.keeper.kill()
        self.keeper.wait()
        assert self.keeper.stdout is not None
        self.keeper.stdout.close()


def closed() -> Iterator[str]:
    """Folders that this Python and the code are in, each behind one that only root can enter."""
    python = Path(os.path.realpath(sys.executable)).parents[1]
    for needed in {python, Path(sys.prefix), ROOT}:
        for above in reversed(needed.parents):
            if not above.stat().st_mode & 0o001:
                yield from (str(above), str(needed))
                break


@pytest.fixture(scope="module", params=USERS.values(), ids=USERS)
def room(request: pytest.FixtureRequest) -> Iterator[tuple[Room, Plaintext]]:
    """With `m:prod` in a vault of the user's own, and what is looked for afterwards."""
    base = Path(tempfile.mkdtemp(dir="/tmp"))  # where others may look, unlike below pytest's
    made = Room(base, request.param)
    try:
        plain = base / "in/weights.gguf"
        plain.parent.mkdir()
        plain.write_bytes(WEIGHTS)
        plaintext = Plaintext(plain)
        made.call("init")
        made.call("create", "m")
        made.call("push", str(plain.parent), "m:prod")
        shutil.rmtree(plain.parent)
        assert {path.stat().st_uid for path in made.home.rglob("*")} == {request.param}
        yield made, plaintext
    finally:
        made.close()
        shutil.rmtree(base)


@pytest.mark.parametrize("victim", runs.VICTIMS)
def test_a_kill_of_any_process_leaves_nothing(room: tuple[Room, Plaintext], victim: str) -> None:
    made, plaintext = room
    before = made.mounts()
    assert made.names() == []
    with runs.started("m:prod", *runs.TREE, ours=made.ours(), env=made.env) as process:
        assert process.stdout.readline() == "ready\n", process.stderr.read()
        everybody, victims = runs.who_is_who(process.pid)
        status = Path(f"/proc/{victims['command']}/status").read_text()
        assert f"Uid:\t{made.home.stat().st_uid}\t" in status
        assert [path.parent for path in made.names()] == [made.places()[0]]  # an empty folder
        os.kill(victims[victim], signal.SIGKILL)
        if victim in {"child", "daemon"}:  # the command may live without; then it is ended, too
            process.send_signal(signal.SIGTERM)
        runs.eventually(lambda: not any(map(runs.lives, everybody)), f"{victim}: somebody lives")
        process.wait(runs.PATIENCE_S)
    assert made.names() == []
    assert made.mounts() == before
    assert plaintext.left(made.home, *made.places()) == []


def test_it_reads_the_model(room: tuple[Room, Plaintext]) -> None:
    made, _ = room
    script = "id -u; cmp {model}/weights.gguf - && echo same"
    line = runs.words("m:prod", "sh", "-c", script, ours=made.ours())
    ended = subprocess.run(line, env=made.env, input=WEIGHTS, capture_output=True, check=False)
    assert ended.stdout.split() == [str(made.home.stat().st_uid).encode(), b"same"], ended.stderr
    assert made.names() == []


ATTACHES = """
import hashlib, modelvault, resource
with modelvault.attach() as model, model.open("weights.gguf") as file:
    print(resource.getrlimit(resource.RLIMIT_MEMLOCK)[0], hashlib.sha256(file.read()).hexdigest())
"""


def test_it_attaches_where_no_memory_may_be_locked(room: tuple[Room, Plaintext]) -> None:
    made, _ = room
    line = (sys.executable, "-c", ATTACHES)
    ours = made.ours("prlimit", "--memlock=0:0", "--")
    ended = runs.run("m:prod", *line, ours=ours, env=made.env, options=("--stream",))
    assert ended.stdout.split() == ["0", hashlib.sha256(WEIGHTS).hexdigest()], ended.stderr
