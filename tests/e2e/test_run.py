"""`modelvault run` from outside, on a vault of its own: what the command sees, and what is left."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pty
import select
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from modelvault import connect, wiring
from modelvault.client.session import Session
from modelvault.errors import AccessDenied
from support import runs
from support.homes import isolated
from support.runs import KINDS, eventually, run, started, words

FILES = {"config.json": b'{"x": 1}', "weights.gguf": os.urandom(3 << 20), "a/b.txt": b"b" * 5000}
WEIGHTS = b"\x08\0\0\0\0\0\0\0{}      "


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        home = isolated(folder, patch)
        runs.own_places(folder, patch)
        wiring.init()
        data = json.loads((home / "policy/data.json").read_text())
        short = {"max_ttl_s": 1, "max_total_s": 3600, "grace_s": 1}
        data["classifications"] |= {
            "watched": {"limits": short | {"terminate_on_revoke": 1}},
            "isolated": {"limits": short | {"isolated_memory": True}},
        }
        (home / "policy/data.json").write_text(json.dumps(data))
        for path, data in (FILES | {"m.safetensors": WEIGHTS}).items():
            (folder / "in" / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / "in" / path).write_bytes(data)
        with connect() as session:
            session.publish_policy()
            for name in ("m", "watched", "isolated"):
                session.create(name, classification="internal" if name == "m" else name)
                session.push(folder / "in", f"{name}:prod")
            yield session


@pytest.fixture(autouse=True)
def nothing_is_left(vault: Session) -> Iterator[None]:
    before = runs.places()
    yield
    assert runs.places() <= before
    assert vault.leases() == ()


def say(script: str, **settings: Any) -> list[str]:
    """What a shell prints, line by line."""
    ended = shell(script, **settings)
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout.splitlines()


def shell(script: str, *, reference: str = "m:prod", **settings):
    return run(reference, "sh", "-c", script, **settings)


@pytest.mark.parametrize("kind", KINDS)
def test_the_command_reads_the_model(vault: Session, kind: str) -> None:
    script = "cd {model} && find . -type f -o -type l | sort | xargs sha256sum; pwd; exit 7"
    ended = shell(script, kind=kind)
    *lines, folder = ended.stdout.splitlines()
    found = {path: digest for digest, path in (line.split() for line in lines)}
    everything = FILES | {"m.safetensors": WEIGHTS}
    assert found == {
        f"./{path}": hashlib.sha256(data).hexdigest() for path, data in everything.items()
    }
    assert ended.returncode == 7
    assert ended.stderr == ""
    assert Path(folder).name == "m"
    assert not Path(folder).parent.exists()


def test_where_the_machine_allows_it_nobody_else_finds_the_files(vault: Session) -> None:
    runs.need_private_mounts()
    script = "echo {model}; stat -f -c %T {model}; stat -c '%F %a' {model} {model}/config.json; cat"
    with started("m:prod", "sh", "-c", script, stdin=subprocess.PIPE) as process:
        folder = Path(process.stdout.readline().strip())
        assert folder.parent.is_dir()
        assert list(folder.parent.iterdir()) == []
        seen, _ = process.communicate("", timeout=runs.PATIENCE_S)
    assert seen.splitlines() == ["tmpfs", "directory 700", "regular file 400"]


def test_how_it_is_mounted(vault: Session) -> None:
    """Never swapped, for root and where the kernel knows how."""
    runs.need_private_mounts()
    (line,) = say("grep $(dirname {model}) /proc/self/mounts")
    options = set(line.split()[3].split(","))
    assert {"ro", "nosuid", "nodev", "mode=700"} <= options
    kernel = tuple(map(int, os.uname().release.split("-")[0].split(".")[:2]))
    if os.geteuid() == 0 and kernel >= (6, 4):
        assert "noswap" in options


def test_elsewhere_links_lead_to_memory(vault: Session) -> None:
    kind, sealed = say(
        "stat -c %F {model}/config.json; readlink $(readlink {model}/config.json)", kind="links"
    )
    assert kind == "symbolic link"
    assert "memfd:modelvault" in sealed


NEW = "open(os.environ['MODELVAULT_MODEL'] + '/new', 'w')"
OLD = "os.write(os.open(os.environ['MODELVAULT_MODEL'] + '/config.json', os.O_RDWR), b'x')"


@pytest.mark.parametrize(
    ("kind", "write", "why"),
    [
        ("private", NEW, "Read-only file system"),
        ("user", NEW, "Read-only file system"),
        ("private", OLD, "Read-only file system"),
        ("links", OLD, "Operation not permitted"),
    ],
)
def test_an_engine_that_writes_into_the_folder_is_refused(
    vault: Session, kind: str, write: str, why: str
) -> None:
    runs.need_private_mounts()
    ended = run("m:prod", sys.executable, "-c", f"import os; {write}", kind=kind)
    assert ended.returncode == 1
    assert why in ended.stderr


@pytest.mark.parametrize(
    ("command", "code", "told"),
    [
        (("sh", "-c", "kill -9 $$"), 137, ""),
        (("no-such-program",), 127, "command_not_found"),
        (("{model}/no-such-program",), 127, "command_not_found"),
        (("/",), 126, "command_not_executable"),
        (("{model}/config.json",), 126, "command_not_executable"),
    ],
)
def test_exit_codes(vault: Session, command: tuple[str, ...], code: int, told: str) -> None:
    ended = run("m:prod", *command)
    assert (ended.returncode, ended.stdout) == (code, "")
    assert ended.stderr.startswith(f"error[{told}]" if told else "")
    assert bool(ended.stderr) is bool(told)


@pytest.mark.parametrize(
    ("options", "reference", "told"),
    [
        (("--purpose", "nonsense"), "m:prod", "denied"),
        (("--nonsense",), "m:prod", "usage"),
        ((), "m m", "bad_reference"),
    ],
)
def test_failures_of_its_own_are_125_and_leave_stdout_alone(
    vault: Session, options: tuple[str, ...], reference: str, told: str
) -> None:
    ended = run(reference, "echo", "--json", options=(*options, "--json"))
    assert (ended.returncode, ended.stdout) == (125, "")
    error = json.loads(ended.stderr)["error"]
    assert error["exit_code"] == 125
    assert error["code"] == told


def test_what_the_command_is_given(vault: Session) -> None:
    secrets = {"MODELVAULT_TOKEN_FILE": "", "MODELVAULT_PASSPHRASE": "p4ss", "MODELVAULT_RUN": "/x"}
    script = "env; ls /proc/self/fd | wc -l; ulimit -c; grep NoNewPrivs /proc/self/status"
    *env, descriptors, dumps, privileges = say(script, env=os.environ | secrets)
    given = dict(line.split("=", 1) for line in env if "=" in line)
    assert given["MODELVAULT_MODEL"].endswith("/m")
    assert {"MODELVAULT_TOKEN", "MODELVAULT_PASSPHRASE", "MODELVAULT_RUN"}.isdisjoint(given)
    assert given["MODELVAULT_HOME"] == os.environ["MODELVAULT_HOME"]
    assert descriptors.strip() == "4"  # three, and the one that `ls` looks through
    assert dumps == "0"
    assert privileges.split() == ["NoNewPrivs:", "1"]


CLOSES = """
import hashlib, multiprocessing, os, sys

