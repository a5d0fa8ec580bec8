"""Processes of one job that share a model, and what their memory costs altogether."""

from __future__ import annotations

import re
from multiprocessing.context import BaseContext
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np

PATIENCE_S = 120
_HEAD = re.compile(r"[0-9a-f]+-[0-9a-f]+ ")


def rank(number: int, of: int, here: Barrier, told: Any) -> None:
    """Attach, look at every byte of every tensor, and say what was seen; hold it until all have."""
    import modelvault

    with modelvault.attach() as model:
        tensors = model.tensors()
        sums = {name: int(array.view("u1").sum(dtype="u8")) for name, array in tensors.items()}
        rows = len(tensors["w0"]) // of
        part = model.get_slice("w0", framework="numpy")[number * rows : (number + 1) * rows]
        assert np.array_equal(part, tensors["w0"][number * rows : (number + 1) * rows])
        del part
        told.put((number, sums))
        here.wait(PATIENCE_S)  # all hold all of it
        here.wait(PATIENCE_S)  # the test has looked
        del tensors


class Ranks:
    """So many processes of `rank`, started by a context of multiprocessing."""

    def __init__(self, context: BaseContext, count: int) -> None:
        self._here = context.Barrier(count + 1)
        self._told = context.Queue()
        self._count = count
        self.processes = [
            context.Process(target=rank, args=(number, count, self._here, self._told))
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
    """A process's part of all shared models' memory, in bytes (`smaps`, Pss)."""
    found, inside = 0, False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if _HEAD.match(line):
            inside = "/memfd:modelvault" in line
        elif inside and line.startswith("Pss:"):
            found += int(line.split()[1]) * 1024
    return found
