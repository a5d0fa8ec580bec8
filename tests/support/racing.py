"""Many processes that ask one ledger for leases at the same moment. As a program, all of them:
each is a fork of one that has imported everything and opened nothing."""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from modelvault.adapters.ledger_sql import SqlLedger
from modelvault.clock import utc_ms
from modelvault.errors import ModelVaultError
from support.ledger_scene import Scene

TESTS = Path(__file__).parents[1]
PATIENCE_S = 120


@dataclass(frozen=True)
class Outcome:
    """A lease's id, or the refusal."""

    lease: str | None = None
    code: str | None = None
    details: dict[str, object] | None = None


class Asked(NamedTuple):
    """What each process asks for, with so many threads."""

    url: str
    threads: int
    slots: int | None
    budget: int | None


def race(
    url: str, *, processes: int, threads: int, slots: int | None, budget: int | None
) -> list[Outcome]:
    """What they all got, who asked for version 1 of the model `m`."""
    asked = Asked(url, threads, slots, budget)
    done = subprocess.run(
        [sys.executable, "-m", "support.racing", str(processes), json.dumps(asked)],
        stdout=subprocess.PIPE, text=True, cwd=TESTS, check=True, timeout=PATIENCE_S,
    )  # fmt: skip
    return [Outcome(**one) for one in json.loads(done.stdout)]


def one_process(asked: Asked, ready: threading.Barrier) -> list[Outcome]:
    """What its threads get, who ask when all processes are `ready`."""
    ledger = SqlLedger(asked.url, utc_ms, deadline_s=60)
    scene = Scene(ledger, ledger.now())
    version = ledger.version("default", "m", 1)
    rows = [scene.lease_row(version) for _ in range(asked.threads)]
    gate = threading.Barrier(asked.threads + 1)

    def ask(place: int) -> Outcome:
        gate.wait(PATIENCE_S)
        try:
            admitted = scene.admit(rows[place], slots=asked.slots, budget=asked.budget)
            return Outcome(lease=admitted.lease.id)
        except ModelVaultError as refused:
            return Outcome(code=refused.code, details=dict(refused.details))

    with ThreadPoolExecutor(asked.threads) as pool:
        asking = [pool.submit(ask, place) for place in range(asked.threads)]
        ready.wait(PATIENCE_S)
        gate.wait(PATIENCE_S)
        found = [one.result() for one in asking]
    ledger.close()
    return found


def main(processes: int, asked: Asked) -> None:
    fork = multiprocessing.get_context("fork")
    ready, told = fork.Barrier(processes), fork.SimpleQueue()
    children = [
        fork.Process(target=lambda: told.put(one_process(asked, ready))) for _ in range(processes)
    ]
    for child in children:
        child.start()
    found = [told.get() for _ in children]
    for child in children:
        child.join(PATIENCE_S)
    print(json.dumps([asdict(one) for outcomes in found for one in outcomes]))


if __name__ == "__main__":
    main(int(sys.argv[1]), Asked(*json.loads(sys.argv[2])))
