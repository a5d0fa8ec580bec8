"""The command, called in this process or from outside."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest

from modelvault_cli import documents, main
from support.homes import safetensors_bytes

PROGRAM = str(Path(sys.executable).with_name("modelvault"))


class Told(NamedTuple):
    """What a call gave back."""

    code: int
    out: str
    err: str

    def document(self, command: str) -> Any:
        """stdout as the one JSON document that this command prints, strictly."""
        return msgspec.json.decode(self.out, type=documents.BY_COMMAND[command])

    @property
    def error(self) -> documents.ErrorBody:
        """stdout as the document of a failure."""
        failure = msgspec.json.decode(self.out, type=documents.Failure)
        assert failure.error.exit_code == self.code
        return failure.error


def call(capsys: pytest.CaptureFixture[str], *line: object) -> Told:
    """Run the command in this process."""
    capsys.readouterr()
    code = main.run([str(word) for word in line])
    told = capsys.readouterr()
    return Told(code, told.out, told.err)


def spawn(*line: object, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> Told:
    """Run the installed command from outside, without a terminal."""
    done = subprocess.run(
        [PROGRAM, *map(str, line)],
        env={**os.environ, **(env or {})},
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=120,
        check=False,
    )
    return Told(done.returncode, done.stdout.decode(), done.stderr.decode())


def model_folder(folder: Path, size: int = 1 << 16) -> Path:
    """A small plain model: weights, a configuration, a subfolder."""
    (folder / "extra").mkdir(parents=True)
    rows = size // 1024
    weights = {
        "a.weight": np.arange(rows * 256, dtype=np.float32).reshape(rows, 256),
        "b.bias": np.ones(4, np.float32),
    }
    (folder / "model.safetensors").write_bytes(safetensors_bytes(weights))
    (folder / "config.json").write_text('{"hidden": 256}')
    (folder / "extra" / "notes.txt").write_text("notes")
    return folder
