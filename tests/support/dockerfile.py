"""examples/deploy/Dockerfile, as BuildKit reads it."""

from __future__ import annotations

import json
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

from support.servers.process import require

FILE = Path(__file__).parents[2] / "examples" / "deploy" / "Dockerfile"


def read(text: str) -> dict[str, Any]:
    """Stages, instructions and warnings. Raises ValueError with what the parser says."""
    program = require("modelvault-dockerfile", "dockerfile-*/dockerfile")
    done = subprocess.run([program], input=text, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ValueError(done.stderr)
    return dict(json.loads(done.stdout))


@cache
def last(name: str) -> dict[str, Any]:
    """What an instruction of the last stage says."""
    stage = read(FILE.read_text("utf-8"))["stages"][-1]
    return dict(next(one["args"] for one in stage["commands"] if one["name"] == name))


def entrypoint() -> list[str]:
    """What the image runs."""
    return list(last("ENTRYPOINT")["CmdLine"])


def healthcheck() -> list[str]:
    """The command with which it looks after itself."""
    test = list(last("HEALTHCHECK")["Health"]["Test"])
    assert test[0] == "CMD"
    return test[1:]
