"""Loads of one file by everybody, in turn: warm or cold, with so many threads.

Each contestant works in a process of its own; this one tells them when. Of the rounds' seconds the
median counts, of their bytes the most.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

import msgspec
from cold import evict
from contestants import Source, remove
from contestants_s3 import ALL
from measure import back_memory, emit
from weights import human, write_safetensors

_WORKER = Path(__file__).with_name("worker.py")
_SECONDS = ("first_s", "total_s", "cpu_s")
# Where libraries look for their number of threads.
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS", "TOKIO_WORKER_THREADS")


class Shape(msgspec.Struct, frozen=True):
    """A file: bytes of its tensors, and how many of them there are."""

    size: int
    tensors: int

    def __str__(self) -> str:
        return f"{human(self.size)}, {self.tensors} tensors"


class Failed(Exception):
    """A contestant can't do what it was asked for; its own words."""


class Worker:
    """One contestant's process."""

    def __init__(self, name: str, threads: int) -> None:
        self.name = name
        self._process = subprocess.Popen(
            [sys.executable, str(_WORKER), name, str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **dict.fromkeys(_THREADS, str(threads))},
        )
        self.kind = ""
        self.missing: str | None = None

    def wait(self) -> None:
        """Until it is ready; `kind` says what it loads, or `missing` why it can't."""
        told = self._answer()
        self.kind, self.missing = told.get("kind", ""), told.get("missing")

    def prepare(self, plain: Path, folder: Path) -> Source:
        """Raises Failed."""
        return self._ask(do="prepare", plain=str(plain), folder=str(folder))

    def load(self, source: Source) -> dict[str, float]:
        """Raises Failed."""
        return self._ask(do="load", source=source)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()  # type: ignore[union-attr]

    def _ask(self, **ask: object) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(ask) + "\n")
        self._process.stdin.flush()
        answer = self._answer()
        if "failed" in answer:
            raise Failed(answer["failed"])
        return answer

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended with {self._process.wait()}")
        return json.loads(line)


@contextmanager
def workers(names: Sequence[str], threads: int) -> Iterator[list[Worker]]:
    """A process of each; those whose package isn't installed say so and are among them."""
    with ExitStack() as stack:
        crew = [stack.enter_context(Worker(name, threads)) for name in names]
        for worker in crew:
            worker.wait()
        yield crew


@contextmanager
def prepared(crew: Sequence[Worker], shape: Shape, folder: Path) -> Iterator[dict[str, Source]]:
    """The file of that shape, as each kind of contestant wants it."""
    folder.mkdir()
    plain = folder / "model.safetensors"
    write_safetensors(plain, shape.size, shape.tensors)
    sources: dict[str, Source] = {}
    for worker in crew:
        if worker.missing is None and worker.kind not in sources:
            with _failing(worker):
                sources[worker.kind] = worker.prepare(plain, folder)
    os.sync()
    try:
        yield sources
    finally:
        for source in sources.values():
            remove(source)
        shutil.rmtree(folder)


def race(
    crew: Sequence[Worker],
    sources: dict[str, Source],
    shape: Shape,
    *,
    cache: str,
    threads: int,
    rounds: int,
) -> dict[str, dict[str, float]]:
    """One line of figures for each contestant, also returned by name; one warm-up, then all take
    turns, `rounds` times. `cache` is `warm`, `cold` or `s3`."""
    where = {"size": shape.size, "tensors": shape.tensors, "cache": cache, "threads": threads}
    found: dict[str, list[dict[str, float]]] = {}
    failed: dict[str, str] = {}
    for number in range(rounds + 1):
        for worker in crew:
            why = worker.missing or failed.get(worker.name)
            if why is None and worker.kind in sources:
                source = sources[worker.kind]
                back_memory(2 * shape.size)
                if cache == "cold":
                    evict(Path(file) for file in source["files"])
                with _failing(worker, failed):
                    figures = worker.load(source)
                    if number:
                        found.setdefault(worker.name, []).append(figures)
    for worker in crew:
        contestant = {"contestant": worker.name, "label": ALL[worker.name].label}
        why = worker.missing or failed.get(worker.name)
        if why is None and worker.name not in found:
            why = "its file couldn't be made"
        if why is not None:
            emit({"reading": "load", **where, **contestant, "missing": why})
        else:
            emit({"reading": "load", **where, **contestant, **_summed_up(found[worker.name])})
    return {name: _summed_up(rows) for name, rows in found.items() if name not in failed}


@contextmanager
def _failing(worker: Worker, failed: dict[str, str] | None = None) -> Iterator[None]:
    """Others may fail, and that is told of; where ours does, so does the benchmark."""
    try:
        yield
    except Failed as error:
        if "ours" in worker.name:
            raise
        if failed is not None:
            failed[worker.name] = f"it failed: {error}"


def not_measured(names: Sequence[str], shape: Shape, cache: str, threads: int, why: str) -> None:
    """The lines of a race that this machine can't hold."""
    where = {"size": shape.size, "tensors": shape.tensors, "cache": cache, "threads": threads}
    for name in names:
        contestant = {"contestant": name, "label": ALL[name].label}
        emit({"reading": "load", **where, **contestant, "missing": why})


def _summed_up(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    return {
        name: round(statistics.median(row[name] for row in rows), 6)
        if name in _SECONDS
        else max(row[name] for row in rows)
        for name in rows[0]
    }
