"""What another program of the same user, as in another container of a pod, gets of a holder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelvault import connect, wiring
from support import runs
from support.homes import isolated

SHM = Path("/dev/shm")
pytestmark = pytest.mark.skipif(not SHM.exists(), reason="no shared memory here")
CONTENT = b"weights for those who share the folder" * 100

# Beside a holder that runs: the folder is read, and its process looked into.
BESIDE = """
import ctypes, os, pathlib, subprocess, sys, time
holder = subprocess.Popen(sys.argv[2:])
folder = pathlib.Path(sys.argv[1])
while holder.poll() is None and not (folder / ".modelvault/held").exists():
    time.sleep(0.02)
print("read", (folder / "m.txt").stat().st_size, len((folder / "m.txt").read_bytes()))
for name in ("environ", "maps", "mem"):
    try:
        with open(f"/proc/{holder.pid}/{name}", "rb") as file:
            text = b"" if name == "mem" else file.read()
        print(name, "canary" if b"canary" in text else "open")
    except OSError:
        print(name, "refused")
try:
    print("fd", os.readlink(f"/proc/{holder.pid}/fd/0"))
except OSError:
    print("fd", "refused")
ATTACH, DETACH = 16, 17
ptrace = ctypes.CDLL(None).ptrace
print("debugger", "refused" if ptrace(ATTACH, holder.pid, None, None) else "in")
ptrace(DETACH, holder.pid, None, None)
holder.terminate()
print("ended", holder.wait(60), sorted(path.name for path in folder.iterdir()))
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(dir=SHM))
    yield made
    shutil.rmtree(made)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    made = isolated(tmp_path, monkeypatch)
    wiring.init()
    (tmp_path / "m.txt").write_bytes(CONTENT)
    with connect() as session:
        session.create("m")
        session.push(tmp_path / "m.txt", "m")
    return made


def test_the_folder_is_open_and_its_holder_is_not(home: Path, folder: Path) -> None:
    runs.need_user_namespaces()
    line = (
        *runs.USER, sys.executable, "-c", BESIDE, str(folder),
        str(runs.BIN / "modelvault"), "hold", "m", str(folder), "-p", "inference",
    )  # fmt: skip
    env = os.environ | {"MODELVAULT_PASSPHRASE": "canary"}
    ended = subprocess.run(
        line, env=env, capture_output=True, text=True, check=False, timeout=runs.PATIENCE_S
    )
    told = dict(each.split(" ", 1) for each in ended.stdout.splitlines())
    assert told.pop("read") == f"{len(CONTENT)} {len(CONTENT)}", ended.stderr
    assert told.pop("ended") == "0 []"
    assert told.pop(str(folder)) == "is empty again"
    assert told == dict.fromkeys(("environ", "maps", "mem", "fd", "debugger"), "refused")
