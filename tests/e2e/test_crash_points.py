"""kill -9 at every I/O call of every walk that changes something."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

RUNNER = Path(__file__).parents[1] / "support" / "crash_walks.py"
SECONDS = 300

# What the walk must come through, so that a rename in the code can't empty this test.
LANDMARKS = {
    "push": ("os.link", "os.pwrite", "os.fsync", "INSERT INTO versions", "after commit"),
    "load": ("INSERT INTO leases", "INSERT INTO charges", "before commit"),
    "tag": ("UPDATE tags", "os.replace client/pins.py"),
    "rotate": ("os.replace adapters/keys_local", "UPDATE keys", "UPDATE models"),
    "revoke": ("INSERT INTO revocations", "after commit"),
    "delete_and_gc": ("UPDATE versions", "DELETE FROM versions", "os.unlink"),
    "init": ("os.mkdir", "os.rename", "CREATE TABLE", "after commit"),
}


@pytest.mark.parametrize("walk", LANDMARKS)
def test_killed_anywhere(walk: str, tmp_path: Path) -> None:
    # Hundreds of short-lived children: measuring their coverage would cost more than they do.
    environment = {name: os.environ[name] for name in os.environ if "COVERAGE" not in name}
    done = subprocess.run(
        [sys.executable, str(RUNNER), walk, str(tmp_path)],
        env=environment,
        check=False,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["wrong"] == {}, (told["wrong"], done.stderr[-4000:])
    # Threads may come to points in another order than when they were counted, but no line of ours
    # that writes may go untried.
    assert set(told["labels"]) <= set(told["reached"])
    for landmark in LANDMARKS[walk]:
        assert any(label.startswith(landmark) for label in told["labels"]), landmark
