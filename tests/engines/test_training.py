"""examples/train_and_resume.py: killed at any time, it goes on to the same losses."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelvault import connect, wiring
from support.disk import Disk
from support.engines import ROOT, need
from support.homes import isolated

need("torch")

EXAMPLE = ROOT / "examples/train_and_resume.py"
KILLED_AT = 17


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    made = isolated(tmp_path, monkeypatch)
    wiring.init()
    with connect() as vault:
        vault.create("run")
        vault.create("straight")
    return made


def start(name: str, steps: int, every: int, disk: Disk) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(EXAMPLE), "--name", name, "--steps", str(steps), "--every",
        str(every)], stdout=subprocess.PIPE, text=True, env={**os.environ, **disk.environment},
    )  # fmt: skip


def told(lines: Iterator[str]) -> tuple[int, dict[int, str]]:
    """(steps that were done when it began, {step: loss, to the bit})."""
    begun = int(next(lines).removeprefix("begins at step "))
    losses = {}
    for line in lines:
        words = line.split()
        if line.endswith("\n") and len(words) == 4:  # the last one may be cut off
            losses[int(words[1])] = words[3]
    return begun, losses


def test_killed_and_resumed(home: Path, tmp_path: Path) -> None:
    disk = Disk(tmp_path / "disk")
    with start("run", 1_000_000, 8, disk) as killed:
        assert killed.stdout is not None
        lines = []
        for line in killed.stdout:
            lines.append(line)
            if line.startswith(f"step {KILLED_AT} "):
                killed.kill()
                break
        lines += list(killed.stdout)
    begun, before = told(iter(lines))
    assert begun == 0
    assert killed.returncode == -9
    with connect() as vault:
        steps = [int(tag.tag.removeprefix("step-")) for tag in vault.show("run").summary.tags]
        assert 1 <= len(steps) <= 3  # what keep leaves
        saved = max(steps)
        manifest = vault.load("run", purpose="fine-tuning").manifest
    assert saved >= 8
    assert manifest.hints.pickles == ()
    last = saved + 20
    with (
        start("run", last, 8, disk) as resumed,
        start("straight", last, last + 1, disk) as straight,
    ):
        assert resumed.stdout is not None
        assert straight.stdout is not None
        begun, after = told(resumed.stdout)
        _, expected = told(straight.stdout)
    assert (resumed.returncode, straight.returncode) == (0, 0)
    assert begun == saved
    assert set(after) == set(range(saved + 1, last + 1))
    assert set(expected) == set(range(1, last + 1))
    assert after == {step: expected[step] for step in after}
    both = before.keys() & expected.keys()
    assert max(both) >= KILLED_AT
    assert {step: before[step] for step in both} == {step: expected[step] for step in both}
    left = [path for folder in disk.folders for path in folder.rglob("*") if path.is_file()]
    assert left == []  # neither the killed one nor the others put anything anywhere
