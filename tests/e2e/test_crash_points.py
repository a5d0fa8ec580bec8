"""kill -9 at every I/O call of every walk that changes something."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

RUNNER = Path(__file__).parents[1] / "support" / "crash_walks.py"
SECONDS = 900

# What the walk must come through, so that a rename in the code can't empty this test.
LANDMARKS = {
    "push": (
        "os.link", "os.pwrite", "half of os.pwrite", "os.fsync", "INSERT INTO uploads",
        "INSERT INTO versions", "UPDATE tags", "os.replace client/pins.py", "after commit",
    ),
    "load": ("INSERT INTO leases", "INSERT INTO charges", "before commit", "read: os.preadv"),
    "tag": ("UPDATE tags", "os.replace client/pins.py"),
    "rotate": (
        "half of os.write adapters/keys_local", "os.replace adapters/keys_local", "UPDATE keys",
        "UPDATE models", "os.link",
    ),
    "revoke": ("INSERT INTO revocations", "UPDATE leases", "after commit"),
    "delete_and_gc": ("UPDATE versions", "DELETE FROM versions", "os.unlink"),
    "create": ("os.replace adapters/keys_local", "INSERT INTO models", "after commit"),
    "export": ("os.mkdir client/folder.py", "half of os.write", "os.rename client/folder.py"),
    "publish_policy": ("os.replace adapters/policy_files.py", "UPDATE head", "after commit"),
    "init": ("os.mkdir", "half of os.write", "os.rename", "CREATE TABLE", "after commit"),
}  # fmt: skip


@pytest.mark.slow
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
    assert told["killed"] == told["labels"]
    for landmark in LANDMARKS[walk]:
        assert any(label.startswith(landmark) for label in told["labels"]), landmark
