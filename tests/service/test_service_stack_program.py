"""`make stack` from outside: however it was started and asked to end, nothing stays."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.servers.process import absent, listening

ROOT = Path(__file__).parents[2]
IN_THE_BACKGROUND = 'trap "" INT; exec "$@"'  # as `&` does in a shell without job control
PATIENCE_S = 60.0


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder for temporary files whose name is short enough for PostgreSQL's socket."""
    with tempfile.TemporaryDirectory(prefix="st-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "after"),
    [(signal.SIGTERM, "versitygw"), (signal.SIGINT, "ends everything")],
    ids=["TERM while it starts", "INT once it stands"],
)
def test_all_of_it_ends(short: Path, number: signal.Signals, after: str) -> None:
    log = short / "log"
    program = [sys.executable, "-u", "-m", "support.run_stack"]
    told = os.pathsep.join([str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    with log.open("wb") as output:
        child = subprocess.Popen(
            ["sh", "-c", IN_THE_BACKGROUND, "sh", *program],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | {"TMPDIR": str(short), "PYTHONPATH": told},
        )
    try:
        until = time.monotonic() + PATIENCE_S
        while after not in log.read_text("utf-8"):
            if child.poll() is not None:
                missing = re.search(r"no stack: (.+) isn't here", log.read_text("utf-8"))
                assert missing, log.read_text("utf-8")
                absent(missing[1])
            assert time.monotonic() < until, log.read_text("utf-8")
            time.sleep(0.1)
        assert len(list(short.iterdir())) > 2
        if number == signal.SIGINT:
            try_what_it_says(log.read_text("utf-8"), short)
        child.send_signal(number)
        assert child.wait(PATIENCE_S) == 0
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()
    shutil.rmtree(short / "home", ignore_errors=True)
    said = log.read_text("utf-8")
    assert said.endswith("everything is stopped, and nothing is left\n")
    assert list(short.iterdir()) == [log]
    ports = {int(port) for port in re.findall(r"127\.0\.0\.1:(\d+)", said)}
    assert (len(ports) >= 7) == (number == signal.SIGINT)
    assert not [port for port in ports if listening(port)]


def try_what_it_says(said: str, place: Path) -> None:
    """The commands that it prints, in a shell that knows nothing else."""
    commands = said[said.index("In another terminal") : said.index("Ctrl-C")]
    script = "\n".join(re.findall(r"^  (.+)$", commands, re.MULTILINE))
    shell = {"PATH": "/usr/bin:/bin", "HOME": str(place / "home")}
    kept = {name: text for name, text in os.environ.items() if name.startswith(("COV", "PYTHON"))}
    done = subprocess.run(
        ["sh", "-ec", script], env=shell | kept, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for expected in ("model.safetensors", "sha256:", "idp:job"):
        assert expected in done.stdout
