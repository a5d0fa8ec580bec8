"""Many processes that ask one ledger for leases at the same moment. As a program, one of them."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

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


def race(
    url: str, *, processes: int, threads: int, slots: int | None, budget: int | None
) -> list[Outcome]:
    """What they all got, who asked for version 1 of the model `m`."""
    told = [url, str(threads), json.dumps([slots, budget])]
    children = [
        subprocess.Popen(
            [sys.executable, "-m", "support.racing", *told],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=TESTS,
        )
        for _ in range(processes)
    ]  # fmt: skip
    try:
        for child in children:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
        for child in children:
            assert child.stdin is not None
            child.stdin.write("go\n")
            child.stdin.flush()
        said = [child.communicate(timeout=PATIENCE_S)[0] for child in children]
    finally:
        for child in children:
            child.kill()
            child.wait()
    return [Outcome(**one) for text in said for one in json.loads(text)]


def main(url: str, threads: int, slots: int | None, budget: int | None) -> None:
    ledger = SqlLedger(url, utc_ms, deadline_s=60)
    scene = Scene(ledger, ledger.now())
    version = ledger.version("default", "m", 1)
    rows = [scene.lease_row(version) for _ in range(threads)]
    gate = threading.Barrier(threads + 1)

    def ask(place: int) -> Outcome:
        gate.wait(PATIENCE_S)
        try:
            return Outcome(lease=scene.admit(rows[place], slots=slots, budget=budget).lease.id)
        except ModelVaultError as refused:
            return Outcome(code=refused.code, details=dict(refused.details))

    with ThreadPoolExecutor(threads) as pool:
        asking = [pool.submit(ask, place) for place in range(threads)]
        print("ready", flush=True)
        sys.stdin.readline()
        gate.wait(PATIENCE_S)
        found = [asdict(one.result()) for one in asking]
    ledger.close()
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *json.loads(sys.argv[3]))
