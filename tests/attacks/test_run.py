"""What a command that `modelvault run` has started might try, and another program of its user."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelvault import connect, wiring
from modelvault.client.session import Session
from support import runs
from support.homes import isolated
from support.runs import run, started

CONTENT = b"weights that are nobody's business" * 3000


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """`m`, whose lease must be renewed each second, and ends its job within a second; `isolated`,
    likewise; and `slow`, whose lease needn't be renewed for half a minute."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "m.txt").write_bytes(CONTENT)
    with pytest.MonkeyPatch.context() as patch:
        home = isolated(folder, patch)
        runs.own_places(folder, patch)
        wiring.init()
        path = home / "policy/data.json"
        data = json.loads(path.read_text())
        limits = {"max_ttl_s": 1, "max_total_s": 3600, "grace_s": 1, "terminate_on_revoke": 1}
        data["classifications"]["internal"]["limits"] = limits
        data["classifications"]["isolated"] = {"limits": limits | {"isolated_memory": True}}
        data["classifications"]["slow"] = {"limits": limits | {"max_ttl_s": 30}}
        path.write_text(json.dumps(data))
        with connect() as session:
            session.publish_policy()
            for name in ("m", "isolated", "slow"):
                session.create(name, classification="internal" if name == "m" else name)
                session.push(folder / "m.txt", name)
            yield session


WRITABLE = """
model=$MODELVAULT_MODEL; place=$(dirname $model)
mount -o remount,rw $place; umount $place; umount -l $place; mount --bind /tmp $model
mount -t tmpfs none $model; mount --move $place /mnt
unshare --user --map-root-user --mount sh -c "mount -o remount,rw $place; umount $place; \
    mount -o remount,bind,rw $place; touch $model/new; echo x >$model/m.txt"
chmod u+w $model/m.txt; echo x >$model/m.txt; touch $model/new; mv $model/m.txt $model/x
ln -s /etc/passwd $model/link; rm -rf $model; ls $model; cmp $model/m.txt {plain} && echo same
"""


def test_nobody_makes_the_folder_writable(vault: Session, tmp_path: Path) -> None:
    runs.need_private_mounts()
    (tmp_path / "plain").write_bytes(CONTENT)
    script = WRITABLE.replace("{plain}", str(tmp_path / "plain"))
    ended = run("m", "sh", "-c", script, kind="user")
    assert ended.stdout.splitlines() == ["m.txt", "same"], ended.stderr


IGNORES = "trap '' TERM INT HUP; echo ready; while :; do sleep 0.1; done"
STUBBORN = {
    "it ignores signals": IGNORES,
    "a daemon without descriptors": f'(setsid sh -c "{IGNORES}" <&- 2>&- &); sleep 1000',
    "it is stopped": "echo ready; kill -STOP $$",
    "it starts others again and again": (
        "f() { trap '' TERM; while :; do (sleep 0.05; f) & sleep 0.02; exit; done; }; "
        "f & f & echo ready; exec sleep 1000"
    ),
}


@pytest.mark.parametrize("script", STUBBORN.values(), ids=STUBBORN)
def test_nothing_outlives_the_lease(vault: Session, script: str) -> None:
    with started("m", "sh", "-c", script, kind="links") as process:
        assert process.stdout.readline() == "ready\n"
        everybody = runs.family(process.pid)
        (lease,) = vault.leases()
        vault.revoke("lease", lease.id, reason="no more")
        _, errors = process.communicate(timeout=runs.PATIENCE_S)
        assert not any(map(runs.lives, everybody))
    assert process.returncode == 125
    assert "error[revoked]" in errors
    assert runs.places() == set()


# It stops those above it, and says when it is asked to end. The first word says whom: 1 is the
# warden, 2 the holder, 3 the front.
STOPS = """
import os, pathlib, signal, sys, time
def asked(*_):
    seen = os.path.exists(os.path.join(os.environ["MODELVAULT_MODEL"], "m.txt"))
    os.write(1, b"asked, and can still open it\\n" if seen else b"asked\\n")
signal.signal(signal.SIGTERM, asked)
if "--attach" in sys.argv:
    import modelvault
    model = modelvault.attach()
    model.read_bytes("m.txt")
above = [os.getpid()]
for _ in range(3):
    text = pathlib.Path(f"/proc/{above[-1]}/stat").read_text()
    above.append(int(text.rpartition(") ")[2].split()[1]))
leaves = "--leave" in sys.argv
if not leaves and os.fork() == 0:
    os.setsid()  # a daemon of it
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(1000)
for number in sys.argv[1]:
    os.kill(above[int(number)], signal.SIGSTOP)
os.write(1, b"stopped\\n")
while not leaves:
    time.sleep(0.05)
"""


@pytest.mark.parametrize(
    ("kind", "reference", "options"),
    [("user", "m", ()), ("links", "m", ()), ("user", "isolated", ("--stream",))],
)
def test_who_stops_its_holder_ends_with_the_lease(
    vault: Session, kind: str, reference: str, options: tuple[str, ...]
) -> None:
    """And is asked before, for as long as the policy says."""
    line = (sys.executable, "-c", STOPS, "2", *(["--attach"] if options else []))
    with started(reference, *line, kind=kind, options=options, ours=runs.QUICK) as process:
        assert process.stdout.readline() == "stopped\n"
        everybody = runs.family(process.pid)
        told, errors = process.communicate(timeout=runs.PATIENCE_S)
        assert not any(map(runs.lives, everybody))
    # Who is attached sees to his own end, too, and waits for no holder that may only be slow.
    assert told == "asked\n" or (options and told.startswith("asked"))
    assert process.returncode == 125
    assert "error[lease_expired]" in errors
    assert "Traceback" not in errors
    assert runs.places() == set()


