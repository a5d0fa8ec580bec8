"""Processes of one job that share a model, and what their memory costs altogether.

    python -m support.ranks COUNT [FOLDER]

is such a job for `modelvault run`: it says that it is ready, starts its ranks when told to, says
what they have seen, and ends them when told to. The ranks attach, or map the files of FOLDER.
"""

from __future__ import annotations

import json
import multiprocessing
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.context import BaseContext
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np

from modelvault.running import place

PATIENCE_S = 120
_HEAD = re.compile(r"[0-9a-f]+-[0-9a-f]+ ")


def rank(number: int, of: int, here: Barrier, told: Any, folder: str | None) -> None:
    """Look at every byte of every tensor, and say what was seen; hold it until all have."""
    with attached(number, of) if folder is None else mapped(Path(folder)) as tensors:
        told.put((number, {name: int(data.sum(dtype="u8")) for name, data in tensors.items()}))
        here.wait(PATIENCE_S)  # all hold all of it
        here.wait(PATIENCE_S)  # the test has looked
        tensors.clear()


@contextmanager
def attached(number: int, of: int) -> Iterator[dict[str, Any]]:
    """The bytes of each tensor of the run's or the host's model."""
    import modelvault

    with modelvault.attach() as model:
        tensors = model.tensors()
        rows = len(tensors["w0"]) // of
        part = model.get_slice("w0", framework="numpy")[number * rows : (number + 1) * rows]
        assert np.array_equal(part, tensors["w0"][number * rows : (number + 1) * rows])
        del part
        yield {name: tensors.pop(name).view("u1") for name in list(tensors)}


@contextmanager
def mapped(folder: Path) -> Iterator[dict[str, Any]]:
    """The same of files of one tensor each, as engines open them."""
    tensors = {path.stem: np.memmap(path, "u1", "r") for path in folder.glob("*.safetensors")}
    yield {name: data[8 + int.from_bytes(data[:8], "little") :] for name, data in tensors.items()}


class Ranks:
    """So many processes of `rank`, started by a context of multiprocessing."""

    def __init__(self, context: BaseContext, count: int, folder: str | None = None) -> None:
        self._here = context.Barrier(count + 1)
        self._told = context.Queue()
        self._count = count
        self.processes = [
            context.Process(target=rank, args=(number, count, self._here, self._told, folder))
            for number in range(count)
        ]

    def start(self) -> dict[int, dict[str, int]]:
        """What each of them saw; all have all of the model mapped then."""
        for process in self.processes:
            process.start()
        seen = dict(self._told.get(timeout=PATIENCE_S) for _ in self.processes)
        self._here.wait(PATIENCE_S)
        return seen

    def end(self) -> list[int | None]:
        """Let them go; their exit codes."""
        self._here.wait(PATIENCE_S)
        for process in self.processes:
            process.join(PATIENCE_S)
        return [process.exitcode for process in self.processes]


def pss(pid: int) -> int:
    """A process's part of all shared models' memory and of all runs' files, in bytes (`smaps`,
    Pss)."""
    found, inside = 0, False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if _HEAD.match(line):
            inside = "/memfd:modelvault" in line or place.PREFIX in line
        elif inside and line.startswith("Pss:"):
            found += int(line.split()[1]) * 1024
    return found


def main(count: int, folder: str | None = None) -> None:
    """The job of `modelvault run`."""
    print("ready", flush=True)
    sys.stdin.readline()
    ranks = Ranks(multiprocessing.get_context("spawn"), count, folder)
    print(json.dumps(ranks.start()), flush=True)
    sys.stdin.readline()
    print(json.dumps(ranks.end()), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
