"""The races that `make bench` runs, and the goals that they are held to."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import msgspec
from contest import Shape, Worker, not_measured, prepared, race, workers
from contestants import CONTESTANTS
from measure import report
from weights import GIB, human

KIB, MIB = 1 << 10, 1 << 20

EVERYBODY = tuple(CONTESTANTS)
OURS = ("ours", "ours-torch", "ours-streaming")
FEW = ("mmap", "safetensors-torch", "runai", "tensorizer-encrypted", *OURS)
OF_ONE_FILE = ("mmap", "safetensors-numpy", "safetensors-torch", "runai", *OURS)
# (ours, theirs, cache, the ratio's limit)
_GOALS = (
    ("ours", "mmap", "warm", 1.6),
    ("ours", "safetensors-numpy", "cold", 1.05),
    ("ours-torch", "safetensors-torch", "cold", 1.05),
    ("ours-torch", "tensorizer-encrypted", "warm", 0.333),
    ("ours-torch", "tensorizer-encrypted", "cold", 0.333),
)


class Heat(msgspec.Struct, frozen=True):
    """Races over one file: by whom, from which caches, with how many threads."""

    shape: Shape
    names: Sequence[str]
    threads: Sequence[int] = (2,)
    caches: Sequence[str] = ("warm", "cold")
    rounds: int = 5


FULL = (
    Heat(Shape(64 * KIB, 4), EVERYBODY, caches=("warm",), rounds=9),
    Heat(Shape(1 * MIB, 8), FEW, caches=("warm",), rounds=9),
    Heat(Shape(16 * MIB, 16), FEW, caches=("warm",), rounds=7),
    Heat(Shape(64 * MIB, 2), EVERYBODY, rounds=5),
    Heat(Shape(64 * MIB, 4096), EVERYBODY, rounds=3),
    Heat(Shape(GIB, 32), EVERYBODY, rounds=5),
    Heat(Shape(4 * GIB, 64), OF_ONE_FILE, rounds=2),
    Heat(Shape(GIB, 32), FEW, threads=(1, 4), rounds=3),
)
QUICK = (
    Heat(Shape(64 * KIB, 4), EVERYBODY, caches=("warm",), rounds=3),
    Heat(Shape(64 * MIB, 32), EVERYBODY, rounds=2),
    Heat(Shape(64 * MIB, 4096), FEW, threads=(2, 1), caches=("warm",), rounds=2),
)


def heats(chosen: Sequence[Heat], folder: Path) -> None:
    """Run them: those with the same number of threads together, by the same processes."""
    folder.mkdir()
    for threads in dict.fromkeys(count for heat in chosen for count in heat.threads):
        those = [heat for heat in chosen if threads in heat.threads]
        names = dict.fromkeys(name for heat in those for name in heat.names)
        with workers(list(names), threads) as crew:
            for heat in those:
                _run(
                    heat, [worker for worker in crew if worker.name in heat.names], threads, folder
                )


def _run(heat: Heat, crew: Sequence[Worker], threads: int, folder: Path) -> None:
    lack = _lacking(heat, folder)
    if lack is not None:
        for cache in heat.caches:
            not_measured(heat.names, heat.shape, cache, threads, lack)
        return
    files = folder / f"{heat.shape.size}-{heat.shape.tensors}-{threads}"
    with prepared(crew, heat.shape, files) as sources:
        for cache in heat.caches:
            found = race(
                crew, sources, heat.shape, cache=cache, threads=threads, rounds=heat.rounds
            )
            judge(found, heat.shape, cache, threads)


def judge(found: dict[str, dict[str, float]], shape: Shape, cache: str, threads: int) -> None:
    """The goals that this race has something to say about."""
    for ours, other, where, goal in _GOALS:
        if where == cache and ours in found and other in found and shape.size >= 64 * MIB:
            report(
                f"load, {cache}, {threads} thread{'s' * (threads > 1)}",
                f"{shape}, {CONTESTANTS[ours].label.partition(', ')[2]}",
                ours=found[ours]["total_s"],
                other=found[other]["total_s"],
                other_name=CONTESTANTS[other].label,
                unit="s",
                goal=goal,
            )


def _lacking(heat: Heat, folder: Path) -> str | None:
    """What this machine has too little of: disk for the file as often as there are kinds of it;
    memory for all of these in the page cache, and for the model twice beside them."""
    size = heat.shape.size
    kinds = len({CONTESTANTS[name].kind for name in heat.names})
    if shutil.disk_usage(folder).free < kinds * size:
        return f"this disk has no {human(kinds * size)} free"
    if _available() < (kinds + 2) * size:
        return f"this machine has no {human((kinds + 2) * size)} of memory to spare"
    return None


def _available() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0