def look(folder, digest):
    os.closerange(0, 1 << 16)
    with open(folder + "/weights.gguf", "rb") as file:
        os._exit(7 if hashlib.sha256(file.read()).hexdigest() == digest else 1)

if __name__ == "__main__":
    os.closerange(3, 1 << 16)
    for method in ("spawn", "fork"):
        child = multiprocessing.get_context(method).Process(target=look, args=sys.argv[1:])
        child.start()
        child.join()
        print(method, child.exitcode)
"""


@pytest.mark.parametrize("kind", ["user", "links"])
def test_who_closes_all_descriptors_finds_the_files(
    vault: Session, tmp_path: Path, kind: str
) -> None:
    """The folder is no matter of descriptors, whichever way a process began."""
    (tmp_path / "closes.py").write_text(CLOSES)
    digest = hashlib.sha256(FILES["weights.gguf"]).hexdigest()
    line = (sys.executable, str(tmp_path / "closes.py"), "{model}", digest)
    ended = run("m:prod", *line, kind=kind)
    assert ended.stdout.splitlines() == ["spawn 7", "fork 7"], ended.stderr


ATTACHES = """
import modelvault, os
with modelvault.attach() as model:
    os.closerange(3, 1 << 16)
    try:
        print(bytes(model.read_bytes("m.safetensors")))
    except modelvault.errors.ModelVaultError as error:
        print(error.code)
print("ended", flush=True)
"""


def test_who_is_attached_and_closes_all_descriptors_is_told_or_connects_anew(
    vault: Session,
) -> None:
    """Whether its thread had begun to wait for the holder's end decides."""
    ended = run("m:prod", sys.executable, "-c", ATTACHES, options=("--stream",))
    found, *rest = ended.stdout.splitlines()
    assert found in {"host_gone", str(WEIGHTS)}
    assert (rest, ended.returncode, ended.stderr) == (["ended"], 0, "")