def test_who_stops_its_warden_ends_with_a_revocation(vault: Session) -> None:
    """The holder kills what it can't ask."""
    line = (sys.executable, "-c", STOPS, "1")
    with started("m", *line, kind="user", ours=runs.QUICK) as process:
        assert process.stdout.readline() == "stopped\n"
        everybody = runs.family(process.pid)
        (lease,) = vault.leases()
        vault.revoke("lease", lease.id, reason="no more")
        told, errors = process.communicate(timeout=runs.PATIENCE_S)
        assert not any(map(runs.lives, everybody))
    assert (told, process.returncode) == ("", 125)
    assert "error[revoked]" in errors
    assert runs.places() == set()


def test_who_stops_both_is_killed_by_the_front(vault: Session) -> None:
    with started("m", sys.executable, "-c", STOPS, "21", kind="links", ours=runs.QUICK) as process:
        assert process.stdout.readline() == "stopped\n"
        everybody = runs.family(process.pid)
        told, errors = process.communicate(timeout=runs.PATIENCE_S)
        assert not any(map(runs.lives, everybody))
    assert (told, process.returncode) == ("", 125)
    assert "error[run_killed]" in errors
    assert runs.places() == set()


def test_who_stops_its_holder_and_leaves_leaves_nothing(vault: Session) -> None:
    """Links to the model's memory would still lead there: the holder is woken, and ends as ever."""
    ended = run("slow", sys.executable, "-c", STOPS, "2", "--leave", kind="links")
    assert (ended.stdout, ended.returncode, ended.stderr) == ("stopped\n", 0, "")
    assert runs.places() == set()
    assert [lease for lease in vault.leases() if lease.model == "slow"] == []


def test_a_stop_that_is_shorter_than_the_lease_ends_nothing(vault: Session) -> None:
    """Nobody is ended for having been slow, or for an outage that the holder is awake in."""
    script = "echo ready; read end; cat {model}/m.txt | wc -c"
    with started("slow", "sh", "-c", script, kind="user", stdin=subprocess.PIPE) as process:
        assert process.stdout.readline() == "ready\n"
        for one in runs.family(process.pid)[:2]:  # holder and warden
            os.kill(one.pid, signal.SIGSTOP)
        time.sleep(2)
        for one in runs.family(process.pid)[:2]:
            os.kill(one.pid, signal.SIGCONT)
        told, errors = process.communicate("\n", timeout=runs.PATIENCE_S)
    assert (told, process.returncode, errors) == (f"{len(CONTENT)}\n", 0, "")


PEEK = """
import os, pathlib, sys
def parents(pid):
    while pid > 1:
        pid = int(pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[1])
        yield pid
for pid in list(parents(os.getpid()))[:3]:  # warden, holder, front
    for name in ("mem", "environ", "maps"):
        try:
            with open(f"/proc/{pid}/{name}", "rb") as file:
                text = b"" if name == "mem" else file.read()
            print(name, pid, "canary" if b"canary" in text else "nothing")
        except OSError:
            print(name, pid, "refused")
"""


@pytest.mark.parametrize(("kind", "seen"), [("user", {"refused"}), ("links", None)])
def test_those_that_look_after_it_are_closed_to_the_command(
    vault: Session, kind: str, seen: set[str] | None
) -> None:
    runs.need_private_mounts()
    env = os.environ | {"MODELVAULT_PASSPHRASE": "canary"}
    ended = run("m", sys.executable, "-c", PEEK, kind=kind, env=env)
    told = [line.split()[2] for line in ended.stdout.splitlines()]
    assert len(told) == 9, ended.stderr
    assert "canary" not in told
    assert seen is None or set(told) == seen


def test_a_crash_writes_no_memory_to_a_disk(vault: Session, tmp_path: Path) -> None:
    """Even where the machine pipes dumps to a program, or the user asks for them."""
    script = "ulimit -H -c; ulimit -c unlimited 2>/dev/null; ulimit -c; kill -SEGV $$"
    ended = run("m", "sh", "-c", script, kind="user", cwd=tmp_path)
    assert ended.stdout.split() == ["0", "0"]  # in blocks: the limit is one byte
    assert ended.returncode == 139
    assert list(tmp_path.iterdir()) == []


def test_another_program_of_the_user_finds_no_file(vault: Session) -> None:
    runs.need_private_mounts()
    with started("m", "sh", "-c", "echo {model}; cat", stdin=subprocess.PIPE) as process:
        folder = Path(process.stdout.readline().strip())
        looked = subprocess.run(
            ["find", folder.parent, "-mindepth", "1"], capture_output=True, text=True, check=True
        )
        assert looked.stdout == ""
        mounts = Path("/proc/self/mounts").read_text()
        assert str(folder.parent) not in mounts
        process.communicate("", timeout=runs.PATIENCE_S)
