"""A process of one contestant: it prepares and loads what it is told to, and says what it cost.

    python tests/bench/worker.py CONTESTANT THREADS

Asks and answers are lines of JSON on stdin and stdout. A process of its own for each, because peak
memory is a process's, and because threads are often set for a whole process.
"""

from __future__ import annotations

import gc
import json
import re
import sys
import time
import traceback
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from contestants import Contestant, Source, touched
from contestants_s3 import ALL

_STATUS = Path("/proc/self/status")


def _memory(field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB$", _STATUS.read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def _io() -> dict[str, int]:
    lines = Path("/proc/self/io").read_text().splitlines()
    return {name: int(text) for name, _, text in (line.partition(": ") for line in lines)}


def measured(contestant: Contestant, source: Source) -> dict[str, float]:
    """One load: seconds to the first tensor and in all, of processor time too; bytes of memory at
    the peak, above what the process held before; bytes read by calls, and from the disk."""
    first = None

    def use(tensor: Any) -> None:
        nonlocal first
        touched(tensor)
        if first is None:
            first = time.perf_counter()

    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    held, read, spent = _memory("VmRSS"), _io(), time.process_time()
    begun = time.perf_counter()
    contestant.load(source, use)
    ended = time.perf_counter()
    after = _io()
    return {
        "first_s": (first or ended) - begun,
        "total_s": ended - begun,
        "cpu_s": time.process_time() - spent,
        "peak_bytes": max(0, _memory("VmHWM") - held),
        "read_bytes": after["rchar"] - read["rchar"],
        "disk_bytes": after["read_bytes"] - read["read_bytes"],
    }


def answered(contestant: Contestant, ask: dict[str, Any]) -> dict[str, Any]:
    try:
        if ask["do"] == "prepare":
            return contestant.prepare(Path(ask["plain"]), Path(ask["folder"]))
        return measured(contestant, ask["source"])
    except Exception as error:  # noqa: BLE001 - a package that fails at one file is told of
        traceback.print_exc()
        return {"failed": f"{type(error).__name__}: {error}"}


def main() -> None:
    answers, sys.stdout = sys.stdout, sys.stderr  # what a package prints is no answer
    try:
        contestant = ALL[sys.argv[1]](int(sys.argv[2]))
    except ImportError as error:
        print(json.dumps({"missing": str(error)}), file=answers, flush=True)
        return
    print(
        json.dumps({"label": contestant.label, "kind": contestant.kind}), file=answers, flush=True
    )
    for line in sys.stdin:
        print(json.dumps(answered(contestant, json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