def test_some_files(vault: Session) -> None:
    ended = run(
        "m:prod", "sh", "-c", "cd {model}; find . -type f",
        options=("--file", "config.json", "--file", "a/b.txt"),
    )  # fmt: skip
    assert sorted(ended.stdout.splitlines()) == ["./a/b.txt", "./config.json"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_inside_of_another(vault: Session, kind: str) -> None:
    """docs/engines/run.md: a base and its adapter, under a lease each."""
    script = (
        'cat "$BASE/config.json" "$MODELVAULT_MODEL/a/b.txt" | wc -c; '
        'basename -a "$BASE" "$MODELVAULT_MODEL"; echo ready; read end; exit 7'
    )
    inner = ("env", "BASE={model}", *words("watched:prod", "sh", "-c", script))
    with started("m:prod", *inner, kind=kind, stdin=subprocess.PIPE) as process:
        told = [process.stdout.readline().strip() for _ in range(4)]
        assert told == [str(8 + 5000), "m", "watched", "ready"]
        assert sorted(lease.model for lease in vault.leases()) == ["m", "watched"]
        process.communicate("\n", timeout=runs.PATIENCE_S)
    assert process.returncode == 7


def test_weights_are_left_out_and_taken_by_attaching(vault: Session) -> None:
    script = (
        "import modelvault, os, sys\n"
        "print(sorted(os.listdir(sys.argv[1])))\n"
        "with modelvault.attach() as model:\n"
        "    print(bytes(model.read_bytes('m.safetensors')))"
    )
    ended = run("m:prod", sys.executable, "-c", script, "{model}", options=("--stream",))
    assert ended.stderr == ""
    assert ended.stdout.splitlines() == [
        str(sorted({path.split("/")[0] for path in FILES})), str(WEIGHTS),
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["private", "links"])
def test_a_temporary_folder_whose_path_is_long(vault: Session, tmp_path: Path, kind: str) -> None:
    folder = tmp_path / ("x" * 150)
    folder.mkdir()
    script = (
        "import modelvault, os\n"
        "with modelvault.attach() as model:\n"
        "    print(bytes(model.read_bytes('m.safetensors')))\n"
        "print(os.environ['MODELVAULT_RUN'])"
    )
    ended = run(
        "m:prod", sys.executable, "-c", script, kind=kind, options=("--stream",),
        env=os.environ | {"TMPDIR": str(folder)},
    )  # fmt: skip
    read, where = ended.stdout.splitlines()
    assert (read, ended.stderr) == (str(WEIGHTS), "")
    assert Path(where).parent == folder
    assert not list(folder.iterdir())


DAEMON = """
import modelvault, os, time
parent = os.getpid()
if os.fork():
    os._exit(0)
os.setsid()
while os.getppid() == parent:
    time.sleep(0.01)
with modelvault.attach() as model:
    print(bytes(model.read_bytes("m.safetensors")), flush=True)
"""


@pytest.mark.parametrize("kind", ["user", "links"])
def test_a_daemon_of_the_run_attaches(vault: Session, kind: str) -> None:
    """docs/engines/sharing.md: whose parent has ended, it is still one of the run's."""
    line = ("sh", "-c", '"$0" -c "$1"; read end', sys.executable, DAEMON)
    with started(
        "m:prod", *line, kind=kind, options=("--stream",), stdin=subprocess.PIPE
    ) as process:
        assert process.stdout.readline().strip() == str(WEIGHTS)
        process.communicate("\n", timeout=runs.PATIENCE_S)
    assert process.returncode == 0


def test_pipes_end_when_the_command_lets_go_of_them(vault: Session) -> None:
    script = "head -c 3; exec <&- >&-; sleep 100"
    with started("m:prod", "sh", "-c", script, stdin=subprocess.PIPE) as process:
        process.stdin.write("abc")
        process.stdin.flush()
        assert process.stdout.read() == "abc"  # to the end of it, though the command runs
        with pytest.raises(BrokenPipeError):
            os.write(process.stdin.fileno(), b"x" * (1 << 20))  # more than a pipe holds
        process.send_signal(signal.SIGTERM)
        assert process.wait(runs.PATIENCE_S) == 143


@pytest.mark.parametrize("closed", ["<&-", ">&-", "<&- >&- 2>&-"])
def test_who_starts_it_may_have_closed_streams(vault: Session, closed: str) -> None:
    line = shlex.join(words("m:prod", "sh", "-c", "cat; echo x; exit 5"))
    ended = subprocess.run(["sh", "-c", f"{line} {closed}"], stdin=subprocess.DEVNULL, check=False)
    assert ended.returncode == 5


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_signals_of_other_processes_reach_the_command(vault: Session, number: int) -> None:
    script = f"trap 'echo told; exit 9' {int(number)}; echo ready; while :; do sleep 0.05; done"
    with started("m:prod", "sh", "-c", script) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        told, errors = process.communicate(timeout=runs.PATIENCE_S)
    assert (told, errors, process.returncode) == ("told\n", "", 9)


@pytest.mark.parametrize("victim", runs.VICTIMS)
@pytest.mark.parametrize("kind", ["user", "links"])
def test_a_kill_of_any_process_leaves_nothing(vault: Session, kind: str, victim: str) -> None:
    with started("m:prod", *runs.TREE, kind=kind, options=("-v",)) as process:
        assert process.stdout.readline() == "ready\n"
        everybody, victims = runs.who_is_who(process.pid)
        assert len(set(victims.values())) == len(victims)
        assert len(vault.leases()) == 1
        os.kill(victims[victim], signal.SIGKILL)
        if victim in {"child", "daemon"}:  # the command may live without; then it is ended, too
            process.send_signal(signal.SIGTERM)
        eventually(lambda: not any(map(runs.lives, everybody)), f"{victim}: somebody lives on")
        code = process.wait(runs.PATIENCE_S)
        errors = process.stderr.read()
        expected = {"front": -9, "holder": 125, "warden": 125, "command": 137}.get(victim, 143)
        assert code == expected
        assert ("run_killed" in errors) is (code == 125)
        for lease in vault.leases():
            assert victim == "holder", errors
            vault.revoke("lease", lease.id, reason="the test is over")


class Terminal:
    """A program at a terminal of its own, in the foreground, as a shell would start it."""

    def __init__(self, *line: str) -> None:
        self.pid, self.descriptor = pty.fork()
        if self.pid == 0:
            os.execvp(line[0], line)  # noqa: S606
        self.seen = ""

    def until(self, text: str) -> None:
        """Read until `text` was shown."""
        while text not in self.seen:
            assert select.select([self.descriptor], [], [], runs.PATIENCE_S)[0], self.seen
            self.seen += os.read(self.descriptor, 4096).decode()
        self.seen = self.seen.partition(text)[2]

    def press(self, key: str) -> None:
        os.write(self.descriptor, key.encode())

    def wait(self, options: int = 0) -> int:
        return os.waitpid(self.pid, options)[1]

    def close(self) -> None:
        for one in runs.family(self.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(one.pid, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.descriptor)


COUNTS = """
import signal, sys, time
hits = []
signal.signal(signal.SIGINT, lambda *_: hits.append(1))
print("ready", flush=True)
while not hits:
    time.sleep(0.02)
time.sleep(0.3)
print("hits:", len(hits), sys.stdin.readline().strip(), flush=True)
"""


@pytest.fixture
def terminal(vault: Session) -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def open_one(*command: str) -> Terminal:
        # The terminal's first process leads a session and can't be stopped: it has a shell's place.
        opened.append(Terminal("sh", "-c", 'trap : INT; "$@"; echo "code: $?"', "sh", *command))
        return opened[-1]

    yield open_one
    for one in opened:
        one.close()


def test_ctrl_c_reaches_the_command_once(terminal: Callable[..., Terminal]) -> None:
    at = terminal(*words("m:prod", sys.executable, "-c", COUNTS))
    at.until("ready")
    at.press("\x03")
    at.press("typed\n")
    at.until("hits: 1 typed")
    at.until("code: 0")


def test_ctrl_z_stops_and_the_lease_goes_on(vault: Session) -> None:
    """As a shell with job control sees it."""
    line = shlex.join(words("m:prod", "sh", "-c", "echo re''ady; read x; echo got $x; exit 4"))
    at = Terminal("bash", "--norc", "-i")
    try:
        at.press(f"PS1='$ '; {line}\n")
        at.until("ready")
        at.press("\x1a")
        at.until("Stopped")
        at.until("$ ")
        assert len(vault.leases()) == 1
        at.press("jobs; fg\n")
        at.until("modelvault")
        at.press("on\n")
        at.until("got on")
        at.press("echo code: $?\n")
        at.until("code: 4")
    finally:
        at.close()


def test_a_revocation_while_it_is_stopped(vault: Session) -> None:
    """Nobody waits for `fg`, which tells of it."""
    at = Terminal("bash", "--norc", "-i")
    try:
        line = shlex.join(words("watched:prod", "sh", "-c", "echo re''ady; read x"))
        at.press(f"PS1='$ '; {line}\n")
        at.until("ready")
        at.press("\x1a")
        at.until("Stopped")
        at.until("$ ")
        (lease,) = vault.leases()
        vault.revoke("lease", lease.id, reason="no more")
        eventually(
            lambda: not any(runs.program(one).startswith("sh -c") for one in runs.family(at.pid))
        )
        at.press("fg; echo code: $?\n")
        at.until("code: 125")
    finally:
        at.close()


OBEDIENT = "trap 'ls {model} 2>/dev/null | wc -l; echo asked; exit 0' TERM"
STUBBORN = "(setsid sh -c 'trap \"\" TERM; while :; do sleep 0.1; done' &)"


@pytest.mark.parametrize("kind", ["user", "links"])
def test_a_revocation_ends_the_whole_tree(vault: Session, kind: str) -> None:
    script = f"{OBEDIENT}\n{STUBBORN}\necho ready\nwhile :; do sleep 0.05; done"
    with started("watched:prod", "sh", "-c", script, kind=kind) as process:
        assert process.stdout.readline() == "ready\n"
        everybody = runs.family(process.pid)
        (lease,) = vault.leases()
        vault.revoke("lease", lease.id, reason="no more")
        told, errors = process.communicate(timeout=runs.PATIENCE_S)
        assert not any(map(runs.lives, everybody))
    assert told.split() == ["0", "asked"]
    assert process.returncode == 125
    assert "error[revoked]: the lease of watched@1 is over" in errors
    assert "Traceback" not in errors


def test_a_lease_outlives_its_first_term(vault: Session) -> None:
    assert say("sleep 2.5; cat {model}/config.json", reference="watched:prod") == ['{"x": 1}']


LOADS = """
import modelvault, signal, sys, time
signal.signal(signal.SIGTERM, getattr(signal, sys.argv[1]))
with modelvault.connect() as vault:
    with vault.load("watched:prod", purpose="inference", on_revoked=print) as model:
        model.read_bytes("config.json")
        print("ready", flush=True)
        time.sleep(60)
"""


@pytest.mark.parametrize(("handler", "code"), [("SIG_DFL", -15), ("SIG_IGN", -9)])
def test_the_library_ends_its_own_process(vault: Session, handler: str, code: int) -> None:
    line = [sys.executable, "-u", "-c", LOADS, handler]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        (lease,) = vault.leases()
        vault.revoke("lease", lease.id, reason="no more")
        told, _ = process.communicate(timeout=runs.PATIENCE_S)
    assert told.strip()
    assert process.returncode == code


def test_isolated_memory_is_had_in_a_private_mount(vault: Session) -> None:
    runs.need_private_mounts()
    assert say("cat {model}/config.json", reference="isolated", kind="user") == ['{"x": 1}']


def test_isolated_memory_is_refused_elsewhere(vault: Session, tmp_path: Path) -> None:
    ended = run("isolated", "cat", "{model}/config.json", kind="links")
    assert (ended.returncode, ended.stdout) == (125, "")
    assert ended.stderr.startswith("error[isolated_memory]")
    with vault.load("isolated", purpose="inference") as model:
        assert bytes(model.read_bytes("config.json")) == FILES["config.json"]
        with pytest.raises(AccessDenied) as caught:
            model.path()
    assert caught.value.code == "isolated_memory"
    assert "modelvault run" in caught.value.hint
    assert model.stats().costs  # nothing but what `read_bytes` took


def test_what_earlier_runs_left_is_removed(vault: Session) -> None:
    """Where all processes of a run were killed at one moment, names are left, and no contents."""
    with started("m:prod", *runs.TREE, kind="links") as process:
        assert process.stdout.readline() == "ready\n"
        everybody, _ = runs.who_is_who(process.pid)
        for pid in (process.pid, *(one.pid for one in everybody)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        eventually(lambda: not any(map(runs.lives, everybody)))
    (left,) = runs.places()
    assert {path.name for path in left.rglob("*") if path.exists()} <= {"m", "a"}
    (lease,) = vault.leases()
    vault.revoke("lease", lease.id, reason="its run was killed")
    assert say("echo {model}")
    assert not left.exists()
