"""`modelvault run` from outside: started, looked at, killed.

Three kinds of folders: a private mount as root has it, one as an ordinary user has it, and links
where a machine allows none. The command is started as such a user, or without what a mount needs.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from modelvault.running import place, tree

KINDS = ("private", "user", "links")
PATIENCE_S = 60
BIN = Path(sys.executable).parent
# The command with less patience for processes of a run that were stopped, so that tests have some.
QUICK = (
    sys.executable, "-c",
    "import sys\n"
    "from modelvault.running import front, warden\n"
    "front._ENDING_S, warden.LATE_S, warden.LEFT_GRACE_S = 4, 1, 1\n"
    "front._LOOK_S = warden._LOOK_S = 0.2\n"
    "from modelvault_cli.main import run\n"
    "sys.exit(run())",
)  # fmt: skip

# Root of a user namespace that may neither mount nor make further ones.
_NO_MOUNTS = (
    "unshare", "--map-root-user", "sh", "-c",
    "echo 0 >/proc/sys/user/max_user_namespaces && "
    'exec setpriv --bounding-set=-sys_admin --inh-caps=-all "$@"', "sh",
)  # fmt: skip
# Whose files are what they are, but who may do no more with them than any user.
USER = ("unshare", "--map-user=1234", "--map-group=1234")


def words(
    reference: str,
    *command: str,
    kind: str = "private",
    options: Sequence[str] = (),
    ours: Sequence[str] = (str(BIN / "modelvault"),),
):
    """The words that run `command` on the machine as it is, or on another `kind`."""
    prefix = {"private": (), "user": USER, "links": _NO_MOUNTS}[kind]
    if prefix:
        need_user_namespaces()
    return (*prefix, *ours, "run", reference, "-p", "inference", *options, "--", *command)


def need_user_namespaces() -> None:
    """Skip where a test can't prepare a machine without private mounts."""
    if subprocess.run([*_NO_MOUNTS, "true"], check=False, capture_output=True).returncode:
        lacks("user namespaces, and unshare and setpriv")


def need_private_mounts() -> None:
    """Skip where there are none."""
    probe = (
        "import sys, pathlib; from modelvault.running import private\n"
        "sys.exit(not private.enter(pathlib.Path(sys.argv[1])))"
    )
    line = [sys.executable, "-c", probe, tempfile.gettempdir()]
    if subprocess.run(line, check=False).returncode:
        lacks("private mounts")


def lacks(what: str) -> None:
    """Skip a test here, and fail under CI."""
    message = f"this machine doesn't allow {what}"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


def run(
    reference: str,
    *command: str,
    kind: str = "private",
    options=(),
    ours=(str(BIN / "modelvault"),),
    **settings: Any,
):
    """To its end. `settings` as subprocess has them."""
    settings = {"capture_output": True, "text": True, "timeout": PATIENCE_S, **settings}
    line = words(reference, *command, kind=kind, options=options, ours=ours)
    return subprocess.run(line, check=False, **settings)


@contextlib.contextmanager
def started(
    reference: str,
    *command: str,
    kind: str = "private",
    options=(),
    ours=(str(BIN / "modelvault"),),
    **settings: Any,
) -> Iterator[subprocess.Popen[str]]:
    """Running; killed at the end, should it still run. stdout is a pipe."""
    settings = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **settings}
    line = words(reference, *command, kind=kind, options=options, ours=ours)
    process = subprocess.Popen(line, **settings)
    try:
        yield process
    finally:
        for one in family(process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(one.pid, signal.SIGKILL)
        process.kill()
        process.wait(PATIENCE_S)
        for pipe in (process.stdout, process.stderr, process.stdin):
            if pipe is not None:
                pipe.close()


def family(pid: int) -> list[tree.Process]:
    """What lives below a process."""
    return tree.descendants(pid)


def lives(process: tree.Process) -> bool:
    """Whether it is there, and not only waited for."""
    now = tree._read(process.pid)
    return now is not None and now.started == process.started and not now.ended


def program(process: tree.Process) -> str:
    """The first words of its command line."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process.pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    return ""


def places() -> set[Path]:
    """The folders of runs, living or left, in a TMPDIR that is this test's own."""
    return set(Path(os.environ["TMPDIR"]).glob(place.PREFIX + "*"))


def own_places(root: Path, patch: pytest.MonkeyPatch) -> None:
    """Give runs a TMPDIR of their own from here on."""
    (root / "tmp").mkdir()
    patch.setenv("TMPDIR", str(root / "tmp"))


def eventually(is_so: Callable[[], object], what: str = "it never came") -> None:
    """Wait until it is so."""
    end = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < end, what
        time.sleep(0.02)


# What is left when any one of a run's processes is killed. The command has a file open, a child,
# and a daemon that nobody waits for.
TREE = (
    "sh", "-c",
    "exec 3<{model}/weights.gguf; sleep 1001 & (setsid sh -c 'echo ready; exec sleep 1003' &); "
    "sleep 1002",
)  # fmt: skip
VICTIMS = ("front", "holder", "warden", "command", "child", "daemon")


def who_is_who(front: int) -> tuple[list[tree.Process], dict[str, int]]:
    """All processes of a run of TREE, and some of them by what they are."""
    started_last = {"sleep 1001 ", "sleep 1003 "}
    eventually(lambda: started_last <= {program(one) for one in family(front)})
    everybody = family(front)
    programs = {program(one): one for one in everybody}

    def named(start: str) -> tree.Process:
        return next(one for line, one in programs.items() if line.startswith(start))

    command = named("sh -c exec")
    warden = next(one for one in everybody if one.pid == command.parent)
    return everybody, {
        "front": front,
        "holder": warden.parent,
        "warden": warden.pid,
        "command": command.pid,
        "child": named("sleep 1001").pid,
        "daemon": named("sleep 1003").pid,
    }
